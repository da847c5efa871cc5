"""MixGCF (Huang et al., 2021): a negative synthesised from candidates, the positive and every graph layer.

Legend: B pairs, N candidates per pair, L layers, D dimension.
"""

import numpy as np
import torch

from hnlm_ray.recommend.samplers import drawing
from hnlm_ray.recommend.samplers.base import Batch

_STREAM = 4


def mixing_weights(seed: int, batch: Batch, num_layers: int) -> torch.Tensor:
    """beta of positive mixing: one number in [0, 1) per pair and layer, [L + 1, B]."""
    fractions = np.empty((len(batch.pair_ids), num_layers + 1), np.float32)
    drawing.draw_fractions(drawing.stream_key(seed, _STREAM, batch.epoch), batch.pair_ids, fractions)
    return torch.from_numpy(fractions).T


def mix(
    user_BD: torch.Tensor, positive_LBD: torch.Tensor, candidates_LBND: torch.Tensor, beta_LB: torch.Tensor
) -> torch.Tensor:
    """The synthesised negative at every layer, [L + 1, B, D]; its mean over layers is scored.

    Positive mixing: e'_j = beta e_i + (1 - beta) e_j per layer. Hop mixing: each layer takes the candidate with the
    highest score against the user's final embedding.
    """
    beta = beta_LB[:, :, None, None].to(candidates_LBND)
    mixed = beta * positive_LBD.unsqueeze(2) + (1 - beta) * candidates_LBND
    scores_LBN = torch.einsum("bd,lbnd->lbn", user_BD.detach(), mixed.detach())
    index = scores_LBN.argmax(-1)[:, :, None, None].expand(-1, -1, 1, mixed.shape[-1])
    return mixed.gather(2, index).squeeze(2)
