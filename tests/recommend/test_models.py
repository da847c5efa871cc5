"""One suite over every model, sampler and loss on a checkerboard, whose right answer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from board_data import board_text

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.config import FitConfig, TrainConfig
from hnlm_ray.recommend.ease import LinearScorer, solve_ease
from hnlm_ray.recommend.fitting import build_trainer
from hnlm_ray.recommend.interactions import Interactions, UserItems
from hnlm_ray.recommend.losses import info_nce
from hnlm_ray.recommend.models import MODELS
from hnlm_ray.recommend.ranking import EmbeddingScorer, Scorer, evaluate
from hnlm_ray.recommend.trainer import NonFiniteLossError, Trainer

SMALL = {"dim": 16, "num_layers": 2, "batch_size": 64, "epochs": 20, "lr": 0.03, "eval_every": 5}


def make(board: Interactions, seed: int = 0, **config: Any) -> Trainer:
    values = {**SMALL, "hnlm": {"variant": "none"}, **config}
    return build_trainer(board, TrainConfig.model_validate(values), seed, text=board_text(board))


def recall(board: Interactions, scorer: Scorer) -> float:
    return evaluate(scorer, board.train.union(board.valid), board.test, (5,), 8).mean()["recall@5"]


def scorer_of(tensors: dict[str, np.ndarray]) -> Scorer:
    return EmbeddingScorer(torch.from_numpy(tensors["user_emb"]), torch.from_numpy(tensors["item_emb"]))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_who_likes_what(model: str, board: Interactions) -> None:
    trainer = make(board, model=model)
    assert recall(board, scorer_of(trainer.fit())) >= 0.9  # at random: 5 of 12 items are not masked
    assert trainer.state.history[-1]["loss"] < trainer.state.history[0]["loss"]


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_embeddings(model: str, board: Interactions) -> None:
    first, again, other = (make(board, seed, model=model, epochs=2).fit()["item_emb"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_rows_equal_all_nodes_where_nothing_is_perturbed(model: str, board: Interactions) -> None:
    backbone = make(board, model=model, ssl={"noise": 0.0}, rival={"mask_share": 0.0}).objective.backbone
    backbone.begin_step(0, 0)
    rows = torch.tensor([0, 5, 30, 5])
    torch.testing.assert_close(backbone.rows(rows).final.detach(), backbone.all()[rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["pns", "dns", "dns_mn", "ahns", "mixgcf"])
def test_every_sampler_trains(kind: str, board: Interactions) -> None:
    assert recall(board, scorer_of(make(board, sampler={"kind": kind, "num_candidates": 4}).fit())) >= 0.9


@pytest.mark.parametrize("kind", ["margin", "softmax", "infonce", "directau"])
def test_every_loss_trains(kind: str, board: Interactions) -> None:
    trainer = make(board, loss={"kind": kind, "num_shared_negatives": 16})
    assert recall(board, scorer_of(trainer.fit())) >= 0.9


def test_mixgcf_trains_with_shared_negatives(board: Interactions) -> None:
    loss = {"kind": "softmax", "num_shared_negatives": 16}
    trainer = make(board, loss=loss, sampler={"kind": "mixgcf", "num_candidates": 4})
    assert recall(board, scorer_of(trainer.fit())) >= 0.9


@pytest.mark.parametrize("config", [{"loss": {"kind": "directau"}}, {"model": "simgcl"}, {"loss": {"kind": "infonce"}}])
def test_a_last_batch_of_one_pair_is_no_trouble(config: dict[str, Any], board: Interactions) -> None:
    trainer = make(board, batch_size=board.num_pairs - 1, epochs=2, **config)
    assert np.isfinite(trainer.fit()["item_emb"]).all()


def test_nothing_is_contrasted_where_a_rank_has_no_pair() -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    loss = info_nce(nothing, nothing, 0.2)
    assert loss.item() == 0.0
    loss.backward()
    assert nothing.grad is not None


def test_simgcl_needs_a_layer(board: Interactions) -> None:
    with pytest.raises(UserError, match="set at least 1"):
        make(board, model="simgcl", num_layers=0)


def test_bf16_is_refused_without_deepspeed(board: Interactions) -> None:
    with pytest.raises(UserError, match="set precision=fp32"):
        make(board, precision="bf16")


@pytest.mark.parametrize("model", ["mf", "ngcf", "simgcl", "xsimgcl", "alpharec"])
def test_mixgcf_says_which_models_it_does_not_fit(model: str, board: Interactions) -> None:
    with pytest.raises(UserError, match="mixgcf"):
        make(board, model=model, sampler={"kind": "mixgcf"})


def test_ease_is_the_ridge_solution(board: Interactions) -> None:
    weights = solve_ease(board.train, 10.0)
    x = np.zeros((board.num_users, board.num_items))
    x[board.train.user_ids, board.train.item_ids] = 1
    for item in range(board.num_items):  # each column minimises |x_i - X b|^2 + ridge |b|^2 with b_i = 0
        others = np.delete(np.arange(board.num_items), item)
        gram = x[:, others].T @ x[:, others] + 10 * np.eye(len(others))
        np.testing.assert_allclose(weights[others, item], np.linalg.solve(gram, x[:, others].T @ x[:, item]), atol=1e-5)
    assert recall(board, LinearScorer(board.train, weights)) == 1.0


def test_an_unknown_model_is_named_with_the_nearest(board: Interactions) -> None:
    with pytest.raises(UserError, match="did you mean 'lightgcn'"):
        make(board, model="lightgnc")
    with pytest.raises(UserError, match="cannot be imported"):
        make(board, model="hnlm_ray.nothing.Model")


def test_a_dotted_path_is_a_model(board: Interactions) -> None:
    assert recall(board, scorer_of(make(board, model=MODELS["mf"]).fit())) >= 0.9


def test_early_stopping_keeps_the_best_epoch(board: Interactions) -> None:
    trainer = make(board, epochs=200, eval_every=1, patience=2)
    tensors = trainer.fit()
    assert trainer.state.epoch < 200
    assert trainer.state.epoch == trainer.state.best_epoch + 2
    valid = evaluate(scorer_of(tensors), board.train, board.valid, (20,), 8).mean()["ndcg@20"]
    assert valid == pytest.approx(trainer.state.best_metric)
    assert max(entry["valid"]["ndcg@20"] for entry in trainer.state.history) == trainer.state.best_metric


def test_a_loss_that_is_not_finite_stops_the_training(board: Interactions) -> None:
    trainer = make(board)
    with torch.no_grad():
        trainer.objective.backbone.emb[3] = torch.nan
    with pytest.raises(NonFiniteLossError, match="epoch 1, step"):
        trainer.fit()


def test_a_user_with_every_item_is_left_out(board: Interactions) -> None:
    users = np.concatenate([np.zeros(20, np.int32), board.user_ids[board.user_ids > 0]])
    items = np.concatenate([np.arange(20, dtype=np.int32), board.item_ids[board.user_ids > 0]])
    full = Interactions.from_arrays((users, items), 24, 20)
    trainer = build_trainer(full, FitConfig.model_validate({**SMALL, "epochs": 1}), 0)
    trainer.fit()
    assert len(trainer.pair_ids) == full.num_pairs - 20


def test_a_catalogue_too_large_for_ease_is_refused_with_the_numbers() -> None:
    many = UserItems.from_pairs(np.array([0]), np.array([0]), 1, 1_000_000)
    with pytest.raises(UserError, match=r"1,000,000 items needs 12,000 GB .* train.hnlm.behaviour=signal"):
        solve_ease(many, 10.0)
