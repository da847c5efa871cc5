"""EASE (Steck, 2019): a linear item-item model in closed form, the honest outsider.

B = I - P diag(1 / diag P), P = (X^T X + lambda 1)^-1; the score of (u, i) is (X B)_ui.
Memory: 12 I^2 bytes while it is solved, 4 I^2 after.
"""

import numpy as np
import psutil
import torch
from scipy.linalg import lapack

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.interactions import UserItems


def solve_ease(user_items: UserItems, ridge: float) -> np.ndarray:
    """Item weights B, float32 [I, I], diagonal zero.

    Raises:
        UserError: so many items that their weights do not fit into the memory that is free.
    """
    needed_gb, free_gb = 12e-9 * user_items.num_items**2, psutil.virtual_memory().available / 1e9
    if needed_gb > free_gb:
        raise UserError(
            f"EASE over {user_items.num_items:,} items needs {needed_gb:,.0f} GB of memory, and {free_gb:,.0f} GB are "
            "free: take another train.model, or train.hnlm.behaviour=signal"
        )
    x = user_items.matrix
    gram = (x.T @ x).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += ridge
    # X^T X + lambda 1 is positive definite: half the work of a general inverse, and all of it in the place of `gram`
    factor, failed = lapack.dpotrf(gram.T, lower=True, overwrite_a=True)
    assert not failed
    weights = lapack.dpotri(factor, lower=True, overwrite_c=True)[0].T  # its upper triangle is filled
    for item in range(1, len(weights)):
        weights[item, :item] = weights[:item, item]
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0)
    return weights.astype(np.float32)


class LinearScorer:
    """Scores X B of a linear item-item model."""

    def __init__(self, user_items: UserItems, item_weights: np.ndarray) -> None:
        self._matrix, self._weights = user_items.matrix, item_weights

    def scores(self, user_ids: np.ndarray) -> torch.Tensor:
        """See `Scorer.scores`."""
        return torch.from_numpy(np.ascontiguousarray(self._matrix[user_ids] @ self._weights, dtype=np.float32))
