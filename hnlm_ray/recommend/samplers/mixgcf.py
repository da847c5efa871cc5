"""MixGCF (Huang et al., 2021): a negative synthesised from candidates, the positive and every graph layer.

Legend: B pairs, N candidates per pair, L layers, D dimension.
"""

import numpy as np
import torch

from hnlm_ray.recommend.samplers import drawing
from hnlm_ray.recommend.samplers.base import Batch, score_candidates

_STREAM = 4


def mixing_weights(seed: int, batch: Batch, num_layers: int) -> torch.Tensor:
    """beta of positive mixing: one number in [0, 1) per pair and layer, [L + 1, B]."""
    fractions = np.empty((len(batch.pair_ids), num_layers + 1), np.float32)
    drawing.draw_fractions(drawing.stream_key(seed, _STREAM, batch.epoch), batch.pair_ids, fractions)
    return torch.from_numpy(fractions).T


def hardest(
    final_ND: torch.Tensor, layers_LND: torch.Tensor, user_ids: np.ndarray, candidates_BN: np.ndarray, num_users: int
) -> np.ndarray:
    """Hop mixing: per layer the candidate with the highest score against the user's final embedding, ids [L + 1, B].

    The positive is mixed into all candidates of a pair and layer with one weight below 1, so it does not change which
    of them is hardest: only the chosen ones need to be mixed.
    """
    chosen = np.empty((len(layers_LND), len(candidates_BN)), candidates_BN.dtype)
    for layer, emb_ND in enumerate(layers_LND):
        emb = torch.cat([final_ND[:num_users], emb_ND[num_users:]])
        best = score_candidates(emb, user_ids, candidates_BN, num_users).argmax(1)
        chosen[layer] = np.take_along_axis(candidates_BN, best[:, None], 1)[:, 0]
    return chosen


def mix(positive_LBD: torch.Tensor, negative_LBD: torch.Tensor, beta_LB: torch.Tensor) -> torch.Tensor:
    """Positive mixing: beta e_i + (1 - beta) e_j per layer, [L + 1, B, D]; its mean over layers is scored."""
    return torch.lerp(negative_LBD, positive_LBD, beta_LB[:, :, None].to(negative_LBD))
