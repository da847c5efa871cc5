"""RLMRec-Con (Ren et al., 2024): any backbone, whose embeddings are contrasted with an MLP of the nodes' texts.

The authors contrast a user with all users, and the negatives among themselves as well; here the batch's distinct users
are contrasted with each other, and its distinct positive items, at most 2,048 at a time: what a step costs does not
grow with the data, nor what a pair costs with the batch.
"""

import math

import torch

from hnlm_ray.recommend.losses import info_nce
from hnlm_ray.recommend.models.addon import AddOn
from hnlm_ray.recommend.models.base import ModelArgs, Rows
from hnlm_ray.recommend.models.text import first_places, mlp, text_nodes

_MOST_CONTRASTED = 2048
"""Nodes that are contrasted with each other: it takes their square."""


class RLMRecCon(AddOn):
    """weight x (InfoNCE between e and MLP(text) over users + over items); nodes without text are left out."""

    text: torch.Tensor

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.weight, self.temperature = args.options["align_weight"], args.options["text_temperature"]
        text = text_nodes(args)
        self.register_buffer("text", text, persistent=False)
        self.mlp = mlp(text.shape[1], args.options["hidden_dim"], self.final_dim, args.seed)

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`; keeps the batch's embeddings for `auxiliary`."""
        read = super().rows(rows, with_layers, known)
        self._final = read.final
        return read

    def auxiliary(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor | None:
        """See the class; what the backbone adds itself is added as well."""
        own = super().auxiliary(user_ids, item_ids)
        total = self._final.new_zeros(()) if own is None else own
        for nodes, offset in ((user_ids, 0), (item_ids + self.num_users, len(user_ids))):
            places = first_places(nodes).sort().values  # in the order of the batch, which is at random
            text = self.text[nodes[places]]
            has_text = text.any(1)
            if has_text.any():
                emb = self._final[offset + places[has_text]]
                total = total + self.weight * self._contrast(emb, self.mlp(text[has_text]))
        return total

    def _contrast(self, emb: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """InfoNCE within groups of about the same size, mean over all rows."""
        size = math.ceil(len(emb) / math.ceil(len(emb) / _MOST_CONTRASTED))
        groups = zip(emb.split(size), text.split(size), strict=True)
        losses = [info_nce(e, t, self.temperature) * len(e) for e, t in groups]
        return torch.stack(losses).sum() / len(emb)
