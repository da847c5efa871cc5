"""BPR with its layer-0 penalty and both gradients in one compiled pass (CPU): what most steps are.

The same numbers as `losses.bpr` and `losses.layer0_penalty` give through autograd, without some twenty small operations
that take longer than the sums themselves where the graph is small; for MixGCF also without copies of every layer.
"""

from typing import Any

import numpy as np
import torch

from hnlm_ray.recommend import kernels


def bpr_with_penalty(
    final_TD: torch.Tensor,
    base_TD: torch.Tensor,
    places: np.ndarray,
    reg: float,
    scale: float,
    grade: float | None = None,
) -> torch.Tensor:
    """scale * sum over the pairs of L_rank + reg (|E_u|^2 + |E_i|^2 + |E_j|^2) / 2, a scalar with gradient.

    final, base: float32 rows on the CPU, each of them once; places: int64 [3 B], rows of users, positives, negatives;
    given a `grade` [4 B], and grade * L_rank of the last part against the negatives is added.
    """
    return _BprWithPenalty.apply(final_TD, base_TD, places, reg, scale, grade)


class _BprWithPenalty(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        final: torch.Tensor,
        base: torch.Tensor,
        places: np.ndarray,
        reg: float,
        scale: float,
        grade: float | None,
    ) -> torch.Tensor:
        grad, grad_base = torch.zeros_like(final), torch.zeros_like(base)
        rows, base_rows, grad_rows, grad_base_rows = (x.detach().numpy() for x in (final, base, grad, grad_base))
        users, positives, negatives, *false = places.reshape(3 if grade is None else 4, -1)
        loss = kernels.bpr_step(rows, users, positives, negatives, scale, grad_rows)
        loss += kernels.layer0_step(base_rows, places[: 3 * len(users)], reg, scale, grad_base_rows)
        if grade is not None:
            loss += kernels.bpr_step(rows, users, false[0], negatives, grade * scale, grad_rows)
        ctx.save_for_backward(grad, grad_base)
        return final.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad, grad_base = ctx.saved_tensors
        if float(grads[0]) == 1:
            return grad, grad_base, None, None, None, None
        return grad * grads[0], grad_base * grads[0], None, None, None, None


def mixed_bpr_with_penalty(
    layers_LTD: torch.Tensor, places: np.ndarray, beta_LB: torch.Tensor, reg: float, scale: float
) -> torch.Tensor:
    """The same against MixGCF's negatives (`samplers.mixgcf.mix`), a scalar with gradient.

    layers: float32 rows on the CPU, each of them once; places: int64 [(2 + L) B], rows of users, positives and, layer
    by layer, of the candidate that is mixed in there; beta: the positive's share in it.
    """
    return _MixedBprWithPenalty.apply(layers_LTD, places, beta_LB, reg, scale)


class _MixedBprWithPenalty(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layers: torch.Tensor, places: np.ndarray, beta: torch.Tensor, reg: float, scale: float
    ) -> torch.Tensor:
        grad = torch.zeros_like(layers)
        users, positives, *negatives = places.reshape(2 + len(layers), -1)
        shares = np.ascontiguousarray(beta.numpy())
        rows, grad_rows = layers.detach().numpy(), grad.numpy()
        loss = kernels.mixed_step(rows, users, positives, np.stack(negatives), shares, reg, scale, grad_rows)
        ctx.save_for_backward(grad)
        return layers.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return grad if float(grads[0]) == 1 else grad * grads[0], None, None, None, None
