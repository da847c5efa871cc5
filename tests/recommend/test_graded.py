"""`graded`: which items count as likely false negatives, and where the loss puts them."""

from typing import Any

import numpy as np
import pytest
import torch
from test_guard import NUM_ITEMS, NUM_USERS, batch_of, shop

from hnlm_ray.recommend.config import TrainConfig
from hnlm_ray.recommend.ease import solve_ease
from hnlm_ray.recommend.fitting import LlmNegatives, build_trainer
from hnlm_ray.recommend.graded import FalseNegatives
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import load_llm_negatives
from hnlm_ray.recommend.text_match import NearestText
from hnlm_ray.recommend.text_sides import standardised, text_of_items
from hnlm_ray.recommend.trainer import Trainer
from hnlm_ray.store import Folder

RNG = np.random.default_rng(3)
USER_EMB, ITEM_EMB = (RNG.standard_normal((count, 8)).astype(np.float32) for count in (NUM_USERS, NUM_ITEMS))


def not_chosen(data: Interactions, text: np.ndarray | None, **settings: Any) -> FalseNegatives:
    defaults = {
        "text_weight": 100.0,
        "popularity_discount": 0.0,
        "num_per_user": 5,
        "tau": 1.0,
        "weight": 0.5,
        "seed": 0,
    }
    match = None if text is None else NearestText(text_of_items(text, data, "none", 0), data.train)
    return FalseNegatives(data, match, **(defaults | settings))


def found(data: Interactions, text: np.ndarray | None, **settings: Any) -> FalseNegatives:
    false_negatives = not_chosen(data, text, **settings)
    false_negatives.choose_by_model(USER_EMB, ITEM_EMB)
    return false_negatives


def trainer(data: Interactions, false_negatives: FalseNegatives, **train: Any) -> Trainer:
    base = {"sampler": {"kind": "dns", "num_candidates": 8}, "dim": 8, "reg": 0.0, "hnlm": {"variant": "graded"}}
    config = TrainConfig.model_validate(base | train)
    return build_trainer(data, config, 0, LlmNegatives(false_negatives=false_negatives))


def own_half(item_ids: np.ndarray) -> np.ndarray:
    return item_ids // 20 == np.arange(NUM_USERS)[:, None] % 2


def test_text_names_unseen_items_that_the_user_would_take() -> None:
    data, text = shop()
    item_ids = found(data, text).item_ids
    assert own_half(item_ids).all()
    seen = set(zip(data.user_ids.tolist(), data.item_ids.tolist(), strict=True))
    assert not seen & {(user, item) for user, row in enumerate(item_ids.tolist()) for item in row}
    assert all(len(set(row)) == 5 for row in item_ids.tolist())


def test_without_text_behaviour_decides() -> None:
    data, text = shop()
    alone = found(data, None).item_ids
    scores = USER_EMB @ ITEM_EMB.T
    scores[data.user_ids, data.item_ids] = -np.inf
    np.testing.assert_array_equal(np.sort(alone), np.sort(np.argsort(-scores, axis=1)[:, :5]))
    np.testing.assert_array_equal(found(data, text, text_weight=0.0).item_ids, alone)


def test_popularity_is_discounted() -> None:
    """Per e-fold of 1 + n as many standard deviations as asked, so that at last rarity alone decides."""
    data, _ = shop()
    scores = USER_EMB @ ITEM_EMB.T
    scores = (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)
    scores -= 2 * np.log1p(np.bincount(data.item_ids, minlength=NUM_ITEMS))
    scores[data.user_ids, data.item_ids] = -np.inf
    discounted = found(data, None, popularity_discount=2.0).item_ids
    np.testing.assert_array_equal(discounted, np.argsort(-scores, axis=1)[:, :5])
    rarest = found(data, None, popularity_discount=1e4, num_per_user=1).item_ids[:, 0]
    unseen = np.where(np.isfinite(scores), data.train.item_counts, NUM_USERS)
    np.testing.assert_array_equal(data.train.item_counts[rarest], unseen.min(axis=1))


def test_an_item_without_text_is_judged_by_behaviour() -> None:
    data, text = shop()
    text[7] = 0
    user = next(user for user in range(1, NUM_USERS, 2) if 7 not in data.train.of(user))
    emb = USER_EMB.copy()
    emb[user] = 50 * ITEM_EMB[7]
    false_negatives = not_chosen(data, text, text_weight=0.5, num_per_user=1)
    false_negatives.choose_by_model(emb, ITEM_EMB)
    assert false_negatives.item_ids[user, 0] == 7


def test_a_user_who_has_nearly_everything_draws_the_positive_where_none_is_left() -> None:
    items = np.tile(np.arange(4), 2)[:7]
    data = Interactions.from_arrays((np.repeat([0, 1], 4)[:7], items), 2, 4)
    false_negatives = not_chosen(data, None, num_per_user=3)
    false_negatives.choose_by_model(USER_EMB[:2], ITEM_EMB[:4])
    assert (false_negatives.item_ids[0] == -1).all()
    assert false_negatives.item_ids[1].tolist() == [3, -1, -1]
    drawn = false_negatives.draw(batch_of(data))
    assert (drawn[:4] == data.item_ids[:4]).all()
    assert set(drawn[4:].tolist()) <= {3, *data.item_ids[4:].tolist()}


@pytest.mark.parametrize("tau", [0.5, 1e6])
def test_the_surer_one_is_drawn_more_often(tau: float) -> None:
    data = Interactions.from_arrays((np.zeros(20_000, int), np.arange(20_000)), 1, 20_003)
    false_negatives = not_chosen(data, None, num_per_user=3, tau=tau)
    item_emb = np.linspace(0, 1, 20_003, dtype=np.float32)[:, None]
    item_emb[-2:] += [[3.0], [3.3]]
    false_negatives.choose_by_model(np.ones((1, 1), np.float32), item_emb)
    drawn = np.bincount(false_negatives.draw(batch_of(data)) - 20_000, minlength=3) / 20_000
    scores = item_emb[-3:, 0] / item_emb.std()
    chances = np.exp((scores - scores.max()) / tau)
    np.testing.assert_allclose(drawn, chances / chances.sum(), atol=0.015)


@pytest.mark.parametrize("kind", ["bpr", "margin", "softmax"])
def test_the_loss_ranks_them_above_the_negative(kind: str) -> None:
    data, text = shop()
    batch = batch_of(data)
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        run = trainer(data, found(data, text, weight=weight), loss={"kind": kind})
        losses[weight] = float(run.objective(batch).detach())
    assert losses[0.5] > losses[0.0]
    assert losses[1.0] - losses[0.5] == pytest.approx(losses[0.5] - losses[0.0], rel=1e-3)


def test_compiled_and_plain_steps_agree() -> None:
    data, text = shop()
    gradients = []
    for compiled in (True, False):
        run = trainer(data, found(data, text), reg=1e-3)
        run.objective._is_plain_bpr = compiled
        run.objective(batch_of(data)).backward()
        gradients.append([value.grad.clone() for value in run.objective.parameters() if value.grad is not None])
    assert gradients[0]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_training_recommends_more_of_what_text_names_than_the_base_sampler() -> None:
    """Both see the same few interactions; only one is told which half of the catalogue a user likes."""
    data, text = shop()
    few = np.arange(data.num_pairs) % 6 < 2
    data = Interactions.from_arrays((data.user_ids[few], data.item_ids[few]), NUM_USERS, NUM_ITEMS)
    own = own_half(np.arange(NUM_ITEMS)[None, :])
    hits = []
    for weight in (0.0, 1.0):
        tensors = trainer(data, found(data, text, weight=weight), epochs=10, lr=0.02).fit()
        scores = tensors["user_emb"] @ tensors["item_emb"].T
        scores[data.user_ids, data.item_ids] = -np.inf
        top = np.argsort(-scores, axis=1)[:, :5]
        hits.append(float(np.take_along_axis(own, top, axis=1).mean()))
    assert hits[1] > hits[0] + 0.05


def test_refresh_chooses_by_the_current_model() -> None:
    data, _ = shop()
    false_negatives = found(data, None)
    before = false_negatives.item_ids.copy()
    trainer(data, false_negatives, epochs=3, hnlm={"variant": "graded", "refresh_every": 1}).fit()
    assert (false_negatives.item_ids != before).any()


def test_it_stands_beside_mixgcf() -> None:
    data, _ = shop()
    mixed = trainer(data, found(data, None), epochs=2, sampler={"kind": "mixgcf", "num_candidates": 4})
    plain = trainer(data, found(data, None, weight=0.0), epochs=2, sampler={"kind": "mixgcf", "num_candidates": 4})
    tensors = mixed.fit()
    assert np.isfinite(tensors["item_emb"]).all()
    assert np.abs(tensors["item_emb"] - plain.fit()["item_emb"]).max() > 1e-6


@pytest.mark.parametrize("behaviour", ["signal", "ease", "both"])
def test_whose_behaviour(board: Interactions, artifacts: dict[str, str], behaviour: str) -> None:
    hnlm = {"variant": "graded", "control": "window-only", "behaviour": behaviour, "num_false_negatives": 3}
    config = TrainConfig.model_validate({"ease_reg": 10.0, "hnlm": hnlm})
    llm = load_llm_negatives(artifacts, board, config, 0)
    assert llm is not None
    assert llm.false_negatives is not None
    signal = Folder(artifacts["signal"]).read_tensors("embeddings.safetensors")
    by_signal = standardised(signal["user_emb"] @ signal["item_emb"].T)
    by_ease = standardised((board.train.matrix @ solve_ease(board.train, 10.0)).astype(np.float32))
    scores = {"signal": by_signal, "ease": by_ease, "both": by_signal + by_ease}[behaviour]
    scores[board.user_ids, board.item_ids] = -np.inf
    least = np.sort(scores, axis=1)[:, -3]  # items may tie
    chosen = np.take_along_axis(scores, llm.false_negatives.item_ids.astype(np.int64), axis=1)
    assert (chosen >= least[:, None] - 1e-5).all()


@pytest.mark.parametrize("behaviour", ["ease", "both"])
def test_a_behaviour_that_does_not_change_is_not_refreshed(behaviour: str) -> None:
    with pytest.raises(ValueError, match="set refresh_every=0"):
        TrainConfig.model_validate({"hnlm": {"variant": "graded", "behaviour": behaviour, "refresh_every": 5}})


def test_losses_without_sampled_negatives_are_refused() -> None:
    data, text = shop()
    with pytest.raises(ValueError, match="bpr, margin or softmax"):
        trainer(data, found(data, text), loss={"kind": "directau"})
