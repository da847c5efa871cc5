"""Rules: which candidate becomes the negative. All read scores only, so they fit every model.

Legend: B pairs of the batch, N candidates per pair.
"""

import numpy as np

from hnlm_ray.recommend.samplers import drawing
from hnlm_ray.recommend.samplers.base import Batch


class Hardest:
    """DNS (Zhang et al., 2013): the candidate with the highest score."""

    def choose(self, batch: Batch, positive_scores_B: np.ndarray, scores_BN: np.ndarray) -> np.ndarray:
        """See `Rule.choose`."""
        return scores_BN.argmax(axis=1)


class TopM:
    """DNS(M, N) (Shi et al., 2023): one of the M hardest of N, at random; M softens the hardness."""

    stream = 3

    def __init__(self, top_m: int, seed: int) -> None:
        self.top_m, self.seed = top_m, seed

    def choose(self, batch: Batch, positive_scores_B: np.ndarray, scores_BN: np.ndarray) -> np.ndarray:
        """See `Rule.choose`."""
        hardest = np.argpartition(-scores_BN, self.top_m - 1, axis=1)[:, : self.top_m]
        fraction = np.empty((len(scores_BN), 1), np.float32)
        drawing.draw_fractions(drawing.stream_key(self.seed, self.stream, batch.epoch), batch.pair_ids, fraction)
        pick = (fraction[:, 0] * self.top_m).astype(np.int64)
        return hardest[np.arange(len(hardest)), pick]


class Ahns:
    """AHNS (Lai et al., 2024): the candidate nearest to a hardness that falls as the positive's score rises.

    Target score: beta (e_u.e_i + alpha)^(p + 1), p < -1, with scores by current embeddings, the base clipped at
    a small positive number because the power is not defined below zero.
    """

    def __init__(self, alpha: float, beta: float, power: float) -> None:
        self.alpha, self.beta, self.power = alpha, beta, power

    def choose(self, batch: Batch, positive_scores_B: np.ndarray, scores_BN: np.ndarray) -> np.ndarray:
        """See `Rule.choose`."""
        base = np.maximum(positive_scores_B + self.alpha, 1e-3)
        target = self.beta * base ** (self.power + 1)
        return np.abs(scores_BN - target[:, None]).argmin(axis=1)
