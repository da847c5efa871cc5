"""`hnlm bench evaluate`: users ranked per second over all items, every metric at k = 5, 10, 20, 50 included."""

import statistics
import tracemalloc

import numpy as np
import torch

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement, paired
from hnlm_ray.bench.graphs import SIZES, power_law_graph
from hnlm_ray.memory import keep_freed_memory
from hnlm_ray.recommend.config import EvaluateConfig
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.metrics import ranking_metrics
from hnlm_ray.recommend.ranking import EmbeddingScorer, evaluate

_KS = EvaluateConfig().ks
_USERS_PER_REPEAT = {"lastfm": 1_892, "gowalla": 4_096}


def measure(options: BenchOptions) -> Measurement:
    """See the frame."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    figures: dict[str, float] = {}
    for name in ("lastfm", "gowalla"):
        size = SIZES[name].shrunk(20 if options.quick else 1)
        data = power_law_graph(size, options.seed, held_out=size.num_pairs // 4)
        figures |= _speed(name, data, options)
    bars = [
        Bar("lastfm_users_per_s", figures["lastfm_users_per_s"], 20_000),
        Bar("gowalla_users_per_s", figures["gowalla_users_per_s"], 5_000),
    ]
    return Measurement(figures, bars, ["baseline: whole score rows, a Python loop over users for the metrics"])


def _speed(name: str, data: Interactions, options: BenchOptions) -> dict[str, float]:
    generator = torch.Generator().manual_seed(options.seed)
    scorer = EmbeddingScorer(
        torch.randn(data.num_users, 64, generator=generator), torch.randn(data.num_items, 64, generator=generator)
    )
    users = np.flatnonzero(data.test.counts)[: _USERS_PER_REPEAT[name]]
    few = users[: max(1, len(users) // 8)]
    block = EvaluateConfig().users_per_block

    def ours() -> None:
        evaluate(scorer, data.train, data.test, _KS, block, users)

    times = paired(ours, lambda: _plain(scorer, data, few), options.repeats)
    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        f"{name}_users_per_s": len(users) / times.ours,
        f"{name}_baseline_users_per_s": len(few) / times.baseline,
        f"{name}_speedup": statistics.median(times.ratios) * len(users) / len(few),
        f"{name}_block_gb": (block * data.num_items * 4 + peak) / 1e9,
    }


def _plain(scorer: EmbeddingScorer, data: Interactions, user_ids: np.ndarray) -> None:
    """What LightGCN-PyTorch does: scores of a batch, masks and metrics user by user."""
    for start in range(0, len(user_ids), 256):
        block = user_ids[start : start + 256]
        scores = scorer.scores(block)
        for row, user in enumerate(block):
            scores[row, data.train.of(user).tolist()] = -torch.inf
        ranked = scores.topk(max(_KS)).indices.numpy()
        for row, user in enumerate(block):
            relevant = set(data.test.of(user).tolist())
            hits = np.array([[item in relevant for item in ranked[row].tolist()]])
            ranking_metrics(hits, np.array([len(relevant)]), _KS)
