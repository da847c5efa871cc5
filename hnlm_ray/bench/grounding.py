"""`hnlm bench grounding`: the search by compressed codes against the exact one, by size of the catalogue.

The vectors are as near to each other as those of texts: 32 hidden dimensions and a little noise in 384 give the local
dimension (some 25) that titles and profiles have in MiniLM's space.
"""

import time

import numpy as np
import torch

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement, paired
from hnlm_ray.generate.config import NegativeConfig
from hnlm_ray.generate.nearest import NearestItems
from hnlm_ray.runtime import set_environment

_HIDDEN, _WIDTH, _NOISE = 32, 384, 0.1
_POSITIVES = 20
"""Items that each query must not get, as a user's training items."""


def measure(options: BenchOptions) -> Measurement:
    """Milliseconds per query of both searches, the seconds that the codes take, and the recall."""
    set_environment()  # as a run has it: before faiss brings its own threads
    import faiss

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    threshold, k = NegativeConfig().ann_above_items, NegativeConfig().num_grounded
    sizes, num_queries = ((2_000, 4_000), 64) if options.quick else ((threshold // 2, threshold, 4 * threshold), 1024)
    figures: dict[str, float] = {}
    for num_items in sizes:
        figures |= _of_size(num_items, num_queries, k, options)
    names = [f"{num_items // 1000}k" for num_items in sizes]
    bars = [
        Bar("least_recall_ratio", min(figures[f"codes_{name}_recall_ratio"] for name in names), 0.99),
        Bar("speedup_at_threshold_ratio", figures[f"codes_{names[1]}_speedup_ratio"], 1.5),
    ]
    notes = [f"the threshold is negative.ann_above_items ({threshold:,}); {num_queries} queries, k = {k}"]
    return Measurement(figures, bars, notes)


def _of_size(num_items: int, num_queries: int, k: int, options: BenchOptions) -> dict[str, float]:
    rng = np.random.default_rng(options.seed)
    items, queries = np.split(text_like_vectors(num_items + num_queries, rng), [num_items])
    excluded = np.arange(num_queries + 1) * _POSITIVES, rng.integers(0, num_items, num_queries * _POSITIVES)
    exact = NearestItems(items, num_items)
    started = time.perf_counter()
    coded = NearestItems(items, 0)
    build_s = time.perf_counter() - started
    times = paired(
        lambda: coded.top_k(queries, k, excluded), lambda: exact.top_k(queries, k, excluded), options.repeats
    )
    saved_s = (times.baseline - times.ours) / num_queries
    name = f"{num_items // 1000}k"
    return {
        f"exact_{name}_ms_per_query": 1000 * times.baseline / num_queries,
        f"codes_{name}_ms_per_query": 1000 * times.ours / num_queries,
        f"codes_{name}_speedup_ratio": times.speedup,
        f"codes_{name}_build_s": build_s,
        f"codes_{name}_recall_ratio": coded.recall(queries, k),
        f"queries_that_repay_{name}_count": build_s / saved_s if saved_s > 0 else float("inf"),
    }


def text_like_vectors(num: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors [num, 384] float32, most of whose spread lies in few dimensions."""
    spread = rng.normal(size=(_HIDDEN, _WIDTH)).astype(np.float32) / np.sqrt(_HIDDEN)
    hidden = rng.standard_normal((num, _HIDDEN), np.float32)
    vectors = hidden @ spread + _NOISE * rng.standard_normal((num, _WIDTH), np.float32)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
