"""Negatives that a whole batch shares, for the sampled softmax.

Legend: B pairs of the batch, M shared negatives.
"""

import numpy as np

from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.samplers import drawing
from hnlm_ray.recommend.samplers.base import Batch

_STREAM = 7


class SharedNegatives:
    """M items drawn uniformly per step, the same on every rank."""

    def __init__(self, user_items: UserItems, num_negatives: int, seed: int) -> None:
        self.user_items, self.num_negatives, self.seed = user_items, num_negatives, seed
        self._column = np.full(user_items.num_items, -1, np.int64)
        """Scratch: -1 everywhere between two calls."""

    def draw(self, batch: Batch) -> np.ndarray:
        """int32 [M]"""
        fractions = np.empty((1, self.num_negatives), np.float32)
        key = drawing.stream_key(self.seed, _STREAM, batch.epoch)
        drawing.draw_fractions(key, np.array([batch.step]), fractions)
        return (fractions[0] * self.user_items.num_items).astype(np.int32)

    def is_positive(self, user_ids: np.ndarray, shared_ids: np.ndarray) -> np.ndarray:
        """Whether the user of a row has the item of a column, bool [B, M]."""
        distinct, columns = np.unique(shared_ids, return_inverse=True)
        self._column[distinct] = np.arange(len(distinct))
        rows, taken = self.user_items.entries(user_ids)
        found = self._column[taken]
        self._column[distinct] = -1
        positive = np.zeros((len(user_ids), len(distinct)), bool)
        positive[rows[found >= 0], found[found >= 0]] = True
        return positive[:, columns]
