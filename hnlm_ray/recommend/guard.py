"""`guarded`: text keeps likely false negatives from being chosen (METHOD.md section 5).

Behaviour alone cannot tell an item that a user would not choose from one that the user has not met yet: both have a
high score and no interaction. Text can: the second kind looks like what the user takes.

Legend: U users, I items, B pairs of a batch, N candidates per pair, r width of a vector.
"""

from dataclasses import dataclass

import numpy as np

from hnlm_ray.recommend.config import Control
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.samplers import drawing

_STREAM = 8
_POPULARITY_NEIGHBOURS = 20


@dataclass(frozen=True)
class Guard:
    """How strongly each negative is spoken against."""

    vectors: np.ndarray
    """float32 [U + I, r], users first; an item whose row is zero is neither spoken for nor against"""
    num_users: int
    weight: float
    """gamma: standard deviations of the score that one standard deviation of similarity takes away"""

    def of_candidates(self, user_ids: np.ndarray, candidates_BN: np.ndarray) -> np.ndarray:
        """What each pair's own candidates lose, in standard deviations of their scores, float32 [B, N]."""
        similarity = np.empty(candidates_BN.shape, np.float32)
        drawing.score_candidates(self.vectors, user_ids, candidates_BN, self.num_users, similarity)
        known = similarity != 0  # exactly 0 belongs to a zero vector
        count = np.maximum(known.sum(axis=1, keepdims=True), 1)
        centred = np.where(known, similarity - similarity.sum(axis=1, keepdims=True) / count, 0)
        spread = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / count)
        return np.float32(self.weight) * centred / np.maximum(spread, np.float32(1e-6))


def guard_by_text(
    item_text_emb: np.ndarray, interactions: Interactions, weight: float, control: Control, seed: int
) -> Guard:
    """A user is the sum of what was taken. `item_text_emb` [I, r]; an item without text has a zero row.

    The controls change the items' vectors, and the users' follow: `gaussian` noise, `shuffled` the vector of another
    item, `popularity-matched` that of an item about as popular. What they still bring is not the text's.
    """
    items = _unit(_controlled(item_text_emb.astype(np.float32), interactions, control, seed))
    users = _unit(interactions.train.matrix @ items)
    return Guard(np.concatenate([users, items]), interactions.num_users, weight)


def guard_by_behaviour(user_emb: np.ndarray, item_emb: np.ndarray, weight: float) -> Guard:
    """Control `window-only`: the scores of the warm-up signal speak instead of the text."""
    return Guard(np.concatenate([user_emb, item_emb]), len(user_emb), weight)


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
