"""Ranking metrics: pure functions of which ranks are hits, all cut-offs k in one pass (METHOD.md section 7).

Legend: b users, K longest ranking, c cut-offs. Definitions are those of `ranx`: AP@k divides by all relevant items,
the ideal DCG has min(|test_u|, k) hits, MRR@k is 0 where no hit is among the first k.
"""

import numpy as np

METRICS = ("recall", "ndcg", "hr", "precision", "mrr", "map")
"""Names, in the order of the columns of `ranking_metrics`."""


def metric_names(ks: tuple[int, ...]) -> list[str]:
    """`name@k` for every column of `ranking_metrics`.

    >>> metric_names((5, 10))[:3]
    ['recall@5', 'recall@10', 'ndcg@5']
    """
    return [f"{metric}@{k}" for metric in METRICS for k in ks]


def ranking_metrics(hits_bK: np.ndarray, num_relevant_b: np.ndarray, ks: tuple[int, ...]) -> np.ndarray:
    """Metrics of b rankings, float64 [b, 6 c], columns as `metric_names(ks)`.

    `hits_bK[u, r]`: whether the item at rank r (0 = first) is relevant; `num_relevant_b`: relevant items, at least 1.
    K must reach the largest k, or the whole catalogue.

    >>> ranking_metrics(np.array([[False, True, True]]), np.array([2]), (2,)).round(3).tolist()
    [[0.5, 0.387, 1.0, 0.5, 0.5, 0.25]]
    """
    num_ranks = hits_bK.shape[1]
    last = np.minimum(np.array(ks), num_ranks) - 1
    ranks = np.arange(1, num_ranks + 1)
    discount = 1 / np.log2(ranks + 1)
    hits = hits_bK.astype(np.float64)
    num_hits = hits.cumsum(1)
    dcg = (hits * discount).cumsum(1)[:, last]
    ideal = np.concatenate([[0.0], discount.cumsum()])[np.minimum(num_relevant_b[:, None], last + 1)]
    average_precision = (hits * num_hits / ranks).cumsum(1)[:, last] / num_relevant_b[:, None]
    found = num_hits[:, last]
    first = np.where(hits_bK.any(1), hits_bK.argmax(1), num_ranks)
    return np.concatenate(
        [
            found / num_relevant_b[:, None],
            dcg / ideal,
            (found > 0).astype(np.float64),
            found / np.array(ks),
            np.where(first[:, None] <= last, 1 / (first[:, None] + 1), 0.0),
            average_precision,
        ],
        axis=1,
    )
