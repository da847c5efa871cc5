"""Figures of the question: does the tune do what it claims? Cosines of z to what it should near and avoid, and where
its neighbours stand in CF.

S sampled pairs that were held out of the tune, C catalogue items, d dimension; vectors have unit norm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hnlm_ray.finetune.pairs import top_items
from hnlm_ray.finetune.triplets import cf_percentiles

NUM_BINS = 20
NUM_RETRIEVED = 10


@dataclass(frozen=True)
class TuneSample:
    """Pairs to look at. Item ids are columns of the catalogue sample."""

    user_ids: np.ndarray
    item_columns: np.ndarray
    """n: the interacted item, per pair."""
    target_columns: np.ndarray
    """p: the hard negative aimed at, per pair."""
    held_out_columns: np.ndarray
    """One validation positive of the user, per pair; -1 where there is none."""


def histogram(values: np.ndarray, low: float, high: float) -> list[int]:
    """Counts in `NUM_BINS` equal bins."""
    counts: list[int] = np.histogram(values, bins=NUM_BINS, range=(low, high))[0].tolist()
    return counts


def measure(
    z_Sd: np.ndarray,
    items_Cd: np.ndarray,
    catalogue_ids: np.ndarray,
    sample: TuneSample,
    scores_SI: np.ndarray,
    positives: Mapping[int, np.ndarray],
    window: Sequence[float],
) -> dict[str, Any]:
    """Figures of one encoder, base or tuned: mean cosines, and the CF percentiles of the items that z retrieves.

    `scores_SI`: CF scores of each pair's user over all items. Training positives of the user are not retrieved.
    """
    similarity_SC = z_Sd @ items_Cd.T
    rows = np.arange(len(z_Sd))
    has_held_out = sample.held_out_columns >= 0
    held_out = similarity_SC[rows[has_held_out], sample.held_out_columns[has_held_out]]
    cosines = {
        "target": similarity_SC[rows, sample.target_columns],
        "positive": similarity_SC[rows, sample.item_columns],
        "held_out_positive": held_out,
        "random": similarity_SC.ravel(),
    }
    percentiles = []
    for row, user in enumerate(sample.user_ids.tolist()):
        unseen = np.flatnonzero(~np.isin(catalogue_ids, positives[user]))
        nearest = unseen[top_items(similarity_SC[row : row + 1, unseen], NUM_RETRIEVED)[0]]
        percentiles.append(cf_percentiles(scores_SI[row], positives[user], catalogue_ids[nearest]))
    retrieved = np.concatenate(percentiles)
    inside = (retrieved >= window[0]) & (retrieved <= window[1])
    own = similarity_SC[rows, sample.target_columns]
    return {
        "mean_cosine": {name: round(float(values.mean()), 5) for name, values in cosines.items() if len(values)},
        "cosine_histogram": {name: histogram(values, -1, 1) for name, values in cosines.items()},
        "retrieved_in_window": round(float(inside.mean()), 5),
        "retrieved_above_window": round(float((retrieved > window[1]).mean()), 5),
        "retrieved_percentile_histogram": histogram(retrieved, 0, 1),
        "target_in_top_10": round(float(((similarity_SC > own[:, None]).sum(1) < NUM_RETRIEVED).mean()), 5),
    }
