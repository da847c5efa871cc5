"""Validation of a fine-tune: the loss on held-out triplets, and whether q finds its p among catalogue items."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnlm_ray.finetune.batches import Texts, Triplets
from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.encoder import embed_ids
from hnlm_ray.finetune.loss import LossName, triplet_loss


def retrieval_accuracy(
    q_nd: Tensor,
    target_ids: np.ndarray,
    candidates_cd: Tensor,
    candidate_ids: np.ndarray,
    left_out_nc: Tensor | None = None,
) -> dict[str, float]:
    """Share of queries whose target stands first, and among the first ten, of all candidates by cosine.

    `left_out_nc`: bool, what does not stand before the target of a query, whatever its cosine.
    """
    scores_nc = q_nd @ candidates_cd.T
    position = {item: column for column, item in enumerate(candidate_ids.tolist())}
    columns = torch.tensor([position[item] for item in target_ids.tolist()], device=q_nd.device)
    own_n1 = scores_nc.gather(1, columns[:, None])
    before_nc = scores_nc > own_n1
    better = (before_nc if left_out_nc is None else before_nc & ~left_out_nc).sum(1)
    return {"accuracy@1": float((better < 1).float().mean()), "accuracy@10": float((better < 10).float().mean())}


class Validation:
    """Held-out triplets and retrieval candidates, tokenised once."""

    def __init__(
        self,
        triplets: Triplets,
        rows: np.ndarray,
        candidates: Texts,
        candidate_ids: np.ndarray,
        config: FinetuneConfig,
        loss: LossName,
        pad_id: int,
    ) -> None:
        """`rows` of `triplets` are held out; their p are candidates, filled up from the catalogue's `candidates`."""
        self.triplets, self.rows, self.config, self.loss, self.pad_id = triplets, rows, config, loss, pad_id
        self._target_ids, first, self._target_of_row = np.unique(
            triplets.hard_item_ids[rows], return_index=True, return_inverse=True
        )
        others = np.flatnonzero(~np.isin(candidate_ids, self._target_ids))
        others = others[: max(config.num_retrieval_candidates - len(self._target_ids), 0)]
        self._sequences = [triplets.items[row] for row in triplets.hard_rows[rows][first]]
        self._sequences += [candidates[row] for row in others]
        self._candidate_ids = np.concatenate([self._target_ids, candidate_ids[others]])

    def run(self, engine: Any) -> dict[str, float]:
        """Validation loss (in batches of the training's size, so that losses compare) and retrieval accuracy.

        Every rank computes the same: with ZeRO-3 all of them take part in every forward pass.
        """
        engine.eval()
        triplets, rows = self.triplets, self.rows
        q_nd = self._embed(engine, [triplets.queries[row] for row in rows])
        n_rows, n_of_row = np.unique(triplets.item_rows[rows], return_inverse=True)
        n_nd = self._embed(engine, [triplets.items[row] for row in n_rows])[torch.as_tensor(n_of_row)]
        candidates_cd = self._embed(engine, self._sequences)
        p_nd = candidates_cd[torch.as_tensor(self._target_of_row, device=candidates_cd.device)]
        loss = self._loss(q_nd, p_nd, n_nd)
        targets = triplets.hard_item_ids[rows]
        return {"validation_loss": loss} | retrieval_accuracy(q_nd, targets, candidates_cd, self._candidate_ids)

    def _embed(self, engine: Any, sequences: list[np.ndarray]) -> Tensor:
        return embed_ids(engine, sequences, self.pad_id)

    def _loss(self, q_nd: Tensor, p_nd: Tensor, n_nd: Tensor) -> float:
        config, device = self.config, q_nd.device
        hard_ids = torch.as_tensor(self.triplets.hard_item_ids[self.rows], device=device)
        item_ids = torch.as_tensor(self.triplets.item_ids[self.rows], device=device)
        columns = (q_nd, p_nd, n_nd, hard_ids, item_ids)
        losses, weights = [], []
        for q_bd, p_bd, n_bd, p_ids, n_ids in zip(
            *(column.split(config.batch_size) for column in columns), strict=True
        ):
            loss = triplet_loss(self.loss, q_bd, p_bd, n_bd, p_ids, n_ids, config.tau, over_ranks=False)
            losses.append(float(loss))
            weights.append(len(q_bd))
        return float(np.average(losses, weights=weights))
