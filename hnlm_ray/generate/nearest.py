"""The items nearest to each query: exactly, or in a large catalogue by way of compressed codes.

N queries, I items, d width, k neighbours, c candidates. Memory stays at block x block. No Ray, no vLLM.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

_QUERY_BLOCK = 1024
_ITEM_BLOCK = 65_536
_COMPARED_BLOCK = 64
"""Queries whose candidates are gathered at a time: 64 x 400 x 384 numbers are 40 MB."""
_FEWEST_CANDIDATES = 400
_CANDIDATES_PER_NEIGHBOUR = 20
_TRAINING_ITEMS = 4_096
"""Items from which the codes are learnt: 256 for each of the 16 centroids per four dimensions, as faiss takes them."""

Lists = tuple[np.ndarray, np.ndarray]
"""(offsets [N + 1], item ids): list n is `item_ids[offsets[n]:offsets[n + 1]]`."""
Found = tuple[np.ndarray, np.ndarray]
"""(item ids [N, k], similarities [N, k]), best first."""


class NearestItems:
    """Finds the k items of highest inner product for each query.

    Up to `ann_above_items` items every query is compared with every item. Above, items are held a second time as codes
    of 4 bits per four dimensions (d/8 bytes an item: product quantization, by faiss): every query is compared with all
    codes, and the best c of them with the items themselves. Similarities are exact either way; by codes an item may be
    missed, and `recall` says how often. An item whose vector is zero has no text and is never found.
    """

    def __init__(self, items_Id: np.ndarray, ann_above_items: int) -> None:
        self._items = np.ascontiguousarray(items_Id, np.float32)
        self._textless = np.asarray(~self._items.any(axis=1))
        self.is_exact = len(items_Id) <= ann_above_items
        self._codes = None if self.is_exact else _codes(self._items)

    def top_k(self, queries_Nd: np.ndarray, k: int, excluded: Lists) -> Found:
        """The k nearest items of each query without those that `excluded` lists for it; all I items where I < k.

        Where fewer are left, the rest has id -1 and similarity -inf. Equal similarities come in the order of the ids.
        """
        k = min(k, len(self._items))
        ids = np.full((len(queries_Nd), k), -1, np.int64)
        similarity = np.full((len(queries_Nd), k), -np.inf, np.float32)
        search = self._exact if self.is_exact else self._by_codes
        for rows in _blocks(len(queries_Nd), _QUERY_BLOCK):
            queries = np.ascontiguousarray(queries_Nd[rows], np.float32)
            ids[rows], similarity[rows] = search(queries, k, _part(excluded, rows))
        return ids, similarity

    def recall(self, queries_Nd: np.ndarray, k: int) -> float:
        """Share of the k nearest items of these queries that are found; 1.0 where the search is exact."""
        if self.is_exact:
            return 1.0
        nothing = np.zeros(len(queries_Nd) + 1, np.int64), np.zeros(0, np.int64)
        found, _ = self.top_k(queries_Nd, k, nothing)
        nearest, _ = self._exact(np.ascontiguousarray(queries_Nd, np.float32), k, nothing)
        return float(np.mean([np.isin(wanted, got).mean() for wanted, got in zip(nearest, found, strict=True)]))

    def _exact(self, queries: np.ndarray, k: int, excluded: Lists) -> Found:
        offsets, banned = excluded
        row_of = np.repeat(np.arange(len(queries)), np.diff(offsets))
        best_ids, best = [], []
        for block in _blocks(len(self._items), _ITEM_BLOCK):
            scores = torch.from_numpy(queries) @ torch.from_numpy(self._items[block]).T
            inside = (banned >= block.start) & (banned < block.stop)
            scores[torch.from_numpy(row_of[inside]), torch.from_numpy(banned[inside] - block.start)] = -torch.inf
            scores[:, torch.from_numpy(self._textless[block])] = -torch.inf
            top = scores.topk(min(k, scores.shape[1]))
            best_ids.append(top.indices.numpy() + block.start)
            best.append(top.values.numpy())
        return _best(np.hstack(best_ids), np.hstack(best), k)

    def _by_codes(self, queries: np.ndarray, k: int, excluded: Lists) -> Found:
        offsets, banned = excluded
        longest = int(np.diff(offsets).max(initial=0))  # so that k are left when all of those are gone
        num_candidates = max(_FEWEST_CANDIDATES, _CANDIDATES_PER_NEIGHBOUR * k) + longest
        assert self._codes is not None
        _, ids = self._codes.search(queries, min(len(self._items), num_candidates))
        scores = np.empty(ids.shape, np.float32)
        for rows in _blocks(len(ids), _COMPARED_BLOCK):
            scores[rows] = np.matmul(self._items[ids[rows]], queries[rows, :, None])[..., 0]
        num_items = len(self._items)
        cells = np.arange(len(ids))[:, None] * num_items + ids
        banned_cells = np.repeat(np.arange(len(ids)), np.diff(offsets)) * num_items + banned
        scores[(ids < 0) | self._textless[ids] | np.isin(cells, banned_cells)] = -np.inf
        return _best(ids, scores, k)


def _codes(items_Id: np.ndarray) -> Any:
    """faiss's scan of the product codes of all items; the widths of encoders are multiples of four."""
    import faiss

    codes = faiss.index_factory(items_Id.shape[1], f"PQ{items_Id.shape[1] // 4}x4fs", faiss.METRIC_INNER_PRODUCT)
    chosen = np.random.default_rng(0).permutation(len(items_Id))[:_TRAINING_ITEMS]
    codes.train(items_Id[np.sort(chosen)])
    codes.add(items_Id)
    return codes


def _best(ids: np.ndarray, scores: np.ndarray, k: int) -> Found:
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    return np.where(np.isneginf(scores), -1, ids), scores


def _blocks(num: int, size: int) -> Iterator[slice]:
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))


def _part(lists: Lists, rows: slice) -> Lists:
    offsets, item_ids = lists
    first, last = offsets[rows.start], offsets[rows.stop]
    return offsets[rows.start : rows.stop + 1] - first, item_ids[first:last].astype(np.int64)
