"""How the ingest grows: 10-core of synthetic review tables of 1 to 30 million rows, on Ray Data, in bounded memory.

Each run is a whole ingest (read, filter, de-duplicate, k-core, split, write) of Parquet shards with string ids, ratings
and times. The baseline is what one would write in a notebook: pandas, the table in memory, group-bys until nothing
changes; it does less (no cleaning, no split, nothing written), and its core must be the same.
"""

import contextlib
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement
from hnlm_ray.ingest.build import Build
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.memory import MemoryMonitor, own_peak_gb
from hnlm_ray.progress import Progress
from hnlm_ray.runtime import RuntimeConfig, connected
from hnlm_ray.store import Folder

_K = 10
_NUM_CPUS = 2
_OBJECT_STORE_GB = 0.3
_MAX_TREE_GB = 6.0
_MAX_GROWTH = 1.15
"""Seconds per row of the largest table over those of the second largest: 1 is linear."""
_SHARD_ROWS = 1_000_000
_SIZES = (1_000_000, 3_000_000, 10_000_000, 30_000_000)
_QUICK_SIZES = (20_000, 60_000)


@dataclass(frozen=True)
class _Run:
    """What one ingest took and left."""

    total_s: float
    cpu_s: float
    """Processor time of all processes: grows as the work does, also on a machine that is busy elsewhere."""
    to_core_s: float
    """Reading, de-duplication, ids and k-core: without split, writing and items."""
    peak_gb: float
    core: tuple[int, int, int]
    """Users, items, interactions of the k-core."""
    num_rounds: int


def measure(options: BenchOptions) -> Measurement:
    """Every size once, from the largest down; the smallest `options.repeats` times, in turn with the baseline."""
    sizes = _QUICK_SIZES if options.quick else _SIZES
    figures: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="hnlm_bench_") as scratch,
        connected(RuntimeConfig(address="local", num_cpus=_NUM_CPUS, object_store_gb=_OBJECT_STORE_GB)),
    ):
        folder = Path(scratch)
        _ingest(make_reviews(folder / "warm-up", _QUICK_SIZES[0], options.seed), folder)  # starts Ray's workers
        runs: dict[int, _Run] = {}
        for size in reversed(sizes):
            raw = make_reviews(folder / f"rows-{size}", size, options.seed)
            runs[size] = _ingest(raw, folder)
            if size != sizes[0]:
                shutil.rmtree(raw)
        driver_gb = own_peak_gb()  # before pandas holds its table in this very process
        smallest, baseline = [runs[sizes[0]]], []
        for repeat in range(options.repeats):
            baseline.append(_pandas_core(raw))
            if repeat:
                smallest.append(_ingest(raw, folder))
    assert all(run.core == core for run in smallest for _, core in baseline), "the two ways to the core differ"

    for size in sizes:
        run, name = runs[size], _short(size)
        figures[f"ingest_{name}_s"] = run.total_s
        figures[f"to_core_{name}_s"] = run.to_core_s
        figures[f"cpu_{name}_s"] = run.cpu_s
        figures[f"tree_peak_{name}_gb"] = run.peak_gb
        figures[f"rounds_{name}"] = run.num_rounds
        figures[f"rows_per_s_{name}"] = size / run.total_s
    name = _short(sizes[0])
    figures[f"ingest_{name}_s"] = statistics.median(run.total_s for run in smallest)
    figures[f"to_core_{name}_s"] = statistics.median(run.to_core_s for run in smallest)
    figures[f"pandas_core_{name}_s"] = statistics.median(seconds for seconds, _ in baseline)
    figures["driver_peak_gb"] = driver_gb
    growth = (runs[sizes[-1]].total_s / sizes[-1]) / (runs[sizes[-2]].total_s / sizes[-2])
    figures["cpu_growth_ratio"] = (runs[sizes[-1]].cpu_s / sizes[-1]) / (runs[sizes[-2]].cpu_s / sizes[-2])
    bars = [
        Bar(f"tree_peak_{_short(sizes[-1])}_gb", runs[sizes[-1]].peak_gb, _MAX_TREE_GB, better="lower"),
        Bar(f"growth_{_short(sizes[-2])}_to_{_short(sizes[-1])}_ratio", growth, _MAX_GROWTH, better="lower"),
    ]
    users, items, pairs = runs[sizes[-1]].core
    notes = [
        f"{_K}-core of {_short(sizes[-1])}: {users:,} users, {items:,} items, {pairs:,} interactions",
        f"Ray Data on {_NUM_CPUS} CPUs, object store {_OBJECT_STORE_GB} GB; sizes above {name} measured once",
        f"the core of {name} equals the one that pandas finds; pandas neither cleans, splits nor writes",
    ]
    return Measurement(figures, bars, notes)


def make_reviews(folder: Path, num_rows: int, seed: int) -> Path:
    """A review table as Parquet shards: activity and popularity long-tailed, so that the core takes many rounds."""
    folder.mkdir()
    num_users, num_items = max(num_rows // 12, 10), max(num_rows // 60, 10)
    for shard, start in enumerate(range(0, num_rows, _SHARD_ROWS)):
        rng = np.random.default_rng([seed, shard])
        size = min(_SHARD_ROWS, num_rows - start)
        users = (num_users * rng.random(size) ** 1.7).astype(np.int64)
        items = (num_items * rng.random(size) ** 2.5).astype(np.int64)
        table = pa.table(
            {
                "user_id": _keys("A", users * 2_654_435_761 % 10**13),  # scattered, as real ids are
                "item_id": _keys("B", items * 40_503 % 10**9),
                "rating": rng.integers(1, 6, size).astype(np.float32),
                "timestamp": rng.integers(1_300_000_000, 1_500_000_000, size),
            }
        )
        pq.write_table(table, folder / f"interactions-{shard:04d}.parquet", compression="zstd")
    return folder


def _keys(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


def _ingest(raw: Path, scratch: Path) -> _Run:
    config = DataConfig.model_validate(
        {"format": "tables", "path": str(raw), "engine": "ray", "filters": {"min_rating": 2, "k_core": _K}}
    )
    out = scratch / "out"
    with MemoryMonitor(interval_s=0.5) as memory:
        started, cpu_before = time.perf_counter(), _tree_cpu_s()
        build = Build(config, 0, Folder(out / "dataset"), Folder(out / "quarantine"), Progress("ingest"))
        stats = build.run()
        total_s, cpu_s = time.perf_counter() - started, _tree_cpu_s() - cpu_before
    shutil.rmtree(out)
    core = next(step for step in stats["steps"] if step["step"] == f"{_K}-core")
    to_core_s = sum(build.seconds[name] for name in ("read interactions", "index", "encode", "k-core"))
    counts = (core["users"], core["items"], core["interactions"])
    return _Run(total_s, cpu_s, to_core_s, memory.peak_gb, counts, len(stats["core_rounds"]))


def _tree_cpu_s() -> float:
    """Processor seconds so far of this process and everything it started that still runs."""
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _pandas_core(raw: Path) -> tuple[float, tuple[int, int, int]]:
    """Seconds and counts of the notebook's way."""
    started = time.perf_counter()
    frame = pd.read_parquet(raw, columns=["user_id", "item_id", "rating", "timestamp"])
    frame = frame[frame.rating >= 2].sort_values("timestamp", kind="stable")
    frame = frame.drop_duplicates(["user_id", "item_id"], keep="last")
    while True:
        before = len(frame)
        frame = frame[frame.groupby("item_id").user_id.transform("size") >= _K]
        frame = frame[frame.groupby("user_id").item_id.transform("size") >= _K]
        if len(frame) == before:
            break
    return time.perf_counter() - started, (frame.user_id.nunique(), frame.item_id.nunique(), len(frame))


def _short(size: int) -> str:
    return f"{size // 1_000_000}m" if size >= 1_000_000 else f"{size // 1000}k"
