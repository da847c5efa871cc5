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
        self.num_negatives, self.num_items, self.seed = num_negatives, user_items.num_items, seed
        owners = user_items.user_ids.astype(np.int64)
        self._keys = owners * user_items.num_items + user_items.item_ids

    def draw(self, batch: Batch) -> np.ndarray:
        """int32 [M]"""
        fractions = np.empty((1, self.num_negatives), np.float32)
        key = drawing.stream_key(self.seed, _STREAM, batch.epoch)
        drawing.draw_fractions(key, np.array([batch.step]), fractions)
        return (fractions[0] * self.num_items).astype(np.int32)

    def is_positive(self, user_ids: np.ndarray, shared_ids: np.ndarray) -> np.ndarray:
        """Whether the user of a row has the item of a column, bool [B, M]."""
        wanted = user_ids.astype(np.int64)[:, None] * self.num_items + shared_ids
        place = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return self._keys[place] == wanted
