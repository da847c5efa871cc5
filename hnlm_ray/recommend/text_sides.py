"""Users and items in the space of taste, and what the controls of METHOD.md section 6 leave of them.

U users, I items, B users of a block, r width of a vector.
"""

import math

import numpy as np
from numba import prange

from hnlm_ray.recommend.compiled import kernel
from hnlm_ray.recommend.config import Control
from hnlm_ray.recommend.interactions import Interactions, UserItems

_STREAM = 8
_POPULARITY_NEIGHBOURS = 20


def text_of_items(item_text_emb: np.ndarray, interactions: Interactions, control: Control, seed: int) -> np.ndarray:
    """Unit rows of `item_text_emb` [I, r], changed by the control; an item without text has a zero row.

    The controls change the items' vectors, and the users' follow: `gaussian` noise, `shuffled` the vector of another
    item, `popularity-matched` that of an item about as popular. What they still bring is not the text's.
    """
    return _unit(_controlled(item_text_emb.astype(np.float32), interactions, control, seed))


def sums_of_items(items_Ir: np.ndarray, train: UserItems) -> np.ndarray:
    """Users as the direction of the sum of what they took, float32 [U, r]; zero where none of it has text."""
    return _unit(train.matrix @ items_Ir)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Each row at length 1; a zero row stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))


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
