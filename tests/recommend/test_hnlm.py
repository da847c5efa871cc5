"""LLM negatives reach the recommender: vectors, pools, windows, controls."""

from typing import Any

import numpy as np
import pytest
import torch
from board_data import write_embeddings
from pydantic import ValidationError

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.alignment import ALIGNMENTS
from hnlm_ray.recommend.config import HnlmConfig, TrainConfig
from hnlm_ray.recommend.fitting import LlmNegatives, build_trainer, summary_of
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import load_llm_negatives
from hnlm_ray.recommend.pair_vectors import from_arrays, load_pair_vectors
from hnlm_ray.recommend.pool import (
    Pool,
    in_window,
    pool_from_vectors,
    popularity_matched_pool,
    random_pool,
    score_percentiles,
)
from hnlm_ray.recommend.samplers.base import Batch
from hnlm_ray.recommend.trainer import Trainer
from hnlm_ray.store import Folder

SMALL = {"dim": 8, "num_layers": 2, "batch_size": 64, "epochs": 2, "lr": 0.03, "eval_every": 1}


def config(hnlm: dict[str, Any], **values: Any) -> TrainConfig:
    return TrainConfig.model_validate({**SMALL, **values, "hnlm": hnlm})


def make(board: Interactions, artifacts: dict[str, str], hnlm: dict[str, Any], **values: Any) -> Trainer:
    settings = config(hnlm, **values)
    return build_trainer(board, settings, 0, load_llm_negatives(artifacts, board, settings, 0))


def loss_of(trainer: Trainer) -> float:
    pair_ids = np.arange(64)
    data = trainer.interactions
    return float(
        trainer.objective(Batch(pair_ids, data.user_ids[pair_ids], data.item_ids[pair_ids], 0, 0, 64)).detach()
    )


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_z_reaches_the_loss_and_the_alignment_learns(
    alignment: str, board: Interactions, artifacts: dict[str, str]
) -> None:
    hnlm = {
        "alignment": alignment,
        "alpha": 0.3,
        "lambda_cl": 0.1,
        "num_hard_negatives": 3 if alignment == "attention" else 1,
    }
    trainer = make(board, artifacts, hnlm)
    vectors = trainer.objective.aligned.vectors if trainer.objective.aligned else None
    assert vectors is not None
    before = loss_of(trainer)
    vectors.vectors[:] = -vectors.vectors
    assert abs(loss_of(trainer) - before) > 1e-4
    assert trainer.objective.alignment is not None
    initial = {name: weight.clone() for name, weight in trainer.objective.alignment.named_parameters()}
    tensors = trainer.fit()
    for name, weight in initial.items():
        if not name.endswith("in_proj_bias"):  # a third of it is the key's bias, which cancels in the softmax
            assert np.abs(tensors[f"alignment.{name}"] - weight.detach().numpy()).min() > 0, name


def test_alpha_and_lambda_zero_are_the_base_recommender(board: Interactions, artifacts: dict[str, str]) -> None:
    base = make(board, artifacts, {"variant": "none"}).fit()
    switched_off = make(board, artifacts, {"alpha": 0.0, "lambda_cl": 0.0}).fit()
    np.testing.assert_allclose(switched_off["item_emb"], base["item_emb"], rtol=1e-6, atol=1e-7)
    only_contrast = make(board, artifacts, {"alpha": 0.0, "lambda_cl": 0.1}).fit()
    assert np.abs(only_contrast["item_emb"] - base["item_emb"]).max() > 1e-4


def test_pairs_without_a_vector_are_trained_as_by_the_base_sampler(board: Interactions) -> None:
    vectors = from_arrays(np.ones((1, 4), np.float16), np.full(board.num_pairs, -1, np.int32), board)
    trainer = build_trainer(board, config({"alpha": 0.5, "lambda_cl": 0.5}), 0, LlmNegatives(vectors=vectors))
    base = build_trainer(board, config({"variant": "none"}), 0)
    np.testing.assert_allclose(trainer.fit()["item_emb"], base.fit()["item_emb"], rtol=1e-6, atol=1e-7)
    assert summary_of(trainer)["num_missing_negatives"] == board.num_pairs


def test_vectors_are_found_by_pair_in_any_order(board: Interactions, folder: Folder) -> None:
    write_embeddings(folder, board, share=0.5)
    vectors = load_pair_vectors(folder, board, "none", 0)
    table = folder.read_table("pairs")
    z = np.stack(table["z"].to_numpy(zero_copy_only=False)).astype(np.float32)
    by_pair = {
        pair: z[row]
        for row, pair in enumerate(zip(*(table[c].to_pylist() for c in ("user_id", "item_id")), strict=True))
    }
    read, present = vectors.read(np.arange(board.num_pairs))
    assert int(present.sum()) == len(by_pair) == board.num_pairs - vectors.num_missing
    for pair_id, pair in enumerate(zip(board.user_ids.tolist(), board.item_ids.tolist(), strict=True)):
        np.testing.assert_array_equal(read[pair_id, 0].numpy(), by_pair.get(pair, np.zeros(12)))
    assert isinstance(vectors.vectors, np.memmap)


def test_further_vectors_of_a_pair_are_the_users_others(board: Interactions, folder: Folder) -> None:
    vectors = load_pair_vectors(write_embeddings(folder, board), board, "none", 0)
    rows = vectors.rows(np.arange(board.num_pairs), 4)
    pair_of_row = np.argsort(vectors.row_of_pair)
    for pair_id, row in enumerate(rows):
        assert row[0] == vectors.row_of_pair[pair_id]
        others = pair_of_row[row[1:][row[1:] >= 0]]
        assert (board.user_ids[others] == board.user_ids[pair_id]).all()
        assert pair_id not in others


def test_controls_replace_what_they_say(board: Interactions, folder: Folder) -> None:
    write_embeddings(folder, board)
    own, noise, shuffled = (
        load_pair_vectors(folder, board, control, 0) for control in ("none", "gaussian", "shuffled")
    )
    pair_ids = np.arange(board.num_pairs)
    z = own.read(pair_ids)[0][:, 0]
    g = noise.read(pair_ids)[0][:, 0]
    torch.testing.assert_close(g.norm(dim=1), z.norm(dim=1), atol=2e-3, rtol=0)
    assert (z * g).sum(1).abs().mean() < 0.5
    assert (shuffled.row_of_pair != own.row_of_pair).all()
    assert sorted(shuffled.row_of_pair) == sorted(own.row_of_pair)


def test_a_frozen_adapter_does_not_move(board: Interactions, artifacts: dict[str, str]) -> None:
    trainer = make(board, artifacts, {"control": "frozen-adapter", "alpha": 0.3, "lambda_cl": 0.1})
    assert trainer.objective.alignment is not None
    initial = {name: weight.clone() for name, weight in trainer.objective.alignment.named_parameters()}
    tensors = trainer.fit()
    for name, weight in initial.items():
        np.testing.assert_array_equal(tensors[f"alignment.{name}"], weight.numpy())


def test_a_control_needs_the_variant_that_it_controls() -> None:
    with pytest.raises(ValueError, match="needs variant 'aligned' or 'guarded'"):
        HnlmConfig(variant="grounded", control="gaussian")
    with pytest.raises(ValueError, match="popularity-matched"):
        HnlmConfig(variant="aligned", control="popularity-matched")
    with pytest.raises(ValueError, match="0 <= lo < hi <= 1"):
        HnlmConfig(window=(0.9, 0.5))


def test_the_pool_holds_the_nearest_unseen_items(board: Interactions, folder: Folder) -> None:
    vectors = load_pair_vectors(write_embeddings(folder, board, share=0.8), board, "none", 0)
    items = folder.read_tensors("items.safetensors")["item_text_emb"]
    pool = pool_from_vectors(vectors, items, board, 4)
    z, present = vectors.read(np.arange(board.num_pairs))
    similarity = z[:, 0].numpy() @ items.T
    for pair_id, user in enumerate(board.user_ids):
        unseen = np.setdiff1d(np.arange(board.num_items), board.train.of(user))
        nearest = unseen[np.argsort(-similarity[pair_id, unseen])][:4]
        expected = nearest.tolist() if present[pair_id, 0] else [-1] * 4
        assert pool.item_ids[pair_id].tolist() == expected
    assert pool.num_empty == vectors.num_missing


def test_the_window_keeps_items_between_the_percentiles(board: Interactions) -> None:
    rng = np.random.default_rng(0)
    user_emb, item_emb = (
        rng.standard_normal((24, 3)).astype(np.float32),
        rng.standard_normal((20, 3)).astype(np.float32),
    )
    scores = user_emb @ item_emb.T
    np.testing.assert_allclose(
        score_percentiles(user_emb, item_emb, (0.0, 1.0)), np.stack([scores.min(1), scores.max(1)], 1)
    )
    everything = Pool(
        np.tile(np.arange(20, dtype=np.int32), (board.num_pairs, 1)), np.full(board.num_pairs, 20, np.int32)
    )
    kept = in_window(everything, board, user_emb, item_emb, (0.5, 0.9))
    for pair_id, user in enumerate(board.user_ids):
        ranked = np.argsort(scores[user])
        assert set(kept.item_ids[pair_id, : kept.counts[pair_id]]) == set(ranked[round(0.5 * 19) : round(0.9 * 19) + 1])
        assert (kept.item_ids[pair_id, kept.counts[pair_id] :] == -1).all()


def test_pool_controls_have_no_text_in_them(board: Interactions, folder: Folder) -> None:
    vectors = load_pair_vectors(write_embeddings(folder, board), board, "none", 0)
    pool = pool_from_vectors(vectors, folder.read_tensors("items.safetensors")["item_text_emb"], board, 6)
    other = Pool(np.roll(pool.item_ids, 1, axis=0), pool.counts)
    np.testing.assert_array_equal(random_pool(board, pool, 0).item_ids, random_pool(board, other, 0).item_ids)
    for control in (random_pool(board, pool, 0), popularity_matched_pool(board, pool, 0)):
        for pair_id, user in enumerate(board.user_ids):
            assert not set(control.item_ids[pair_id, : control.counts[pair_id]]) & set(board.train.of(user))
    assert (popularity_matched_pool(board, pool, 0).item_ids != pool.item_ids).any()


@pytest.mark.parametrize("kind", ["rns", "pns", "dns", "dns_mn", "ahns", "mixgcf"])
@pytest.mark.parametrize("variant", ["aligned", "grounded", "hybrid"])
def test_every_variant_runs_over_every_sampler(
    kind: str, variant: str, board: Interactions, artifacts: dict[str, str]
) -> None:
    hnlm = {"variant": variant, "window": [0, 1], "refresh_every": 1 if variant != "aligned" else 0}
    if variant == "hybrid" and kind in ("rns", "pns"):
        with pytest.raises(ValidationError, match="hardest of several"):
            make(board, artifacts, hnlm, sampler={"kind": kind})
        return
    tensors = make(board, artifacts, hnlm, sampler={"kind": kind, "num_candidates": 4}).fit()
    base = make(board, artifacts, {"variant": "none"}, sampler={"kind": kind, "num_candidates": 4}).fit()
    assert np.isfinite(tensors["item_emb"]).all()
    assert np.abs(tensors["item_emb"] - base["item_emb"]).max() > 1e-6


def test_refresh_scores_the_windows_anew(board: Interactions, artifacts: dict[str, str]) -> None:
    pools = []
    for refresh_every in (0, 1):
        hnlm = {"variant": "grounded", "window": [0.3, 0.7], "refresh_every": refresh_every}
        trainer = make(board, artifacts, hnlm)
        trainer.fit()
        pools.append(np.array(trainer.pool_draw.pool.item_ids if trainer.pool_draw else []))
    assert (pools[0] != pools[1]).any()


def test_vectors_of_other_data_are_refused(board: Interactions, folder: Folder) -> None:
    write_embeddings(folder, board)
    other = Interactions.from_arrays((board.user_ids + 100, board.item_ids), 200, 20)
    with pytest.raises(UserError, match="other data"):
        load_pair_vectors(folder, other, "none", 0)
    with pytest.raises(UserError, match="is empty"):
        load_pair_vectors(folder.child("nothing"), board, "none", 0)
