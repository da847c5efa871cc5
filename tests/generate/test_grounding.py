"""Nearest items against the plain full sort, and the table that grounding makes of them."""

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.bench.grounding import text_like_vectors
from hnlm_ray.generate import nearest
from hnlm_ray.generate.grounding import Positives, ground
from hnlm_ray.generate.nearest import NearestItems

EXACT = 10**9


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize(("query_block", "item_block"), [(1024, 65_536), (7, 13)])
def test_blocks_equal_a_full_sort(monkeypatch: pytest.MonkeyPatch, query_block: int, item_block: int) -> None:
    monkeypatch.setattr(nearest, "_QUERY_BLOCK", query_block)
    monkeypatch.setattr(nearest, "_ITEM_BLOCK", item_block)
    rng = np.random.default_rng(0)
    queries, items = unit(rng, 40, 16), unit(rng, 90, 16)
    excluded = [rng.choice(90, size=rng.integers(0, 30), replace=False) for _ in range(40)]
    offsets = np.r_[0, np.cumsum([len(ids) for ids in excluded])]
    ids, similarity = NearestItems(items, EXACT).top_k(queries, 20, (offsets, np.concatenate(excluded)))
    scores = queries @ items.T
    for row, banned in enumerate(excluded):
        scores[row, banned] = -np.inf
        expected = np.argsort(-scores[row], kind="stable")[:20]
        assert ids[row].tolist() == expected.tolist()
        np.testing.assert_allclose(similarity[row], scores[row, expected], rtol=1e-6)


def test_titles_that_repeat_stay_apart_by_id_and_positives_are_left_out() -> None:
    item_emb = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]  # items 0 and 1 have the same text
    positives = Positives(np.array([0, 1, 2]), np.array([0, 1]))  # user 0 has item 0, user 1 has item 1
    pairs = pa.table(
        {
            "user_id": pa.array([0, 1, 1], pa.int32()),
            "item_id": pa.array([0, 1, 1], pa.int32()),
            "status": ["ok", "ok", "failed"],
        }
    )
    table = ground(pairs, item_emb[[0, 0]], NearestItems(item_emb, EXACT), positives, num_grounded=2)
    first = table.filter(pa.compute.equal(table["rank"], 0))
    assert first["negative_item_id"].to_pylist() == [1, 0]
    assert first["similarity"].to_pylist() == [1.0, 1.0]
    assert table.num_rows == 4, "a failed row is not grounded"


def test_fewer_items_than_asked_for() -> None:
    positives = Positives(np.array([0, 2]), np.array([0, 1]))
    pairs = pa.table({"user_id": pa.array([0], pa.int32()), "item_id": pa.array([0], pa.int32()), "status": ["ok"]})
    items = np.eye(3, dtype=np.float32)
    table = ground(pairs, items[[0]], NearestItems(items, EXACT), positives, 20)
    assert table["negative_item_id"].to_pylist() == [2]


@pytest.mark.parametrize("ann_above_items", [EXACT, 1_000])
def test_items_without_text_are_never_found(ann_above_items: int) -> None:
    rng = np.random.default_rng(2)
    items = text_like_vectors(1_500, rng)
    items[::2] = 0.0
    far = -items[1::2].mean(0, keepdims=True)  # nothing is similar to it: a similarity of 0 would be the best
    nothing = np.array([0, 0]), np.zeros(0, np.int64)
    ids, _ = NearestItems(items, ann_above_items).top_k(far, 20, nothing)
    assert (ids % 2 == 1).all()


def test_a_search_by_codes_keeps_similarities_and_exclusions_and_tells_its_recall() -> None:
    rng = np.random.default_rng(1)
    items, queries = np.split(text_like_vectors(3_050, rng), [3_000])
    exact, coded = NearestItems(items, EXACT), NearestItems(items, 1_000)
    assert (exact.is_exact, coded.is_exact) == (True, False)
    best, _ = exact.top_k(queries, 200, (np.zeros(51, np.int64), np.zeros(0, np.int64)))
    excluded = (np.arange(51) * 100, best[:, ::2].ravel())  # every second one of the 200 nearest
    expected, _ = exact.top_k(queries, 20, excluded)
    ids, similarity = coded.top_k(queries, 20, excluded)
    assert not any(np.isin(ids[row], best[row, ::2]).any() for row in range(50))
    np.testing.assert_allclose(similarity, np.einsum("nd,nkd->nk", queries, items[ids]), rtol=1e-5)
    assert (np.diff(similarity, axis=1) <= 0).all()
    assert np.mean([np.isin(expected[row], ids[row]).mean() for row in range(50)]) >= 0.99
    assert coded.recall(queries, 20) >= 0.99
    assert exact.recall(queries, 20) == 1.0
