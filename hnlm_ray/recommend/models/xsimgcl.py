"""XSimGCL (Yu et al., 2023): SimGCL with one perturbed pass for ranking and contrast; layer l* against the mean."""

import torch

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.losses import info_nce
from hnlm_ray.recommend.models.base import ModelArgs, Rows
from hnlm_ray.recommend.models.simgcl import SimGCL
from hnlm_ray.recommend.models.text import first_places
from hnlm_ray.recommend.propagation import propagate_layers


class XSimGCL(SimGCL):
    """The ranking loss reads perturbed embeddings; ranking itself does not."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.contrast_layer = args.options["contrast_layer"]
        if self.contrast_layer > args.num_layers:
            raise UserError(f"ssl.contrast_layer={self.contrast_layer} must be at most num_layers={args.num_layers}")

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`; keeps the batch's views for `auxiliary`."""
        assert not with_layers
        layers = propagate_layers(self.graph, self.emb, rows, self.num_layers, self.perturb)
        final = layers[1:].mean(0)
        self._views = final, layers[self.contrast_layer]
        return Rows(final, layers[0])

    def auxiliary(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor | None:
        """weight x InfoNCE between the final embedding and layer l*, over users and over items."""
        final, layer = self._views
        size = len(user_ids)
        users, items = first_places(user_ids), first_places(item_ids) + size
        return self.weight * sum(
            (info_nce(final[places], layer[places], self.temperature) for places in (users, items)),
            start=final.new_zeros(()),
        )
