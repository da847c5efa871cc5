"""Units reach their shards by this process and by Ray Data's workers alike: which way is a matter of rows."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import ray

from hnlm_ray.errors import UserError
from hnlm_ray.generate.feeding import ROWS_FED_FROM_HERE, Feeding

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see the folders of tests


@dataclass(frozen=True)
class Part:
    number: int
    num_rows: int


@dataclass
class Done:
    number: int
    process: int


class Worker:
    """Says where it ran; refuses the unit `poison`."""

    def __init__(self, poison: int) -> None:
        self._poison = poison

    def run(self, unit: Part) -> Done:
        if unit.number == self._poison:
            raise UserError(f"unit {unit.number} cannot be asked: x; name another")
        return Done(unit.number, os.getpid())


def feeding_of(poison: int = -1) -> Feeding[Part, Done]:
    return Feeding(partial(Worker, poison), Done, num_calls=4)


@pytest.mark.usefixtures("ray_session")
def test_many_rows_go_through_ray_data_and_few_do_not() -> None:
    for num_rows, from_here in ((ROWS_FED_FROM_HERE // 8, True), (ROWS_FED_FROM_HERE // 8 + 1, False)):
        reports = list(feeding_of().run([Part(number, num_rows) for number in range(8)]))
        assert sorted(report.number for report in reports) == list(range(8))
        assert {report.process == os.getpid() for report in reports} == {from_here}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("way", [Feeding.from_here, Feeding.by_ray_data])
def test_what_ends_a_run_keeps_its_words(way: Callable[..., object]) -> None:
    with pytest.raises(UserError, match=r"^unit 3 cannot be asked: x; name another$"):
        list(way(feeding_of(poison=3), [Part(number, 1) for number in range(8)]))  # type: ignore[call-overload]
