"""AlphaRec (Sheng et al., 2025): no ids; E_0 = MLP(text), propagated as in LightGCN, scored by the cosine.

An item's text is its own, a user's the mean of the training items'. The authors train it with InfoNCE against sampled
negatives: `loss.kind=softmax`. A node without text starts from MLP(0), one learned vector for all such nodes.
"""

import torch
import torch.nn.functional as F

from hnlm_ray.recommend.models.base import GraphBackbone, ModelArgs, Rows
from hnlm_ray.recommend.models.text import mlp, text_nodes
from hnlm_ray.recommend.propagation import propagate_all, propagate_mean


class AlphaRec(GraphBackbone):
    """Only the MLP is trained. Layer 0 is its output and is what is regularised."""

    has_ids = False
    reads_text = True

    text: torch.Tensor

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        text = text_nodes(args)
        self.register_buffer("text", text, persistent=False)
        self.mlp = mlp(text.shape[1], args.options["hidden_dim"], args.dim, args.seed)

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`; the embeddings have unit length."""
        assert not with_layers
        final, base = propagate_mean(self.graph, self.mlp(self.text), rows, self.num_layers)
        return Rows(F.normalize(final, dim=-1), base)

    @torch.no_grad()
    def all(self) -> torch.Tensor:
        """See `Backbone.all`."""
        return F.normalize(propagate_all(self.graph, self.mlp(self.text), self.num_layers), dim=-1)
