"""Interactions in memory: pairs in their given order, and each user's items as sorted rows (CSR).

Legend: U users, I items, P training pairs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from hnlm_ray.errors import UserError
from hnlm_ray.store import Folder


@dataclass(frozen=True)
class UserItems:
    """The items of every user: rows are users, item ids ascending within a row, no duplicates."""

    indptr: np.ndarray
    """int64 [U + 1]"""
    item_ids: np.ndarray
    """int32 [P]"""
    num_items: int

    @classmethod
    def from_pairs(cls, user_ids: np.ndarray, item_ids: np.ndarray, num_users: int, num_items: int) -> "UserItems":
        """Build from pairs in any order; a pair given twice counts once."""
        keys = np.unique(user_ids.astype(np.int64) * num_items + item_ids)
        users = keys // num_items
        indptr = np.zeros(num_users + 1, np.int64)
        np.cumsum(np.bincount(users, minlength=num_users), out=indptr[1:])
        return cls(indptr, (keys % num_items).astype(np.int32), num_items)

    @property
    def num_users(self) -> int:
        """U"""
        return len(self.indptr) - 1

    @cached_property
    def counts(self) -> np.ndarray:
        """Items per user, int64 [U]."""
        return np.diff(self.indptr)

    @cached_property
    def user_ids(self) -> np.ndarray:
        """The user of each entry of `item_ids`, int32 [P]."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.counts)

    @cached_property
    def item_counts(self) -> np.ndarray:
        """Users per item, int64 [I]: popularity."""
        return np.bincount(self.item_ids, minlength=self.num_items)

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """1 where a user has an item, float32 [U, I]; the ids are shared, not copied."""
        ones = np.ones(len(self.item_ids), np.float32)
        return sp.csr_matrix((ones, self.item_ids, self.indptr), shape=(self.num_users, self.num_items))

    def of(self, user_id: int) -> np.ndarray:
        """The items of one user, ascending."""
        return self.item_ids[self.indptr[user_id] : self.indptr[user_id + 1]]

    def entries(self, user_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All entries of a block of users as (position of the user in the block, item id): what to mask or to hit."""
        counts = self.counts[user_ids]
        rows = np.repeat(np.arange(len(user_ids)), counts)
        starts = np.repeat(self.indptr[user_ids] - np.cumsum(counts) + counts, counts)
        return rows, self.item_ids[starts + np.arange(len(rows))]

    def without_entries(self) -> "UserItems":
        """The same users and items, and nothing between them."""
        return UserItems(np.zeros_like(self.indptr), np.empty(0, np.int32), self.num_items)

    def union(self, other: "UserItems") -> "UserItems":
        """Items of either."""
        return UserItems.from_pairs(
            np.concatenate([self.user_ids, other.user_ids]),
            np.concatenate([self.item_ids, other.item_ids]),
            self.num_users,
            self.num_items,
        )


@dataclass(frozen=True)
class Interactions:
    """A data set as the recommender sees it. Training pairs keep the order of the table: `pair_id` is the row."""

    user_ids: np.ndarray
    """int32 [P]: user of each training pair"""
    item_ids: np.ndarray
    """int32 [P]: item of each training pair"""
    train: UserItems
    valid: UserItems
    test: UserItems

    @classmethod
    def from_arrays(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        num_users: int,
        num_items: int,
        valid: tuple[np.ndarray, np.ndarray] | None = None,
        test: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> "Interactions":
        """Build from (user_ids, item_ids) of each split."""
        user_ids, item_ids = np.asarray(train[0], np.int32), np.asarray(train[1], np.int32)
        if len(user_ids) == 0:
            raise UserError("there are no training pairs: nothing can be trained; check the filters of `data`")
        nothing = (np.empty(0, np.int32), np.empty(0, np.int32))
        rows = [
            UserItems.from_pairs(users, items, num_users, num_items)
            for users, items in ((user_ids, item_ids), valid or nothing, test or nothing)
        ]
        return cls(user_ids, item_ids, *rows)

    @classmethod
    def load(cls, dataset: Folder) -> "Interactions":
        """Read the artifact `dataset`; only ids, no text."""
        splits = []
        for split in ("train", "valid", "test"):
            table = dataset.read_table(split, columns=["user_id", "item_id"])
            splits.append((table["user_id"].to_numpy(), table["item_id"].to_numpy()))
        train, valid, test = splits
        return cls.from_arrays(train, dataset.num_rows("users"), dataset.num_rows("items"), valid, test)

    @property
    def num_users(self) -> int:
        """U"""
        return self.train.num_users

    @property
    def num_items(self) -> int:
        """I"""
        return self.train.num_items

    @property
    def num_pairs(self) -> int:
        """P"""
        return len(self.user_ids)
