"""Text of items against what users took: by the nearest, and by all of them less hubness."""

import numpy as np
import pytest

from hnlm_ray.recommend.config import TextMatchKind
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.text_match import NearestText, text_match
from hnlm_ray.recommend.text_sides import text_of_items

KINDS: list[TextMatchKind] = ["nearest", "density"]


def test_the_nearest_of_the_items_that_the_user_took() -> None:
    """Item 0 and 1 are two interests of user 0; 2 is near item 1, 3 lies between the two, 4 and 5 have no text."""
    text = np.array([[1, 0], [0, 1], [0.1, 1], [1, 1], [0, 0], [0, 0]], np.float32)
    data = Interactions.from_arrays((np.array([0, 0, 0, 1]), np.array([0, 1, 4, 5])), 2, 6)
    unit = text_of_items(text, data, "none", 0)
    similarity = NearestText(unit, data.train).scores(np.array([1, 0]))
    assert not similarity[0].any()  # all that user 1 took has no text
    np.testing.assert_allclose(similarity[1, 2:4], [unit[2, 1], np.sqrt(0.5)], rtol=1e-6)
    assert not similarity[1, 4:].any()
    against = Interactions.from_arrays((np.array([0, 0]), np.array([0, 4])), 2, 6)
    apart = NearestText(text_of_items(-text, against, "none", 0), against.train).scores(np.array([0]))
    np.testing.assert_allclose(apart[0, 1:4], [0, unit[2, 0], np.sqrt(0.5)], rtol=1e-6, atol=1e-7)


def random_catalogue() -> tuple[Interactions, np.ndarray]:
    """Some users took more than is compared at a time, and their items spread over several blocks; a fifth has no
    text."""
    rng = np.random.default_rng(5)
    taken = rng.random((9, 700)) < rng.choice([0.01, 0.1, 0.9], (9, 1))
    data = Interactions.from_arrays(np.nonzero(taken), 9, 700)
    return data, text_of_items(rng.standard_normal((700, 4)) * (rng.random((700, 1)) < 0.8), data, "none", 0)


def straightforward(kind: TextMatchKind, vectors: np.ndarray, taken: np.ndarray) -> np.ndarray:
    cosines = vectors.astype(np.float64) @ vectors.T
    told = vectors.any(axis=1)
    if kind == "nearest":
        return cosines[taken[told[taken]]].max(axis=0)
    others = np.where(told & ~np.eye(len(vectors), dtype=bool), cosines, -np.inf)
    hubness = np.sort(others, axis=1)[:, -10:].mean(axis=1)
    hubness[~told] = 0
    kernel = np.exp((cosines - (hubness[:, None] + hubness) / 2) / 0.2)
    np.fill_diagonal(kernel, 0)
    return kernel[taken[told[taken]]].sum(axis=0) * told


@pytest.mark.parametrize("kind", KINDS)
def test_as_defined_whatever_the_blocks(kind: TextMatchKind) -> None:
    data, vectors = random_catalogue()
    user_ids = np.array([8, 0, 3, 4, 1])
    expected = np.stack([straightforward(kind, vectors, data.train.of(user)) for user in user_ids])
    found = text_match(kind, vectors, data.train).scores(user_ids)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_a_text_that_is_near_everything_says_less_and_several_near_ones_say_more() -> None:
    """Ten directions, each with eleven texts, and one text near all; user 0 took two of the first direction."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(10), 11, axis=0) + rng.normal(0, 0.003, (110, 10))
    text = np.concatenate([groups, np.ones((1, 10))]).astype(np.float32)
    data = Interactions.from_arrays((np.array([0, 0, 1]), np.array([0, 1, 20])), 2, 111)
    unit = text_of_items(text, data, "none", 0)
    scores = {kind: text_match(kind, unit, data.train).scores(np.array([0, 1])) for kind in KINDS}
    assert scores["density"][0, 5] == pytest.approx(2 * scores["density"][1, 15], rel=0.05)
    assert scores["nearest"][0, 5] == pytest.approx(scores["nearest"][1, 15], rel=0.05)
    cosine, own = np.sqrt(0.1), 1.0  # the mean text's hubness is the cosine, the others' their own group's
    assert scores["density"][1, 110] == pytest.approx(np.exp((cosine - (cosine + own) / 2) / 0.2), rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_nobody_or_of_one_item(kind: TextMatchKind) -> None:
    data = Interactions.from_arrays((np.array([0]), np.array([0])), 1, 3)
    assert not text_match(kind, np.zeros((3, 2), np.float32), data.train).scores(np.array([0])).any()
    one = np.array([[0, 0], [1, 0], [0, 0]], np.float32)
    assert not text_match(kind, one, data.train).scores(np.array([0])).any()
