"""GradCache: gradients of the whole batch, dropout included, with the activations of one chunk."""

import numpy as np
import pytest
import torch

from hnlm_ray.finetune.encoder import TextEncoder, load_backbone, pad_batch
from hnlm_ray.finetune.gradcache import Chunk, cached_loss
from hnlm_ray.finetune.loss import pairwise_loss


def chunks_of(size: int) -> list[Chunk]:
    rng = np.random.default_rng(0)
    queries = [rng.integers(4, 40, rng.integers(5, 12)) for _ in range(8)]
    items = [rng.integers(4, 40, rng.integers(3, 6)) for _ in range(16)]
    parts = [slice(start, start + size) for start in range(0, 8, size)]
    return [(pad_batch(queries[part], 0), pad_batch(items[:8][part] + items[8:][part], 0)) for part in parts]


def loss_of(embedded: object) -> torch.Tensor:
    parts = list(embedded)  # type: ignore[call-overload]
    q = torch.cat([q for q, _ in parts])
    p = torch.cat([pn[: len(q)] for q, pn in parts])
    n = torch.cat([pn[len(q) :] for q, pn in parts])
    return pairwise_loss(q, p, n, 0.05)


def gradients(bert: str, size: int, training: bool) -> tuple[float, dict[str, torch.Tensor]]:
    encoder = TextEncoder(load_backbone(bert), "mean").train(training)
    calls: list[bool] = []

    def backward(loss: torch.Tensor, is_last: bool) -> None:
        calls.append(is_last)
        loss.backward()

    loss = cached_loss(encoder, backward, chunks_of(size), loss_of, seed=3)
    assert calls == [False] * (8 // size - 1) + [True]
    return loss.item(), {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_chunks_give_the_gradients_of_the_whole_batch(bert: str, size: int) -> None:
    whole, chunked = gradients(bert, 8, training=False), gradients(bert, size, training=False)
    assert chunked[0] == pytest.approx(whole[0], rel=1e-5)
    assert chunked[1].keys() == whole[1].keys()
    for name, gradient in whole[1].items():
        assert torch.allclose(chunked[1][name], gradient, atol=2e-5, rtol=1e-4), name


def test_dropout_is_the_same_in_both_passes(bert: str) -> None:
    """With dropout the surrogate's gradient is right only if the second pass repeats the first one's masks."""
    encoder = TextEncoder(load_backbone(bert), "mean").train()
    chunks = chunks_of(2)
    cached_loss(encoder, lambda loss, _: loss.backward(), chunks, loss_of, seed=3)
    found = {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}
    encoder.zero_grad()
    embedded = []
    for number, chunk in enumerate(chunks):  # the same masks, one graph over all chunks
        torch.manual_seed(3 + number)
        embedded.append(encoder(*chunk))
    loss_of(embedded).backward()
    for name, value in encoder.named_parameters():
        if value.grad is not None:
            assert torch.allclose(found[name], value.grad, atol=2e-5, rtol=1e-4), name
