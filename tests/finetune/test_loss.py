"""L_SFT and InfoNCE against values computed by hand."""

import math

import pytest
import torch

from hnlm_ray.finetune.loss import infonce_loss, pairwise_loss, triplet_loss

Q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
P = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
N = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
TAU = 0.5


def test_pairwise_by_hand() -> None:
    # cos(q, p) = .8, .8; cos(q_a, n_b) = [[.6, 1], [.8, 0]]
    differences = [(0.8 - 0.6), (0.8 - 1.0), (0.8 - 0.8), (0.8 - 0.0)]
    expected = sum(math.log(1 + math.exp(-difference / TAU)) for difference in differences) / 4
    assert pairwise_loss(Q, P, N, TAU).item() == pytest.approx(expected, rel=1e-6)


def test_infonce_by_hand() -> None:
    # a=0: p 0.8 against other p 0.6 and n 0.6, 1.0; a=1: p 0.8 against other p 0.6 and n 0.8, 0.0
    rows = [(0.8, [0.6, 0.6, 1.0]), (0.8, [0.6, 0.8, 0.0])]
    expected = 0.0
    for own, others in rows:
        total = sum(math.exp(value / TAU) for value in [own, *others])
        expected -= math.log(math.exp(own / TAU) / total) / 2
    ids = torch.tensor([10, 11, 20, 21])
    loss = infonce_loss(Q, P, torch.cat([P, N]), ids[:2], ids, TAU)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_infonce_leaves_out_the_target_itself_wherever_it_occurs() -> None:
    # p_0 is also n of the second triplet: it must not be pushed away and pulled near at the same time
    p_ids, n_ids = torch.tensor([10, 11]), torch.tensor([20, 10])
    loss = triplet_loss("infonce", Q, P, torch.stack([N[0], P[0]]), p_ids, n_ids, TAU, over_ranks=False)
    first = math.exp(0.8 / TAU) / sum(math.exp(value / TAU) for value in (0.8, 0.6, 0.6))
    second = math.exp(0.8 / TAU) / sum(math.exp(value / TAU) for value in (0.8, 0.6, 0.8, 0.6))
    assert loss.item() == pytest.approx(-(math.log(first) + math.log(second)) / 2, rel=1e-6)


def test_pairwise_gradient_by_finite_differences() -> None:
    q, p, n = (value.double().clone().requires_grad_() for value in (Q, P, N))
    assert torch.autograd.gradcheck(lambda *v: pairwise_loss(*v, TAU), (q, p, n))


def test_a_perfect_query_has_less_loss_than_a_reversed_one() -> None:
    assert pairwise_loss(P, P, N, TAU) < pairwise_loss(N, P, N, TAU)
