"""NGCF (Wang et al., 2019): E_(l+1) = LeakyReLU((E_l + A E_l) W1 + (A E_l * E_l) W2), final = all layers side by side.

Each layer is L2-normalised before it is scored, as in the authors' code; there is no message dropout.
"""

import torch
import torch.nn.functional as F
from torch import nn

from hnlm_ray.recommend.models.base import GraphBackbone, ModelArgs, Rows
from hnlm_ray.recommend.propagation import product


class NGCF(GraphBackbone):
    """Not linear in the embeddings, so every step propagates all nodes with gradient. Final width: (L + 1) D."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.final_dim = (args.num_layers + 1) * args.dim
        self.sums = nn.ModuleList(nn.Linear(args.dim, args.dim) for _ in range(args.num_layers))
        self.products = nn.ModuleList(nn.Linear(args.dim, args.dim) for _ in range(args.num_layers))
        for linear in [*self.sums, *self.products]:
            nn.init.xavier_uniform_(linear.weight, generator=self.generator)
            nn.init.zeros_(linear.bias)

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`; the layers are not averaged, so they are not returned."""
        assert not with_layers
        return Rows(self._propagate().index_select(0, rows), self.emb.index_select(0, rows))

    @torch.no_grad()
    def all(self) -> torch.Tensor:
        """See `Backbone.all`."""
        return self._propagate()

    def _propagate(self) -> torch.Tensor:
        current: torch.Tensor = self.emb
        layers = [current]
        for sums, products in zip(self.sums, self.products, strict=True):
            side = product(self.graph, current)
            current = F.leaky_relu(sums(current + side) + products(current * side), 0.2)
            layers.append(F.normalize(current, dim=-1))
        return torch.cat(layers, dim=1)
