"""The negatives that a trained model's sampler chooses: how hard they are, and how many are held-out positives.

Hardness is the percentile of the negative among the user's unseen items by the warm-up signal: the same measure for
every method. Held-out positives serve to judge negatives here, after the training, and for nothing else.
"""

from dataclasses import dataclass

import numpy as np
import torch

from hnlm_ray.recommend.interactions import Interactions, UserItems
from hnlm_ray.recommend.samplers.base import Batch
from hnlm_ray.recommend.trainer import Trainer
from hnlm_ray.report.analysis import is_pair_of

_USERS_PER_BLOCK = 256


@dataclass(frozen=True)
class ChosenNegatives:
    """One entry per training pair looked at."""

    hardness: np.ndarray
    """float32 [N]: CF percentile for the user, 1 = hardest"""
    is_false: np.ndarray
    """bool [N]: a held-out positive of the user"""


def chosen_negatives(
    trainer: Trainer,
    tensors: dict[str, np.ndarray],
    signal: dict[str, np.ndarray],
    data: Interactions,
    max_pairs: int,
    seed: int,
) -> ChosenNegatives:
    """Let the sampler choose for at most `max_pairs` training pairs, scored by the best epoch's embeddings.

    A sampler that hands several candidates on to be mixed counts by the hardest of them.
    """
    order = np.random.default_rng([seed, 7]).permutation(trainer.pair_ids)[:max_pairs]
    emb = torch.from_numpy(np.concatenate([tensors["user_emb"], tensors["item_emb"]]))
    users, negatives = [], []
    size = trainer.config.batch_size
    for start in range(0, len(order), size):
        pair_ids = order[start : start + size]
        user_ids = data.user_ids[pair_ids]
        batch = Batch(pair_ids, user_ids, data.item_ids[pair_ids], trainer.state.epoch, 0, len(pair_ids))
        chosen = trainer.objective.sampler.sample(batch, emb)
        if chosen.ndim == 2:
            scores = torch.einsum("bd,bnd->bn", emb[user_ids], emb[torch.from_numpy(chosen).long() + data.num_users])
            chosen = chosen[np.arange(len(chosen)), scores.argmax(1).numpy()]
        users.append(user_ids)
        negatives.append(chosen)
    user_ids, item_ids = np.concatenate(users), np.concatenate(negatives)
    held_out = data.valid.union(data.test)
    return ChosenNegatives(
        score_percentiles_of(user_ids, item_ids, signal["user_emb"], signal["item_emb"], data.train),
        is_pair_of(user_ids, item_ids, held_out.user_ids, held_out.item_ids),
    )


def score_percentiles_of(
    user_ids: np.ndarray, item_ids: np.ndarray, user_emb: np.ndarray, item_emb: np.ndarray, train: UserItems
) -> np.ndarray:
    """Share of the user's unseen items that score lower than the item, for each of N pairs: float32 [N]."""
    percentiles = np.empty(len(user_ids), np.float32)
    order = np.argsort(user_ids, kind="stable")
    distinct, starts = np.unique(user_ids[order], return_index=True)
    ends = np.r_[starts[1:], len(order)]
    for first in range(0, len(distinct), _USERS_PER_BLOCK):
        block = distinct[first : first + _USERS_PER_BLOCK]
        scores = user_emb[block] @ item_emb.T
        rows, seen = train.entries(block)
        scores[rows, seen] = np.inf  # below no score
        unseen = train.num_items - train.counts[block]
        for row in range(len(block)):
            pairs = order[starts[first + row] : ends[first + row]]
            own = scores[row, item_ids[pairs]]
            percentiles[pairs] = (scores[row] < own[:, None]).sum(axis=1) / unseen[row]
    return percentiles
