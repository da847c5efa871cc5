"""Training pairs and their texts: what the stages `finetune` and `embed` both need to write q, p and n.

Item-side inputs are held whole (titles and profiles, CF and text embeddings); what grows with users and interactions is
read for one block of pairs at a time, by the block's range of user ids, so memory stays bounded.
"""

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow.compute as pc

from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.user_rows import UserRows
from hnlm_ray.store import Folder

_MAX_SCORES = 1 << 24
"""Scores held at one time: users are taken in blocks of this many divided by the number of items."""


@dataclass(frozen=True)
class Sources:
    """URIs of the artifacts that pair texts are made from. Validation and test are not among them."""

    train: str
    profiles: str
    signal: str
    negatives: str

    def as_json(self) -> dict[str, str]:
        """Plain values for a worker; `Sources(**values)` restores them."""
        return asdict(self)


def group_by_user(user_ids: np.ndarray, values: np.ndarray) -> dict[int, np.ndarray]:
    """user -> its values, in their order."""
    order = np.argsort(user_ids, kind="stable")
    users, starts = np.unique(user_ids[order], return_index=True)
    parts = np.split(values[order], starts[1:]) if len(users) else []
    return dict(zip(users.tolist(), parts, strict=True))


def top_items(scores_bI: np.ndarray, num_items: int) -> np.ndarray:
    """The best items of each row, best first; equal scores by item id. [b, min(num_items, I)]"""
    num_items = min(num_items, scores_bI.shape[1])
    if num_items == 0:
        return np.empty((len(scores_bI), 0), dtype=np.int64)
    best = np.sort(np.argpartition(-scores_bI, num_items - 1, axis=1)[:, :num_items], axis=1)
    order = np.argsort(-np.take_along_axis(scores_bI, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


class PairTexts:
    """Writes q of training pairs and the text of items. One per process; reading happens on first use."""

    def __init__(self, sources: Sources, template: TextTemplate) -> None:
        self.sources = sources
        self.template = template

    @cached_property
    def _items(self) -> tuple[list[str], list[str]]:
        table = Folder(self.sources.negatives).read_table("item_texts", columns=["item_id", "title", "text"])
        table = table.sort_by("item_id")
        return tuple([text or "" for text in table[name].to_pylist()] for name in ("title", "text"))  # type: ignore[return-value]

    @cached_property
    def signal(self) -> tuple[np.ndarray, np.ndarray]:
        """CF embeddings e_u [U, D] and e_i [I, D] of the warm-up model."""
        tensors = Folder(self.sources.signal).read_tensors("embeddings.safetensors")
        return tensors["user_emb"], tensors["item_emb"]

    @cached_property
    def _near_items(self) -> "NearestItems":
        item_emb = self.signal[1]
        unit_emb = item_emb / np.maximum(np.linalg.norm(item_emb, axis=1, keepdims=True), 1e-12)
        return NearestItems(unit_emb, self.template.num_context_items)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self._items[0])

    @cached_property
    def has_text(self) -> np.ndarray:
        """Whether the catalogue tells anything of an item, bool [I]; of the others no vector is made."""
        return np.array([bool(title or text) for title, text in zip(*self._items, strict=True)])

    def titles(self, item_ids: np.ndarray) -> list[str]:
        """Titles, empty where an item has none."""
        return [self._items[0][item] for item in item_ids.tolist()]

    def items(self, item_ids: np.ndarray) -> list[str]:
        """Text of p, n or any catalogue item, one per id."""
        titles, texts = self._items
        return [self.template.item(titles[item], texts[item]) for item in item_ids.tolist()]

    def queries(self, user_ids: np.ndarray, item_ids: np.ndarray) -> list[str]:
        """q of each pair. A user whose profile failed is described by the context alone."""
        users, items = np.unique(user_ids), np.unique(item_ids)
        profiles = self._user_profiles(users)
        near_user = dict(zip(users.tolist(), self._context_of_users(users), strict=True))
        near_item = dict(zip(items.tolist(), self._context_of_items(items), strict=True))
        titles, texts = self._items
        return [
            self.template.query(profiles.get(user, ""), titles[item], texts[item], near_user[user], near_item[item])
            for user, item in zip(user_ids.tolist(), item_ids.tolist(), strict=True)
        ]

    @cached_property
    def _profiles(self) -> UserRows:
        return UserRows(Folder(self.sources.profiles).child("users"), ["user_id", "text", "status"])

    def _user_profiles(self, user_ids: np.ndarray) -> dict[int, str]:
        table = self._profiles(user_ids)
        table = table.filter(pc.equal(table["status"], "ok"))
        return dict(zip(table["user_id"].to_pylist(), table["text"].to_pylist(), strict=True))

    def _context_of_users(self, user_ids: np.ndarray) -> list[str]:
        user_emb, item_emb = self.signal
        if self.template.context == "none":
            return [""] * len(user_ids)
        if self.template.context == "numbers":
            return [self.template.numbers(user_emb[user]) for user in user_ids]
        nearest = [
            top_items(user_emb[block] @ item_emb.T, self.template.num_context_items)
            for block in user_blocks(user_ids, len(item_emb))
        ]
        return [self.template.titles(self.titles(row), "near_user") for row in np.concatenate(nearest)]

    def _context_of_items(self, item_ids: np.ndarray) -> list[str]:
        item_emb = self.signal[1]
        if self.template.context == "none":
            return [""] * len(item_ids)
        if self.template.context == "numbers":
            return [self.template.numbers(item_emb[item]) for item in item_ids]
        return [self.template.titles(self.titles(row), "near_item") for row in self._near_items(item_ids)]


class NearestItems:
    """The items nearest to each item by cosine, without itself. Each item is searched once: pairs name it again."""

    def __init__(self, unit_emb: np.ndarray, num_items: int) -> None:
        self._unit_emb = unit_emb
        self._nearest = np.full((len(unit_emb), min(num_items, len(unit_emb) - 1)), -1, dtype=np.int64)
        self._searched = np.zeros(len(unit_emb), dtype=bool)

    def __call__(self, item_ids: np.ndarray) -> np.ndarray:
        """Nearest first. [b, min(num_items, I - 1)]"""
        new = np.unique(item_ids[~self._searched[item_ids]])
        for block in user_blocks(new, len(self._unit_emb)):
            similarity_bI = self._unit_emb[block] @ self._unit_emb.T
            similarity_bI[np.arange(len(block)), block] = -np.inf
            self._nearest[block] = top_items(similarity_bI, self._nearest.shape[1])
        self._searched[new] = True
        return self._nearest[item_ids]


def user_blocks(ids: np.ndarray, num_items: int) -> list[np.ndarray]:
    """Split ids so that a block's scores over all items stay within memory."""
    block = max(1, _MAX_SCORES // max(num_items, 1))
    return [ids[start : start + block] for start in range(0, len(ids), block)]
