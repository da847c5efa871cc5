"""What a backbone is to the trainer: it reads the embeddings of a batch's rows, and of all nodes for ranking.

Legend: N = U + I nodes (users first), R rows of a batch, L layers, D dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hnlm_ray.recommend.graph import Graph
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.text_vectors import TextVectors


@dataclass(frozen=True)
class Rows:
    """What a backbone returns for the rows of a batch, with gradient."""

    final: torch.Tensor
    """[R, D]: the embeddings that are scored"""
    base: torch.Tensor
    """[R, D']: layer-0 embeddings, which alone are regularised"""
    layers: torch.Tensor | None = None
    """[L + 1, R, D]: every layer, where it was asked for; their mean is `final`"""


@dataclass(frozen=True)
class ModelArgs:
    """The arguments of every backbone; a model takes what it needs and never sees the config."""

    user_items: UserItems
    """Training interactions: the graph."""
    dim: int
    """D"""
    num_layers: int
    """L"""
    seed: int
    """Initialisation and any noise the model draws."""
    options: dict[str, Any]
    """The section `ssl`, and `rival` where there is one, as plain values."""
    text: TextVectors | None = None
    """Vectors of the nodes' texts, where there are any."""


class Backbone(nn.Module, ABC):
    """Base of the gradient-trained models: one parameter `emb` [N, D], Xavier-uniform, users first.

    One matrix instead of two saves the concatenation that graph models otherwise pay in every step.
    """

    has_layers = False
    """Whether `rows(..., with_layers=True)` works, which MixGCF needs."""
    has_ids = True
    """Whether there is an `emb` of the model's own; False where layer 0 comes from elsewhere."""
    reads_text = False
    """Whether it takes `ModelArgs.text`."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.num_users, self.num_items = args.user_items.num_users, args.user_items.num_items
        self.dim, self.num_layers, self.seed = args.dim, args.num_layers, args.seed
        self.final_dim = args.dim
        """Width of the final embeddings"""
        self.generator = torch.Generator().manual_seed(args.seed)
        if not self.has_ids:
            return
        emb = torch.empty(self.num_users + self.num_items, args.dim)
        # The bound of Xavier depends on the height of the matrix: users and items each get their own.
        nn.init.xavier_uniform_(emb[: self.num_users], generator=self.generator)
        nn.init.xavier_uniform_(emb[self.num_users :], generator=self.generator)
        self.emb = nn.Parameter(emb)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are stored in."""
        return next(self.parameters()).dtype

    @property
    def has_auxiliary(self) -> bool:
        """Whether `auxiliary` returns a loss; the rows it relies on are then read in the order of the batch."""
        return type(self).auxiliary is not Backbone.auxiliary

    def forward(self, read: Callable[["Backbone"], Any]) -> Any:
        """What `read` returns of the model; torch's `functional_call`, which swaps parameters, goes through here."""
        return read(self)

    def begin_step(self, epoch: int, step: int) -> None:
        """Called before each step, so that what the model draws depends on (seed, epoch, step) and not on the past."""
        self.generator.manual_seed(hash((self.seed, epoch, step)) & 0x7FFF_FFFF_FFFF_FFFF)

    @abstractmethod
    def rows(self, rows: torch.Tensor, with_layers: bool = False, known: torch.Tensor | None = None) -> Rows:
        """Embeddings of the nodes `rows` (int64 [R]), with gradient.

        `known`: what `all()` returned in this very step, if it was called; a model may read its values from there.
        """

    @abstractmethod
    def all(self) -> torch.Tensor:
        """Final embeddings of all nodes, [N, D], without gradient; valid until the next call."""

    def auxiliary(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor | None:
        """A further loss per pair of the batch ([B]) or None; called after `rows` of users, positives, negatives."""
        return None


class GraphBackbone(Backbone):
    """A backbone over the normalised user-item graph."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.user_items = args.user_items
        self._graph: Graph | None = None

    @property
    def graph(self) -> Graph:
        """The graph on the device of the parameters."""
        if self._graph is None or self._graph.device != self.device:
            self._graph = Graph(self.user_items, self.device)
        return self._graph
