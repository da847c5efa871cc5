"""KAR-style augmentation (Xi et al., 2024): what a text says of a node, through a hybrid-expert adapter, is added to
the node's embedding, below a backbone of any kind.

KAR feeds such vectors to a click model as further fields. A collaborative filter has none: they are added to layer 0.
Legend: n nodes of one kind, d width of the encoder, E experts, H width of an expert, D dimension.
"""

import torch
import torch.nn.functional as F
from torch import nn

from hnlm_ray.recommend.models.addon import AddOn
from hnlm_ray.recommend.models.base import ModelArgs, Rows
from hnlm_ray.recommend.models.text import seeded, text_nodes


class HybridExperts(nn.Module):
    """Experts shared by users and items and experts of each kind, weighed by the kind's own gate."""

    def __init__(self, in_dim: int, num_experts: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        width = num_experts * hidden_dim
        self.shared_in, self.shared_out = nn.Linear(in_dim, width), nn.Linear(width, out_dim)
        self.own_in = nn.ModuleList(nn.Linear(in_dim, width) for _ in range(2))
        self.own_out = nn.ModuleList(nn.Linear(width, out_dim) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(in_dim, 2 * num_experts) for _ in range(2))

    def forward(self, text_nd: torch.Tensor, kind: int) -> torch.Tensor:
        """[n, D] of users (`kind` 0) or items (1)."""
        gate = self.gates[kind](text_nd).softmax(-1)
        shared, own = gate.split(self.num_experts, dim=1)
        of_shared = self.shared_out(_weighed(self.shared_in(text_nd), shared))
        return of_shared + self.own_out[kind](_weighed(self.own_in[kind](text_nd), own))


def _weighed(x_nEH: torch.Tensor, gate_nE: torch.Tensor) -> torch.Tensor:
    hidden = F.leaky_relu(x_nEH).unflatten(1, (gate_nE.shape[1], -1))
    return (hidden * gate_nE.unsqueeze(-1)).flatten(1)


class KAR(AddOn):
    """Layer 0 = embedding + adapter(text); a node without text keeps its embedding."""

    text: torch.Tensor
    has_text: torch.Tensor

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        text, options = text_nodes(args), args.options
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("has_text", text.any(1, keepdim=True).float(), persistent=False)
        hidden_dim = max(1, options["hidden_dim"] // options["num_experts"])
        self.adapter = seeded(
            args.seed, lambda: HybridExperts(text.shape[1], options["num_experts"], hidden_dim, args.dim)
        )

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`; what is regularised is layer 0 as augmented."""
        return self.with_layer0(self._layer0(), lambda inner: inner.rows(rows, with_layers, known))

    @torch.no_grad()
    def all(self) -> torch.Tensor:
        """See `Backbone.all`."""
        return self.with_layer0(self._layer0(), lambda inner: inner.all())

    def auxiliary(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor | None:
        """The backbone's own, of the augmented embeddings."""
        if not self.inner.has_auxiliary:
            return None
        return self.with_layer0(self._layer0(), lambda inner: inner.auxiliary(user_ids, item_ids))

    @property
    def has_auxiliary(self) -> bool:
        """See `Backbone.has_auxiliary`."""
        return self.inner.has_auxiliary

    def _layer0(self) -> torch.Tensor:
        users, items = self.text.split([self.num_users, self.num_items])
        return self.inner.emb + self.has_text * torch.cat([self.adapter(users, 0), self.adapter(items, 1)])
