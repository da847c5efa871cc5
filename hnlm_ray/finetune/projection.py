"""Reducing vectors to r dimensions so that cosines survive (METHOD.md section 4).

N vectors, d their width, r the reduced width. The principal directions are those of the second moment, not of the
centred covariance: z and items are compared by cosine from the origin, and a shift of the origin would change that.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Projection:
    """Directions to project on, and how much of a vector they keep."""

    components_dr: np.ndarray
    explained_variance: np.ndarray
    """Share of the sample's squared length along each direction, largest first. [r]"""

    @classmethod
    def fit(cls, sample_Nd: np.ndarray, r: int) -> "Projection":
        """PCA of a sample; `r` at most d. The sign of each direction is fixed, so that reruns agree."""
        sample_Nd = sample_Nd.astype(np.float64)
        values_d, vectors_dd = np.linalg.eigh(sample_Nd.T @ sample_Nd)
        largest = np.argsort(-values_d, kind="stable")[:r]
        components_dr = vectors_dd[:, largest]
        strongest = np.abs(components_dr).argmax(axis=0)
        components_dr = components_dr * np.sign(components_dr[strongest, np.arange(components_dr.shape[1])])
        explained = np.maximum(values_d[largest], 0) / max(float(values_d.sum()), 1e-12)
        return cls(components_dr.astype(np.float32), explained.astype(np.float32))

    def __call__(self, vectors_Nd: np.ndarray) -> np.ndarray:
        """Reduced vectors of unit norm. [N, r]"""
        reduced_Nr = vectors_Nd @ self.components_dr
        return reduced_Nr / np.maximum(np.linalg.norm(reduced_Nr, axis=1, keepdims=True), 1e-12)
