"""Grounding: the catalogue items nearest to each text negative (METHOD.md, section 2).

N queries, I items, d width, k neighbours. Exact, in blocks, so that memory stays at block x block. No Ray, no vLLM.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.store import Folder

_QUERY_BLOCK = 1024
_ITEM_BLOCK = 65_536


def exact_top_k(
    queries_Nd: np.ndarray,
    items_Id: np.ndarray,
    k: int,
    excluded: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The k items of highest inner product for each query: (item ids [N, k], similarities [N, k]), best first.

    `excluded` = (offsets [N + 1], item ids): the items that query n must not get are
    `item_ids[offsets[n]:offsets[n + 1]]`. Where fewer than k items are left, the rest has id -1 and similarity -inf.
    Equal similarities come in the order of the ids. An item whose vector is zero has no text and is never found.
    """
    num_queries, k = len(queries_Nd), min(k, len(items_Id))
    best_ids = np.full((num_queries, k), -1, np.int64)
    best = np.full((num_queries, k), -np.inf, np.float32)
    for start in range(0, num_queries, _QUERY_BLOCK):
        rows = slice(start, min(start + _QUERY_BLOCK, num_queries))
        best_ids[rows], best[rows] = _block_top_k(queries_Nd[rows], items_Id, k, _slice(excluded, rows))
    return best_ids, best


def _block_top_k(
    queries: np.ndarray, items: np.ndarray, k: int, excluded: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    query_of = np.repeat(np.arange(len(queries)), np.diff(excluded[0]))
    for start in range(0, len(items), _ITEM_BLOCK):
        block = items[start : start + _ITEM_BLOCK]
        block_scores = queries @ block.T
        inside = (excluded[1] >= start) & (excluded[1] < start + len(block))
        block_scores[query_of[inside], excluded[1][inside] - start] = -np.inf
        block_scores[:, ~block.any(axis=1)] = -np.inf
        block_ids = np.broadcast_to(np.arange(start, start + len(block)), block_scores.shape)
        ids, scores = np.hstack([ids, block_ids]), np.hstack([scores, block_scores])
        if ids.shape[1] > k:
            kept = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            ids, scores = np.take_along_axis(ids, kept, 1), np.take_along_axis(scores, kept, 1)
    order = np.lexsort((ids, -scores), axis=1)
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    ids[np.isneginf(scores)] = -1
    return ids, scores


def _slice(excluded: tuple[np.ndarray, np.ndarray], rows: slice) -> tuple[np.ndarray, np.ndarray]:
    offsets, item_ids = excluded
    first, last = offsets[rows.start], offsets[rows.stop]
    return offsets[rows.start : rows.stop + 1] - first, item_ids[first:last]


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
    pairs: pa.Table, negative_emb: np.ndarray, item_emb: np.ndarray, positives: Positives, num_grounded: int
) -> pa.Table:
    """Catalogue items nearest to each answered pair's negative, without the user's training positives.

    `negative_emb` [answered rows, d] and `item_emb` [I, d] are unit vectors, so that the similarity is the cosine.
    Returns user_id, item_id, rank (0 = nearest), negative_item_id, similarity; items are named by id, so titles that
    repeat cannot be confused.
    """
    answered = pairs.filter(pc.equal(pairs["status"], "ok"))
    user_ids, item_ids = answered["user_id"].to_numpy(), answered["item_id"].to_numpy()
    nearest_ids, similarity = exact_top_k(negative_emb, item_emb, num_grounded, positives.of(user_ids))
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
