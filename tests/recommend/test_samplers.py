"""Samplers: never a positive, the right distribution, the right choice, and no state but (seed, epoch, pair)."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hnlm_ray.recommend.config import SamplerConfig
from hnlm_ray.recommend.interactions import Interactions, UserItems
from hnlm_ray.recommend.pool import GroundedSampler, HybridProposal, Pool, PoolDraw
from hnlm_ray.recommend.samplers import build_sampler, mixgcf
from hnlm_ray.recommend.samplers.base import Batch, Popularity, Uniform, score_candidates
from hnlm_ray.recommend.samplers.rules import Ahns
from hnlm_ray.recommend.samplers.shared import SharedNegatives

KINDS = ("rns", "pns", "dns", "dns_mn", "mixgcf", "ahns")


def batch_of(data: Interactions, pair_ids: np.ndarray, epoch: int = 0) -> Batch:
    return Batch(pair_ids, data.user_ids[pair_ids], data.item_ids[pair_ids], epoch, 0, len(pair_ids))


def embeddings(data: Interactions) -> torch.Tensor:
    return torch.randn(data.num_users + data.num_items, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_negatives_are_unseen_and_depend_on_the_pair_alone(kind: str, board: Interactions) -> None:
    sampler = build_sampler(SamplerConfig.model_validate({"kind": kind}), board.train, seed=3)
    pair_ids, emb = np.arange(board.num_pairs), embeddings(board)
    whole = sampler.sample(batch_of(board, pair_ids), emb).reshape(board.num_pairs, -1)
    for user, items in zip(board.user_ids, whole, strict=True):
        assert not set(items) & set(board.train.of(user))
    half = sampler.sample(batch_of(board, pair_ids[::-2].copy()), emb)
    np.testing.assert_array_equal(half.reshape(len(half), -1), whole[::-2])
    again = sampler.sample(batch_of(board, pair_ids, epoch=1), emb).reshape(whole.shape)
    assert (again != whole).any()


def test_uniform_is_uniform_over_unseen_items() -> None:
    items = UserItems.from_pairs(np.zeros(3, int), np.array([1, 4, 5]), 1, 10)
    drawn = Uniform(items, seed=0).draw(
        Batch(np.arange(7000), np.zeros(7000, np.int32), np.zeros(7000, np.int32), 0, 0, 1), 4
    )
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert counts[[1, 4, 5]].sum() == 0
    expected = drawn.size / 7
    assert np.abs(counts[[0, 2, 3, 6, 7, 8, 9]] - expected).max() < 4.5 * np.sqrt(expected)


def test_popularity_follows_the_power() -> None:
    users = np.repeat(np.arange(40), 3)
    ids = np.concatenate(
        [np.where(np.arange(40) < 30, 0, 1)[:, None], np.full((40, 1), 2), 3 + np.arange(40)[:, None] % 5], axis=1
    )
    items = UserItems.from_pairs(users, ids.ravel(), 41, 8)  # user 40 has nothing
    batch = Batch(np.arange(20_000), np.full(20_000, 40, np.int32), np.zeros(20_000, np.int32), 0, 0, 1)
    drawn = Popularity(items, seed=0, power=0.75).draw(batch, 1)
    weights = items.item_counts**0.75
    expected = weights / weights.sum() * 20_000
    assert np.abs(np.bincount(drawn.ravel(), minlength=8) - expected).max() < 4.5 * np.sqrt(expected.max())


def test_a_user_with_nearly_everything_still_gets_the_one_item_left() -> None:
    items = UserItems.from_pairs(np.zeros(4999, int), np.delete(np.arange(5000), 1234), 1, 5000)
    drawn = Uniform(items, 0).draw(Batch(np.arange(50), np.zeros(50, np.int32), np.zeros(50, np.int32), 0, 0, 1), 2)
    assert set(drawn.ravel()) == {1234}


@pytest.mark.parametrize(
    ("config", "words"),
    [({"kind": "mixgcf", "num_candidates": 1}, "set 2 or more"), ({"ahns_power": -0.5}, "less than -1")],
)
def test_settings_that_choose_nothing_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SamplerConfig.model_validate(config)


def test_rules_choose_what_they_say(board: Interactions) -> None:
    emb, pair_ids = embeddings(board), np.arange(board.num_pairs)
    batch = batch_of(board, pair_ids)
    candidates = Uniform(board.train, 3).draw(batch, 8)
    scores = (emb[board.user_ids][:, None] * emb[candidates + board.num_users]).sum(-1).numpy()
    np.testing.assert_allclose(score_candidates(emb, board.user_ids, candidates, board.num_users), scores, atol=1e-5)
    rows = np.arange(board.num_pairs)

    hardest = build_sampler(SamplerConfig(kind="dns", num_candidates=8), board.train, 3).sample(batch, emb)
    np.testing.assert_array_equal(hardest, candidates[rows, scores.argmax(1)])

    soft = build_sampler(SamplerConfig(kind="dns_mn", num_candidates=8, top_m=3), board.train, 3).sample(batch, emb)
    chosen = np.where(candidates == soft[:, None], scores, -np.inf)
    assert (chosen.max(1) >= np.sort(scores, axis=1)[:, -3]).all()
    assert (soft != hardest).any()

    positive = np.array([2.0, 0.5], np.float32)
    ahns = Ahns(alpha=0.1, beta=0.5, power=-2.0)  # targets 0.5 / 2.1 and 0.5 / 0.6
    assert ahns.choose(batch, positive, np.array([[0.2, 0.9], [0.2, 0.9]], np.float32)).tolist() == [0, 1]


def test_mixgcf_takes_the_hardest_per_layer_also_once_the_positive_is_mixed_in() -> None:
    """Two users, three items, two layers."""
    generator = torch.Generator().manual_seed(2)
    layers = torch.randn(2, 5, 3, generator=generator)
    candidates, user_ids = np.array([[0, 1, 2], [2, 1, 0]], np.int32), np.array([0, 1], np.int32)
    chosen = mixgcf.hardest(layers.mean(0), layers, user_ids, candidates, 2)
    beta, positive = torch.rand(2, 2, generator=generator), torch.randn(2, 2, 3, generator=generator)
    for layer in range(2):
        for pair, user in enumerate(layers.mean(0)[:2]):
            weight = float(beta[layer, pair])
            items = [int(item) for item in candidates[pair]]
            mixed = {item: weight * positive[layer, pair] + (1 - weight) * layers[layer, 2 + item] for item in items}
            hardest = max(mixed, key=lambda item: float(user @ mixed[item]))
            assert chosen[layer, pair] == hardest
            negative = layers[:, 2 + hardest].unsqueeze(1).expand(2, 2, 3)
            torch.testing.assert_close(mixgcf.mix(positive, negative, beta)[layer, pair], mixed[hardest])


def test_pool_items_replace_candidates_in_their_share(board: Interactions) -> None:
    pool = np.full((board.num_pairs, 2), -1, np.int32)
    counts = np.zeros(board.num_pairs, np.int32)
    unseen = [np.setdiff1d(np.arange(board.num_items), board.train.of(user))[:2] for user in board.user_ids]
    pool[::2], counts[::2] = np.stack(unseen)[::2], 2
    base = Uniform(board.train, 3)
    batch = batch_of(board, np.arange(board.num_pairs))
    before = base.draw(batch, 50)
    for share in (0.0, 0.5, 1.0):
        draw = PoolDraw(Pool(pool, counts), share, 3)
        drawn = HybridProposal(base, draw).draw(batch, 50)
        np.testing.assert_array_equal(drawn[1::2], before[1::2])
        from_pool = (drawn[::2, :, None] == pool[::2, None]).any(2).mean()
        assert from_pool >= share - 0.05
        if share < 1:
            assert from_pool < share + 0.35  # the base sampler hits pool items as well


def test_grounded_replaces_the_chosen_negative(board: Interactions) -> None:
    pool = np.stack([np.setdiff1d(np.arange(20), board.train.of(user))[:1] for user in board.user_ids]).astype(np.int32)
    base = build_sampler(SamplerConfig(kind="dns", num_candidates=8), board.train, 3)
    batch, emb = batch_of(board, np.arange(board.num_pairs)), embeddings(board)
    draw = PoolDraw(Pool(pool, np.ones(board.num_pairs, np.int32)), 1.0, 3)
    np.testing.assert_array_equal(GroundedSampler(base, draw).sample(batch, emb), pool[:, 0])
    draw.share = 0.0
    np.testing.assert_array_equal(GroundedSampler(base, draw).sample(batch, emb), base.sample(batch, emb))


def test_shared_negatives_know_the_users_own_items(board: Interactions) -> None:
    shared = SharedNegatives(board.train, 30, seed=0)
    batch = batch_of(board, np.arange(40))
    ids = shared.draw(batch)
    marked = shared.is_positive(batch.user_ids, ids)
    for row, user in enumerate(batch.user_ids):
        np.testing.assert_array_equal(marked[row], np.isin(ids, board.train.of(user)))
