"""Ready tables in every file format, with a column map, and the faults that users' tables have."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_tables import Ingest, Write, grid, interactions

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.inspect import inspect
from hnlm_ray.ingest.source import check, plan_counts

_ROWS = grid(4, 6)


def _save(folder: Path, ending: str) -> Path:
    frame = interactions(_ROWS).to_pandas()
    folder.mkdir()
    path = folder / f"interactions{ending}"
    match ending:
        case ".parquet":
            frame.to_parquet(path)
        case ".csv" | ".csv.gz":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case _:
            frame.to_json(path, orient="records", lines=True)
    return folder


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz", ".tsv", ".jsonl", ".ndjson.gz"])
def test_every_file_format_reads_the_same(ending: str, tmp_path: Path, ingest: Ingest) -> None:
    result = ingest(_save(tmp_path / "raw", ending))
    assert result.all_pairs == sorted((user, item) for user, item, *_ in _ROWS)
    assert set(result.frame("train").rating) == {5.0}
    assert result.stats["first_timestamp"] == 1000
    assert result.quarantine == []


def test_shards_in_folders_and_one_single_file(tmp_path: Path, ingest: Ingest) -> None:
    for shard in range(3):
        folder = tmp_path / "raw" / "interactions"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(interactions(_ROWS[shard::3]), folder / f"part-{shard}.parquet")
    pq.write_table(pa.table({"item_id": ["i0"], "title": ["Zero"]}), tmp_path / "raw" / "items.parquet")
    kept = {"split": {"kind": "ratio", "valid": 0.3, "test": 0.3, "keep_unseen": True}}
    whole = ingest(tmp_path / "raw", **kept)
    assert whole.all_pairs == sorted((user, item) for user, item, *_ in _ROWS)
    assert whole.frame("items").title[0] == "Zero"
    assert ingest(tmp_path / "raw" / "interactions" / "part-0.parquet", **kept).stats["interactions"] == 8
    assert (
        ingest(tmp_path / "raw" / "interactions", **kept).stats["interactions"] == 24
    )  # shards without a table's name


def test_a_uri_is_as_good_as_a_path(write: Write, ingest: Ingest) -> None:
    raw = write(interactions=interactions(_ROWS))
    assert ingest(f"file://{raw}").all_pairs == ingest(raw).all_pairs


def test_column_map(write: Write, ingest: Ingest) -> None:
    raw = write(
        interactions=interactions(_ROWS, "who what stars when"),
        items=interactions([(f"i{i}", f"blurb {i}", f"name {i}") for i in range(6)], "what blurb label"),
    )
    columns = {"user_id": "who", "item_id": "what", "rating": "stars", "timestamp": "when"}
    result = ingest(raw, columns={**columns, "title": "label", "item_text": "blurb"})
    assert result.frame("items").title.tolist() == [f"name {i}" for i in range(6)]
    assert result.frame("items").text.tolist() == [f"blurb {i}" for i in range(6)]
    assert result.stats["rows_with"]["rated"] == 24


def test_a_named_column_that_is_not_there(write: Write, ingest: Ingest) -> None:
    raw = write(interactions=interactions(_ROWS))
    with pytest.raises(
        UserError, match=r"data\.columns\.rating='ratign' is not in 'interactions\.parquet'.*did you mean 'rating'"
    ):
        ingest(raw, columns={"rating": "ratign"})
    with pytest.raises(UserError, match=r"no column for data\.columns\.user_id \(tried user_id, .*it has: who"):
        ingest(write(interactions=interactions(_ROWS, "who what")))


def test_bad_lines_of_json_are_named_by_line(tmp_path: Path, ingest: Ingest) -> None:
    lines = [json.dumps({"user_id": u, "item_id": i, "rating": r}).encode() for u, i, r, _ in _ROWS]
    lines[3] = b'{"user_id": "u\xff", "item_id": "i3"}'
    lines[5:5] = [b"", b"[1, 2]", b'{"user_id": "u0"}', b'{"user_id": "u0", "item_id": "i1", "rating": "great"}']
    lines[-1] = lines[-1][:20]  # cut off
    path = tmp_path / "interactions.jsonl"
    path.write_bytes(b"\n".join(lines))
    result = ingest(path, max_bad_fraction=0.5)
    found = {(row["row"], row["reason"]) for row in result.quarantine}
    assert found == {
        (4, "not UTF-8"),
        (7, "no JSON object"),
        (8, "item_key is missing"),
        (9, "rating is unreadable"),
        (len(lines), "not JSON"),
    }
    assert {row["file"] for row in result.quarantine} == {"interactions.jsonl"}
    assert result.stats["quarantined"]["interactions"] == 5
    assert result.stats["interactions"] == len(_ROWS) - 2


def _json_lines(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_columns_of_json_that_come_late(tmp_path: Path, ingest: Ingest) -> None:
    """The first 64 KB hold neither; then one record has the one name and another the other."""
    rows = [{"user_id": user, "item_id": item, "note": "x" * 4000} for user, item, *_ in _ROWS]
    rows[-2] |= {"rating": 5.0, "review": "late"}
    rows[-1] |= {"stars": 4.0, "reviewText": "later", "mood": "good"}
    path = _json_lines(tmp_path / "interactions.jsonl", rows)
    kept = {"split": {"kind": "ratio", "valid": 0.3, "test": 0.3, "keep_unseen": True}}
    for columns, num_reviewed in (({}, 2), ({"review": "review"}, 1), ({"review": "mood"}, 1)):
        result = ingest(path, columns=columns, **kept)
        assert result.stats["interactions"] == len(_ROWS)
        assert result.stats["rows_with"] == {"rated": 2, "reviewed": num_reviewed}


def test_the_first_records_decide_between_two_names_in_json(tmp_path: Path, ingest: Ingest) -> None:
    rows = [{"user": user, "item_id": item, "time": 1000} for user, item, *_ in _ROWS]
    rows[-1] |= {"user_id": "another", "timestamp": "never"}
    path = _json_lines(tmp_path / "interactions.jsonl", [{**row, "note": "x" * 4000} for row in rows])
    result = ingest(path)
    assert result.all_pairs == sorted((user, item) for user, item, *_ in _ROWS)
    assert result.stats["last_timestamp"] == 1000


def test_a_first_record_of_json_that_is_longer_than_a_head(tmp_path: Path, ingest: Ingest) -> None:
    rows = [{"user_id": user, "item_id": item, "review": "x" * 70_000} for user, item, *_ in _ROWS]
    result = ingest(_json_lines(tmp_path / "interactions.jsonl", rows))
    assert result.stats["rows_with"]["reviewed"] == len(_ROWS)


def test_a_named_column_that_no_record_of_json_has(tmp_path: Path, ingest: Ingest) -> None:
    path = _json_lines(
        tmp_path / "interactions.jsonl", [{"user_id": user, "item_id": item} for user, item, *_ in _ROWS]
    )
    with pytest.raises(UserError, match=r"^data\.columns\.review='reveiw' is in no record of the interactions: name"):
        ingest(path, columns={"review": "reveiw"})
    with pytest.raises(UserError, match=r"data\.columns\.user_id='uesr' is not in 'interactions\.jsonl', which has: u"):
        ingest(path, columns={"user_id": "uesr"})


@pytest.mark.parametrize("at", [0, 10])
def test_blank_lines_of_csv_end_nothing(at: int, tmp_path: Path, ingest: Ingest) -> None:
    lines = [f"{user},{item}" for user, item, *_ in _ROWS]
    lines[at:at] = [""] * 140_000
    path = tmp_path / "interactions.csv"
    path.write_text("\n".join(["user_id,item_id", *lines, "u0"]))
    result = ingest(path, max_bad_fraction=0.5)
    assert result.all_pairs == sorted((user, item) for user, item, *_ in _ROWS)
    assert [row["row"] for row in result.quarantine] == [len(lines) + 2]


def test_bad_rows_of_csv_are_named_by_line(tmp_path: Path, ingest: Ingest) -> None:
    path = tmp_path / "interactions.csv.gz"
    rows = [f"{u},{i},{r},{t},fine" for u, i, r, t in _ROWS]
    rows[0] = 'u0,i0,5,1000,"two\nlines, ""quoted"""'
    rows[4] = "u0,i4"
    text = "user_id,item_id,rating,timestamp,review\n" + "\n".join(rows)
    content = text.encode() + b"\nu0,i9,5,1000,caf\xe9\nu0,i9,5,10"
    path.write_bytes(gzip.compress(content))
    result = ingest(path, max_bad_fraction=0.5)
    reasons = sorted((row["row"], row["reason"]) for row in result.quarantine)
    assert reasons == [(7, "has 2 of 5 fields"), (27, "review is unreadable"), (28, "has 4 of 5 fields")]
    assert "caf\\xe9" in {row["value"] for row in result.quarantine}
    reviews = pd.concat([result.frame(name) for name in ("train", "valid", "test")]).review
    assert 'two lines, "quoted"' in set(reviews) or result.frame("train").query("user_id == 0 and item_id == 0").empty


def test_parquet_strings_that_are_not_utf8(tmp_path: Path, ingest: Ingest) -> None:
    table = interactions(_ROWS)
    reviews = pa.array([b"caf\xe9" if at == 2 else b"fine" for at in range(len(_ROWS))])
    broken = pa.Array.from_buffers(pa.string(), len(reviews), reviews.buffers())
    pq.write_table(table.append_column("review", broken), tmp_path / "interactions.parquet")
    result = ingest(tmp_path / "interactions.parquet", max_bad_fraction=0.1)
    assert [(row["row"], row["reason"], row["value"]) for row in result.quarantine] == [
        (3, "review is unreadable", "caf\\xe9")
    ]


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "interactions.parquet").write_bytes(b"user_id,item_id\n")
    with pytest.raises(UserError, match=r"'interactions\.parquet' is no readable Parquet file"):
        check(DataConfig(format="tables", path=str(tmp_path)))


@pytest.mark.parametrize("ending", [".jsonl.gz", ".csv.gz", ".tsv.bz2", ".ndjson.zst"])
def test_a_file_that_is_not_compressed_as_it_is_called(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"interactions{ending}").write_bytes(b'{"user_id": "a", "item_id": "b"}\n' * 100)
    config = DataConfig(format="tables", path=str(tmp_path))
    for look in (lambda: check(config), lambda: plan_counts(config), lambda: inspect(str(tmp_path))):
        with pytest.raises(UserError, match=rf"^'interactions\{ending}' cannot be read to its end .*of its name$"):
            look()


def test_folder_without_interactions(write: Write) -> None:
    raw = write(items=pa.table({"item_id": ["a"]}))
    with pytest.raises(UserError, match=r"holds no interactions for format 'tables'.*there is: items.parquet"):
        check(DataConfig(format="tables", path=str(raw)))
