"""A sampler = a proposal (which candidates) + a rule (which of them).

Legend: B pairs of the batch, N candidates per pair, D dimension.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.samplers import drawing


@dataclass(frozen=True)
class Batch:
    """The pairs of one step on one rank."""

    pair_ids: np.ndarray
    """int64 [B]: rows of the training table"""
    user_ids: np.ndarray
    """int32 [B]"""
    item_ids: np.ndarray
    """int32 [B]: the positives"""
    epoch: int
    step: int
    global_size: int
    """Pairs of this step over all ranks."""


class Proposal(Protocol):
    """Draws candidates that are not training items of the user."""

    def draw(self, batch: Batch, num_candidates: int) -> np.ndarray:
        """int32 [B, num_candidates]"""


class Rule(Protocol):
    """Chooses among candidates by the current scores."""

    def choose(self, batch: Batch, positive_scores_B: np.ndarray, scores_BN: np.ndarray) -> np.ndarray:
        """The column chosen per pair, int64 [B]."""


class NegativeSampler(Protocol):
    """What a trainer asks for negatives."""

    @property
    def needs_embeddings(self) -> bool:
        """Whether `sample` reads current embeddings of all nodes."""

    def sample(self, batch: Batch, emb_ND: torch.Tensor | None) -> np.ndarray:
        """int32 [B] item ids, or [B, N] where the objective mixes candidates (MixGCF)."""


class Uniform:
    """Every item the user has not, equally likely."""

    stream = 1

    def __init__(self, user_items: UserItems, seed: int) -> None:
        self.user_items, self.seed = user_items, seed

    def draw(self, batch: Batch, num_candidates: int) -> np.ndarray:
        """See `Proposal.draw`."""
        out = np.empty((len(batch.user_ids), num_candidates), np.int32)
        key = drawing.stream_key(self.seed, self.stream, batch.epoch)
        items = self.user_items
        drawing.draw_uniform(key, batch.pair_ids, batch.user_ids, items.indptr, items.item_ids, items.num_items, out)
        return out


class Popularity:
    """Items in proportion to popularity^power, among those the user has not."""

    stream = 2

    def __init__(self, user_items: UserItems, seed: int, power: float) -> None:
        self.user_items, self.seed = user_items, seed
        self.threshold, self.alias = drawing.alias_table(user_items.item_counts.astype(np.float64) ** power)

    def draw(self, batch: Batch, num_candidates: int) -> np.ndarray:
        """See `Proposal.draw`."""
        out = np.empty((len(batch.user_ids), num_candidates), np.int32)
        key = drawing.stream_key(self.seed, self.stream, batch.epoch)
        items = self.user_items
        drawing.draw_weighted(
            key, batch.pair_ids, batch.user_ids, items.indptr, items.item_ids, self.threshold, self.alias, out
        )
        return out


def score_candidates(
    emb_ND: torch.Tensor, user_ids: np.ndarray, candidates_BN: np.ndarray, num_users: int
) -> np.ndarray:
    """Scores e_u . e_j of candidates by the current embeddings, float32 [B, N]."""
    if emb_ND.device.type == "cpu" and emb_ND.dtype == torch.float32:
        scores = np.empty(candidates_BN.shape, np.float32)
        drawing.score_candidates(emb_ND.numpy(), user_ids, candidates_BN, num_users, scores)
        return scores
    users = emb_ND[torch.from_numpy(user_ids).to(emb_ND.device, torch.int64)]
    items = emb_ND[torch.from_numpy(candidates_BN).to(emb_ND.device, torch.int64) + num_users]
    return torch.einsum("bd,bnd->bn", users, items).float().cpu().numpy()
