"""Everything METHOD.md section 7 asks of a trained model, in one pass over the ranked blocks of users.

Legend: U users, I items, b users of a block, K longest ranking, c cut-offs k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hnlm_ray.recommend.config import EvaluateConfig
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.metrics import metric_names, ranking_metrics
from hnlm_ray.recommend.ranking import PerUser, Scorer, hits_of, rankings
from hnlm_ray.report.analysis import Group, average_popularity, count_groups, gini, tail_coverage


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split."""

    per_user: PerUser
    item_recall: np.ndarray
    """float64 [I, c]: share of an item's held-out interactions that were found among the first k; NaN without any"""
    shown: np.ndarray
    """int64 [I, c]: how often each item was among the first k"""


def evaluate_split(scorer: Scorer, seen: UserItems, held_out: UserItems, config: EvaluateConfig) -> Evaluation:
    """Rank all items for every user with held-out items; items of `seen` are masked."""
    ks, num_items = config.ks, held_out.num_items
    users = np.flatnonzero(held_out.counts > 0)
    found, shown = np.zeros((num_items, len(ks))), np.zeros((num_items, len(ks)), np.int64)
    values = [np.empty((0, len(metric_names(ks))))]
    for block, items in rankings(scorer, users, seen, max(ks), config.users_per_block):
        hits = hits_of(block, items, held_out)
        values.append(ranking_metrics(hits, held_out.counts[block], ks))
        for column, k in enumerate(ks):
            first = items[:, :k]
            shown[:, column] += np.bincount(first.ravel(), minlength=num_items)
            found[:, column] += np.bincount(first[hits[:, :k]], minlength=num_items)
    with np.errstate(invalid="ignore"):
        item_recall = found / held_out.item_counts[:, None]
    return Evaluation(PerUser(users, metric_names(ks), np.concatenate(values)), item_recall, shown)


def user_groups(evaluation: Evaluation, train: UserItems, num_groups: int) -> list[dict[str, Any]]:
    """Mean metrics of users grouped by their number of training interactions."""
    per_user = evaluation.per_user
    groups = count_groups(train.counts[per_user.user_ids], num_groups)
    return [
        _group(group, "num_users", dict(zip(per_user.names, per_user.values[group.members].mean(0), strict=True)))
        for group in groups
    ]


def item_groups(
    evaluation: Evaluation, train: UserItems, held_out: UserItems, ks: Sequence[int], num_groups: int
) -> list[dict[str, Any]]:
    """Items grouped by popularity: the share of the group's held-out interactions found among the first k."""
    weights, found = [], []
    groups = count_groups(train.item_counts, num_groups)
    for group in groups:
        counts = held_out.item_counts[group.members]
        weights.append(counts.sum())
        found.append(np.nan_to_num(evaluation.item_recall[group.members]).T @ counts)
    return [
        _group(group, "num_items", {f"recall@{k}": hits / max(1, weight) for k, hits in zip(ks, of_group, strict=True)})
        for group, weight, of_group in zip(groups, weights, found, strict=True)
    ]


def popularity_bias(evaluation: Evaluation, train: UserItems, ks: Sequence[int]) -> dict[str, float]:
    """Average popularity, Gini coefficient and tail coverage of what is recommended, per k."""
    popularity, values = train.item_counts, {}
    for column, k in enumerate(ks):
        shown = evaluation.shown[:, column]
        values[f"average_popularity@{k}"] = average_popularity(np.repeat(np.arange(len(shown)), shown), popularity)
        values[f"gini@{k}"] = gini(shown)
        values[f"tail_coverage@{k}"] = tail_coverage(np.flatnonzero(shown), popularity)
    return values


def _group(group: Group, counted: str, metrics: dict[str, float]) -> dict[str, Any]:
    means = {name: float(value) for name, value in metrics.items()}
    return {"label": group.label, counted: len(group.members), "metrics": means}
