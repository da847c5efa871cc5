"""One training step as a module: read embeddings, sample negatives, mix in LLM vectors, sum the losses.

It runs bare or inside a DeepSpeed engine, with every backbone, sampler, loss and alignment.
Legend: B pairs of the batch on this rank, N candidates per pair, M shared negatives, D dimension.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hnlm_ray.recommend import losses
from hnlm_ray.recommend.config import HnlmConfig, LossConfig
from hnlm_ray.recommend.distinct import DistinctRows
from hnlm_ray.recommend.fused import bpr_with_penalty, mixed_bpr_with_penalty
from hnlm_ray.recommend.graded import FalseNegatives
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.models.base import Backbone, Rows
from hnlm_ray.recommend.pair_vectors import PairVectors
from hnlm_ray.recommend.samplers import mixgcf
from hnlm_ray.recommend.samplers.base import Batch, NegativeSampler
from hnlm_ray.recommend.samplers.shared import SharedNegatives


@dataclass(frozen=True)
class AlignedMix:
    """What `aligned` needs: vectors per pair and the settings of METHOD.md section 5."""

    vectors: PairVectors
    config: HnlmConfig


class Objective(nn.Module):
    """The loss of a batch. Summed over ranks it is sum over pairs / pairs of all ranks, so that 1 x B and 2 x B/2
    agree: each rank returns its share times `world_size`, and data parallelism averages.

    With `infonce`, `directau` and self-supervision a rank compares within its own part of the batch.
    """

    def __init__(
        self,
        backbone: Backbone,
        sampler: NegativeSampler,
        loss: LossConfig,
        reg: float,
        user_items: UserItems,
        seed: int,
        aligned: AlignedMix | None = None,
        alignment: nn.Module | None = None,
        mixes_layers: bool = False,
        world_size: int = 1,
        false_negatives: FalseNegatives | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.alignment = backbone, alignment
        self.sampler, self.loss, self.reg, self.seed = sampler, loss, reg, seed
        self.aligned, self.mixes_layers, self.world_size = aligned, mixes_layers, world_size
        self.false_negatives = false_negatives
        self.shared = SharedNegatives(user_items, loss.num_shared_negatives, seed) if loss.kind == "softmax" else None
        # An auxiliary loss may rely on the rows that `backbone.rows` was called with, in the order of the batch.
        self._is_plain_bpr = loss.kind == "bpr" and aligned is None and not backbone.has_auxiliary
        self._distinct = DistinctRows(backbone.num_users + backbone.num_items)
        self.sampling_s = 0.0
        """Seconds spent on sampling since it was last reset."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of one rank's batch, a scalar with gradient."""
        self.backbone.begin_step(batch.epoch, batch.step)
        negative_ids, known = self._sample(batch)
        shared_ids = self.shared.draw(batch) if self.shared else np.empty(0, np.int32)
        false_ids = self.false_negatives.draw(batch) if self.false_negatives else np.empty(0, np.int32)
        rows = self._rows(batch, negative_ids, shared_ids, false_ids)
        size = len(batch.user_ids)
        share = self.world_size / batch.global_size
        device = self.backbone.device
        if self._is_plain_bpr and device.type == "cpu" and self.backbone.dtype == torch.float32:
            if not self.mixes_layers:
                return self._compiled(rows, known, share)
            if not self.false_negatives:
                return self._compiled_mix(rows, batch, share)
        read = self.backbone.rows(rows.to(device), self.mixes_layers, known)
        # Split, not sliced: the gradient of a split is one concatenation, that of each slice a zeroed matrix.
        parts = [size, size, negative_ids.size, shared_ids.size, false_ids.size]
        user, positive, negative, shared, false = read.final.split(parts)
        user_base, positive_base, negative_base, *_ = read.base.split(parts)
        if self.mixes_layers:
            negative, negative_base = self._mix_layers(batch, read)
        extra = torch.zeros((), device=user.device)
        if self.aligned is not None:
            negative, extra = self._align(batch, user, positive, negative)
        per_pair = self._rank(batch, user, positive, negative, shared, shared_ids)
        if self.false_negatives:
            graded = self._rank(batch, user, false, negative, shared, shared_ids)
            extra = extra + self.false_negatives.weight * graded
        penalty = losses.layer0_penalty(user_base, positive_base, negative_base)
        total = (per_pair + extra + self.reg * penalty).sum()
        auxiliary = self.backbone.auxiliary(*self._ids(batch.user_ids, batch.item_ids))
        if auxiliary is not None:
            total = total + auxiliary * size
        return total * share

    def _compiled(self, rows: torch.Tensor, known: torch.Tensor | None, share: float) -> torch.Tensor:
        """A batch names its popular items many times: each row is read, and gets its gradient, once."""
        touched, places = self._distinct.of(rows)
        once = self.backbone.rows(touched, known=known)
        grade = self.false_negatives.weight if self.false_negatives else None
        return bpr_with_penalty(once.final, once.base, places.numpy(), self.reg, share, grade)

    def _compiled_mix(self, rows: torch.Tensor, batch: Batch, share: float) -> torch.Tensor:
        touched, places = self._distinct.of(rows)
        layers = self.backbone.rows(touched, with_layers=True).layers
        assert layers is not None
        beta = mixgcf.mixing_weights(self.seed, batch, len(layers) - 1)
        return mixed_bpr_with_penalty(layers, places.numpy(), beta, self.reg, share)

    def _sample(self, batch: Batch) -> tuple[np.ndarray, torch.Tensor | None]:
        emb = self.backbone.all() if self.sampler.needs_embeddings else None
        start = time.perf_counter()
        negative_ids = self.sampler.sample(batch, emb)
        if self.mixes_layers:
            negative_ids = self._hardest_per_layer(batch, negative_ids)
        self.sampling_s += time.perf_counter() - start
        return negative_ids, emb

    def _rows(
        self, batch: Batch, negative_ids: np.ndarray, shared_ids: np.ndarray, false_ids: np.ndarray
    ) -> torch.Tensor:
        """Nodes of users, positives, negatives, shared negatives and likely false negatives, int64 [R]."""
        items = np.concatenate([batch.item_ids, negative_ids.ravel(), shared_ids, false_ids]).astype(np.int64)
        return torch.from_numpy(np.concatenate([batch.user_ids.astype(np.int64), items + self.backbone.num_users]))

    @torch.no_grad()
    def _hardest_per_layer(self, batch: Batch, candidates: np.ndarray) -> np.ndarray:
        nodes = torch.arange(self.backbone.num_users + self.backbone.num_items, device=self.backbone.device)
        read = self.backbone.rows(nodes, with_layers=True)
        assert read.layers is not None
        return mixgcf.hardest(read.final, read.layers, batch.user_ids, candidates, self.backbone.num_users)

    def _mix_layers(self, batch: Batch, read: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """The mixed negative and its layer 0; after users and positives come the rows of each layer's candidate."""
        assert read.layers is not None
        size, num_layers = len(batch.user_ids), len(read.layers)
        candidates = read.layers[:, 2 * size : (2 + num_layers) * size].unflatten(1, (num_layers, size))
        chosen = candidates.diagonal(dim1=0, dim2=1).permute(2, 0, 1)  # of layer l the rows of layer l
        beta = mixgcf.mixing_weights(self.seed, batch, num_layers - 1)
        mixed = mixgcf.mix(read.layers[:, size : 2 * size], chosen, beta)
        return mixed.mean(0), mixed[0]

    def _align(
        self, batch: Batch, user: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(e~ = alpha h + (1 - alpha) e_j, lambda L_CL per pair); pairs without z keep e_j and have no L_CL.

        h is as long as e_j: left free it grows without bound against e_u, since that alone makes L_rank vanish.
        """
        assert self.aligned is not None
        assert self.alignment is not None
        config = self.aligned.config
        z, present = self.aligned.vectors.read(batch.pair_ids, config.num_hard_negatives)
        z, present = z.to(user.device, user.dtype), present.to(user.device)
        h = F.normalize(self.alignment(z, present), dim=-1) * negative.detach().norm(dim=-1, keepdim=True)
        own = present[:, 0].to(user.dtype)
        alpha = config.alpha * own[:, None]
        mixed = alpha * h + (1 - alpha) * negative
        return mixed, config.lambda_cl * own * losses.contrast(user, positive, h, config.tau)

    def _rank(
        self,
        batch: Batch,
        user: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor,
        shared: torch.Tensor,
        shared_ids: np.ndarray,
    ) -> torch.Tensor:
        loss = self.loss
        match loss.kind:
            case "bpr":
                return losses.bpr(user, positive, negative)
            case "margin":
                return losses.margin(user, positive, negative, loss.margin)
            case "softmax":
                assert self.shared is not None
                seen = torch.from_numpy(self.shared.is_positive(batch.user_ids, shared_ids)).to(user.device)
                return losses.softmax(user, positive, shared, loss.temperature, negative, seen)
            case "infonce":
                seen = torch.from_numpy(self._in_batch_positives(batch)).to(user.device)
                return losses.softmax(user, positive, positive, loss.temperature, negative, seen)
            case "directau":
                return losses.direct_au(user, positive, loss.uniformity)

    def _in_batch_positives(self, batch: Batch) -> np.ndarray:
        """Columns of the batch that are the row's own positive item, bool [B, B]."""
        return batch.item_ids[:, None] == batch.item_ids[None, :]

    def _ids(self, user_ids: np.ndarray, item_ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.backbone.device
        return (
            torch.from_numpy(user_ids.astype(np.int64)).to(device),
            torch.from_numpy(item_ids.astype(np.int64)).to(device),
        )
