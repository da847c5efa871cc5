"""Pools of real items per training pair, from LLM negatives: `grounded`, `hybrid`, their windows and controls.

Legend: P training pairs, K pool size, U users, I items, b users of a block.
"""

import tempfile
from dataclasses import dataclass

import numpy as np
import pyarrow.dataset as pads
import torch
from numba import prange

from hnlm_ray.recommend.compiled import kernel
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.pair_vectors import PairVectors
from hnlm_ray.recommend.samplers import Sampler, drawing
from hnlm_ray.recommend.samplers.base import Batch, Proposal, Uniform
from hnlm_ray.store import Folder

_STREAM = 6
_PAIRS_PER_BLOCK = 4_096
_USERS_PER_BLOCK = 256
_POPULARITY_NEIGHBOURS = 20


@dataclass(frozen=True)
class Pool:
    """Items near each training pair's hard negative, never the user's own; -1 fills the row."""

    item_ids: np.ndarray
    """int32 [P, K], usually a memory map; the first `counts` of a row are items"""
    counts: np.ndarray
    """int32 [P]"""

    @property
    def num_empty(self) -> int:
        """Pairs whose pool is empty: they fall back to the base sampler."""
        return int((self.counts == 0).sum())


class PoolDraw:
    """Replaces item ids, each with probability `share`, by items of the pair's pool; an empty pool replaces none."""

    def __init__(self, pool: Pool, share: float, seed: int) -> None:
        self.pool, self.share, self.seed = pool, share, seed

    def replace(self, batch: Batch, item_ids_BN: np.ndarray) -> np.ndarray:
        """Changes `item_ids_BN` in place and returns it."""
        key = drawing.stream_key(self.seed, _STREAM, batch.epoch)
        drawing.replace_from_pool(key, batch.pair_ids, self.pool.item_ids, self.pool.counts, self.share, item_ids_BN)
        return item_ids_BN


class HybridProposal:
    """`hybrid`: candidates of the base sampler, part of them from the pool; its rule takes the hardest of both."""

    def __init__(self, base: Proposal, pool_draw: PoolDraw) -> None:
        self.base, self.pool_draw = base, pool_draw

    def draw(self, batch: Batch, num_candidates: int) -> np.ndarray:
        """See `Proposal.draw`."""
        return self.pool_draw.replace(batch, self.base.draw(batch, num_candidates))


class GroundedSampler:
    """`grounded`: the negative itself comes from the pool, or, in the remaining share, from the base sampler."""

    def __init__(self, base: Sampler, pool_draw: PoolDraw) -> None:
        self.base, self.pool_draw = base, pool_draw

    @property
    def needs_embeddings(self) -> bool:
        """See `Sampler.needs_embeddings`."""
        return self.base.needs_embeddings

    def sample(self, batch: Batch, emb_ND: torch.Tensor | None) -> np.ndarray:
        """See `Sampler.sample`."""
        negatives = self.base.sample(batch, emb_ND)
        return self.pool_draw.replace(batch, negatives.reshape(len(negatives), -1)).reshape(negatives.shape)


def pool_from_vectors(
    vectors: PairVectors, item_text_emb: np.ndarray, interactions: Interactions, pool_size: int
) -> Pool:
    """The `pool_size` items nearest to z by cosine, without the user's training items; none where z is missing.

    An item whose vector is zero has no text and is in no pool.
    """
    num_pairs, num_items = interactions.num_pairs, interactions.num_items
    pool_size = min(pool_size, num_items)
    items = torch.nn.functional.normalize(torch.from_numpy(item_text_emb.astype(np.float32)), dim=-1)
    untold = ~items.any(dim=1)
    pool = _mapped((num_pairs, pool_size))
    counts = np.zeros(num_pairs, np.int32)
    for start in range(0, num_pairs, _PAIRS_PER_BLOCK):
        pair_ids = np.arange(start, min(start + _PAIRS_PER_BLOCK, num_pairs))
        z, present = vectors.read(pair_ids)
        similarity = z[:, 0] @ items.T
        rows, seen = interactions.train.entries(interactions.user_ids[pair_ids])
        similarity[torch.from_numpy(rows), torch.from_numpy(seen.astype(np.int64))] = -torch.inf
        similarity[:, untold] = -torch.inf
        similarity[~present[:, 0]] = -torch.inf
        best = similarity.topk(pool_size)
        usable = torch.isfinite(best.values).numpy()
        pool[pair_ids] = np.where(usable, best.indices.numpy(), -1)
        counts[pair_ids] = usable.sum(1)
    return Pool(pool, counts)


def pool_from_negatives(negatives: Folder, interactions: Interactions, pool_size: int) -> Pool:
    """The grounded text negatives of the stage `negative`, nearest first."""
    num_items = interactions.num_items
    pair_keys = interactions.user_ids.astype(np.int64) * num_items + interactions.item_ids
    order = np.argsort(pair_keys, kind="stable")
    sorted_keys = pair_keys[order]
    pool = _mapped((interactions.num_pairs, pool_size))
    pool[:] = -1
    shards = negatives.parquet_files("grounded")
    table = pads.dataset(shards, filesystem=negatives.fs, format="parquet") if shards else None
    batches = table.to_batches(columns=["user_id", "item_id", "rank", "negative_item_id"]) if table else []
    for batch in batches:
        users, items, rank, negative = (batch[name].to_numpy() for name in batch.schema.names)
        keys = users.astype(np.int64) * num_items + items
        place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
        known = (sorted_keys[place] == keys) & (rank < pool_size)
        pool[order[place[known]], rank[known]] = negative[known]
    return _compact(pool, pool >= 0)


def random_pool(interactions: Interactions, like: Pool, seed: int) -> Pool:
    """Control `window-only`: as many random unseen items per pair as `like` has, no text at all."""
    sated = interactions.train.counts[interactions.user_ids] == interactions.num_items
    pair_ids = np.flatnonzero(~sated)  # whose pool is empty anyhow: there is nothing that could be drawn
    pool = _mapped(like.item_ids.shape)
    proposal = Uniform(interactions.train, seed + 1)
    for start in range(0, len(pair_ids), _PAIRS_PER_BLOCK):
        block = pair_ids[start : start + _PAIRS_PER_BLOCK]
        batch = Batch(block, interactions.user_ids[block], interactions.item_ids[block], 0, 0, len(block))
        pool[block] = proposal.draw(batch, like.item_ids.shape[1])
    return Pool(pool, like.counts)


def popularity_matched_pool(interactions: Interactions, pool: Pool, seed: int) -> Pool:
    """Control `popularity-matched`: every item replaced by a random one next to it in the order of popularity."""
    by_popularity = np.argsort(interactions.train.item_counts, kind="stable")
    place = np.argsort(by_popularity)
    rng = np.random.default_rng([seed, _STREAM])
    matched = _mapped(pool.item_ids.shape)
    last = interactions.num_items - 1
    for start in range(0, len(pool.counts), _PAIRS_PER_BLOCK):
        block = np.asarray(pool.item_ids[start : start + _PAIRS_PER_BLOCK])
        step = rng.integers(1, _POPULARITY_NEIGHBOURS + 1, block.shape) * rng.choice((-1, 1), block.shape)
        target = place[np.maximum(block, 0)] + step
        target = np.where(
            target < 0, -target, np.where(target > last, 2 * last - target, target)
        )  # reflect at the ends
        matched[start : start + len(block)] = np.where(block < 0, -1, by_popularity[np.clip(target, 0, last)])
    keep = np.ones(matched.shape, bool)
    _mark_unseen(matched, interactions.user_ids, interactions.train.indptr, interactions.train.item_ids, keep)
    return _compact(matched, keep)


def in_window(
    pool: Pool, interactions: Interactions, user_emb: np.ndarray, item_emb: np.ndarray, window: tuple[float, float]
) -> Pool:
    """Keep the items whose CF score for the user lies between the percentiles lo and hi of the user's scores."""
    bounds = score_percentiles(user_emb, item_emb, window)
    keep = np.zeros(pool.item_ids.shape, bool)
    _mark_within(pool.item_ids, interactions.user_ids, user_emb, item_emb, bounds, keep)
    return _compact(np.asarray(pool.item_ids), keep)


def score_percentiles(user_emb: np.ndarray, item_emb: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Scores at the percentiles lo and hi of each user over all items, float32 [U, 2], a block of users at a time."""
    ranks = [round(share * (len(item_emb) - 1)) for share in window]
    bounds = np.empty((len(user_emb), 2), np.float32)
    for start in range(0, len(user_emb), _USERS_PER_BLOCK):
        scores = user_emb[start : start + _USERS_PER_BLOCK] @ item_emb.T
        bounds[start : start + len(scores)] = np.partition(scores, sorted(set(ranks)), axis=1)[:, ranks]
    return bounds


def _mapped(shape: tuple[int, ...]) -> np.ndarray:
    """An int32 array in an unnamed temporary file: pools of many pairs need not fit in memory."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.int32, "w+", shape=shape)


def _compact(item_ids: np.ndarray, keep: np.ndarray) -> Pool:
    """Move the kept items of each row to its front, in their order."""
    counts = np.empty(len(item_ids), np.int32)
    out = _mapped(item_ids.shape)
    for start in range(0, len(item_ids), _PAIRS_PER_BLOCK):
        block, kept = item_ids[start : start + _PAIRS_PER_BLOCK], keep[start : start + _PAIRS_PER_BLOCK]
        order = np.argsort(~kept, axis=1, kind="stable")
        counts[start : start + len(block)] = kept.sum(1)
        moved = np.take_along_axis(block, order, axis=1)
        out[start : start + len(block)] = np.where(np.take_along_axis(kept, order, axis=1), moved, -1)
    return Pool(out, counts)


@kernel(fastmath={"contract", "reassoc"})
def _mark_within(
    pool: np.ndarray,
    user_ids: np.ndarray,
    user_emb: np.ndarray,
    item_emb: np.ndarray,
    bounds: np.ndarray,
    keep: np.ndarray,
) -> None:
    for pair in prange(len(user_ids)):
        user = user_ids[pair]
        for k in range(pool.shape[1]):
            item = pool[pair, k]
            if item >= 0:
                score = np.float32(0)
                for d in range(user_emb.shape[1]):
                    score += user_emb[user, d] * item_emb[item, d]
                keep[pair, k] = bounds[user, 0] <= score <= bounds[user, 1]


@kernel()
def _mark_unseen(
    pool: np.ndarray, user_ids: np.ndarray, indptr: np.ndarray, item_ids: np.ndarray, keep: np.ndarray
) -> None:
    for pair in prange(len(user_ids)):
        row = item_ids[indptr[user_ids[pair]] : indptr[user_ids[pair] + 1]]
        for k in range(pool.shape[1]):
            item = pool[pair, k]
            place = np.searchsorted(row, item)
            keep[pair, k] = item >= 0 and not (place < len(row) and row[place] == item)
