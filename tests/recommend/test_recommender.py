"""The library interface, with the user's own ids."""

import numpy as np
import pytest
from board_data import board_item_text, checkerboard

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.config import FitConfig, HnlmConfig, TrainConfig
from hnlm_ray.recommend.hard_negatives import HardNegatives
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.pool import Pool, random_pool
from hnlm_ray.recommend.recommender import IdMap, Recommender
from hnlm_ray.store import Folder

CONFIG = FitConfig(dim=16, num_layers=2, batch_size=64, epochs=15, lr=0.03)


def fitted(model: str = "lightgcn") -> Recommender:
    board = checkerboard(held_out=1)
    users, items = [f"u{user}" for user in board.user_ids], board.item_ids * 10
    return Recommender.fit(users, items, CONFIG.model_copy(update={"model": model}))


@pytest.mark.parametrize("model", ["lightgcn", "mf", "ease"])
def test_recommendations_are_unseen_liked_items_in_original_ids(model: str) -> None:
    board, recommender = checkerboard(held_out=1), fitted(model)
    ids, scores = recommender.recommend("u0", k=2)
    assert set(ids.tolist()) == {item * 10 for item in range(0, 20, 2)} - {item * 10 for item in board.train.of(0)}
    assert scores[0] >= scores[1]
    many, _ = recommender.recommend(["u0", "u1"], k=2)
    assert many.shape == (2, 2)
    assert many[0].tolist() == ids.tolist()
    assert (many[1] // 10 % 2 == 1).all()


def test_seen_items_come_back_when_asked_for() -> None:
    seen = {item * 10 for item in checkerboard(held_out=1).train.of(0)}
    ids, _ = fitted().recommend("u0", k=8, filter_seen=False)
    assert len(seen & set(ids.tolist())) >= 6


def test_where_items_run_out_the_row_is_filled_with_nothing() -> None:
    ids, scores = fitted().recommend("u0", k=20)
    assert [key is None for key in ids].count(True) == 8
    assert np.isneginf(scores[-8:]).all()


@pytest.mark.parametrize("model", ["lightgcn", "ease"])
def test_similar_items_are_liked_by_the_same_users(model: str) -> None:
    ids, scores = fitted(model).similar_items(40, k=5)
    assert 40 not in ids
    assert (ids // 10 % 2 == 0).all()
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("model", ["lightgcn", "ease"])
def test_save_and_load_change_nothing(model: str, folder: Folder) -> None:
    recommender = fitted(model)
    recommender.save(folder.uri)
    loaded = Recommender.load(folder.uri)
    for user in ("u0", "u7"):
        before, after = recommender.recommend(user, k=5), loaded.recommend(user, k=5)
        assert [str(key) for key in before[0]] == after[0].tolist()
        np.testing.assert_array_equal(before[1], after[1])
    assert loaded.similar_items(40, k=3)[0].tolist() == loaded.similar_items("40", k=3)[0].tolist()
    assert sorted(folder.names()) == ["config.json", "ids.parquet", "model.safetensors"]


def test_a_model_that_reads_text_takes_vectors_by_item_id() -> None:
    board = checkerboard(held_out=1)
    vectors = {f"i{item}": vector for item, vector in enumerate(board_item_text(board)) if vector.any()}
    none = HnlmConfig(variant="none")
    config = TrainConfig(model="alpharec", dim=16, batch_size=64, epochs=15, lr=0.03, hnlm=none)
    pairs = board.user_ids, [f"i{item}" for item in board.item_ids]
    with pytest.raises(UserError, match="reads texts and none were given"):
        Recommender.fit(*pairs, config)
    recommender = Recommender.fit(*pairs, config, item_text_emb=vectors)
    ids, _ = recommender.recommend(0, k=2)
    assert all(int(item[1:]) % 2 == 0 for item in ids)


def test_unknown_ids_are_named() -> None:
    recommender = fitted()
    with pytest.raises(UserError, match="user nobody is unknown"):
        recommender.recommend(["u0", "nobody"])
    with pytest.raises(UserError, match="item 7 is unknown"):
        recommender.similar_items(7)
    with pytest.raises(UserError, match="holds no recommender"):
        Recommender.load("/nowhere")


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(UserError, match="2 user ids and 1 item ids"):
        Recommender.fit(["a", "b"], ["x"])


def test_a_variant_without_its_negatives_is_refused() -> None:
    with pytest.raises(UserError, match="needs negatives of the LLM stages"):
        Recommender.fit(["a", "a", "b"], ["x", "y", "x"], TrainConfig())


def test_negatives_for_somebody_elses_trainer(board: Interactions) -> None:
    nearest = np.stack([np.setdiff1d(np.arange(20), board.train.of(user))[:2] for user in board.user_ids]).astype(
        np.int32
    )
    counts = np.where(np.arange(board.num_pairs) % 3 == 0, 0, 2).astype(np.int32)
    users, items = IdMap(np.arange(24).astype(str), "user"), IdMap(np.array([f"i{item}" for item in range(20)]), "item")
    negatives = HardNegatives(board, Pool(nearest, counts), users, items)
    asked = board.user_ids[:30].astype(str), [f"i{item}" for item in board.item_ids[:30]]
    drawn = negatives.sample(*asked)
    for row, item in enumerate(drawn):
        index = int(item[1:])
        assert index not in board.train.of(board.user_ids[row])
        if counts[row]:
            assert index in nearest[row]
    assert negatives.num_fallbacks == 10
    assert (negatives.sample(*asked) != drawn).any()


def test_a_user_who_has_everything_has_no_negative() -> None:
    data = Interactions.from_arrays((np.array([0, 0, 1]), np.array([0, 1, 0])), 2, 2)
    pool = Pool(np.full((3, 1), -1, np.int32), np.zeros(3, np.int32))
    users, items = IdMap(np.array(["ann", "bob"]), "user"), IdMap(np.array(["tea", "jam"]), "item")
    negatives = HardNegatives(data, pool, users, items)
    assert negatives.sample(["bob"], ["tea"]).tolist() == ["jam"]
    with pytest.raises(UserError, match="user ann has every item"):
        negatives.sample(["bob", "ann"], ["tea", "jam"])
    drawn = random_pool(data, pool, 0)
    assert drawn.item_ids[2, 0] == 1
