"""SGL-ED (Wu et al., 2021): LightGCN contrasted over two graphs, each without a random share of the edges.

Both graphs are drawn anew in every epoch and normalised by their own degrees.
"""

import numpy as np
import torch

from hnlm_ray.recommend.graph import Graph
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.losses import info_nce
from hnlm_ray.recommend.models.base import ModelArgs
from hnlm_ray.recommend.models.lightgcn import LightGCN
from hnlm_ray.recommend.propagation import propagate_mean


class SGL(LightGCN):
    """Contrast over the batch's distinct users and distinct positive items."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.weight, self.temperature = args.options["weight"], args.options["temperature"]
        self.edge_drop = args.options["edge_drop"]
        self._views: list[Graph] = []
        self._epoch = -1

    def begin_step(self, epoch: int, step: int) -> None:
        """See `Backbone.begin_step`; a new epoch draws two new graphs, the same on every rank."""
        super().begin_step(epoch, step)
        if epoch != self._epoch:
            self._epoch = epoch
            rng = np.random.default_rng([self.seed, epoch])
            self._views = [self._without_edges(rng) for _ in range(2)]

    def auxiliary(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor | None:
        """weight x (InfoNCE over users + InfoNCE over items)."""
        users, items = user_ids.unique(), item_ids.unique()
        rows = torch.cat([users, items + self.num_users])
        first, second = (propagate_mean(view, self.emb, rows, self.num_layers)[0] for view in self._views)
        count = len(users)
        return self.weight * (
            info_nce(first[:count], second[:count], self.temperature)
            + info_nce(first[count:], second[count:], self.temperature)
        )

    def _without_edges(self, rng: np.random.Generator) -> Graph:
        kept = rng.random(len(self.user_items.item_ids)) >= self.edge_drop
        users, items = self.user_items.user_ids[kept], self.user_items.item_ids[kept]
        return Graph(UserItems.from_pairs(users, items, self.num_users, self.num_items), self.emb.device)
