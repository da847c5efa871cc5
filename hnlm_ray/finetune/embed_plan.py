"""What the stage `embed` asks of the engines: units that have no shard yet to finished shards, and catalogue items."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from hnlm_ray.finetune.pair_embedder import EmbedTask, Encoder, PairEmbedder, UnitReport, pair_units
from hnlm_ray.finetune.pairs import PairTexts
from hnlm_ray.generate.feeding import Feeding
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

_CALLS_PER_ENGINE = 3
"""Units in hand per engine: one is computed while the texts of the next are written and the last is stored."""
_TEXTS_PER_CALL = 1024


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
    if todo:
        feeding = Feeding(partial(PairEmbedder, task, encoder), UnitReport, _CALLS_PER_ENGINE * num_engines)
        for report in feeding.run(todo):
            reports.append(report)
            before, tokens = tokens, encoder.counters().prompt_tokens
            progress.update(report.rows, tokens=tokens - before)
    return reports


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
