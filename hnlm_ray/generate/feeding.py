"""Feeds units of work to the engines: a short task from this process, a long one by Ray Data's workers.

Both ways give the same units to the same workers and yield the same reports, and a unit is done when its shard is
there, whoever wrote it. Which way is taken rests on the number of rows alone.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import ray
from ray.data import ActorPoolStrategy

from hnlm_ray.errors import UserError
from hnlm_ray.generate.protocol import EngineDied, EngineUnavailable

ROWS_FED_FROM_HERE = 16_384
"""Rows up to which this process feeds the engines by itself. Ray Data's workers take seconds to start, and on a laptop
they take them from the engine (`hnlm bench generate`: `ray_data_start_s`). One process reads, fills in, checks and
writes some 2,500 rows per second: with so many rows it would cost as much, were the engines without limit."""
_WORKER_CPUS = 0.25
"""A worker mostly waits for its engine."""
_CALLS_PER_WORKER = 16
_UNITS_PER_PLAN = 4096


_FATAL: tuple[type[Exception], ...] = (UserError, EngineUnavailable, EngineDied)
"""What ends a run with its own words, which Ray Data's layers would bury: it travels as data."""


class Unit(Protocol):
    """A part of a task, done when its shard is there."""

    @property
    def num_rows(self) -> int:
        """Rows in it."""


UnitT = TypeVar("UnitT", bound=Unit)
UnitT_contra = TypeVar("UnitT_contra", bound=Unit, contravariant=True)
ReportT = TypeVar("ReportT")
ReportT_co = TypeVar("ReportT_co", covariant=True)


class Worker(Protocol[UnitT_contra, ReportT_co]):
    """Brings units to their shards; called from several threads at once."""

    def run(self, unit: UnitT_contra) -> ReportT_co:
        """Do one unit; the report is a dataclass of plain values."""


@dataclass(frozen=True)
class Feeding(Generic[UnitT, ReportT]):
    """Who does the units of a task, and how many at a time."""

    make_worker: Callable[[], Worker[UnitT, ReportT]]
    """Travels to where the worker runs."""
    report: type[ReportT]
    num_calls: int

    def run(self, units: Sequence[UnitT]) -> Iterator[ReportT]:
        """Do all units; yields their reports as they end.

        Raises what a worker raises; the units that are in hand then are left to the next run.
        """
        if sum(unit.num_rows for unit in units) <= ROWS_FED_FROM_HERE:
            yield from self.from_here(units)
        else:
            for start in range(0, len(units), _UNITS_PER_PLAN):
                yield from self.by_ray_data(units[start : start + _UNITS_PER_PLAN])

    def from_here(self, units: Sequence[UnitT]) -> Iterator[ReportT]:
        """By threads of this process."""
        worker, pool = self.make_worker(), ThreadPoolExecutor(self.num_calls)
        try:
            for done in as_completed([pool.submit(worker.run, unit) for unit in units]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def by_ray_data(self, units: Sequence[UnitT]) -> Iterator[ReportT]:
        """By threads of Ray Data's workers, which are spread over the cluster; one that dies is replaced."""
        num_calls = min(self.num_calls, len(units))
        num_workers = math.ceil(num_calls / _CALLS_PER_WORKER)
        calls_per_worker = math.ceil(num_calls / num_workers)
        ray.data.DataContext.get_current().enable_progress_bars = False
        numbers = [{"number": number} for number in range(len(units))]
        plan = ray.data.from_items(numbers, override_num_blocks=len(units)).map_batches(
            _PlanWorker,
            fn_constructor_args=(self.make_worker, units),
            batch_size=1,
            num_cpus=_WORKER_CPUS,
            compute=ActorPoolStrategy(
                size=num_workers,
                max_concurrent_calls_per_actor=calls_per_worker,
                max_tasks_in_flight_per_actor=calls_per_worker,
                enable_true_multi_threading=True,
            ),
        )
        for row in plan.iter_rows():
            if row["fatal"]:
                raise next(kind for kind in _FATAL if kind.__name__ == row["fatal"])(row["message"])
            yield self.report(**json.loads(row["report"]))


class _PlanWorker:
    """A worker as Ray Data calls it: a batch is the number of one unit."""

    def __init__(self, make_worker: Callable[[], Worker[Any, Any]], units: Sequence[Any]) -> None:
        self._worker = make_worker()
        self._units = units

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        [number] = batch["number"]
        outcome = {"report": "", "fatal": "", "message": ""}
        try:
            outcome["report"] = json.dumps(asdict(self._worker.run(self._units[number])))
        except _FATAL as error:
            outcome |= {"fatal": type(error).__name__, "message": str(error)}
        return {name: np.array([value]) for name, value in outcome.items()}
