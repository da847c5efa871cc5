"""Losses per pair. Every function returns [B]; the trainer sums, and divides by the batch over all ranks.

Legend: B pairs of the batch, M shared negatives, D dimension. user_BD, pos_BD, neg_BD are final embeddings.
"""

import torch
import torch.nn.functional as F


def bpr(user_BD: torch.Tensor, pos_BD: torch.Tensor, neg_BD: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(e_u.e_i - e_u.e~): L_rank of METHOD.md section 5."""
    return -F.logsigmoid((user_BD * (pos_BD - neg_BD)).sum(-1))


def margin(user_BD: torch.Tensor, pos_BD: torch.Tensor, neg_BD: torch.Tensor, m: float) -> torch.Tensor:
    """relu(e_u.e~ - e_u.e_i + m): the other L_rank of METHOD.md section 5."""
    return F.relu((user_BD * (neg_BD - pos_BD)).sum(-1) + m)


def softmax(
    user_BD: torch.Tensor,
    pos_BD: torch.Tensor,
    shared_MD: torch.Tensor,
    temperature: float,
    own_neg_BD: torch.Tensor | None = None,
    is_own_positive_BM: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax over cosine scores: the positive against M negatives shared by the batch and the pair's own.

    `is_own_positive_BM` marks shared negatives that are training items of the row's user: they leave the sum.
    """
    user, pos, shared = F.normalize(user_BD, dim=-1), F.normalize(pos_BD, dim=-1), F.normalize(shared_MD, dim=-1)
    negative_logits = user @ shared.T / temperature
    if is_own_positive_BM is not None:
        negative_logits = negative_logits.masked_fill(is_own_positive_BM, -torch.inf)
    positive_logits = (user * pos).sum(-1, keepdim=True) / temperature
    logits = [positive_logits, negative_logits]
    if own_neg_BD is not None:
        logits.append((user * F.normalize(own_neg_BD, dim=-1)).sum(-1, keepdim=True) / temperature)
    return torch.cat(logits, dim=1).logsumexp(dim=1) - positive_logits.squeeze(1)


def direct_au(user_BD: torch.Tensor, pos_BD: torch.Tensor, uniformity: float) -> torch.Tensor:
    """DirectAU (Wang et al., 2022): alignment per pair, plus the batch's uniformity of users and of items."""
    user, pos = F.normalize(user_BD, dim=-1), F.normalize(pos_BD, dim=-1)
    spread = (_uniformity(user) + _uniformity(pos)) / 2
    return (user - pos).square().sum(-1) + uniformity * spread


def _uniformity(x_BD: torch.Tensor) -> torch.Tensor:
    if len(x_BD) < 2:
        return x_BD.new_zeros(())  # one row has nothing to be spread from
    return torch.pdist(x_BD).square().mul(-2).exp().mean().log()


def contrast(user_BD: torch.Tensor, pos_BD: torch.Tensor, h_BD: torch.Tensor, tau: float) -> torch.Tensor:
    """L_CL of METHOD.md section 5: -log softmax of cos(e_u, e_i) against cos(e_u, h_ui)."""
    positive = F.cosine_similarity(user_BD, pos_BD, dim=-1)
    negative = F.cosine_similarity(user_BD, h_BD, dim=-1)
    return F.softplus((negative - positive) / tau)


def info_nce(view_a_RD: torch.Tensor, view_b_RD: torch.Tensor, temperature: float) -> torch.Tensor:
    """Two views of the same R rows against each other: mean over rows, a scalar (SGL, SimGCL, XSimGCL).

    0 without rows: a rank may have none of the last batch.
    """
    a, b = F.normalize(view_a_RD, dim=-1), F.normalize(view_b_RD, dim=-1)
    logits = a @ b.T / temperature
    return (logits.logsumexp(dim=1) - logits.diagonal()).sum() / max(1, len(logits))


def layer0_penalty(*base_BD: torch.Tensor) -> torch.Tensor:
    """(|E_u|^2 + |E_i|^2 + |E_j|^2) / 2 per pair, [B], on layer-0 embeddings."""
    return torch.stack([base.square().sum(-1) for base in base_BD]).sum(0) / 2
