"""Matrix factorisation: the score of (u, i) is e_u . e_i."""

import torch

from hnlm_ray.recommend.models.base import GraphBackbone, Rows
from hnlm_ray.recommend.propagation import propagate_mean


class MF(GraphBackbone):
    """BPR-MF (Rendle et al., 2009): LightGCN without layers, and run as such."""

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`; there are no layers to return."""
        assert not with_layers
        return Rows(*propagate_mean(self.graph, self.emb, rows, 0))

    def all(self) -> torch.Tensor:
        """See `Backbone.all`."""
        return self.emb.detach()
