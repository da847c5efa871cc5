"""The choice of p: the window, the candidates, and what must never happen."""

import numpy as np
import pytest
from finetune_world import NUM_ITEMS, World

from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.pairs import NearestItems, PairTexts, Sources, top_items
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.triplets import TripletMaker, cf_percentiles, choose, pair_hash

TEMPLATE = TextTemplate(96, "neighbors", 3, 8)


def sources_of(world: World) -> Sources:
    def uri(name: str) -> str:
        return world.run_dir.artifact(name, "v").uri

    return Sources(uri("dataset") + "/train", uri("profiles"), uri("signal"), uri("negatives"))


def make(world: World, **config: object) -> list[dict[str, object]]:
    maker = TripletMaker(sources_of(world), TEMPLATE, FinetuneConfig.model_validate(config), seed=0)
    users, items = (np.array(column) for column in zip(*world.train, strict=True))
    rows: list[dict[str, object]] = maker(users, items).to_pylist()
    return rows


def test_percentile_counts_the_unseen_items_that_score_lower() -> None:
    scores = np.array([0.9, 0.1, 0.5, 0.3, 0.7])
    # item 0 is a training positive: unseen are 1 (.1), 3 (.3), 2 (.5), 4 (.7)
    assert cf_percentiles(scores, np.array([0]), np.array([1, 3, 2, 4])).tolist() == [0.0, 0.25, 0.5, 0.75]


def test_percentile_of_a_large_catalogue_is_estimated_on_a_sample() -> None:
    scores = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    exact = (scores[:, None] > scores[None, :5]).mean(0)
    estimated = cf_percentiles(scores, np.array([], dtype=int), np.arange(5), seed=3)
    assert np.abs((1 - exact) - estimated).max() < 0.02
    assert (estimated == cf_percentiles(scores, np.array([], dtype=int), np.arange(5), seed=3)).all()


@pytest.mark.parametrize(
    ("is_llm", "expected"),
    [
        ([False, False, False, False], 2),  # the closest inside the window; 0 is closer and above it
        ([True, True, False, True], 1),  # LLM negatives first, and of those only what lies inside
        ([True, False, False, True], 2),  # LLM negatives outside the window give way to neighbours
    ],
)
def test_choose(is_llm: list[bool], expected: int) -> None:
    closeness, percentiles = np.array([0.9, 0.2, 0.8, 0.7]), np.array([0.99, 0.6, 0.7, 0.1])
    assert choose(closeness, percentiles, np.array(is_llm), (0.5, 0.95)) == expected


def test_choose_nothing_outside_the_window() -> None:
    assert choose(np.ones(2), np.array([0.1, 0.99]), np.array([True, True]), (0.5, 0.95)) is None


def test_no_triplet_aims_at_a_training_positive_and_all_lie_in_the_window(world: World) -> None:
    positives = set(world.train)
    rows = make(world, window=[0.3, 0.9], num_semantic_candidates=20)
    assert len(rows) > 50
    for row in rows:
        assert (row["user_id"], row["item_id"]) in positives
        assert (row["user_id"], row["hard_item_id"]) not in positives
        assert 0.3 <= row["cf_percentile"] <= 0.9  # type: ignore[operator]
    assert {row["origin"] for row in rows} == {"llm", "semantic"}


def test_validation_and_test_are_never_read(world: World) -> None:
    dataset = world.run_dir.artifact("dataset", "v")
    before = make(world)
    dataset.delete("valid")
    dataset.delete("test")
    assert make(world) == before


def test_texts_are_those_of_the_pair(world: World) -> None:
    row = make(world)[0]
    texts = PairTexts(sources_of(world), TEMPLATE)
    user, item, hard = (np.array([row[name]]) for name in ("user_id", "item_id", "hard_item_id"))
    assert row["q"] == texts.queries(user, item)[0]
    assert row["p"] == texts.items(hard)[0]
    assert row["n"] == texts.items(item)[0]
    assert f"book {item[0]}" in str(row["q"])
    assert "Near the user:" in str(row["q"])


def test_a_failed_profile_is_left_out_of_the_query(world: World) -> None:
    texts = PairTexts(sources_of(world), TEMPLATE)
    with_profile, without = texts.queries(np.array([2, 3]), np.array([0, 0]))
    assert "User:" in with_profile
    assert "User:" not in without


def test_blocks_do_not_change_a_triplet(world: World) -> None:
    maker = TripletMaker(sources_of(world), TEMPLATE, FinetuneConfig(), seed=0)
    users, items = (np.array(column) for column in zip(*world.train, strict=True))
    whole = maker(users, items).to_pylist()
    parts = [
        row
        for start in range(0, len(users), 7)
        for row in maker(users[start : start + 7], items[start : start + 7]).to_pylist()
    ]
    key = lambda row: (row["user_id"], row["item_id"])  # noqa: E731
    assert sorted(parts, key=key) == sorted(whole, key=key)


def test_window_without_candidates_gives_no_triplets(world: World) -> None:
    assert make(world, window=[0.999, 1.0], num_semantic_candidates=1) == []


@pytest.mark.parametrize("context", ["numbers", "none"])
def test_other_contexts(world: World, context: str) -> None:
    texts = PairTexts(sources_of(world), TextTemplate(160, context, 3, 8))  # type: ignore[arg-type]
    query = texts.queries(np.array([0]), np.array([4]))[0]
    user_emb = texts.signal[0]
    assert (f"{user_emb[0, 0]:.2f}" in query) == (context == "numbers")


def test_pair_hash_is_uniform_and_depends_on_the_seed() -> None:
    users, items = np.repeat(np.arange(300), 300), np.tile(np.arange(300), 300)
    draw = pair_hash(users, items, 0)
    assert np.abs(np.histogram(draw, bins=10, range=(0, 1))[0] / len(draw) - 0.1).max() < 0.01
    assert abs(np.corrcoef(draw, pair_hash(users, items, 1))[0, 1]) < 0.02
    assert len(np.unique(draw)) == len(draw)


def test_nearest_items_and_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    assert top_items(np.array([[1.0, 3.0, 3.0, 2.0]]), 3).tolist() == [[1, 2, 3]]
    emb = np.random.default_rng(0).normal(size=(NUM_ITEMS, 8))
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    similarity = emb @ emb.T
    np.fill_diagonal(similarity, -np.inf)
    expected = np.argsort(-similarity, axis=1)[:, : NUM_ITEMS - 1]
    nearest = NearestItems(emb, NUM_ITEMS + 5)
    asked = np.array([3, 0, 3])
    assert nearest(asked).tolist() == expected[asked].tolist()
    assert nearest(np.arange(NUM_ITEMS)).tolist() == expected.tolist(), "with others that were not asked for before"
    monkeypatch.setattr("hnlm_ray.finetune.pairs.top_items", None)
    assert nearest(asked).tolist() == expected[asked].tolist(), "found again, not searched again"
