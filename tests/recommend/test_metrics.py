"""Metrics against hand-computed values and against `ranx`; the ranking that feeds them."""

import numpy as np
import pytest
import torch
from ranx import Qrels, Run
from ranx import evaluate as ranx_evaluate

from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.metrics import METRICS, metric_names, ranking_metrics
from hnlm_ray.recommend.ranking import EmbeddingScorer, evaluate, hits_of, top_items


def test_hand_computed() -> None:
    # Relevant: 3 items. Ranks: miss, hit, hit, miss.
    hits = np.array([[False, True, True, False]])
    values = dict(zip(metric_names((1, 2, 4)), ranking_metrics(hits, np.array([3]), (1, 2, 4))[0], strict=True))
    log2 = np.log2
    assert values["recall@1"] == 0
    assert values["recall@2"] == pytest.approx(1 / 3)
    assert values["recall@4"] == pytest.approx(2 / 3)
    assert values["ndcg@2"] == pytest.approx((1 / log2(3)) / (1 + 1 / log2(3)))
    assert values["ndcg@4"] == pytest.approx((1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4)))
    assert values["hr@1"] == 0
    assert values["hr@2"] == 1
    assert values["precision@4"] == pytest.approx(0.5)
    assert values["mrr@1"] == 0
    assert values["mrr@4"] == pytest.approx(0.5)
    assert values["map@4"] == pytest.approx((1 / 2 + 2 / 3) / 3)


def test_a_cut_off_beyond_the_catalogue_divides_by_k_and_ends_at_the_catalogue() -> None:
    values = dict(
        zip(metric_names((5,)), ranking_metrics(np.array([[True, False]]), np.array([1]), (5,))[0], strict=True)
    )
    assert values["recall@5"] == 1
    assert values["precision@5"] == pytest.approx(0.2)


def test_equal_to_ranx_on_random_rankings() -> None:
    rng = np.random.default_rng(1)
    num_users, num_items, ks = 200, 120, (5, 10, 20, 50)
    scores = rng.random((num_users, num_items)).astype(np.float32)
    relevant = [rng.choice(num_items, rng.integers(1, 40), replace=False) for _ in range(num_users)]
    users = np.repeat(np.arange(num_users), [len(items) for items in relevant])
    held_out = UserItems.from_pairs(users, np.concatenate(relevant), num_users, num_items)
    seen = UserItems.from_pairs(np.empty(0, int), np.empty(0, int), num_users, num_items)
    own = evaluate(EmbeddingScorer(torch.from_numpy(scores), torch.eye(num_items)), seen, held_out, ks, 37).mean()

    qrels = Qrels({f"u{user}": {f"i{item}": 1 for item in items} for user, items in enumerate(relevant)})
    run = Run(
        {f"u{user}": {f"i{item}": float(scores[user, item]) for item in range(num_items)} for user in range(num_users)}
    )
    names = {"hr": "hit_rate"}
    wanted = {f"{metric}@{k}": f"{names.get(metric, metric)}@{k}" for metric in METRICS for k in ks}
    theirs = ranx_evaluate(qrels, run, list(wanted.values()))
    for name, ranx_name in wanted.items():
        assert own[name] == pytest.approx(theirs[ranx_name], abs=1e-6), name


def test_seen_items_are_masked_and_users_without_held_out_items_left_out() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]])
    seen = UserItems.from_pairs(np.array([0, 0, 1]), np.array([0, 2, 3]), 3, 4)
    held_out = UserItems.from_pairs(np.array([0, 1, 1]), np.array([3, 0, 2]), 3, 4)
    scorer = EmbeddingScorer(scores, torch.eye(4))
    items, best = top_items(scorer, np.array([0, 1]), seen, 3)
    assert items[:, :2].tolist() == [[1, 3], [2, 1]]
    assert np.isneginf(best[0, 2])
    result = evaluate(scorer, seen, held_out, (1, 2), 2)
    assert result.user_ids.tolist() == [0, 1]
    assert result.mean()["recall@1"] == pytest.approx((0 + 0.5) / 2)
    assert result.mean()["recall@2"] == pytest.approx((1 + 0.5) / 2)
    assert hits_of(np.array([1]), np.array([[2, 1, 0]]), held_out).tolist() == [[True, False, True]]


def test_block_size_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    user_emb, item_emb = torch.randn(50, 8), torch.randn(30, 8)
    seen = UserItems.from_pairs(rng.integers(0, 50, 200), rng.integers(0, 30, 200), 50, 30)
    held_out = UserItems.from_pairs(rng.integers(0, 50, 80), rng.integers(0, 30, 80), 50, 30)
    results = [
        evaluate(EmbeddingScorer(user_emb, item_emb), seen, held_out, (5, 20), block).values for block in (1, 7, 64)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
