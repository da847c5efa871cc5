"""Taste, learnt by the encoder itself: a user's other items lie near each of them (METHOD.md section 3, loss `taste`).

A batch is some users. The texts of all their items are encoded once each, shared by the ranks, and every pair (u, i) is
to find i from the sum of what else u took, among the items of the batch.

m items of the batch, n pairs, d dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hnlm_ray.distributed import rank, world_size
from hnlm_ray.errors import UserError
from hnlm_ray.finetune.batches import Texts, split_rows
from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.encoder import embed_ids, pad_batch
from hnlm_ray.finetune.loss import gather, taste_loss
from hnlm_ray.finetune.objective import Batch
from hnlm_ray.finetune.pairs import PairTexts
from hnlm_ray.finetune.triplets import pair_hash
from hnlm_ray.finetune.validation import retrieval_accuracy
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.store import Folder

_TEXTS_PER_FORWARD = 64
"""Texts of similar length that are padded together"""


def told_items(texts: PairTexts) -> UserItems:
    """Training pairs whose item has a text."""
    train = Folder(texts.sources.train).read_table(columns=["user_id", "item_id"])
    user_ids, item_ids = train["user_id"].to_numpy(), train["item_id"].to_numpy()
    told = texts.has_text[item_ids]
    return UserItems.from_pairs(user_ids[told], item_ids[told], int(user_ids.max(initial=-1)) + 1, texts.num_items)


def split_users(train: UserItems, config: FinetuneConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Users to learn from and users to validate on, of those with two items and more.

    Raises:
        UserError: there are fewer than two such users.
    """
    user_ids = np.flatnonzero(train.counts > 1)
    if len(user_ids) < 2:
        raise UserError(
            f"finetune.loss='taste' learns from users with two items that have a text, and there are {len(user_ids)}; "
            "give items a title, description or text, or set finetune.loss to 'pairwise'"
        )
    draw = pair_hash(user_ids, np.zeros_like(user_ids), seed + 1)
    kept, held_out = split_rows(draw, config.validation_fraction, config.max_validation_triplets)
    return user_ids[kept], user_ids[held_out]


@dataclass(frozen=True)
class UserPairs:
    """Pairs (u, i) of some users, and their items once each."""

    rows: Tensor
    """int64 [n]: which of the users"""
    columns: Tensor
    """int64 [n]: which of the items"""
    item_ids: np.ndarray
    """[m], ascending"""

    @classmethod
    def of(cls, item_lists: Sequence[np.ndarray]) -> "UserPairs":
        """From the items of each user."""
        rows = np.repeat(np.arange(len(item_lists)), [len(items) for items in item_lists])
        item_ids, columns = np.unique(np.concatenate(item_lists), return_inverse=True)
        return cls(torch.from_numpy(rows), torch.from_numpy(columns), item_ids)

    @cached_property
    def others(self) -> Tensor:
        """bool [n, m]: what the pair's user took beside the pair's item, which is no negative of it."""
        taken = torch.zeros(int(self.rows[-1]) + 1, len(self.item_ids), dtype=torch.bool)
        taken[self.rows, self.columns] = True
        others = taken[self.rows]
        others[torch.arange(len(self.rows)), self.columns] = False
        return others

    def rest(self, items_md: Tensor) -> Tensor:
        """Direction of the sum of what else the user took, of every pair [n, d].

        A product, not a gather: the gradient of a gather adds up in an order that threads decide, and a resumed
        training is to repeat every bit.
        """
        return F.normalize(self.others.to(items_md) @ items_md, dim=-1)


class TasteObjective:
    """Rows are users with two items and more that have a text."""

    def __init__(
        self,
        texts: PairTexts,
        candidate_ids: np.ndarray,
        tokenizer: PreTrainedTokenizerBase,
        config: FinetuneConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        """`candidate_ids`: catalogue items that the rest of a user's items has to find an item among."""
        self.config, self.seed, self.device = config, seed, device
        self.pad_id: int = tokenizer.pad_token_id
        self.train = told_items(texts)
        self.train_rows, self.held_out = split_users(self.train, config, seed)
        self.num_validation = len(self.held_out)
        self._held_out_lists = self._item_lists(self.held_out, np.random.default_rng(seed))
        self.lengths = np.zeros(self.train.num_users, np.int64)  # each text stands in its own place: nothing to sort
        self.candidate_ids = candidate_ids
        self._item_texts = texts.items(np.arange(self.train.num_items))
        self.items = Texts.tokenize(tokenizer, self._item_texts, texts.template.max_length)
        counts = np.maximum(self.train.item_counts, 1)
        self.log_popularity = torch.from_numpy(np.log(counts / len(self.train.item_ids))).float().to(device)

    def batch(self, rows: np.ndarray, step: int) -> Batch:
        """This rank's share of the texts, against the items of all users of the batch."""
        pairs = UserPairs.of(self._item_lists(rows, np.random.default_rng([self.seed, step])))
        num_items = len(pairs.item_ids)
        by_length = np.argsort(self.items.lengths[pairs.item_ids], kind="stable")
        shares = np.resize(by_length, -(-num_items // world_size()) * world_size())  # the first again, to share equally
        of_ranks = shares.reshape(-1, world_size()).T  # [ranks, items of each]
        place = torch.empty(num_items, dtype=torch.long)
        place[torch.from_numpy(of_ranks.ravel())] = torch.arange(of_ranks.size)
        own = pairs.item_ids[of_ranks[rank()]]
        size = self.config.chunk_size or len(own)
        chunks = [self._padded(own[start : start + size]) for start in range(0, len(own), size)]

        def loss(embedded: Sequence[tuple[Tensor, ...]]) -> Tensor:
            gathered = gather(torch.cat([z for chunk in embedded for z in chunk]))
            return self._loss(pairs, gathered[place.to(gathered.device)])

        return Batch(chunks, loss, int(self.items.lengths[pairs.item_ids].sum()))

    def validate(self, engine: Any) -> dict[str, float]:
        """Loss over the held-out users in batches of the training's size, and whether the rest finds the item."""
        engine.eval()
        everyone = UserPairs.of(self._held_out_lists)
        others = np.setdiff1d(self.candidate_ids, everyone.item_ids)
        others = others[: max(self.config.num_retrieval_candidates - len(everyone.item_ids), 0)]
        candidate_ids = np.concatenate([everyone.item_ids, others])
        candidates_cd = embed_ids(engine, [self.items[item] for item in candidate_ids], self.pad_id)
        losses, weights = [], []
        for start in range(0, len(self.held_out), self.config.batch_size):
            pairs = UserPairs.of(self._held_out_lists[start : start + self.config.batch_size])
            columns = torch.from_numpy(np.searchsorted(everyone.item_ids, pairs.item_ids)).to(candidates_cd.device)
            losses.append(float(self._loss(pairs, candidates_cd[columns])))
            weights.append(len(pairs.rows))
        rest_nd = everyone.rest(candidates_cd[: len(everyone.item_ids)])
        left_out_nc = F.pad(everyone.others, (0, len(others))).to(rest_nd.device)
        targets = everyone.item_ids[everyone.columns.numpy()]
        return {"validation_loss": float(np.average(losses, weights=weights))} | retrieval_accuracy(
            rest_nd, targets, candidates_cd, candidate_ids, left_out_nc
        )

    def parity_texts(self, num_texts: int) -> list[str]:
        """Items in words, those of held-out users first."""
        held_out = np.unique(np.concatenate(self._held_out_lists))
        item_ids = np.concatenate([held_out, np.setdiff1d(self.train.item_ids, held_out)])[:num_texts]
        return [self._item_texts[item] for item in item_ids]

    def _item_lists(self, user_ids: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """At most `max_items_per_user` of each, drawn anew in every step: one user's long list is not the batch."""
        most = self.config.max_items_per_user
        lists = [self.train.of(user) for user in user_ids]
        return [rng.choice(items, most, replace=False) if len(items) > most else items for items in lists]

    def _padded(self, item_ids: np.ndarray) -> tuple[dict[str, Tensor], ...]:
        parts = np.split(item_ids, range(_TEXTS_PER_FORWARD, len(item_ids), _TEXTS_PER_FORWARD))
        return tuple(pad_batch([self.items[item] for item in part], self.pad_id, self.device) for part in parts)

    def _loss(self, pairs: UserPairs, items_md: Tensor) -> Tensor:
        """The same on every rank, which is its mean over ranks; `gather` sends each rank its rows' gradient."""
        device = items_md.device
        log_popularity_m = self.log_popularity[torch.from_numpy(pairs.item_ids).to(device)]
        columns, others = pairs.columns.to(device), pairs.others.to(device)
        return taste_loss(pairs.rest(items_md), items_md, columns, others, log_popularity_m, self.config.tau)
