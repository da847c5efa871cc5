"""BPR with its layer-0 penalty and both gradients in one compiled pass (CPU): what most steps are.

The same numbers as `losses.bpr` and `losses.layer0_penalty` give through autograd, without some twenty small operations
that take longer than the sums themselves where the graph is small.
"""

from typing import Any

import torch

from hnlm_ray.recommend import kernels


def bpr_with_penalty(final_RD: torch.Tensor, base_RD: torch.Tensor, reg: float, scale: float) -> torch.Tensor:
    """scale * sum over the pairs of L_rank + reg (|E_u|^2 + |E_i|^2 + |E_j|^2) / 2, a scalar with gradient.

    Rows are users, positives, negatives, R / 3 each; float32 on the CPU.
    """
    return _BprWithPenalty.apply(final_RD, base_RD, reg, scale)


class _BprWithPenalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, final: torch.Tensor, base: torch.Tensor, reg: float, scale: float) -> torch.Tensor:
        grad, grad_base = torch.empty_like(final), torch.empty_like(base)
        arrays = [tensor.detach().numpy() for tensor in (final, base, grad, grad_base)]
        loss = kernels.bpr_step(arrays[0], arrays[1], reg, scale, arrays[2], arrays[3])
        ctx.save_for_backward(grad, grad_base)
        return final.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad, grad_base = ctx.saved_tensors
        if float(grads[0]) == 1:
            return grad, grad_base, None, None
        return grad * grads[0], grad_base * grads[0], None, None
