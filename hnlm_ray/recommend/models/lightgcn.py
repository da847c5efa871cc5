"""LightGCN (He et al., 2020): E_(l+1) = A E_l, final = mean of layers 0..L, no weights but the embeddings."""

import torch

from hnlm_ray.recommend.models.base import GraphBackbone, Rows
from hnlm_ray.recommend.propagation import propagate_all, propagate_layers, propagate_mean


class LightGCN(GraphBackbone):
    """Layer 0 is regularised, embeddings are not normalised, initialisation is Xavier-uniform."""

    has_layers = True

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`."""
        if with_layers:
            layers = propagate_layers(self.graph, self.emb, rows, self.num_layers)
            return Rows(layers.mean(0), layers[0], layers)
        return Rows(*propagate_mean(self.graph, self.emb, rows, self.num_layers, known))

    def all(self) -> torch.Tensor:
        """See `Backbone.all`."""
        return propagate_all(self.graph, self.emb, self.num_layers)
