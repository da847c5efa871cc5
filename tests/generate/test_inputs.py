"""Input rows: newest first, training interactions only, chosen pairs, the same in one process and in many."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnlm_ray.generate.build_inputs import build_item_inputs, build_pair_inputs, build_user_inputs
from hnlm_ray.generate.config import LLMConfig, NegativeConfig, ProfileConfig
from hnlm_ray.generate.inputs import ItemTexts, pair_caps, pair_rows, user_rows
from hnlm_ray.generate.units import list_units, unit_rows
from hnlm_ray.store import Folder

NUM_USERS, NUM_ITEMS = 70, 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folder]:
    """A data set of 70 users and 40 items in two shards, finished profiles of most of them, a signal."""
    root = Folder(tmp_path_factory.mktemp("inputs"))
    rng = np.random.default_rng(0)
    rows = [
        {
            "user_id": user,
            "item_id": int(item),
            "timestamp": 1000 * user + n,
            "review": f"r{user}-{item}" if n % 2 else None,
        }
        for user in range(1, NUM_USERS)  # user 0 has none
        for n, item in enumerate(rng.permutation(NUM_ITEMS)[: rng.integers(1, 9)])
    ]
    schema = pa.schema(
        [("user_id", pa.int32()), ("item_id", pa.int32()), ("timestamp", pa.int64()), ("review", pa.string())]
    )
    table = pa.Table.from_pylist(rows, schema)
    dataset = root.child("dataset")
    dataset.child("train").write_table("part-0.parquet", table.slice(0, 100), row_group_size=32)
    dataset.child("train").write_table("part-1.parquet", table.slice(100), row_group_size=32)
    items = pa.table(
        {
            "item_id": pa.array(range(NUM_ITEMS), pa.int32()),
            "title": [f"title {n}" if n else None for n in range(NUM_ITEMS)],
            "title_source": ["title" if n else "key" for n in range(NUM_ITEMS)],
            "brand": pa.nulls(NUM_ITEMS, pa.string()),
            "categories": pa.array([["a", "b"] if n % 3 == 0 and n else None for n in range(NUM_ITEMS)]),
            "description": [f"says {n}" if n % 4 == 1 else None for n in range(NUM_ITEMS)],
            "text": [f"ready {n}" if n % 4 < 2 and n else None for n in range(NUM_ITEMS)],
        }
    )
    dataset.child("items").write_table("part-0.parquet", items, row_group_size=16)
    dataset.child("users").write_table("part-0.parquet", pa.table({"user_id": pa.array(range(NUM_USERS), pa.int32())}))
    profiles = root.child("profiles")
    for name, column, count in (("items", "item_id", NUM_ITEMS), ("users", "user_id", NUM_USERS)):
        ids = np.arange(count)
        status = np.where(ids % 10 == 7, "failed", "ok")
        made = {column: pa.array(ids, pa.int32()), "text": [f"P{column[0]}{n}" for n in ids], "status": status}
        profiles.child(name).write_table("part-000000.parquet", pa.table(made))
    signal = root.child("signal")
    user_emb, item_emb = rng.normal(size=(NUM_USERS, 4)), rng.normal(size=(NUM_ITEMS, 4))
    signal.write_tensors("embeddings.safetensors", {"user_emb": user_emb, "item_emb": item_emb})
    return {"dataset": dataset, "profiles": profiles, "signal": signal}


def test_item_inputs_tell_their_source(folders: dict[str, Folder], tmp_path: Path) -> None:
    inputs = Folder(tmp_path / "items")
    build_item_inputs(folders["dataset"], inputs, ProfileConfig(max_reviews_per_item=2), LLMConfig(), large=False)
    rows = inputs.read_table().to_pylist()
    assert [row["item_id"] for row in rows] == list(range(NUM_ITEMS))
    train = folders["dataset"].read_table("train").to_pylist()
    for row in rows:
        of_item = [pair for pair in train if pair["item_id"] == row["item_id"] and pair["review"]]
        newest = sorted(of_item, key=lambda pair: -pair["timestamp"])[:2]
        assert row["reviews"] == [pair["review"] for pair in newest]
        assert row["given"] is None
    assert rows[1]["description"] == "says 1"
    assert rows[4]["description"] == "ready 4", "ready-made text stands in for a missing description"
    bare = [row["source"].replace("+reviews", "").replace("reviews", "") for row in rows]
    assert bare[:5] == ["", "title+description", "title", "title+categories", "title+text"]


def test_supplied_text_is_the_profile_only_where_asked_for(folders: dict[str, Folder], tmp_path: Path) -> None:
    inputs = Folder(tmp_path / "items")
    build_item_inputs(folders["dataset"], inputs, ProfileConfig(use_supplied=True), LLMConfig(), large=False)
    rows = inputs.read_table().to_pylist()
    assert rows[4]["given"] == "ready 4"
    assert rows[4]["source"] == "supplied"
    assert rows[2]["given"] is None


def test_user_inputs_hold_the_newest_interactions(folders: dict[str, Folder], tmp_path: Path) -> None:
    inputs = Folder(tmp_path / "users")
    config = ProfileConfig(max_items_per_user=3)
    build_user_inputs(folders["dataset"], folders["profiles"], inputs, config, LLMConfig(unit_rows=16), large=False)
    rows = inputs.read_table().to_pylist()
    train = folders["dataset"].read_table("train").to_pylist()
    assert [row["user_id"] for row in rows] == list(range(NUM_USERS))
    assert rows[0] == {"user_id": 0, "history": [], "source": ""}
    for row in rows[1:]:
        newest = sorted((p for p in train if p["user_id"] == row["user_id"]), key=lambda pair: -pair["timestamp"])[:3]
        expected = [
            {
                "title": f"title {p['item_id']}" if p["item_id"] else "",
                "profile": None if p["item_id"] % 10 == 7 else f"Pi{p['item_id']}",
                "review": p["review"],
            }
            for p in newest
        ]
        assert row["history"] == expected


@pytest.mark.parametrize("pairs", ["all", "capped", "hardest"])
def test_chosen_pairs(folders: dict[str, Folder], tmp_path: Path, pairs: str) -> None:
    inputs = Folder(tmp_path / "pairs")
    config = NegativeConfig.model_validate({"pairs": pairs, "max_pairs_per_user": 2})
    build_pair_inputs(
        folders["dataset"], folders["profiles"], folders["signal"], inputs, config, LLMConfig(), large=False
    )
    rows = inputs.read_table().to_pylist()
    train = folders["dataset"].read_table("train").to_pylist()
    emb = folders["signal"].read_tensors("embeddings.safetensors")
    for user in range(NUM_USERS):
        own = [pair for pair in train if pair["user_id"] == user]
        newest = sorted(own, key=lambda pair: -pair["timestamp"])
        hardest = sorted(own, key=lambda pair: emb["user_emb"][user] @ emb["item_emb"][pair["item_id"]])
        expected = {"all": own, "capped": newest[:2], "hardest": hardest[:2]}[pairs]
        found = [row for row in rows if row["user_id"] == user]
        assert {row["item_id"] for row in found} == {pair["item_id"] for pair in expected}
        assert all(row["user_profile"] == ("" if user % 10 == 7 else f"Pu{user}") for row in found)
        assert all((row["source"] == "") == (user % 10 == 7) for row in found)
    assert [row["user_id"] for row in rows] == sorted(row["user_id"] for row in rows), "shared prefixes lie together"


def test_many_processes_build_what_one_does(
    folders: dict[str, Folder], tmp_path: Path, ray_session: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hnlm_ray.generate.inputs.UNITS_PER_FILE", 1)
    profile, llm = ProfileConfig(max_reviews_per_item=2), LLMConfig(unit_rows=16)
    built = []
    for large in (False, True):
        root = Folder(tmp_path / str(large))
        build_item_inputs(folders["dataset"], root.child("items"), profile, llm, large)
        build_user_inputs(folders["dataset"], folders["profiles"], root.child("users"), profile, llm, large)
        names = ("dataset", "profiles", "signal")
        build_pair_inputs(*(folders[name] for name in names), root.child("pairs"), NegativeConfig(), llm, large)
        built.append(root)
    for part in ("items", "users", "pairs"):
        one, many = (root.child(part) for root in built)
        assert len(many.names(".parquet")) > 1
        assert one.read_table() == many.read_table()
        assert list_units(one) == list_units(many)


def test_inputs_that_stand_complete_are_left_alone(folders: dict[str, Folder], tmp_path: Path) -> None:
    inputs = Folder(tmp_path / "items")
    build_item_inputs(folders["dataset"], inputs, ProfileConfig(), LLMConfig(unit_rows=20), large=False)
    units = list_units(inputs)
    assert [unit.num_rows for unit in units] == [16, 16, 8]
    build_item_inputs(folders["dataset"], inputs, ProfileConfig(), LLMConfig(unit_rows=8), large=False)
    assert list_units(inputs) == units, "rows keep their units when the size of units changes between runs"


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=30), cap=st.integers(1, 5), most=st.integers(0, 60))
def test_pair_caps_take_turns(counts: list[int], cap: int, most: int) -> None:
    caps = pair_caps(np.array(counts), cap, most)
    free = np.minimum(counts, cap)
    assert caps.sum() == (min(most, free.sum()) if most else free.sum())
    assert (caps <= free).all()
    short = caps < free
    if short.any():
        assert caps[short].max() - caps[short].min() <= 1
        assert caps.max() <= caps[short].min() + 1, "nobody gets a second turn more before all had theirs"


def test_units_stay_small_where_rows_are_few() -> None:
    assert [unit_rows(rows, 256) for rows in (5, 300, 965, 100_000)] == [16, 38, 121, 256]


def test_interactions_that_say_nothing_are_passed_over() -> None:
    train = pa.table(
        {
            "user_id": pa.array([0, 0, 0, 1], pa.int32()),
            "item_id": pa.array([0, 1, 2, 1], pa.int32()),
            "review": pa.nulls(4, pa.string()),
        }
    )
    items = ItemTexts(pa.array(["a", "", ""]), pa.array([None, None, "about c"]))
    rows = user_rows(train, items, (0, 2), 2).to_pylist()
    assert [entry["title"] or entry["profile"] for entry in rows[0]["history"]] == ["about c", "a"]
    assert (rows[1]["history"], rows[1]["source"]) == ([], "")
    pairs = pair_rows(train, items, pa.array(["U0", None]), (0, 2), np.arange(4.0), np.array([3, 3])).to_pylist()
    assert [pair["source"] for pair in pairs] == ["user_profile+title", "", "user_profile+item_profile", ""]
