"""Full ranking over all items, a block of users at a time: seen items masked, top-k on the device of the embeddings.

Legend: U users, I items, b users of a block, K longest ranking, D dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.metrics import metric_names, ranking_metrics


class Scorer(Protocol):
    """Scores every item for a block of users."""

    def scores(self, user_ids: np.ndarray) -> torch.Tensor:
        """float32 [b, I]; the caller may change it, and the next call may reuse it."""


class EmbeddingScorer:
    """Scores e_u . e_i from final embeddings."""

    def __init__(self, user_emb: torch.Tensor, item_emb: torch.Tensor) -> None:
        self.user_emb, self.item_emb = user_emb, item_emb
        self._buffer = torch.empty(0, device=item_emb.device, dtype=item_emb.dtype)

    def scores(self, user_ids: np.ndarray) -> torch.Tensor:
        """See `Scorer.scores`. The output buffer is reused from block to block."""
        if len(self._buffer) < len(user_ids):
            self._buffer = self.item_emb.new_empty(len(user_ids), len(self.item_emb))
        users = self.user_emb[torch.from_numpy(user_ids.astype(np.int64)).to(self.user_emb.device)]
        return torch.matmul(users, self.item_emb.T, out=self._buffer[: len(user_ids)])


@dataclass(frozen=True)
class PerUser:
    """Metrics of every user who has held-out items."""

    user_ids: np.ndarray
    """int64 [u]"""
    names: list[str]
    """Names of the columns, `metric@k`"""
    values: np.ndarray
    """float64 [u, len(names)]"""

    def mean(self) -> dict[str, float]:
        """Mean over users; all zero where there is nobody to evaluate."""
        means = self.values.mean(0) if len(self.values) else np.zeros(len(self.names))
        return dict(zip(self.names, means.tolist(), strict=True))


def top_items(scorer: Scorer, user_ids: np.ndarray, seen: UserItems, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(item ids int64 [b, k], scores [b, k]), best first; seen items score -inf and come last."""
    scores = scorer.scores(user_ids)
    rows, items = seen.entries(user_ids)
    flat = torch.from_numpy(rows * scores.shape[1] + items).to(scores.device)
    scores.view(-1).index_fill_(0, flat, -torch.inf)
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    return best.indices.cpu().numpy(), best.values.float().cpu().numpy()


def rankings(
    scorer: Scorer, user_ids: np.ndarray, seen: UserItems, k: int, users_per_block: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(user ids of a block, their best k items), block by block."""
    for start in range(0, len(user_ids), users_per_block):
        block = user_ids[start : start + users_per_block]
        yield block, top_items(scorer, block, seen, k)[0]


def evaluate(
    scorer: Scorer,
    seen: UserItems,
    held_out: UserItems,
    ks: tuple[int, ...],
    users_per_block: int,
    user_ids: np.ndarray | None = None,
) -> PerUser:
    """Rank all items for every user with held-out items (or those among `user_ids`); items of `seen` are masked."""
    users = np.arange(held_out.num_users) if user_ids is None else user_ids
    users = users[held_out.counts[users] > 0]
    values = [np.empty((0, len(metric_names(ks))))]
    for block, items in rankings(scorer, users, seen, max(ks), users_per_block):
        values.append(ranking_metrics(hits_of(block, items, held_out), held_out.counts[block], ks))
    return PerUser(users, metric_names(ks), np.concatenate(values))


def hits_of(user_ids: np.ndarray, items: np.ndarray, held_out: UserItems) -> np.ndarray:
    """Whether each ranked item is held out for its user, bool [b, K]."""
    rows, relevant = held_out.entries(user_ids)
    keys = rows * held_out.num_items + relevant  # ascending: rows in order, items ascending within a row
    wanted = np.arange(len(user_ids))[:, None] * held_out.num_items + items
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return keys[place] == wanted
