"""Exact nearest items against the plain full sort."""

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.generate import grounding
from hnlm_ray.generate.grounding import Positives, exact_top_k, ground


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize(("query_block", "item_block"), [(1024, 65_536), (7, 13)])
def test_blocks_equal_a_full_sort(monkeypatch: pytest.MonkeyPatch, query_block: int, item_block: int) -> None:
    monkeypatch.setattr(grounding, "_QUERY_BLOCK", query_block)
    monkeypatch.setattr(grounding, "_ITEM_BLOCK", item_block)
    rng = np.random.default_rng(0)
    queries, items = unit(rng, 40, 16), unit(rng, 90, 16)
    excluded = [rng.choice(90, size=rng.integers(0, 30), replace=False) for _ in range(40)]
    offsets = np.r_[0, np.cumsum([len(ids) for ids in excluded])]
    ids, similarity = exact_top_k(queries, items, 20, (offsets, np.concatenate(excluded)))
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
    table = ground(pairs, item_emb[[0, 0]], item_emb, positives, num_grounded=2)
    nearest = table.filter(pa.compute.equal(table["rank"], 0))
    assert nearest["negative_item_id"].to_pylist() == [1, 0]
    assert nearest["similarity"].to_pylist() == [1.0, 1.0]
    assert table.num_rows == 4, "a failed row is not grounded"


def test_fewer_items_than_asked_for() -> None:
    positives = Positives(np.array([0, 2]), np.array([0, 1]))
    pairs = pa.table({"user_id": pa.array([0], pa.int32()), "item_id": pa.array([0], pa.int32()), "status": ["ok"]})
    table = ground(pairs, np.eye(3, dtype=np.float32)[[0]], np.eye(3, dtype=np.float32), positives, 20)
    assert table["negative_item_id"].to_pylist() == [2]
