"""GradCache: the gradients of a large contrastive batch with the memory of a small one.

1. encode all chunks without a graph; 2. the loss on the cached embeddings gives dL/dz; 3. encode each chunk again, with
a graph and the same dropout, and send its dL/dz back. The loss is exact: every chunk sees all negatives.
B triplets on this rank, d dimension.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Chunk = tuple[dict[str, Tensor], ...]
"""Padded batches (of q and of p with n) of some triplets."""
Encode = Callable[..., tuple[Tensor, ...]]


def cached_loss(
    encode: Encode,
    backward: Callable[[Tensor, bool], None],
    chunks: Sequence[Chunk],
    loss_of: Callable[[Sequence[tuple[Tensor, ...]]], Tensor],
    seed: int,
) -> Tensor:
    """Run forward and backward of `loss_of(embeddings per chunk)`; returns the loss, detached.

    `backward(surrogate, is_last)` accumulates gradients; `seed` makes the dropout of both passes the same.
    """
    if len(chunks) == 1:
        torch.manual_seed(seed)
        loss = loss_of([encode(*chunks[0])])
        backward(loss, True)
        return loss.detach()
    cached: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for number, chunk in enumerate(chunks):
            torch.manual_seed(seed + number)
            cached.append(tuple(z.detach().requires_grad_() for z in encode(*chunk)))
    loss = loss_of(cached)
    flat = [z for parts in cached for z in parts]
    grads: Any = iter(torch.autograd.grad(loss, flat))
    for number, chunk in enumerate(chunks):
        torch.manual_seed(seed + number)
        embedded = encode(*chunk)
        surrogate = torch.stack([(z * next(grads)).sum() for z in embedded]).sum()
        backward(surrogate, number == len(chunks) - 1)
    return loss.detach()
