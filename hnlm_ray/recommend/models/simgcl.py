"""SimGCL (Yu et al., 2022): LightGCN without layer 0 in the mean, contrasted over two views with noise in every layer.

The noise has a fixed length and the sign of the embedding, and no gradient: a perturbed view is therefore still linear
in the embeddings, and its backward is the same restricted product as LightGCN's.
"""

import torch
import torch.nn.functional as F

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.losses import info_nce
from hnlm_ray.recommend.models.base import GraphBackbone, ModelArgs, Rows
from hnlm_ray.recommend.propagation import propagate_all, propagate_layers


class SimGCL(GraphBackbone):
    """Contrast over the batch's distinct users and distinct positive items."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        if args.num_layers < 1:
            raise UserError(f"num_layers={args.num_layers}: simgcl leaves layer 0 out of the mean; set at least 1")
        self.weight, self.temperature = args.options["weight"], args.options["temperature"]
        self.noise = args.options["noise"]

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`."""
        assert not with_layers
        layers = propagate_layers(self.graph, self.emb, rows, self.num_layers)
        return Rows(layers[1:].mean(0), layers[0])

    def all(self) -> torch.Tensor:
        """See `Backbone.all`."""
        return propagate_all(self.graph, self.emb, self.num_layers, first_layer=1)

    def auxiliary(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor | None:
        """weight x (InfoNCE over users + InfoNCE over items)."""
        users, items = user_ids.unique(), item_ids.unique()
        rows = torch.cat([users, items + self.num_users])
        first, second = self._view(rows), self._view(rows)
        count = len(users)
        return self.weight * (
            info_nce(first[:count], second[:count], self.temperature)
            + info_nce(first[count:], second[count:], self.temperature)
        )

    def _view(self, rows: torch.Tensor) -> torch.Tensor:
        return propagate_layers(self.graph, self.emb, rows, self.num_layers, self.perturb)[1:].mean(0)

    def perturb(self, layer_ND: torch.Tensor, layer: int) -> None:
        """Add sign(E) * unit noise * length, in place."""
        noise = torch.rand(layer_ND.shape, generator=self.generator).to(layer_ND)
        layer_ND += layer_ND.sign() * F.normalize(noise, dim=-1) * self.noise
