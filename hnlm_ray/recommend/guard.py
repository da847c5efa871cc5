"""`guarded`: text keeps likely false negatives from being chosen (METHOD.md section 5).

Behaviour alone cannot tell an item that a user would not choose from one that the user has not met yet: both have a
high score and no interaction. Text can: the second kind looks like what the user takes.

Legend: U users, I items, B pairs of a batch, N candidates per pair, r width of a vector.
"""

from dataclasses import dataclass

import numpy as np

from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.samplers import drawing
from hnlm_ray.recommend.text_sides import standardised, sums_of_items


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
        return np.float32(self.weight) * standardised(similarity)


def guard_by_text(text: np.ndarray, train: UserItems, weight: float) -> Guard:
    """What text knows speaks: its items, unit rows [I, r], against the users that text says would take them."""
    return Guard(np.concatenate([sums_of_items(text, train), text]), train.num_users, weight)


def guard_by_behaviour(user_emb: np.ndarray, item_emb: np.ndarray, weight: float) -> Guard:
    """Control `window-only`: the scores of the warm-up signal speak instead of the text."""
    return Guard(np.concatenate([user_emb, item_emb]), len(user_emb), weight)
