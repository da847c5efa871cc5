"""One LLM task: the units that are not done yet, through the engines, to finished shards; what they cost beside it."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hnlm_ray.errors import UserError
from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.cost import Cost, Usage, cost_of, deviation, estimate, pilot_units
from hnlm_ray.generate.engines import EngineGroup
from hnlm_ray.generate.feeding import Feeding
from hnlm_ray.generate.unit_worker import TextTask, Unit, UnitReport, UnitWorker
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

UNITS_FILE = "units.json"
ESTIMATE_FILE = "estimate.json"
USAGE_FILE = "usage.json"
Say: TypeAlias = Callable[[str], None]

_SAVE_USAGE_EVERY_S = 2.0
_FEWEST_UNITS = 8
_SMALLEST_UNIT_ROWS = 16


@dataclass(frozen=True)
class TaskSummary:
    """What stands after a task: all of its rows, those of earlier runs included."""

    rows: int
    failed: int
    failures: dict[str, int]
    """First words of the error -> rows."""
    prompt_tokens: int
    completion_tokens: int
    cut_prompts: int
    asked_rows: int
    """Rows of this run alone."""
    prefix_hit_rate: float
    """Share of this run's prompt tokens that the engines had in their cache."""
    seconds_per_row: dict[str, float]
    """Where a unit's time went in this run (read, render, engine, parse, write), per row."""
    engine_ready_s: float
    """Wait for the first engine to hold the model."""
    cost: dict[str, Any]
    """`estimated` from the first units, `measured` over all runs, `deviation` of the one from the other."""
    tokens_over_time: list[tuple[float, int]]
    """(Unix time, tokens so far) of this run at the end of each unit, at most 200 points."""

    def as_json(self) -> dict[str, Any]:
        """The summary as plain values."""
        return asdict(self)


def unit_rows(num_rows: int, most: int) -> int:
    """Rows per unit: `most`, or less where there would be so few units that progress and restarts are coarse."""
    return min(most, max(_SMALLEST_UNIT_ROWS, math.ceil(num_rows / _FEWEST_UNITS)))


def list_units(inputs: Folder) -> list[Unit]:
    """The units that `write_inputs` committed."""
    return [Unit(**unit) for unit in inputs.read_json(UNITS_FILE)]


def commit_inputs(inputs: Folder) -> list[Unit]:
    """Name every row group of the Parquet files in `inputs`; from here on the units of a task never change."""
    units: list[Unit] = []
    for path in inputs.parquet_files():
        file = path.rpartition("/")[2]
        metadata = pq.read_metadata(path, filesystem=inputs.fs)
        for group in range(metadata.num_row_groups):
            units.append(Unit(f"{len(units):06d}", file, group, metadata.row_group(group).num_rows))
    inputs.write_json(UNITS_FILE, [asdict(unit) for unit in units])
    return units


def open_units(task: TextTask, units: Sequence[Unit]) -> list[Unit]:
    """Units without a shard, and those with failed rows in it."""
    done = set(task.outputs.names(".parquet"))
    if not done:
        return list(units)
    table = task.outputs.read_table(columns=[task.id_columns[0], "status"]) if done else None
    assert table is not None
    failed = set()
    if pc.any(pc.equal(table["status"], "failed")).as_py():
        for unit in units:
            if unit.shard in done:
                statuses = task.outputs.read_table(unit.shard, columns=["status", "attempt"])
                # rows that were never asked (no text) stay as they are
                asked = pc.and_(pc.equal(statuses["status"], "failed"), pc.greater(statuses["attempt"], 0))
                if pc.any(asked).as_py():
                    failed.add(unit.shard)
    return [unit for unit in units if unit.shard not in done or unit.shard in failed]


def run_task(
    task: TextTask, group: EngineGroup, llm: LLMConfig, progress: Progress, part: str, say: Say | None = None
) -> TaskSummary:
    """Bring every unit of `task` to its shard and say what stands.

    The first units, spread over all, are done beside the others: they tell what the rest will cost (`say`). Progress
    counts the rows of units that are finished. Raises `UserError`, or `EngineUnavailable` where no engine can be had.
    """
    units = list_units(task.inputs)
    todo = open_units(task, units)
    started = time.monotonic()
    if todo:
        group.prepare()
    ready_s, meter = time.monotonic() - started, _Meter(task.inputs, group)
    progress.start(sum(unit.num_rows for unit in units), "rows", part)
    progress.update(sum(unit.num_rows for unit in units) - sum(unit.num_rows for unit in todo))
    reports: list[UnitReport] = []

    def count(report: UnitReport) -> None:
        reports.append(report)
        meter.add(_usage(report))
        progress.update(report.rows, tokens=report.prompt_tokens + report.completion_tokens, failed=report.failed)

    first: set[int] = set()
    if len(todo) == len(units) and units:  # a run that goes on has its estimate from the first time
        first = set(pilot_units(len(units), units[0].num_rows, llm.max_num_seqs))
    pilot = [unit for number, unit in enumerate(todo) if number in first]
    rest = [unit for number, unit in enumerate(todo) if number not in first]
    with ThreadPoolExecutor(1) as background:
        estimating = background.submit(_run_pilot, task, group, llm, pilot, len(units), count, say)
        if rest:
            for report in feeding_of(task, group, llm, rest).run(rest):
                count(report)
        estimating.result()
    if reports:
        meter.save()
    return _summary(task, reports, _account(task, meter.usage, llm, say if reports else None), ready_s)


class _Meter:
    """What a task has used, written beside its inputs as units end: the next run counts on from a killed one's usage,
    less that of the units in hand and of the last seconds."""

    def __init__(self, inputs: Folder, group: EngineGroup) -> None:
        self._inputs, self._group = inputs, group
        self.usage = Usage(**inputs.read_json(USAGE_FILE)) if inputs.exists(USAGE_FILE) else Usage()
        self._saved_at = time.monotonic()
        self._adding = threading.Lock()

    def add(self, usage: Usage) -> None:
        """Count a unit, from any thread."""
        with self._adding:
            self.usage += usage
            if time.monotonic() - self._saved_at > _SAVE_USAGE_EVERY_S:
                self.save()

    def save(self) -> None:
        """Count the time of the engines at work since the last time, and write what there is."""
        now, engines = time.monotonic(), max(1, self._group.state()["ready"])
        self.usage += Usage(engine_s=engines * (now - self._saved_at))
        self._saved_at = now
        self._inputs.write_json(USAGE_FILE, asdict(self.usage))


def _run_pilot(
    task: TextTask,
    group: EngineGroup,
    llm: LLMConfig,
    pilot: Sequence[Unit],
    num_units: int,
    count: Callable[[UnitReport], None],
    say: Say | None,
) -> None:
    """Do the first units and write down what all of them will cost."""
    if not pilot:
        return
    worker, started, before = UnitWorker(task, group), time.monotonic(), group.counters()
    usage = Usage()
    with ThreadPoolExecutor(len(pilot)) as pool:
        for report in pool.map(worker.run, pilot):
            count(report)
            usage += _usage(report)
    seconds, after = time.monotonic() - started, group.counters()
    speed = (after.prompt_tokens + after.completion_tokens - before.prompt_tokens - before.completion_tokens) / seconds
    usage += Usage(engine_s=usage.tokens / speed if speed else 0.0)
    num_rows = sum(unit.num_rows for unit in list_units(task.inputs))
    expected = estimate(usage, num_rows, llm)
    task.inputs.write_json(ESTIMATE_FILE, expected.as_json())
    if say:
        say(f"  estimate from {usage.rows:,} rows: {expected.in_words()}")


def _account(task: TextTask, usage: Usage, llm: LLMConfig, say: Say | None) -> dict[str, Any]:
    """What the task cost, the runs that were cut before this one included, beside its estimate."""
    measured = cost_of(usage, llm)
    account: dict[str, Any] = {"measured": measured.as_json()}
    if task.inputs.exists(ESTIMATE_FILE):
        expected = Cost(**task.inputs.read_json(ESTIMATE_FILE))
        account |= {"estimated": expected.as_json(), "deviation": deviation(expected, measured)}
        if say:
            off = ", ".join(f"{name.replace('_', '-')} {by:+.0%}" for name, by in account["deviation"].items())
            say(f"  measured: {measured.in_words()}; the estimate was off by: {off}")
    return account


def _usage(report: UnitReport) -> Usage:
    return Usage(report.rows, report.prompt_tokens, report.completion_tokens)


def feeding_of(task: TextTask, group: EngineGroup, llm: LLMConfig, units: Sequence[Unit]) -> Feeding[Unit, UnitReport]:
    """Who does `units`. An engine has four times the rows in hand that it decodes at a time, since a unit ends with its
    longest answer: until then the others keep the engine full."""
    rows = max(unit.num_rows for unit in units)
    calls_per_engine = max(4, math.ceil(4 * llm.max_num_seqs / rows))
    return Feeding(partial(UnitWorker, task, group), UnitReport, llm.replicas[1] * calls_per_engine)


def _summary(task: TextTask, reports: Sequence[UnitReport], cost: dict[str, Any], ready_s: float) -> TaskSummary:
    columns = ["status", "error", "prompt_tokens", "completion_tokens", "truncated"]
    table = task.outputs.read_table(columns=columns)
    failed = table.filter(pc.equal(table["status"], "failed"))
    failures = Counter(error.partition(":")[0] for error in failed["error"].to_pylist())
    asked = sum(report.asked for report in reports)
    prompt_tokens = sum(report.prompt_tokens for report in reports)
    cached_tokens = sum(report.cached_tokens for report in reports)
    laps = ("read", "render", "engine", "parse", "write")
    spent = {lap: sum(getattr(report, f"{lap}_s") for report in reports) for lap in laps}
    return TaskSummary(
        rows=table.num_rows,
        failed=failed.num_rows,
        failures=dict(failures.most_common()),
        prompt_tokens=pc.sum(table["prompt_tokens"]).as_py() or 0,
        completion_tokens=pc.sum(table["completion_tokens"]).as_py() or 0,
        cut_prompts=pc.sum(pc.cast(table["truncated"], pa.int64())).as_py() or 0,
        asked_rows=asked,
        prefix_hit_rate=round(cached_tokens / prompt_tokens, 4) if prompt_tokens else 0.0,
        seconds_per_row={lap: round(seconds / asked, 6) if asked else 0.0 for lap, seconds in spent.items()},
        engine_ready_s=round(ready_s, 2),
        cost=cost,
        tokens_over_time=_timeline(reports),
    )


def _timeline(reports: Sequence[UnitReport], most: int = 200) -> list[tuple[float, int]]:
    ordered = sorted(reports, key=lambda report: report.ended_at)
    tokens = np.cumsum([report.prompt_tokens + report.completion_tokens for report in ordered])
    points = [(round(report.ended_at, 2), int(total)) for report, total in zip(ordered, tokens, strict=True)]
    return points[:: max(1, math.ceil(len(points) / most))]


def check_failures(summary: TaskSummary, what: str, limit: float, key: str) -> None:
    """Fail when too many of the rows that have text have no answer: `UserError` with the commonest reason."""
    without_text = summary.failures.get("no text", 0)
    rows, failed = summary.rows - without_text, summary.failed - without_text
    if failed > limit * rows:
        reason, count = next((reason, count) for reason, count in summary.failures.items() if reason != "no text")
        raise UserError(
            f"{failed} of {rows} {what} have no usable answer, the limit is {limit:.0%} ({key}); "
            f"the commonest reason, {count} times: {reason}; run again to retry them, or change the model or prompt"
        )
