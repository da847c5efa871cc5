"""Grounding: the catalogue items nearest to each text negative (METHOD.md, section 2).

N queries, I items, d width. No Ray, no vLLM.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.generate.nearest import NearestItems
from hnlm_ray.store import Folder


@dataclass(frozen=True)
class Positives:
    """Training items by user: `item_ids[offsets[u]:offsets[u + 1]]`."""

    offsets: np.ndarray
    item_ids: np.ndarray

    @classmethod
    def load(cls, dataset: Folder) -> "Positives":
        """From the training table, which is sorted by user."""
        train = dataset.read_table("train", columns=["user_id", "item_id"])
        counts = np.bincount(train["user_id"].to_numpy(), minlength=dataset.num_rows("users"))
        order = np.argsort(train["user_id"].to_numpy(), kind="stable")
        return cls(np.r_[0, np.cumsum(counts)], train["item_id"].to_numpy()[order])

    def of(self, user_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(offsets [N + 1], item ids) of these users, one after the other."""
        starts, ends = self.offsets[user_ids], self.offsets[user_ids + 1]
        lengths = ends - starts
        offsets = np.r_[0, np.cumsum(lengths)]
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return offsets, self.item_ids[np.repeat(starts, lengths) + within]


def ground(
    pairs: pa.Table, negative_emb: np.ndarray, items: NearestItems, positives: Positives, num_grounded: int
) -> pa.Table:
    """Catalogue items nearest to each answered pair's negative, without the user's training positives.

    `negative_emb` [answered rows, d] and the vectors of `items` are unit vectors, so that the similarity is the cosine.
    Returns user_id, item_id, rank (0 = nearest), negative_item_id, similarity; items are named by id, so titles that
    repeat cannot be confused.
    """
    answered = pairs.filter(pc.equal(pairs["status"], "ok"))
    user_ids, item_ids = answered["user_id"].to_numpy(), answered["item_id"].to_numpy()
    nearest_ids, similarity = items.top_k(negative_emb, num_grounded, positives.of(user_ids))
    width = nearest_ids.shape[1]
    found = nearest_ids.ravel() >= 0
    return pa.table(
        {
            "user_id": pa.array(np.repeat(user_ids, width)[found], pa.int32()),
            "item_id": pa.array(np.repeat(item_ids, width)[found], pa.int32()),
            "rank": pa.array(np.tile(np.arange(width), len(user_ids))[found], pa.int16()),
            "negative_item_id": pa.array(nearest_ids.ravel()[found], pa.int32()),
            "similarity": pa.array(similarity.ravel()[found], pa.float32()),
        }
    )
