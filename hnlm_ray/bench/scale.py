"""A simulation of scale: 10^7 interactions through the stages, and whether memory stays what it was at 10^6.

Everything is what a run uses (ingest and LLM stages on Ray Data, dispatcher and engine hosts, shards, grounding, the
plan of `embed`) but for the engines: they are stubs that answer at once (`bench/stub_engine.py`), so the seconds are
those of everything around a model. The stage `signal` trains one epoch; its memory grows with the training pairs, which
a training worker holds, and is told beside the others.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement
from hnlm_ray.bench.scale_cost import PerRow, table
from hnlm_ray.bench.stub_engine import DIM, stub_engine
from hnlm_ray.config import RunConfig, parse_config
from hnlm_ray.memory import MemoryMonitor
from hnlm_ray.pipeline import Run, plan, run_stages
from hnlm_ray.progress import Progress
from hnlm_ray.runtime import RuntimeConfig, connected
from hnlm_ray.store import Folder, RunDir

_SIZES = (1_000_000, 10_000_000)
_QUICK_SIZES = (40_000, 80_000)
_WARM_UP_ROWS = 20_000
_PER_USER = 200
_NUM_ITEMS = 20_000
_SHARD_ROWS = 250_000
"""Both sizes have more shards than there are CPUs, so that the same processes are at work in both."""
_NUM_CPUS = 2
_RUNTIME = RuntimeConfig(address="local", num_cpus=_NUM_CPUS, object_store_gb=0.3)
_PAIRS_EMBEDDED_PER_USER = 10
_STREAMED = ("ingest", "profile", "negative", "embed")
_MAX_GROWTH = 1.25
"""Peak of a streamed stage at ten times the rows over that before: the same processes, ten times the blocks."""
_WORDS = ("a", "novel", "of", "friendship", "war", "and", "magic", "in", "the", "last", "summer", "city", "night")


def measure(options: BenchOptions) -> Measurement:
    """Both sizes, the smaller first, each stage with its peak and its seconds per row."""
    from hnlm_ray.generate.engines import EngineManager

    sizes = _QUICK_SIZES if options.quick else _SIZES
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hs") as scratch:
        folder = Path(scratch)
        with connected(_RUNTIME):
            for size in (_WARM_UP_ROWS, *sizes):  # after the first, every process has imported what it will ever need
                config = _config(make_shop(folder / f"rows-{size}", size, options.seed))
                run = Run(config)
                run.engines = EngineManager(config, stub_engine)
                try:
                    found = _simulate(config, RunDir(folder / f"run-{size}"), run, _short(size))
                    figures |= found if size in sizes else {}
                finally:
                    run.close()
    small, large = (_short(size) for size in sizes)
    growth = {stage: figures[f"{stage}_{large}_gb"] / figures[f"{stage}_{small}_gb"] for stage in _STREAMED}
    figures |= {f"{stage}_growth_ratio": ratio for stage, ratio in growth.items()}
    costs = PerRow(
        interaction_us=_core_us(figures, large, "ingest"),
        prompt_us=_core_us(figures, large, "profile", "negative"),
        pair_us=_core_us(figures, large, "embed"),
    )
    figures |= {f"{name}_per_core": value for name, value in vars(costs).items()}
    notes = [
        "SIMULATION: the engines are stubs; seconds are those of everything around a model",
        f"{large} interactions of {sizes[-1] // _PER_USER:,} users and {min(_NUM_ITEMS, sizes[-1]):,} items",
        "gb: peak of driver, Ray and all workers together (proportional set size)",
        *table(costs),
    ]
    return Measurement(figures, [Bar("largest_growth_ratio", max(growth.values()), _MAX_GROWTH, better="lower")], notes)


def make_shop(folder: Path, num_rows: int, seed: int) -> Path:
    """Interactions in shards, popularity long-tailed, and a catalogue of titles."""
    folder.mkdir()
    num_users = num_rows // _PER_USER
    for shard, start in enumerate(range(0, num_rows, _SHARD_ROWS)):
        rng = np.random.default_rng([seed, shard])
        rows = np.arange(start, min(start + _SHARD_ROWS, num_rows))
        table = pa.table(
            {
                "user_id": rows % num_users,
                "item_id": (_NUM_ITEMS * rng.random(len(rows)) ** 1.5).astype(np.int64),
                "timestamp": 1_300_000_000 + rows,
            }
        )
        pq.write_table(table, folder / f"interactions-{shard:04d}.parquet", compression="zstd")
    words = np.random.default_rng(seed).choice(_WORDS, (_NUM_ITEMS, 5))
    titles = [" ".join(title) for title in words]
    pq.write_table(pa.table({"item_id": np.arange(_NUM_ITEMS), "title": titles}), folder / "items.parquet")
    return folder


def _config(data: Path) -> RunConfig:
    return parse_config(
        {
            "data": {"format": "tables", "path": str(data), "engine": "ray"},
            "llm": {"model": "simulated", "max_num_seqs": 512},
            "negative": {"max_pairs_per_user": 1},
            "signal": {"model": "mf", "dim": 16, "epochs": 1, "batch_size": 16_384},
            "runtime": _RUNTIME.model_dump(),
        }
    )


def _simulate(config: RunConfig, run_dir: RunDir, run: Run, size: str) -> dict[str, float]:
    """Seconds, rows and peaks of the stages up to `negative`, and of the plan of `embed`."""
    run_stages(config, run_dir, plan(config, run_dir, "negative"), run)
    entries = {stage: versions[-1] for stage, versions in run_dir.entries().items()}
    figures: dict[str, float] = {}
    rows = {
        "ingest": entries["ingest"].summary["interactions"],
        "signal": entries["signal"].summary["train_pairs"],
        "profile": entries["profile"].summary["rows"],
        "negative": entries["negative"].summary["rows"],
    }
    measured: dict[str, tuple[float, float, float]] = {
        stage: (rows[stage], entries[stage].seconds, entries[stage].peak_memory_gb) for stage in rows
    }
    measured["embed"] = _embed(config, run_dir, run)
    for stage, (count, seconds, peak_gb) in measured.items():
        figures[f"{stage}_{size}_rows"] = count
        figures[f"{stage}_{size}_s"] = seconds
        figures[f"{stage}_{size}_us_per_row"] = 1e6 * seconds / count
        figures[f"{stage}_{size}_gb"] = peak_gb
    return figures


def _embed(config: RunConfig, run_dir: RunDir, run: Run) -> tuple[float, float, float]:
    """Pairs, seconds and peak of embedding: without the fine-tune, which is a training and none of the rows' flow."""
    from hnlm_ray.finetune.embed_plan import embed_pairs
    from hnlm_ray.finetune.encoder import encoder_source
    from hnlm_ray.finetune.pair_embedder import EmbedTask
    from hnlm_ray.finetune.pairs import Sources
    from hnlm_ray.finetune.texts import TextTemplate

    found: dict[str, Any] = {}
    for versions in run_dir.entries().values():
        found |= {name: run_dir.folder.child(path) for name, path in versions[-1].artifacts.items()}
    sources = Sources(
        train=found["dataset"].child("train").uri,
        profiles=found["profiles"].uri,
        signal=found["signal"].uri,
        negatives=found["negatives"].uri,
    )
    shards = Folder(run_dir.folder.child("embeddings").uri)
    task = EmbedTask(sources, TextTemplate(96, "neighbors", 3, 8), shards.uri, DIM, _PAIRS_EMBEDDED_PER_USER, "")
    encoder = run.engines.encoder(encoder_source("minilm"))
    started = time.monotonic()
    with MemoryMonitor() as memory:
        progress = Progress("embed")
        reports = embed_pairs(task, encoder, config.embed.unit_rows, 1, progress)
        progress.close()
    return sum(report.embedded for report in reports), time.monotonic() - started, memory.peak_gb


def _core_us(figures: Mapping[str, float], size: str, *stages: str) -> float:
    """Microseconds of one core per row: the wall time of both cores."""
    seconds = sum(figures[f"{stage}_{size}_s"] for stage in stages)
    return _NUM_CPUS * 1e6 * seconds / sum(figures[f"{stage}_{size}_rows"] for stage in stages)


def _short(size: int) -> str:
    return f"{size // 1_000_000}m" if size >= 1_000_000 else f"{size // 1000}k"
