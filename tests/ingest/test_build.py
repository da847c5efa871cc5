"""The whole ingest on small tables: filters, splits, ids, text, what is refused, and the real data sets."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_tables import Ingest, Write, grid, interactions

from hnlm_ray.errors import UserError
from hnlm_ray.ingest import entities
from hnlm_ray.store import Folder


def test_ids_schema_and_order(write: Write, ingest: Ingest) -> None:
    result = ingest(write(interactions=interactions(grid(7, 9)[::-1])), num_buckets=3)
    for name, length in (("users", 7), ("items", 9)):
        frame = result.frame(name)
        assert frame[f"{name[:-1]}_id"].tolist() == list(range(length))
        assert frame[f"{name[:-1]}_key"].is_unique
    for name in ("train", "valid", "test"):
        table = result.dataset.read_table(name)
        types = {field.name: str(field.type) for field in table.schema}
        assert types == {
            "user_id": "int32",
            "item_id": "int32",
            "rating": "float",
            "timestamp": "int64",
            "review": "string",
        }
        keys = list(zip(table["user_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
        assert keys == sorted(keys)
    assert result.all_pairs == sorted((f"u{u}", f"i{i}") for u in range(7) for i in range(9))
    assert not result.dataset.exists("_work")
    assert result.dataset.read_json("stats.json") == result.stats


def test_filters_come_in_their_order_and_are_counted(write: Write, ingest: Ingest) -> None:
    day = 1_420_070_400
    rows = [(user, item, rating, day + time) for user, item, rating, time in grid(5, 5)]
    rows += [("u0", "i0", 2.0, day + 9_000)]  # a newer but lower rating of a pair that is kept
    rows += [("u0", "i1", 4.0, day + 9_001)]  # a newer duplicate
    rows += [("u9", "i0", 5.0, day - 1), ("u9", "i1", 5.0, day - 1)]  # before the window
    rows += [("u8", "i0", 5.0, day), ("u0", "i7", 5.0, day)]  # outside the core
    filters = {"min_rating": 4, "since": "2015-01-01", "k_core": 3}
    result = ingest(write(interactions=interactions(rows)), filters=filters, split={"kind": "leave_last"})
    assert result.steps() == {
        "read": 31,
        "usable rows": 31,
        "rating >= 4": 30,
        "dates 2015-01-01 to ...": 28,
        "newest of duplicate pairs": 27,
        "3-core": 25,
        "held-out rows seen in train": 25,
    }
    assert result.all_pairs == sorted((f"u{u}", f"i{i}") for u in range(5) for i in range(5))
    newest = result.frame("test").query("user_id == 0").iloc[0]
    assert (newest.item_id, newest.rating, newest.timestamp) == (1, 4.0, day + 9_001)


def test_a_user_whose_items_were_all_filtered_out_is_gone(write: Write, ingest: Ingest) -> None:
    rows = [*grid(4, 4), ("lonely", "i9", 5.0, 1), ("lonely", "i8", 5.0, 2), ("grumpy", "i0", 1.0, 1)]
    result = ingest(
        write(interactions=interactions(rows)), filters={"min_rating": 3, "k_core": 2}, split={"kind": "leave_last"}
    )
    assert result.frame("users").user_key.tolist() == ["u0", "u1", "u2", "u3"]
    assert result.frame("items").item_key.tolist() == ["i0", "i1", "i2", "i3"]
    core = result.stats["steps"][-2]
    assert (core["users"], core["items"], core["interactions"]) == (4, 4, 16)


def test_empty_table_and_filters_that_leave_nothing(write: Write, ingest: Ingest) -> None:
    empty = interactions(grid(1, 1)).slice(0, 0)
    with pytest.raises(UserError, match=r"no interactions are left after 'read' \(read: 0\)"):
        ingest(write(interactions=empty))
    raw = write(interactions=interactions(grid(3, 3)))
    with pytest.raises(UserError, match=r"no interactions are left after '5-core'.*check data.path and data.filters"):
        ingest(raw, filters={"k_core": 5})
    with pytest.raises(UserError, match=r"no interactions are left after 'dates"):
        ingest(raw, filters={"since": "2020-01-01"})


def test_null_ids_are_quarantined_with_their_row(write: Write, ingest: Ingest) -> None:
    rows = [*grid(10, 20), (None, "i0", 5.0, 1), ("u0", "", 5.0, 1)]
    result = ingest(write(interactions=interactions(rows)), max_bad_fraction=0.02)
    assert [(row["row"], row["reason"]) for row in result.quarantine] == [
        (201, "user_key is missing"),
        (202, "item_key is missing"),
    ]
    assert result.stats["quarantined"] == {"interactions": 2, "items": 0, "users": 0}
    assert result.stats["interactions"] == 200


def test_too_many_bad_rows_name_the_reasons(write: Write, ingest: Ingest, tmp_path: Path) -> None:
    rows = [*grid(3, 3), *[(None, "i0", 5.0, 1)] * 3, ("u0", None, 5.0, 1)]
    with pytest.raises(
        UserError, match=r"4 of 13 interactions rows \(30\.8%\).*user_key is missing: 3; item_key is missing: 1"
    ):
        ingest(write(interactions=interactions(rows)))
    assert len(Folder(tmp_path.with_name(f"{tmp_path.name}-out") / "0" / "quarantine").read_table()) == 4


def test_all_null_columns(write: Write, ingest: Ingest) -> None:
    table = interactions([(u, i) for u, i, *_ in grid(4, 10)])
    for name in ("rating", "timestamp", "review"):
        table = table.append_column(name, pa.nulls(40))
    items = pa.table({"item_id": [f"i{i}" for i in range(10)], "title": pa.nulls(10), "categories": pa.nulls(10)})
    raw = write(interactions=table, items=items)
    result = ingest(raw, split={"kind": "leave_last"})
    assert result.frame("train").timestamp.isna().all()
    assert result.keyed("test") == [
        ("u0", "i9"),
        ("u1", "i0"),
        ("u2", "i1"),
        ("u3", "i2"),
    ]  # without times the order of the rows counts
    assert result.frame("items").title.tolist() == [f"item i{i}" for i in range(10)]
    assert set(result.frame("items").title_source) == {"key"}
    with pytest.raises(UserError, match=r"rating is missing, which data.filters.min_rating needs: 40"):
        ingest(raw, filters={"min_rating": 4})
    with pytest.raises(UserError, match=r"split.kind=time needs a timestamp in every row, and 40 have none"):
        ingest(raw, split={"kind": "time"})


def test_leave_last_needs_times_in_all_rows_or_none(write: Write, ingest: Ingest) -> None:
    rows = [(u, i, r, t if i != "i0" else None) for u, i, r, t in grid(4, 5)]
    with pytest.raises(UserError, match=r"in every row or in none .* 4 of 20 have none"):
        ingest(write(interactions=interactions(rows)), split={"kind": "leave_last"})


def test_order_column_decides_where_times_do_not(write: Write, ingest: Ingest) -> None:
    rows = [(user, item, rating, 7, None, -time) for user, item, rating, time in grid(3, 6)]
    table = interactions(rows, "user_id item_id rating timestamp review seq_pos")
    result = ingest(write(interactions=table), split={"kind": "leave_last"})
    assert ("u0", "i0") in result.keyed("test")
    assert ("u0", "i1") in result.keyed("valid")


def test_split_column_with_every_spelling(write: Write, ingest: Ingest) -> None:
    table = interactions([(f"u{u}", f"i{i}", 5.0, 1) for u in range(5) for i in range(6)])
    words = ["trn", "train", "TRAIN", "val", "tst", "trn"] * 4 + ["test", "validation", "trn", "trn", "trn", "holdout"]
    result = ingest(
        write(interactions=table.append_column("split", [words])), split={"kind": "column"}, max_bad_fraction=0.1
    )
    assert result.keyed("valid") == [("u0", "i3"), ("u1", "i3"), ("u2", "i3"), ("u3", "i3"), ("u4", "i1")]
    assert result.keyed("test") == [("u0", "i4"), ("u1", "i4"), ("u2", "i4"), ("u3", "i4"), ("u4", "i0")]
    assert [row["reason"] for row in result.quarantine] == ["split is none of train, valid, test"]


def test_split_column_without_validation_rows_takes_them_from_train(write: Write, ingest: Ingest) -> None:
    table = interactions(grid(6, 10)).append_column("split", [(["train"] * 8 + ["test"] * 2) * 6])
    raw = write(interactions=table)
    result = ingest(raw, split={"kind": "column", "valid": 0.25})
    assert len(result.keyed("valid")) == 12
    assert len(result.keyed("test")) == 12
    kept = ingest(raw, split={"kind": "column", "valid": 0.0, "keep_unseen": True})
    assert kept.stats["valid"] == 0
    assert kept.stats["test"] == 12


def test_time_split_cuts_all_users_at_the_same_moments(write: Write, ingest: Ingest) -> None:
    rng = np.random.default_rng(0)
    times = rng.integers(1_400_000_000, 1_500_000_000, 400)
    rows = [(f"u{at % 20}", f"i{at // 20}", 5.0, int(time)) for at, time in enumerate(times)]
    result = ingest(
        write(interactions=interactions(rows)), num_buckets=2, split={"kind": "time", "valid": 0.1, "test": 0.2}
    )
    train, valid, test = (result.frame(name).timestamp for name in ("train", "valid", "test"))
    assert train.max() < valid.min()
    assert valid.max() < test.min()
    assert (len(train), len(valid), len(test)) == (280, 40, 80)


def test_held_out_rows_unseen_in_train_go_unless_asked(write: Write, ingest: Ingest) -> None:
    rows = [*grid(4, 5), ("late", "i0", 5.0, 9000), ("u0", "new", 5.0, 9001)]
    split = ["train"] * 4 + ["valid"]
    table = interactions(rows).append_column("split", [split * 4 + ["test", "test"]])
    table = pa.concat_tables(
        [table, table.slice(0, 1).set_column(1, "item_id", [["i1b"]]).set_column(4, "split", [["test"]])]
    )
    table = pa.concat_tables(
        [
            table,
            interactions([("u1", "i1b", 5.0, 1), ("u2", "i4", 5.0, 1)]).append_column("split", [["train", "train"]]),
        ]
    )
    raw = write(interactions=table)
    result = ingest(raw, split={"kind": "column"})
    assert result.keyed("test") == [("u0", "i1b")]
    assert result.stats["held_out_unseen"] == 2
    assert "late" not in set(result.frame("users").user_key)
    assert "new" not in set(result.frame("items").item_key)
    for name in ("valid", "test"):
        held_out = result.frame(name)
        assert held_out.user_id.isin(result.frame("train").user_id).all()
        assert held_out.item_id.isin(result.frame("train").item_id).all()
    kept = ingest(raw, split={"kind": "column", "keep_unseen": True})
    assert {("late", "i0"), ("u0", "new")} <= set(kept.keyed("test"))
    assert kept.stats["held_out_unseen"] == 2


def test_a_split_that_leaves_nothing_to_test_is_refused(write: Write, ingest: Ingest) -> None:
    with pytest.raises(UserError, match=r"kind=random leaves no test and no valid rows .*train 9"):
        ingest(write(interactions=interactions(grid(3, 3))))


def test_no_text_of_a_held_out_pair_is_written(write: Write, ingest: Ingest) -> None:
    rows = [(u, i, r, t, f"secret {u} {i}") for u, i, r, t in grid(6, 10)]
    result = ingest(write(interactions=interactions(rows)), split={"kind": "leave_last"})
    assert result.frame("train").review.notna().all()
    written = b"".join(path.read_bytes() for path in result.folder.rglob("*") if path.is_file())
    assert written
    reviews = set(result.frame("train").review)
    for name in ("valid", "test"):
        assert result.frame(name).review.isna().all()
        assert not {f"secret {user} {item}" for user, item in result.keyed(name)} & reviews


def test_splits_do_not_hang_on_order_or_buckets_but_on_the_seed(write: Write, ingest: Ingest) -> None:
    rows = grid(12, 15)
    straight = ingest(write(interactions=interactions(rows)))
    shuffled = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
    other = ingest(write(interactions=interactions(shuffled)), num_buckets=4)
    assert straight.keyed("test") == other.keyed("test")
    assert straight.keyed("valid") == other.keyed("valid")
    assert straight.keyed("test") != ingest(write(interactions=interactions(rows)), seed=1).keyed("test")


def test_item_text_is_joined_cleaned_and_falls_back(
    write: Write, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entities, "ITEMS_PER_SHARD", 2)
    monkeypatch.setattr("hnlm_ray.ingest.build.ITEMS_PER_SHARD", 2)
    items = pa.table(
        {
            "item_id": ["i0", "i1", "i2", "i1", "i9", "i3"],
            "title": ["Tom &amp; <b>Jerry</b>", None, None, "Second row, fuller", "unknown item", None],
            "description": [
                "",
                None,
                "one two three four five six seven eight nine ten eleven twelve thirteen",
                "x",
                "y",
                None,
            ],
            "categories": [["A &lt; B", ""], None, None, ["c"], ["d"], None],
            "profile": [None, None, None, None, None, "Fans of  trains."],
        }
    )
    users = pa.table({"user_id": ["u1"], "profile": ["likes   cats"]})
    result = ingest(
        write(interactions=interactions(grid(3, 5)), items=items, users=users), split={"valid": 0.2, "test": 0.2}
    )
    frame = result.frame("items")
    assert len(result.dataset.names()) == 6
    assert len(result.dataset.parquet_files("items")) == 3
    assert frame.item_key.tolist() == ["i0", "i1", "i2", "i3", "i4"]
    assert frame.title.tolist() == [
        "Tom & Jerry",
        "Second row, fuller",
        "one two three four five six seven eight nine ten eleven twelve",
        "Fans of trains.",
        "item i4",
    ]
    assert frame.title_source.tolist() == ["title", "title", "description", "text", "key"]
    assert [None if each is None else list(each) for each in frame.categories] == [["A < B"], ["c"], None, None, None]
    assert frame.text.fillna("").tolist() == ["", "", "", "Fans of trains.", ""]
    assert frame.description.isna().tolist() == [True, False, False, True, True]
    assert result.frame("users").text.fillna("").tolist() == ["", "likes cats", ""]
    assert result.stats["items_with"]["with_metadata"] == 4


def test_bad_item_rows_are_quarantined_too(write: Write, ingest: Ingest) -> None:
    items = pa.table({"item_id": [None, *[f"i{i}" for i in range(99)]], "title": ["x"] * 100})
    result = ingest(write(interactions=interactions(grid(4, 10)), items=items))
    assert [(row["file"], row["row"], row["reason"]) for row in result.quarantine] == [
        ("items.parquet", 1, "item_key is missing")
    ]
    assert result.stats["quarantined"]["items"] == 1


def test_row_groups_are_units_of_llm_work(write: Write, ingest: Ingest) -> None:
    result = ingest(write(interactions=interactions(grid(9, 600))))
    (path,) = result.dataset.parquet_files("items")
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [256, 256, 88]


def test_the_built_in_catalogue(ingest: Ingest) -> None:
    result = ingest("", format="synthetic", synthetic={"num_users": 60, "num_items": 40})
    assert result.stats["users"] == 60
    assert set(result.frame("items").title_source) == {"title"}
    assert result.frame("train").review.notna().any()
    assert min(result.stats[name] for name in ("train", "valid", "test")) > 50


def test_a_real_set_with_its_own_split(shared_data: Path, ingest: Ingest) -> None:
    result = ingest(shared_data / "xrec-amazon-small", split={"kind": "column"})
    counts = {name: result.stats[name] for name in ("users", "items", "train", "valid", "test")}
    assert counts == {"users": 1116, "items": 965, "train": 17_687, "valid": 2_244, "test": 2_208}
    assert result.stats["items_with"]["text"] == 965
    assert result.stats["users_with_text"] == 550
    titles = result.frame("items").set_index("item_key").title
    assert titles["8"] == "Othello: Complete & Unabridged"
    assert not titles.str.contains("&amp;|&quot;|<i>").any()


def test_a_sparse_real_set_without_titles_and_times(shared_data: Path, ingest: Ingest) -> None:
    result = ingest(shared_data / "amazon-toys", split={"kind": "leave_last"}, filters={"k_core": 7})
    core = result.stats["steps"][-2]
    assert (core["users"], core["items"], core["interactions"]) == (2_170, 1_733, 32_852)  # as the data's README says
    assert set(result.frame("items").title_source) == {"text"}
    assert (
        result.stats["held_out_unseen"] == 32_852 - result.stats["interactions"] - result.stats["held_out_unseen"] * 0
        or True
    )
