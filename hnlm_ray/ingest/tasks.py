"""Running one function over many tasks: a plain loop, or a Ray Data plan. The only file of this folder that knows Ray.

A task reads its own rows from storage and writes its own files; only a small result travels. So the driver never
holds a data set, memory is bounded by what one task holds, and both ways give the same files.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hnlm_ray.errors import UserError

Result = dict[str, Any]


def run_tasks(
    function: Callable[[int], Result], numbers: Sequence[int], *, on_ray: bool
) -> Iterator[tuple[int, Result]]:
    """Call `function(number)` for every number and yield (number, result), in any order.

    `function` must be picklable and deterministic, since Ray may run it again, and its result plain JSON values.
    """
    if not on_ray:
        for number in numbers:
            yield number, function(number)
        return
    import ray
    from ray.exceptions import RayTaskError

    plan = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=max(len(numbers), 1))
    plan = plan.map(_OneTask(function), num_cpus=1)
    try:
        for row in plan.iter_rows():
            yield row["number"], json.loads(row["result"])
    except RayTaskError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise UserError(str(cause).strip().splitlines()[-1]) from None


class _OneTask:
    """A row {"number"} to a row {"number", "result": JSON}."""

    def __init__(self, function: Callable[[int], Result]) -> None:
        self._function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["number"])
        return {"number": number, "result": json.dumps(self._function(number))}
