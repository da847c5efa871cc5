"""The compiled BPR step against the same losses through autograd."""

import numpy as np
import pytest
import torch

from hnlm_ray.recommend import losses
from hnlm_ray.recommend.fused import bpr_with_penalty, mixed_bpr_with_penalty
from hnlm_ray.recommend.samplers import mixgcf


@pytest.mark.parametrize("spread", [0.1, 30.0])
@pytest.mark.parametrize("outer", [1.0, 0.25])
@pytest.mark.parametrize("grade", [None, 0.5])
def test_loss_and_gradients_equal_autograd(spread: float, outer: float, grade: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    final, base = (spread * torch.randn(70, dim, generator=generator) for dim in (16, 4))  # NGCF's are wider
    places = torch.randint(
        70, ((4 if grade else 3) * 50,), generator=generator
    )  # rows are read several times, some never
    reg, scale = 1e-3, 1 / 50
    ours = [final.clone().requires_grad_(), base.clone().requires_grad_()]
    loss = bpr_with_penalty(ours[0], ours[1], places.numpy(), reg, scale, grade)
    (outer * loss).backward()  # type: ignore[no-untyped-call]

    plain = [final.double().requires_grad_(), base.double().requires_grad_()]
    user, positive, negative, *false = plain[0][places].split(50)
    penalty = losses.layer0_penalty(*plain[1][places].split(50)[:3])
    expected = scale * (losses.bpr(user, positive, negative) + reg * penalty).sum()
    if grade is not None:
        expected = expected + scale * grade * losses.bpr(user, false[0], negative).sum()
    (outer * expected).backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for own, reference in zip(ours, plain, strict=True):
        assert own.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(own.grad.double(), reference.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("spread", [0.1, 10.0])
@pytest.mark.parametrize("outer", [1.0, 0.25])
def test_mixed_negatives_equal_autograd(spread: float, outer: float) -> None:
    generator = torch.Generator().manual_seed(0)
    num_layers, size, reg, scale = 3, 50, 1e-2, 1 / 50
    layers = spread * torch.randn(num_layers, 70, 16, generator=generator)
    places = torch.randint(70, ((2 + num_layers) * size,), generator=generator)
    beta = torch.rand(num_layers, size, generator=generator)
    ours = layers.clone().requires_grad_()
    loss = mixed_bpr_with_penalty(ours, places.numpy(), beta, reg, scale)
    (outer * loss).backward()  # type: ignore[no-untyped-call]

    plain = layers.double().requires_grad_()
    user, positive, *negatives = plain[:, places].split(size, dim=1)
    chosen = torch.stack([of_layer[layer] for layer, of_layer in enumerate(negatives)])
    mixed = mixgcf.mix(positive, chosen, beta)
    penalty = losses.layer0_penalty(user[0], positive[0], mixed[0])
    expected = scale * (losses.bpr(user.mean(0), positive.mean(0), mixed.mean(0)) + reg * penalty).sum()
    (outer * expected).backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert ours.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-4, atol=1e-6 * spread)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    final = torch.tensor([[100.0], [100.0], [-100.0], [100.0], [-100.0], [100.0]])  # users, positives, negatives
    final = final[[0, 1, 3, 2, 4, 5]].requires_grad_()
    loss = bpr_with_penalty(final, torch.zeros(6, 1), np.arange(6), 0.0, 1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert final.grad is not None
    assert torch.isfinite(final.grad).all()
    assert final.grad.abs().max() > 1
