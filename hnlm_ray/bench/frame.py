"""The frame of every benchmark: find it, run it, print the table, write the JSON.

A benchmark is one module of `BENCHES` with one function:

    def measure(options: BenchOptions) -> Measurement:
        reference, ours = ReferenceLoop(...), OurLoop(...)            # start-up is not timed, unless it is the figure
        epoch = paired(ours.epoch, reference.epoch, options.repeats)  # both in this run, in turn, after a warm-up
        figures = {"epoch_s": epoch.ours, "reference_epoch_s": epoch.baseline, "speedup": epoch.speedup}
        return Measurement(figures, bars=[Bar("speedup", epoch.speedup, 5.0)])

Rules: the baseline runs in the same process on the same threads, several repetitions, medians; `options.quick` shrinks
the data so that a test can run it, never the code path; randomness comes from `options.seed`; a figure's name ends in
its unit (`_s`, `_gb`, `_per_s`) or says that it is a ratio. Before it imports the module, the frame limits OpenMP, MKL
and numba to `options.threads` and gives Ray's workers the priority of this process; a module that uses torch calls
`torch.set_num_threads` itself.
Imports of torch, ray and vllm belong inside `measure` or in the module itself: nothing else imports it.
"""

import difflib
import importlib
import importlib.util
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hnlm_ray.errors import UserError
from hnlm_ray.report.environment import machine, versions


class Bench(NamedTuple):
    """One benchmark: where its `measure` stands, and the threads that its bars are meant for."""

    module: str
    threads: int


BENCHES = {
    "ingest": Bench("hnlm_ray.bench.ingest", threads=2),
    "generate": Bench("hnlm_ray.bench.generate", threads=2),
    "grounding": Bench("hnlm_ray.bench.grounding", threads=2),
    "finetune": Bench("hnlm_ray.bench.finetune", threads=2),
    "embed": Bench("hnlm_ray.bench.embed", threads=2),
    "train": Bench("hnlm_ray.bench.train", threads=1),
    "evaluate": Bench("hnlm_ray.bench.evaluate", threads=2),
    "autoscale": Bench("hnlm_ray.bench.autoscale", threads=2),
    "faults": Bench("hnlm_ray.bench.faults", threads=2),
    "scale": Bench("hnlm_ray.bench.scale", threads=2),
}

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_SAME_PRIORITY = {"RAY_worker_niceness": "0"}
"""By default Ray's workers step back for everything else on the machine; a baseline in this process does not."""


@dataclass(frozen=True)
class BenchOptions:
    """How to measure."""

    quick: bool = False
    """Small data, to see that the benchmark runs; its figures say nothing about the bars."""
    threads: int = 0
    """Threads for both sides of every comparison; 0 = those that the benchmark's bars are meant for (`BENCHES`).
    `measure` always gets the number itself."""
    repeats: int = 5
    """Repetitions of each side; the median counts."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("repeats", 1)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"bench option {name}={value} must be at least {least}")


@dataclass(frozen=True)
class Bar:
    """A figure and the value that it has to reach."""

    name: str
    value: float
    bar: float
    better: Literal["higher", "lower"] = "higher"

    @property
    def ok(self) -> bool:
        """Whether the value reaches the bar; a value that is not a number never does."""
        return self.value >= self.bar if self.better == "higher" else self.value <= self.bar

    def as_json(self) -> dict[str, Any]:
        """The bar as it stands in the JSON file."""
        return {
            "name": self.name,
            "value": _json_number(self.value),
            "bar": self.bar,
            "better": self.better,
            "ok": self.ok,
        }


@dataclass(frozen=True)
class Measurement:
    """What a benchmark found: all figures, the bars among them, and remarks a reader needs (what was not run, why)."""

    figures: dict[str, float]
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Paired:
    """Medians of two measurements taken in turn, and the ratio of each pair."""

    ours: float
    baseline: float
    ratios: tuple[float, ...]
    """baseline / ours, pair by pair."""

    @property
    def speedup(self) -> float:
        """Median of baseline / ours over the pairs: above 1 where ours takes less."""
        return statistics.median(self.ratios)

    @property
    def ratio(self) -> float:
        """Median of ours / baseline over the pairs."""
        return statistics.median(1 / ratio for ratio in self.ratios)


def paired_values(ours: Callable[[], float], baseline: Callable[[], float], repeats: int, warmup: int = 1) -> Paired:
    """Call two functions in turn that each return their own positive figure (seconds, rows/s): medians and ratios.

    The order changes from pair to pair, so that a machine that slows down or warms up favours neither. The first
    `warmup` calls of each (compilation, caches) are not counted.
    """
    for _ in range(warmup):
        ours(), baseline()
    pairs = []
    for repeat in range(repeats):
        if repeat % 2 == 0:
            first = ours()
            pairs.append((first, baseline()))
        else:
            first = baseline()
            pairs.append((ours(), first))
    return Paired(
        ours=statistics.median(a for a, _ in pairs),
        baseline=statistics.median(b for _, b in pairs),
        ratios=tuple(b / a for a, b in pairs),
    )


def paired(ours: Callable[[], Any], baseline: Callable[[], Any], repeats: int, warmup: int = 1) -> Paired:
    """Wall-clock seconds of two functions called in turn: medians and ratios (see `paired_values`)."""
    return paired_values(lambda: seconds_of(ours), lambda: seconds_of(baseline), repeats, warmup)


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median_of(function: Callable[[], float], repeats: int, warmup: int = 1) -> float:
    """Median of what `function` returns over `repeats` calls, after `warmup` calls that do not count."""
    for _ in range(warmup):
        function()
    return statistics.median(function() for _ in range(repeats))


def run_bench(name: str, json_path: str | Path | None, options: BenchOptions, check: bool = False) -> int:
    """Run the benchmark `name`, print its table, write its JSON; returns the exit code.

    0 when it was measured; with `check`, 1 when a bar was missed. `UserError` for a name that is not in `BENCHES`,
    for one whose module is not part of this installation, and for a place that cannot be written, before measuring.
    """
    bench = _find(name)
    options = replace(options, threads=options.threads or bench.threads)
    if json_path is not None:
        _probe_writable(Path(json_path))
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(options.threads)) | _SAME_PRIORITY)
    load_at_start = os.getloadavg()[0]
    measurement: Measurement = importlib.import_module(bench.module).measure(options)
    result = {
        "name": name,
        "machine": {**machine(), "load_at_start": round(load_at_start, 2)},
        "versions": versions(),
        "options": vars(options),
        "figures": {key: _json_number(value) for key, value in measurement.figures.items()},
        "bars": [bar.as_json() for bar in measurement.bars],
        "notes": measurement.notes,
    }
    print(format_table(name, measurement))
    if json_path is not None:
        Path(json_path).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return int(check and not all(bar.ok for bar in measurement.bars))


def format_table(name: str, measurement: Measurement) -> str:
    """The figures as a table, the bars with their verdict, the notes."""
    bars = {bar.name: bar for bar in measurement.bars}
    figures = {**measurement.figures, **{bar.name: bar.value for bar in measurement.bars}}
    width = max(map(len, figures), default=0)
    lines = [f"bench {name}"]
    for key, value in figures.items():
        line = f"  {key:<{width}}  {value:>12,.4g}"
        if bar := bars.get(key):
            sign = ">=" if bar.better == "higher" else "<="
            line += f"   {'ok    ' if bar.ok else 'MISSED'} (bar {sign} {bar.bar:g})"
        lines.append(line)
    return "\n".join([*lines, *(f"  note: {note}" for note in measurement.notes)])


def _find(name: str) -> Bench:
    if name not in BENCHES:
        nearest = difflib.get_close_matches(name, BENCHES, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(f"no benchmark {name!r}: there are {', '.join(BENCHES)}{hint}")
    if importlib.util.find_spec(BENCHES[name].module) is None:
        present = [known for known, bench in BENCHES.items() if importlib.util.find_spec(bench.module)]
        raise UserError(f"benchmark {name!r} is not part of this version; there are: {', '.join(present) or 'none'}")
    return BENCHES[name]


def _probe_writable(path: Path) -> None:
    if path.is_dir() or not os.access(path.parent if str(path.parent) else ".", os.W_OK):
        raise UserError(f"--json {str(path)!r} cannot be written: name a file in an existing folder")


def _json_number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None  # JSON has no NaN
