"""The Ray Data plan of the stage `embed`: units that have no shard yet, through thin workers, to finished shards."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy

from hnlm_ray.finetune.pair_embedder import EmbedTask, Encoder, PairEmbedder, PairUnit, UnitReport, pair_units
from hnlm_ray.finetune.pairs import PairTexts
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

_WORKER_CPUS = 0.25
"""A worker mostly waits for its engine."""
_CALLS_PER_ENGINE = 3
"""Units in hand per engine: one is computed while the texts of the next are written and the last is stored."""
_CALLS_PER_WORKER = 12
_UNITS_PER_PLAN = 4096
_TEXTS_PER_CALL = 1024


class _PlanWorker:
    """The unit worker as Ray Data calls it: a batch is one unit."""

    def __init__(self, task: EmbedTask, encoder: Encoder) -> None:
        self._embedder = PairEmbedder(task, encoder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        [name], [file], [row_group], [start], [stop] = (
            batch[key] for key in ("name", "file", "row_group", "start", "stop")
        )
        report = self._embedder.run(PairUnit(int(name), str(file), int(row_group), int(start), int(stop)))
        return {key: np.array([value]) for key, value in asdict(report).items()}


def embed_pairs(
    task: EmbedTask, encoder: Any, unit_rows: int, num_engines: int, progress: Progress
) -> list[UnitReport]:
    """Bring every unit to its shard; returns the reports of those that this run did.

    `encoder` is an `EngineGroup` (it travels to the workers and counts its tokens).
    """
    units = pair_units(Folder(task.sources.train), unit_rows)
    done = set(Folder(task.shards).names(".parquet"))
    todo = [unit for unit in units if unit.shard not in done]
    progress.start(sum(unit.num_rows for unit in units), "pairs")
    progress.update(sum(unit.num_rows for unit in units) - sum(unit.num_rows for unit in todo))
    tokens = encoder.counters().prompt_tokens
    reports = []
    for start in range(0, len(todo), _UNITS_PER_PLAN):
        for report in _run_plan(task, encoder, num_engines, todo[start : start + _UNITS_PER_PLAN]):
            reports.append(report)
            before, tokens = tokens, encoder.counters().prompt_tokens
            progress.update(report.rows, tokens=tokens - before)
    return reports


def _run_plan(task: EmbedTask, encoder: Any, num_engines: int, units: Sequence[PairUnit]) -> Iterator[UnitReport]:
    calls = min(len(units), _CALLS_PER_ENGINE * num_engines)
    num_workers = math.ceil(calls / _CALLS_PER_WORKER)
    calls_per_worker = math.ceil(calls / num_workers)
    plan = ray.data.from_items([asdict(unit) for unit in units], override_num_blocks=len(units)).map_batches(
        _PlanWorker,
        fn_constructor_args=(task, encoder),
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
        yield UnitReport(**row)


def embed_items(texts: PairTexts, encoder: Encoder, item_ids: np.ndarray, num_engines: int) -> np.ndarray:
    """Vectors [len(item_ids), d] of catalogue items, in calls that keep every engine busy; zero where no text is."""
    told = texts.has_text[item_ids]
    wanted = item_ids[told]
    calls = [wanted[start : start + _TEXTS_PER_CALL] for start in range(0, len(wanted), _TEXTS_PER_CALL)]
    with ThreadPoolExecutor(_CALLS_PER_ENGINE * num_engines) as pool:
        vectors = np.concatenate(list(pool.map(lambda ids: encoder.embed(texts.items(ids)), calls)))
    emb = np.zeros((len(item_ids), vectors.shape[1]), np.float32)
    emb[told] = vectors
    return emb
