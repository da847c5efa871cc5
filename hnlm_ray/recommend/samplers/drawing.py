"""Compiled drawing of candidate items. Randomness is a hash of (seed, epoch, pair, draw), not a running state:
the same pair gets the same candidates whatever the number of ranks or threads, and a resumed run needs no RNG state.

Legend: B pairs of the batch, N candidates per pair, U users, I items, K pool size.
"""

import numpy as np
from numba import njit, prange

from hnlm_ray.recommend.compiled import kernel

_JIT = {"cache": True, "boundscheck": False}
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MAX_DRAWS = 64


@njit(**_JIT, inline="always")
def _mix(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The finaliser of splitmix64."""
    x = np.uint64(x)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream_key(seed: int, stream: int, epoch: int) -> np.uint64:
    """The key of one stream of draws in one epoch."""
    return np.uint64(_stream_key(seed, stream, epoch))


@njit(**_JIT)
def _stream_key(seed: int, stream: int, epoch: int) -> int:
    key = _mix(np.uint64(seed) + _GOLDEN)
    key = _mix(key + np.uint64(stream) * _GOLDEN + _GOLDEN)
    return _mix(key + np.uint64(epoch) * _GOLDEN + _GOLDEN)


@njit(**_JIT, inline="always")
def _start(key, pair_id):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return _mix(key ^ _mix(np.uint64(pair_id) * _GOLDEN + _GOLDEN))


@njit(**_JIT, inline="always")
def _below(word, bound):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """An integer in [0, bound) from the upper 32 bits."""
    return np.int64(((word >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@njit(**_JIT, inline="always")
def _has(item_ids, start, end, item):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Whether the sorted row item_ids[start:end] holds the item: binary search without branches on the answer."""
    low, length = start, end - start
    while length > 1:
        half = length >> 1
        low += half * (item_ids[low + half - 1] < item)
        length -= half
    return length == 1 and item_ids[low] == item


@njit(**_JIT, inline="always")
def _scan(item_ids, start, end, item, num_items):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The next item after `item` that is not in the row: for users who have nearly everything."""
    while _has(item_ids, start, end, item):
        item = (item + 1) % num_items
    return item


@kernel()
def draw_uniform(
    key: np.uint64,
    pair_ids: np.ndarray,
    user_ids: np.ndarray,
    indptr: np.ndarray,
    item_ids: np.ndarray,
    num_items: int,
    out_BN: np.ndarray,
) -> None:
    """Items drawn uniformly among those the user has not, by rejection. No user may have every item."""
    for b in prange(len(user_ids)):
        state = _start(key, pair_ids[b])
        start, end = indptr[user_ids[b]], indptr[user_ids[b] + 1]
        for n in range(out_BN.shape[1]):
            item = np.int64(0)
            for _ in range(_MAX_DRAWS):
                state += _GOLDEN
                item = _below(_mix(state), num_items)
                if not _has(item_ids, start, end, item):
                    break
            out_BN[b, n] = _scan(item_ids, start, end, item, num_items)


@kernel()
def draw_weighted(
    key: np.uint64,
    pair_ids: np.ndarray,
    user_ids: np.ndarray,
    indptr: np.ndarray,
    item_ids: np.ndarray,
    threshold: np.ndarray,
    alias: np.ndarray,
    out_BN: np.ndarray,
) -> None:
    """Items drawn by weight (alias table) among those the user has not."""
    num_items = len(alias)
    for b in prange(len(user_ids)):
        state = _start(key, pair_ids[b])
        start, end = indptr[user_ids[b]], indptr[user_ids[b] + 1]
        for n in range(out_BN.shape[1]):
            item = np.int64(0)
            for _ in range(_MAX_DRAWS):
                state += _GOLDEN
                word = _mix(state)
                item = _below(word, num_items)
                if (word & np.uint64(0xFFFFFFFF)) >= threshold[item]:
                    item = np.int64(alias[item])
                if not _has(item_ids, start, end, item):
                    break
            out_BN[b, n] = _scan(item_ids, start, end, item, num_items)


@njit(**_JIT)
def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias method: (threshold uint64 [I] in units of 2^-32, alias int32 [I])."""
    num_items = len(weights)
    scaled = weights / weights.sum() * num_items
    alias = np.arange(num_items).astype(np.int32)
    small, large = [0], [0]
    small.pop()
    large.pop()
    for item in range(num_items):
        if scaled[item] < 1:
            small.append(item)
        else:
            large.append(item)
    while small and large:
        less, more = small.pop(), large[-1]
        alias[less] = more
        scaled[more] -= 1 - scaled[less]
        if scaled[more] < 1:
            small.append(large.pop())
    for item in small:  # left over by rounding
        scaled[item] = 1
    threshold = np.empty(num_items, np.uint64)
    for item in range(num_items):
        threshold[item] = np.uint64(min(scaled[item], 1.0) * 4294967296.0)
    return threshold, alias


@kernel()
def replace_from_pool(
    key: np.uint64, pair_ids: np.ndarray, pool_PK: np.ndarray, counts_P: np.ndarray, share: float, out_BN: np.ndarray
) -> None:
    """Replace each candidate, with probability `share`, by an item of the pair's pool; an empty pool replaces none."""
    limit = np.uint64(min(share, 1.0) * 4294967296.0)
    for b in prange(len(pair_ids)):
        count = counts_P[pair_ids[b]]
        state = _start(key, pair_ids[b])
        if count > 0:
            for n in range(out_BN.shape[1]):
                state += _GOLDEN
                word = _mix(state)
                if (word & np.uint64(0xFFFFFFFF)) < limit:
                    out_BN[b, n] = pool_PK[pair_ids[b], _below(word, count)]


@njit(**_JIT)
def draw_fractions(key: np.uint64, pair_ids: np.ndarray, out_BN: np.ndarray) -> None:
    """Uniform numbers in [0, 1)."""
    for b in range(len(pair_ids)):
        state = _start(key, pair_ids[b])
        for n in range(out_BN.shape[1]):
            state += _GOLDEN
            out_BN[b, n] = np.float32(_mix(state) >> np.uint64(40)) * np.float32(2.0**-24)


@kernel(fastmath={"contract", "reassoc"})
def score_candidates(
    emb_ND: np.ndarray, user_rows: np.ndarray, candidates_BN: np.ndarray, num_users: int, out_BN: np.ndarray
) -> None:
    """out = e_u . e_j for each candidate, without a [B, N, D] copy of the candidates' embeddings."""
    dim = emb_ND.shape[1]
    for b in prange(len(user_rows)):
        user = emb_ND[user_rows[b]]
        for n in range(candidates_BN.shape[1]):
            item = emb_ND[num_users + candidates_BN[b, n]]
            total = np.float32(0)
            for k in range(dim):
                total += user[k] * item[k]
            out_BN[b, n] = total
