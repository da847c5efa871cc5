"""What `hnlm data inspect` says, and that its config lines work."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from raw_tables import Ingest, Write, grid, interactions

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.inspect import guess_format, inspect


def _amazon(folder: Path, review: dict[str, object], name: str) -> None:
    (folder / name).write_text(json.dumps(review) + "\n")


_MAKERS: dict[str, Callable[[Path], object]] = {
    "amazon2018": lambda folder: _amazon(folder, {"reviewerID": "a", "asin": "b", "overall": 5.0}, "Toys_5.json"),
    "amazon2023": lambda folder: _amazon(folder, {"user_id": "a", "parent_asin": "b", "rating": 5.0}, "Toys.jsonl"),
    "yelp": lambda folder: _amazon(folder, {"user_id": "a", "business_id": "b", "stars": 5}, "yelp_review.json"),
    "lightgcn": lambda folder: (folder / "train.txt").write_text("0 1 2\n"),
    "recbole": lambda folder: (folder / "x.inter").write_text("user_id:token\titem_id:token\n1\t2\n"),
    "movielens": lambda folder: (folder / "ratings.dat").write_text("1::2::5::978300760\n"),
    "tables": lambda folder: (folder / "ratings.csv").write_text("user,item\n1,2\n"),
}


@pytest.mark.parametrize("name", sorted(_MAKERS))
def test_every_format_is_recognised(name: str, tmp_path: Path) -> None:
    _MAKERS[name](tmp_path)
    assert guess_format(str(tmp_path)) == name


def test_what_is_said_and_the_config_that_is_proposed(write: Write, ingest: Ingest) -> None:
    rows = [*grid(6, 8), (None, "i0", 1.0, 5)]
    raw = write(
        interactions=interactions(rows),
        items=interactions([("i0", "Zero"), ("i1", None), ("i99", "x")], "item_id title"),
    )
    text = inspect(str(raw))
    for line in (
        "format        tables",
        "interactions  49 (all rows), 1 unusable (user_key is missing: 1)",
        "users         6 with interactions; min 8, median 8, mean 8, max 8 rows each",
        "rating        100%  5: 48",
        "timestamp     100%  1970-01-01 to 1970-01-01",
        "5-core        6 users, 8 items, 48 interactions",
        "10-core       0 users, 0 items, 0 interactions",
        "  title        12%",
    ):
        assert line in text.splitlines()
    assert any(line.split()[:3] == ["5-9", "6", "8"] for line in text.splitlines())
    data = yaml.safe_load(text.partition("\nconfig\n")[2])["data"]
    assert data["split"] == {"kind": "leave_last"}
    assert data["filters"] == {"min_rating": 4, "k_core": 5}
    assert ingest(**data).stats["users"] == 6


def test_a_set_with_its_own_split(shared_data: Path) -> None:
    text = inspect(str(shared_data / "xrec-amazon-small"))
    assert "split         100%  trn: 17,687, tst: 2,208, val: 2,244" in text
    assert "split: {kind: column}" in text


def test_large_data_is_looked_at_in_part(write: Write) -> None:
    raw = write(interactions=interactions(grid(100, 1500)))
    text = inspect(str(raw), max_rows=1000)
    assert "interactions  65,536 (the first 65,536 rows), 0 unusable" in text


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"no reader makes interactions of .*Known formats: lightgcn: train\.txt"):
        inspect(str(tmp_path))
