"""L_SFT and InfoNCE on triplet embeddings, with negatives from all ranks, and the loss of taste (METHOD.md section 3).

B triplets of the global batch, b of this rank, d dimension; all embeddings have unit norm, so a dot product is
a cosine. `triplet_loss` returns this rank's loss; the mean over ranks is the loss of the global batch, and averaging
parameter gradients over ranks, as DDP and DeepSpeed do, gives exactly its gradient.
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["pairwise", "infonce"]


class _GatherWithGradient(torch.autograd.Function):
    """[b, d] of every rank -> [B, d] in rank order.

    Another rank's loss depends on our rows, so the gradient of our rows is the sum over all ranks of what flows back
    to them (a plain `all_gather` would drop all but our own share).
    """

    @staticmethod
    def forward(ctx: Any, local_bd: Tensor) -> Tensor:
        gathered = [torch.empty_like(local_bd) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, local_bd.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].contiguous()
        dist.all_reduce(summed, op=dist.ReduceOp.SUM)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


def gather(local_bd: Tensor) -> Tensor:
    """Rows of all ranks [B, d]; every rank must hold equally many. Without a process group: the rows themselves."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return local_bd
    gathered: Tensor = _GatherWithGradient.apply(local_bd)
    return gathered


def gather_ids(local_b: Tensor) -> Tensor:
    """Item ids of all ranks [B], without gradient, in the order of `gather`."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return local_b
    gathered = [torch.empty_like(local_b) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local_b)
    return torch.cat(gathered)


def pairwise_loss(q_bd: Tensor, p_bd: Tensor, n_Bd: Tensor, tau: float) -> Tensor:
    """-(1/B^2) sum_a sum_b log sigmoid((cos(q_a, p_a) - cos(q_a, n_b)) / tau): L_SFT of METHOD.md section 3."""
    positive_b1 = (q_bd * p_bd).sum(-1, keepdim=True)
    return -F.logsigmoid((positive_b1 - q_bd @ n_Bd.T) / tau).mean()


def infonce_loss(
    q_bd: Tensor, p_bd: Tensor, others_md: Tensor, p_ids_b: Tensor, other_ids_m: Tensor, tau: float
) -> Tensor:
    """Cross-entropy of p_a against `others`: every p_b and n_b of the global batch.

    Whatever is the item p_a itself, in a's own triplet or in another, is no negative of a: it is left out.
    """
    positive_b1 = (q_bd * p_bd).sum(-1, keepdim=True)
    same_bm = p_ids_b[:, None] == other_ids_m
    negative_bm = (q_bd @ others_md.T).masked_fill(same_bm, float("-inf"))
    logits = torch.cat([positive_b1, negative_bm], dim=1) / tau
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def taste_loss(
    rest_nd: Tensor, items_md: Tensor, columns_n: Tensor, left_out_nm: Tensor, log_popularity_m: Tensor, tau: float
) -> Tensor:
    """Cross-entropy of each pair's item, at `columns_n`, against all m items by the cosine with the rest of its user.

    Logits are lowered by log popularity, since popular items are in a batch more often (Yi et al., 2019).
    `left_out_nm`: what is no negative of a pair.
    """
    logits = rest_nd @ items_md.T / tau - log_popularity_m
    return F.cross_entropy(logits.masked_fill(left_out_nm, float("-inf")), columns_n)


def triplet_loss(
    name: LossName,
    q_bd: Tensor,
    p_bd: Tensor,
    n_bd: Tensor,
    p_ids_b: Tensor,
    n_ids_b: Tensor,
    tau: float,
    over_ranks: bool,
) -> Tensor:
    """The configured loss of this rank's triplets; with `over_ranks` against the p and n of all ranks."""
    gather_rows = gather if over_ranks else _as_they_are
    n_Bd = gather_rows(n_bd)
    if name == "pairwise":
        return pairwise_loss(q_bd, p_bd, n_Bd, tau)
    others_md = torch.cat([gather_rows(p_bd), n_Bd])
    gather_numbers = gather_ids if over_ranks else _as_they_are
    other_ids_m = torch.cat([gather_numbers(p_ids_b), gather_numbers(n_ids_b)])
    return infonce_loss(q_bd, p_bd, others_md, p_ids_b, other_ids_m, tau)


def _as_they_are(local: Tensor) -> Tensor:
    return local
