"""A of METHOD.md section 5: from the encoder's space to the recommender's. Trained with the recommender.

Legend: B pairs, K hard-negative vectors of a pair (its own first), r encoder width, H hidden width, D CF width.
"""

import torch
from torch import nn

from hnlm_ray.recommend.config import HnlmConfig


class Linear(nn.Module):
    """h = W z + b."""

    def __init__(self, config: HnlmConfig, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(in_dim, out_dim)

    def forward(self, z_BKr: torch.Tensor, present_BK: torch.Tensor) -> torch.Tensor:
        """h [B, D] from the pair's own vector."""
        return self.out(z_BKr[:, 0])


class MLP(nn.Module):
    """h = W2 gelu(W1 z)."""

    def __init__(self, config: HnlmConfig, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_dim, config.hidden_dim), nn.GELU(), nn.Linear(config.hidden_dim, out_dim))

    def forward(self, z_BKr: torch.Tensor, present_BK: torch.Tensor) -> torch.Tensor:
        """h [B, D] from the pair's own vector."""
        return self.net(z_BKr[:, 0])


class Attention(nn.Module):
    """Self-attention over the K negatives of the pair, read at the pair's own, followed by an MLP."""

    def __init__(self, config: HnlmConfig, in_dim: int, out_dim: int) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.reduce = nn.Linear(in_dim, hidden)
        self.attention = nn.MultiheadAttention(hidden, config.num_heads, batch_first=True)
        self.net = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out_dim))

    def forward(self, z_BKr: torch.Tensor, present_BK: torch.Tensor) -> torch.Tensor:
        """h [B, D]; absent vectors are not attended to."""
        x_BKH = self.reduce(z_BKr)
        # A pair without any vector attends to its (unused) own place: an all-masked softmax would be NaN.
        absent_BK = ~present_BK
        absent_BK[:, 0] = False
        own_B1H, _ = self.attention(x_BKH[:, :1], x_BKH, x_BKH, key_padding_mask=absent_BK, need_weights=False)
        return self.net(x_BKH[:, 0] + own_B1H[:, 0])


class MixtureOfExperts(nn.Module):
    """h = sum_e softmax(G z)_e MLP_e(z), all experts in one batched product."""

    def __init__(self, config: HnlmConfig, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.num_experts, self.hidden_dim = config.num_experts, config.hidden_dim
        self.gate = nn.Linear(in_dim, config.num_experts)
        self.inner = nn.Linear(in_dim, config.num_experts * config.hidden_dim)
        self.outer = nn.Linear(config.num_experts * config.hidden_dim, out_dim)

    def forward(self, z_BKr: torch.Tensor, present_BK: torch.Tensor) -> torch.Tensor:
        """h [B, D] from the pair's own vector."""
        z_Br = z_BKr[:, 0]
        gate_BE1 = self.gate(z_Br).softmax(-1).unsqueeze(-1)
        hidden_BEH = nn.functional.gelu(self.inner(z_Br)).view(-1, self.num_experts, self.hidden_dim)
        return self.outer((gate_BE1 * hidden_BEH).flatten(1))


ALIGNMENTS: dict[str, type[nn.Module]] = {
    "linear": Linear,
    "mlp": MLP,
    "attention": Attention,
    "moe": MixtureOfExperts,
}
"""Name in the config -> class."""


def build_alignment(config: HnlmConfig, in_dim: int, out_dim: int, seed: int) -> nn.Module:
    """Build A. It has its own seed: the recommender's initialisation does not depend on the alignment chosen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        alignment = ALIGNMENTS[config.alignment](config, in_dim, out_dim)
    if config.control == "frozen-adapter":
        alignment.requires_grad_(False)
    return alignment
