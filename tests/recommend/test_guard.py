"""`guarded`: what text says against a candidate, and what the controls leave of it."""

from typing import Any

import numpy as np
import pytest
import torch

from hnlm_ray.recommend.config import Control, TrainConfig
from hnlm_ray.recommend.fitting import LlmNegatives, build_trainer
from hnlm_ray.recommend.guard import Guard, guard_by_behaviour, guard_by_text
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.samplers.base import Batch
from hnlm_ray.recommend.text_sides import text_of_items

NUM_USERS, NUM_ITEMS = 30, 40


def shop() -> tuple[Interactions, np.ndarray]:
    """Users take items of their own half of the catalogue; text says which half an item belongs to."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(NUM_USERS), 6)
    items = np.concatenate([rng.choice(20, 6, replace=False) + 20 * (user % 2) for user in range(NUM_USERS)])
    text = np.zeros((NUM_ITEMS, 2), np.float32)
    text[:20, 0] = text[20:, 1] = 1
    text += rng.normal(0, 0.05, text.shape).astype(np.float32)
    return Interactions.from_arrays((users, items), NUM_USERS, NUM_ITEMS), text


def text_guard(text: np.ndarray, data: Interactions, weight: float, control: Control = "none") -> Guard:
    return guard_by_text(text_of_items(text, data, control, 0), data.train, weight)


def trainer(data: Interactions, guard: Guard, **train: Any) -> Any:
    config = {"sampler": {"kind": "dns", "num_candidates": 8}, "dim": 8, **train, "hnlm": {"variant": "guarded"}}
    return build_trainer(data, TrainConfig.model_validate(config), 0, LlmNegatives(guard=guard))


def batch_of(data: Interactions) -> Batch:
    pairs = np.arange(data.num_pairs)
    return Batch(pairs, data.user_ids, data.item_ids, 0, 0, len(pairs))


def of_everything(guard: Guard) -> np.ndarray:
    """What every item loses for every user."""
    return guard.of_candidates(np.arange(NUM_USERS), np.tile(np.arange(NUM_ITEMS, dtype=np.int32), (NUM_USERS, 1)))


def share_of_own_half(data: Interactions, negatives: np.ndarray) -> float:
    return float((negatives // 20 == data.user_ids % 2).mean())


def test_a_row_is_standardised_and_items_without_text_are_left_alone() -> None:
    vectors = np.array([[1, 0], [1, 0], [0.5, 0], [-1, 0], [0, 0]], np.float32)  # one user, four items
    lost = Guard(vectors, 1, weight=2.0).of_candidates(np.array([0]), np.array([[0, 1, 2, 3]]))[0]
    similarity = np.array([1, 0.5, -1])
    np.testing.assert_allclose(lost[:3], 2 * (similarity - similarity.mean()) / similarity.std(), rtol=1e-5)
    assert lost[3] == 0


def test_text_turns_the_choice_away_from_what_the_user_takes() -> None:
    data, text = shop()
    shares = {}
    for weight in (0.0, 5.0):
        sampler = trainer(data, text_guard(text, data, weight)).objective.sampler
        emb = torch.randn(NUM_USERS + NUM_ITEMS, 8, generator=torch.Generator().manual_seed(1))
        shares[weight] = share_of_own_half(data, sampler.sample(batch_of(data), emb))
    assert shares[0.0] > 0.25
    assert shares[5.0] < 0.05


@pytest.mark.parametrize("control", ["gaussian", "shuffled"])
def test_controls_take_the_meaning_out_of_the_text(control: Control) -> None:
    data, text = shop()
    real, fake = (text_guard(text, data, 1.0, name) for name in ("none", control))
    own = np.arange(NUM_ITEMS)[None, :] // 20 == np.arange(NUM_USERS)[:, None] % 2
    seen = np.zeros_like(own)
    seen[data.user_ids, data.item_ids] = True
    gaps = [_gap(guard, own & ~seen, ~own) for guard in (real, fake)]
    assert gaps[0] > 1.5
    assert abs(gaps[1]) < 0.5


def _gap(guard: Guard, own: np.ndarray, other: np.ndarray) -> float:
    """How much more the user's own half is spoken against than the other half."""
    lost = of_everything(guard)
    return float(lost[own].mean() - lost[other].mean())


def test_popularity_matched_swaps_items_of_like_popularity() -> None:
    data, _ = shop()
    marks = np.eye(NUM_ITEMS, dtype=np.float32)
    swapped = text_guard(marks, data, 1.0, "popularity-matched").vectors[NUM_USERS:].argmax(1)
    assert sorted(swapped) == list(range(NUM_ITEMS))
    assert (swapped != np.arange(NUM_ITEMS)).all()
    order = np.argsort(data.train.item_counts, kind="stable")
    place = np.argsort(order)
    assert (place[swapped] // 20 == place // 20).all()


def test_window_only_speaks_by_the_signal() -> None:
    rng = np.random.default_rng(0)
    user_emb, item_emb = rng.standard_normal((NUM_USERS, 4)), rng.standard_normal((NUM_ITEMS, 4))
    guard = guard_by_behaviour(user_emb.astype(np.float32), item_emb.astype(np.float32), 1.0)
    lost = of_everything(guard)
    scores = user_emb @ item_emb.T
    assert (lost.argmax(1) == scores.argmax(1)).all()


def test_training_reads_the_guard() -> None:
    data, text = shop()
    losses = []
    for control in ("none", "shuffled"):
        run = trainer(data, text_guard(text, data, 3.0, control), epochs=2)
        run.fit()
        losses.append(run.state.history[-1]["loss"])
    assert losses[0] != losses[1]


def test_a_sampler_without_a_choice_is_refused() -> None:
    data, text = shop()
    guard = text_guard(text, data, 1.0)
    for kind in ("rns", "mixgcf"):
        with pytest.raises(ValueError, match="dns, dns_mn, ahns"):
            trainer(data, guard, sampler={"kind": kind})
