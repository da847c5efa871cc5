"""Running one function over many tasks: a plain loop, or a Ray Data plan. The only file of this folder that knows Ray.

A task reads its own rows from storage and writes its own files; only a small result travels. So the driver never
holds a data set, memory is bounded by what one task holds, and both ways give the same files.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hnlm_ray.errors import UserError
from hnlm_ray.store import Folder

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

    plan = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=max(len(numbers), 1))
    for row in plan.map(_OneTask(function), num_cpus=1).iter_rows():
        if row["user_error"]:
            raise UserError(row["user_error"])
        yield row["number"], json.loads(row["result"])


@dataclass(frozen=True)
class Remembered:
    """A function whose results are kept in a folder: after a crash, finished tasks are not run again."""

    function: Callable[[int], Result]
    results: Folder

    def __call__(self, number: int) -> Result:
        name = f"{number:06d}.json"
        if not self.results.exists(name):
            self.results.write_json(name, self.function(number))  # last, when the task's files are complete
        result: Result = self.results.read_json(name)
        return result


class _OneTask:
    """A row {"number"} to a row {"number", "result": JSON, "user_error"}.

    The user's mistakes travel as text: as exceptions they would arrive wrapped in Ray's own, and be retried.
    """

    def __init__(self, function: Callable[[int], Result]) -> None:
        self._function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["number"])
        try:
            return {"number": number, "result": json.dumps(self._function(number)), "user_error": ""}
        except UserError as error:
            return {"number": number, "result": "", "user_error": str(error)}
