"""A method that adds text to a backbone of any kind: it holds the backbone and changes its layer 0 or its loss.

Legend: N nodes, R rows of a batch, D dimension.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.func import functional_call

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.models import build_model
from hnlm_ray.recommend.models.base import Backbone, ModelArgs, Rows

T = TypeVar("T")


class AddOn(Backbone):
    """The backbone `rival.backbone`, unchanged until a subclass changes it. The embeddings are the backbone's."""

    has_ids = False
    reads_text = True

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.inner = build_model(args.options["backbone"], args, "train.rival.backbone")
        if not self.inner.has_ids:
            name = args.options["backbone"]
            raise UserError(f"train.rival.backbone={name!r} has no embeddings of its own to add to: give lightgcn")
        self.final_dim, self.has_layers = self.inner.final_dim, self.inner.has_layers

    @property
    def has_auxiliary(self) -> bool:
        """See `Backbone.has_auxiliary`."""
        return type(self).auxiliary is not AddOn.auxiliary or self.inner.has_auxiliary

    def begin_step(self, epoch: int, step: int) -> None:
        """See `Backbone.begin_step`."""
        super().begin_step(epoch, step)
        self.inner.begin_step(epoch, step)

    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """See `Backbone.rows`."""
        return self.inner.rows(rows, with_layers, known)

    def all(self) -> torch.Tensor:
        """See `Backbone.all`."""
        return self.inner.all()

    def auxiliary(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor | None:
        """See `Backbone.auxiliary`."""
        return self.inner.auxiliary(user_ids, item_ids)

    def with_layer0(self, emb_ND: torch.Tensor, read: Callable[[Backbone], T]) -> T:
        """What `read` returns of the backbone while `emb_ND` stands in for its layer 0; gradients reach `emb_ND`."""
        result: T = functional_call(self.inner, {"emb": emb_ND}, (read,))
        return result
