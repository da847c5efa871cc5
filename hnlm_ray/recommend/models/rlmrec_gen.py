"""RLMRec-Gen (Ren et al., 2024): any backbone with masked nodes, whose texts are reconstructed from their neighbours.

In every step a share of the nodes starts from one learned token instead of its own embedding; the ranking loss sees
these too, as in the authors' code. Without graph layers a masked node knows nothing of itself: take a graph model.
"""

import torch

from hnlm_ray.recommend.losses import info_nce
from hnlm_ray.recommend.models.addon import AddOn
from hnlm_ray.recommend.models.base import ModelArgs, Rows
from hnlm_ray.recommend.models.text import mlp, text_nodes

_MOST_RECONSTRUCTED = 4096
"""Masked nodes that enter the contrast of a step: it takes their square."""


class RLMRecGen(AddOn):
    """weight x InfoNCE between MLP(e) and the text of masked nodes; only nodes with text are masked."""

    text: torch.Tensor

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.weight, self.temperature = args.options["reconstruct_weight"], args.options["text_temperature"]
        text = text_nodes(args)
        self.register_buffer("text", text, persistent=False)
        self.maskable = text.any(1).nonzero().squeeze(1)
        """Nodes with text, int64, on the CPU: where the generator is"""
        self.num_masked = round(args.options["mask_share"] * len(self.maskable))
        self.token = torch.nn.Parameter(torch.zeros(1, args.dim))
        self.mlp = mlp(self.final_dim, args.options["hidden_dim"], text.shape[1], args.seed)

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`. `known` is of unmasked embeddings and of no use here."""
        chosen = torch.randperm(len(self.maskable), generator=self.generator)[: self.num_masked]
        masked = self.maskable[chosen].to(rows.device)
        self._masked = masked[:_MOST_RECONSTRUCTED]
        emb = self.inner.emb.index_copy(0, masked, self.token.expand(len(masked), -1))
        wanted = torch.cat([rows, self._masked])
        read = self.with_layer0(emb, lambda inner: inner.rows(wanted, with_layers))
        parts = [len(rows), len(self._masked)]
        final, self._of_masked = read.final.split(parts)
        layers = None if read.layers is None else read.layers.split(parts, dim=1)[0]
        return Rows(final, read.base.split(parts)[0], layers)

    def auxiliary(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor | None:
        """See the class; what the backbone adds itself is added as well."""
        own = super().auxiliary(user_ids, item_ids)
        total = self._of_masked.new_zeros(()) if own is None else own
        if len(self._masked) == 0:
            return total
        reconstructed = self.mlp(self._of_masked)
        return total + self.weight * info_nce(reconstructed, self.text[self._masked], self.temperature)
