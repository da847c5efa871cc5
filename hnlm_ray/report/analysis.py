"""What the numbers say: groups, popularity bias, false hard negatives, significance. Pure functions on arrays.

Legend: `U` users, `I` items, `N` negatives or observations, `S` seeds, `G` groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Group:
    """Users or items whose count lies in [low, high]."""

    low: int
    high: int
    members: np.ndarray
    """Positions in the array of counts, ascending."""

    @property
    def label(self) -> str:
        """The range in words: `5-9`, or `5` where it is one number."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def count_groups(counts: np.ndarray, num_groups: int) -> list[Group]:
    """Cut users (by activity) or items (by popularity) into at most `num_groups` groups of about equal size.

    counts [U] or [I]: training interactions of each. Equal counts always share a group, so that a group is a range
    of counts and the groups of two runs on the same data are the same; with many ties there are fewer groups.
    """
    if num_groups < 1:
        raise ValueError(f"num_groups is {num_groups}; at least 1 is needed")
    if len(counts) == 0:
        return []
    inner = np.quantile(counts, np.arange(1, num_groups) / num_groups, method="higher")
    of_member = np.searchsorted(np.unique(inner), counts, side="right")
    groups = []
    for index in np.unique(of_member):
        members = np.flatnonzero(of_member == index)
        groups.append(Group(int(counts[members].min()), int(counts[members].max()), members))
    return groups


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of how often each item is recommended [I]: 0 all alike, (I - 1) / I a single item takes all."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    num_items, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, num_items + 1)
    return float(((2 * ranks - num_items - 1) * ordered).sum() / (num_items * total))


def average_popularity(recommended: np.ndarray, popularity: np.ndarray) -> float:
    """Mean number of training interactions of the recommended items; recommended [U, k] ids, popularity [I]."""
    return float(popularity[recommended].mean()) if recommended.size else 0.0


def tail_items(popularity: np.ndarray, tail_share: float = 0.2) -> np.ndarray:
    """Mask [I] of the long tail: the least popular items that together hold at most `tail_share` of the interactions.

    Items of equal popularity fall on the same side, the head's where they straddle the border.
    """
    levels, level_of_item, num_at_level = np.unique(popularity, return_inverse=True, return_counts=True)
    held = np.cumsum(levels * num_at_level, dtype=np.float64)
    return np.asarray((held <= tail_share * held[-1])[level_of_item]) if len(levels) else np.zeros(0, dtype=bool)


def tail_coverage(recommended: np.ndarray, popularity: np.ndarray, tail_share: float = 0.2) -> float:
    """Share of the long tail (`tail_items`) that is recommended to somebody; recommended [U, k] ids, popularity [I]."""
    tail = tail_items(popularity, tail_share)
    if not tail.any():
        return 0.0
    shown = np.zeros(len(popularity), dtype=bool)
    shown[recommended.ravel()] = True
    return float(shown[tail].mean())


def is_pair_of(
    user_ids: np.ndarray, item_ids: np.ndarray, pair_user_ids: np.ndarray, pair_item_ids: np.ndarray
) -> np.ndarray:
    """Which (user, item) of the first two arrays [N] occur among the pairs of the last two."""
    width = 1 + max((int(ids.max()) for ids in (item_ids, pair_item_ids) if len(ids)), default=0)
    keys = user_ids.astype(np.int64) * width + item_ids
    return np.asarray(np.isin(keys, pair_user_ids.astype(np.int64) * width + pair_item_ids))


@dataclass(frozen=True)
class EqualHardness:
    """False-hard-negative rates of two samplers, compared where both are equally hard."""

    ours: float
    rival: float
    """The rival's rate, re-weighted to our distribution of hardness."""
    covered: float
    """Share of our negatives that lie in a hardness bin where the rival has any: the rest is not compared."""


def false_rate_at_equal_hardness(
    hardness: np.ndarray,
    is_false: np.ndarray,
    rival_hardness: np.ndarray,
    rival_is_false: np.ndarray,
    num_bins: int = 10,
) -> EqualHardness:
    """Share of chosen negatives that are held-out positives, at equal hardness (METHOD.md, section 7).

    hardness [N]: the CF percentile of each negative for its user; is_false [N]: whether it is a held-out positive. A
    sampler that picks easier negatives has fewer false ones for that reason alone, so the rival's rate is taken per
    bin of hardness (bins of equal size under ours) and averaged with our weights.
    """
    edges = np.unique(np.quantile(hardness, np.arange(1, num_bins) / num_bins))
    ours_bin, rival_bin = np.searchsorted(edges, hardness, "right"), np.searchsorted(edges, rival_hardness, "right")
    size = len(edges) + 1
    weight = np.bincount(ours_bin, minlength=size)
    rival_weight = np.bincount(rival_bin, minlength=size)
    both = (weight > 0) & (rival_weight > 0)
    if not both.any():
        return EqualHardness(float("nan"), float("nan"), 0.0)
    false = np.bincount(ours_bin, weights=is_false.astype(np.float64), minlength=size)
    rival_false = np.bincount(rival_bin, weights=rival_is_false.astype(np.float64), minlength=size)
    compared = weight[both].sum()
    return EqualHardness(
        ours=float(false[both].sum() / compared),
        rival=float((rival_false[both] / rival_weight[both] * weight[both]).sum() / compared),
        covered=float(compared / len(hardness)),
    )


def paired_p_value(ours: np.ndarray, rival: np.ndarray) -> float:
    """Two-sided p of the paired t-test; ours, rival [S]: the same seeds (or the same users) in the same order.

    Equal differences leave no variance to test against: p is then 1 where they are zero and 0 where they are not.
    """
    if len(ours) != len(rival) or len(ours) < 2:
        raise ValueError(f"a paired test needs two equally long arrays of at least 2, not {len(ours)} and {len(rival)}")
    difference = np.asarray(ours, dtype=np.float64) - np.asarray(rival, dtype=np.float64)
    scale = np.abs(difference).max()
    if np.ptp(difference) <= 1e-12 * scale:
        return 1.0 if scale == 0 else 0.0
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for the number of comparisons; the order is kept."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return [float(value) for value in corrected]
