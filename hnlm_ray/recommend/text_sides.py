"""Users and items in the space of taste, and what the controls of METHOD.md section 6 leave of them.

U users, I items, r width of a vector.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import prange

from hnlm_ray.recommend.compiled import kernel
from hnlm_ray.recommend.config import Control
from hnlm_ray.recommend.interactions import Interactions

_STREAM = 8
_POPULARITY_NEIGHBOURS = 20


@dataclass(frozen=True)
class TextSides:
    """Who would take what, by text: the product of a user and an item. Unit rows; without text a row is zero."""

    users: np.ndarray
    """float32 [U, r]"""
    items: np.ndarray
    """float32 [I, r]"""


def text_sides(item_text_emb: np.ndarray, interactions: Interactions, control: Control, seed: int) -> TextSides:
    """A user is the sum of what was taken. `item_text_emb` [I, r]; an item without text has a zero row.

    The controls change the items' vectors, and the users' follow: `gaussian` noise, `shuffled` the vector of another
    item, `popularity-matched` that of an item about as popular. What they still bring is not the text's.
    """
    items = _unit(_controlled(item_text_emb.astype(np.float32), interactions, control, seed))
    return TextSides(_unit(interactions.train.matrix @ items), items)


def standardised(scores: np.ndarray) -> np.ndarray:
    """Each row of float32 [B, N] in standard deviations from its mean, over the entries that are not exactly 0: those
    belong to zero vectors, say nothing and stay 0."""
    out = np.empty_like(scores)
    _standardise(scores, out)
    return out


@kernel(fastmath={"contract", "reassoc"})
def _standardise(scores_BN: np.ndarray, out_BN: np.ndarray) -> None:
    for b in prange(len(scores_BN)):
        row, out = scores_BN[b], out_BN[b]
        count, total, squares = 0, 0.0, 0.0
        for score in row:
            count += score != 0
            total += score
        mean = total / max(count, 1)
        for score in row:
            squares += (score - mean) * (score - mean) * (score != 0)
        scale = 1 / max(math.sqrt(squares / max(count, 1)), 1e-6)
        for n in range(len(row)):
            out[n] = np.float32((row[n] - mean) * scale * (row[n] != 0))


def _controlled(items: np.ndarray, interactions: Interactions, control: Control, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, _STREAM])
    with_text = np.flatnonzero(items.any(axis=1))
    changed = items.copy()
    match control:
        case "gaussian":
            changed[with_text] = rng.standard_normal((len(with_text), items.shape[1]), np.float32)
        case "shuffled":
            cycle = rng.permutation(with_text)  # each takes its successor's vector: none keeps its own
            changed[cycle] = items[np.roll(cycle, 1)]
        case "popularity-matched":
            order = with_text[np.argsort(interactions.train.item_counts[with_text], kind="stable")]
            for start in range(0, len(order), _POPULARITY_NEIGHBOURS):
                cycle = rng.permutation(order[start : start + _POPULARITY_NEIGHBOURS])
                changed[cycle] = items[np.roll(cycle, 1)]
    return changed


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
