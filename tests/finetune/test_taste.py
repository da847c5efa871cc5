"""The projection learnt from behaviour: text that says what a user would take."""

import numpy as np
import torch

from hnlm_ray.finetune.config import TasteConfig
from hnlm_ray.finetune.taste import fit_taste
from hnlm_ray.recommend.interactions import UserItems

NUM_USERS, NUM_ITEMS, NUM_TASTES = 300, 120, 6


def world() -> tuple[np.ndarray, UserItems, np.ndarray]:
    """Item vectors in which taste is a whisper and style, which nobody cares about, is loud; one item has no text."""
    rng = np.random.default_rng(0)
    taste = rng.integers(NUM_TASTES, size=NUM_ITEMS)
    style = rng.normal(0, 1, (NUM_ITEMS, 8))
    vectors = np.concatenate([0.4 * np.eye(NUM_TASTES)[taste], style], axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[7] = 0
    users = np.repeat(np.arange(NUM_USERS), 5)
    items = np.concatenate([rng.choice(np.flatnonzero(taste == user % NUM_TASTES), 5) for user in range(NUM_USERS)])
    return vectors.astype(np.float32), UserItems.from_pairs(users, items, NUM_USERS, NUM_ITEMS), taste


def same_taste_gap(vectors: np.ndarray, taste: np.ndarray) -> float:
    similarity = vectors @ vectors.T
    same = taste[:, None] == taste[None, :]
    off = ~np.eye(len(taste), dtype=bool)
    return float(similarity[same & off].mean() - similarity[~same].mean())


def test_items_of_one_taste_come_together() -> None:
    vectors, train, taste = world()
    learnt = fit_taste(vectors, train, TasteConfig(epochs=20, batch_size=128), seed=0)
    assert same_taste_gap(learnt, taste) > 3 * same_taste_gap(vectors, taste)
    np.testing.assert_allclose(np.linalg.norm(np.delete(learnt, 7, 0), axis=1), 1, rtol=1e-5)
    assert not learnt[7].any()


def test_behaviour_without_pattern_teaches_little() -> None:
    vectors, _, taste = world()
    rng = np.random.default_rng(1)
    pairs = rng.integers(NUM_USERS, size=1500), rng.integers(NUM_ITEMS, size=1500)
    random = UserItems.from_pairs(*pairs, NUM_USERS, NUM_ITEMS)
    learnt = fit_taste(vectors, random, TasteConfig(epochs=20, batch_size=128), seed=0)
    assert same_taste_gap(learnt, taste) < 1.5 * same_taste_gap(vectors, taste)


def test_no_epochs_leave_the_vectors_and_the_seed_decides() -> None:
    vectors, train, _ = world()
    np.testing.assert_allclose(fit_taste(vectors, train, TasteConfig(epochs=0), seed=0), vectors, atol=1e-6)
    config = TasteConfig(epochs=2, batch_size=128)
    torch.manual_seed(5)
    first = fit_taste(vectors, train, config, seed=3)
    np.testing.assert_array_equal(first, fit_taste(vectors, train, config, seed=3))


def test_users_with_one_item_are_nothing_to_learn_from() -> None:
    vectors, _, _ = world()
    lonely = UserItems.from_pairs(np.arange(50), np.arange(50), NUM_USERS, NUM_ITEMS)
    np.testing.assert_allclose(fit_taste(vectors, lonely, TasteConfig(), seed=0), vectors, atol=1e-6)
