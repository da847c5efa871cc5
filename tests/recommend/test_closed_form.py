"""What ranks without the trainer: EASE is tested with the models; here the ranking by text alone."""

import numpy as np
import pytest
from board_data import board_item_text, board_text

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.artifact import RecommenderArtifact
from hnlm_ray.recommend.closed_form import solve
from hnlm_ray.recommend.config import FitConfig
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.recommender import Recommender
from hnlm_ray.recommend.text_vectors import TextVectors

TEXT = FitConfig(model="text")


def test_text_alone_ranks_by_the_cosine_with_the_mean_of_what_was_taken(board: Interactions) -> None:
    items = board_item_text(board)
    tensors = solve(TEXT, board.train, board_text(board))
    scores = RecommenderArtifact(tensors, {}, board.train).scorer().scores(np.array([3])).numpy()[0]
    user = items[board.train.of(3)].mean(0)
    known = items.any(1)
    expected = items[known] @ user / np.linalg.norm(items[known], axis=1) / np.linalg.norm(user)
    np.testing.assert_allclose(scores[known], expected, atol=1e-5)
    assert (scores[~known] == 0).all()


def test_a_user_without_text_has_no_opinion(board: Interactions) -> None:
    nodes = board_text(board).nodes.copy()
    nodes[5] = 0
    tensors = solve(TEXT, board.train, TextVectors(nodes))
    assert not tensors["user_emb"][5].any()
    assert np.isfinite(tensors["user_emb"]).all()


def test_it_serves_as_a_recommender_and_asks_for_texts_where_there_are_none() -> None:
    users, items = ["ann", "ann", "bob"], ["tea", "cup", "axe"]
    text = {"tea": [1, 0], "cup": [0.9, 0.1], "axe": [0, 1], "saw": [0.1, 0.9]}
    vectors = {key: np.array(value, np.float32) for key, value in text.items()}
    model = Recommender.fit([*users, "eve"], [*items, "saw"], TEXT, item_text_emb=vectors)
    assert model.recommend("bob", k=1)[0].tolist() == ["saw"]
    with pytest.raises(UserError, match="give a vector per item"):
        Recommender.fit(users, items, TEXT)
