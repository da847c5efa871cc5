"""What the models that read text share.

Legend: N nodes, d width of the encoder, D dimension.
"""

from collections.abc import Callable

import torch
from torch import nn

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.models.base import ModelArgs


def text_nodes(args: ModelArgs) -> torch.Tensor:
    """Vectors of the nodes' texts, float32 [N, d]. Raises `UserError` where there are none."""
    if args.text is None:
        raise UserError("this model reads texts and none were given: use it as train.model, or pass `text` to `fit`")
    return torch.from_numpy(args.text.nodes)


def mlp(in_dim: int, hidden_dim: int, out_dim: int, seed: int) -> nn.Module:
    """W2 leaky_relu(W1 x + b1) + b2."""
    return seeded(
        seed,
        lambda: nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.LeakyReLU(), nn.Linear(hidden_dim, out_dim)),
    )


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, its weights decided by the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def first_places(ids: torch.Tensor) -> torch.Tensor:
    """One place of each distinct id."""
    distinct, inverse = ids.unique(return_inverse=True)
    places = torch.arange(len(ids), device=ids.device)
    return places.new_full((len(distinct),), len(ids)).scatter_reduce(0, inverse, places, "amin")
