"""Choosing p of a training pair (METHOD.md section 3): semantically close, behaviourally inside the window.

Candidates are the grounded LLM negatives of the pair and the semantic neighbours of its positive. A training positive
of the user is never one; validation and test are never read. The same input and seed give the same triplets.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pyarrow as pa

from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.pairs import NearestItems, PairTexts, Sources, group_by_user, user_blocks
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.user_rows import UserRows
from hnlm_ray.store import Folder

COLUMNS = ("user_id", "item_id", "hard_item_id", "q", "p", "n", "cf_percentile", "similarity", "origin")
_NUM_REFERENCE_ITEMS = 20_000
"""A percentile is taken against at most so many unseen items: exact for catalogues up to this size."""


def pair_hash(user_ids: np.ndarray, item_ids: np.ndarray, seed: int) -> np.ndarray:
    """A uniform number in [0, 1) per pair that depends on nothing but the pair and the seed (splitmix64)."""
    with np.errstate(over="ignore"):
        state = user_ids.astype(np.uint64) << np.uint64(32) | item_ids.astype(np.uint64)
        state = state + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def cf_percentiles(scores_I: np.ndarray, positives: np.ndarray, item_ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """Share of the items unseen by the user that score lower than each of `item_ids`: 0 = least likely to be chosen.

    Above `_NUM_REFERENCE_ITEMS` items the share is estimated on a seeded sample of them.
    """
    unseen = np.ones(len(scores_I), dtype=bool)
    unseen[positives] = False
    reference = scores_I[unseen]
    if len(reference) > _NUM_REFERENCE_ITEMS:
        reference = np.random.default_rng(seed).choice(reference, _NUM_REFERENCE_ITEMS, replace=False)
    return np.searchsorted(np.sort(reference), scores_I[item_ids], side="left") / max(len(reference), 1)


def choose(
    closeness: np.ndarray, percentiles: np.ndarray, is_llm: np.ndarray, window: tuple[float, float]
) -> int | None:
    """Position of the candidate to aim at: inside the window the closest one, LLM negatives before neighbours."""
    inside = (percentiles >= window[0]) & (percentiles <= window[1])
    if not inside.any():
        return None
    eligible = inside & is_llm if (inside & is_llm).any() else inside
    return int(np.where(eligible, closeness, -np.inf).argmax())


class TripletMaker:
    """Block of training pairs -> their triplets; pairs without a candidate inside the window are left out."""

    def __init__(self, sources: Sources, template: TextTemplate, config: FinetuneConfig, seed: int) -> None:
        self.texts = PairTexts(sources, template)
        self.config = config
        self.seed = seed
        self._negatives = Folder(sources.negatives)
        self._train_rows = UserRows(Folder(sources.train), ["user_id", "item_id"])
        self._grounded_rows = UserRows(
            self._negatives.child("grounded"), ["user_id", "item_id", "rank", "negative_item_id"]
        )

    @cached_property
    def _item_text_emb(self) -> np.ndarray:
        """Untuned text embeddings of the catalogue [I, d], unit norm; zero for items without text."""
        return self._negatives.read_tensors("item_text_emb.safetensors")["item_text_emb"]

    @cached_property
    def _near_items(self) -> NearestItems:
        return NearestItems(self._item_text_emb, self.config.num_semantic_candidates)

    @cached_property
    def _has_grounded(self) -> bool:
        """Whether there is any: not where every text negative failed."""
        return bool(self._negatives.child("grounded").parquet_files())

    def __call__(self, user_ids: np.ndarray, item_ids: np.ndarray) -> pa.Table:
        """Triplets of the given training pairs, a table of `COLUMNS`; none of an item without text."""
        told = self.texts.has_text[item_ids]
        user_ids, item_ids = user_ids[told], item_ids[told]
        if not len(user_ids):
            return self._with_texts([])
        positives = self._positives(user_ids)
        grounded = self._grounded(user_ids)
        items = np.unique(item_ids)
        neighbors = dict(zip(items.tolist(), self._near_items(items), strict=True))
        user_emb, item_emb = self.texts.signal
        rows: list[tuple[int, int, int, float, float, str]] = []
        pairs_of = group_by_user(user_ids, item_ids)
        for block in user_blocks(np.fromiter(pairs_of, dtype=np.int64), len(item_emb)):
            for user, scores_I in zip(block.tolist(), user_emb[block] @ item_emb.T, strict=True):
                for item in pairs_of[user].tolist():
                    llm = grounded.get((user, item), np.empty(0, dtype=np.int64))
                    row = self._hard_item(scores_I, positives[user], item, llm, neighbors[item])
                    if row is not None:
                        rows.append((user, item, *row))
        return self._with_texts(rows)

    def _hard_item(
        self, scores_I: np.ndarray, positives: np.ndarray, item: int, llm: np.ndarray, neighbors: np.ndarray
    ) -> tuple[int, float, float, str] | None:
        candidates, first = np.unique(np.concatenate([llm, neighbors]), return_index=True)
        is_llm = first < len(llm)
        unseen = ~np.isin(candidates, positives) & self.texts.has_text[candidates]
        candidates, is_llm = candidates[unseen], is_llm[unseen]
        if not len(candidates):
            return None
        candidate_emb = self._item_text_emb[candidates]
        similarity = candidate_emb @ self._item_text_emb[item]
        # closeness to P_u is measured against what the user chose: the text of its training items, on average
        taste = self._item_text_emb[positives].mean(0)
        closeness = similarity + candidate_emb @ (taste / max(float(np.linalg.norm(taste)), 1e-12))
        percentiles = cf_percentiles(scores_I, positives, candidates, self.seed)
        chosen = choose(closeness, percentiles, is_llm, self.config.window)
        if chosen is None:
            return None
        origin = "llm" if is_llm[chosen] else "semantic"
        return int(candidates[chosen]), float(percentiles[chosen]), float(similarity[chosen]), origin

    def _positives(self, user_ids: np.ndarray) -> dict[int, np.ndarray]:
        table = self._train_rows(user_ids)
        return group_by_user(table["user_id"].to_numpy(), table["item_id"].to_numpy())

    def _grounded(self, user_ids: np.ndarray) -> Mapping[tuple[int, int], np.ndarray]:
        if not self._has_grounded:
            return {}
        table = self._grounded_rows(user_ids).sort_by(
            [("user_id", "ascending"), ("item_id", "ascending"), ("rank", "ascending")]
        )
        users, items = table["user_id"].to_numpy(), table["item_id"].to_numpy()
        negatives = table["negative_item_id"].to_numpy()
        if not len(negatives):
            return {}
        starts = np.flatnonzero(np.r_[True, (users[1:] != users[:-1]) | (items[1:] != items[:-1])])
        keys = zip(users[starts].tolist(), items[starts].tolist(), strict=True)
        return dict(zip(keys, np.split(negatives, starts[1:]), strict=True))

    def _with_texts(self, rows: list[tuple[int, int, int, float, float, str]]) -> pa.Table:
        user_ids, item_ids, hard_ids, percentiles, similarities, origins = (
            zip(*rows, strict=True) if rows else ([],) * 6
        )
        users, items, hard = (np.asarray(ids, dtype=np.int32) for ids in (user_ids, item_ids, hard_ids))
        return pa.table(
            {
                "user_id": users,
                "item_id": items,
                "hard_item_id": hard,
                "q": pa.array(self.texts.queries(users, items) if rows else [], pa.string()),
                "p": pa.array(self.texts.items(hard), pa.string()),
                "n": pa.array(self.texts.items(items), pa.string()),
                "cf_percentile": pa.array(percentiles, pa.float32()),
                "similarity": pa.array(similarities, pa.float32()),
                "origin": pa.array(origins, pa.string()),
            }
        )
