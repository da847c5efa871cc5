"""Every raw format on small files with the faults that real dumps have."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_tables import Ingest

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.coerce import to_table
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.readers import READERS, make_reader
from hnlm_ray.ingest.readers.amazon2018 import Amazon2018Reader
from hnlm_ray.ingest.readers.base import parse_json_lines, parse_uniform_json
from hnlm_ray.ingest.schema import SCHEMAS, Chunk

_ALL = {"split": {"kind": "leave_last", "keep_unseen": True}, "max_bad_fraction": 0.5}
_DAY = 86_400


def _write(path: Path, lines: list[Any], cut: int = 0) -> None:
    """Lines of JSON (or bytes as they are), compressed when the name says so, `cut` bytes short."""
    content = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    content = content[: len(content) - cut]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _reasons(result: Any) -> list[tuple[str, int, str]]:
    return sorted((row["file"], row["row"], row["reason"]) for row in result.quarantine)


def _review_2018(user: str, item: str, day: int, **more: Any) -> dict[str, Any]:
    return {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": day * _DAY, "reviewText": "ok", **more}


def test_amazon2018(tmp_path: Path, ingest: Ingest) -> None:
    reviews = [_review_2018(f"A{u}", f"B{i}", 10 + u + i) for u in range(4) for i in range(5)]
    reviews[0] |= {"reviewText": "Great &amp; <br />cheap", "style": {"Color:": " Red"}, "vote": "1,234"}
    reviews.insert(3, reviews[2] | {"unixReviewTime": 99 * _DAY, "overall": 1.0})  # the same review again, newer
    del reviews[7]["overall"]
    reviews.append(_review_2018("A0", "B9", 1))  # an item without metadata
    _write(tmp_path / "Toys_5.json.gz", [*reviews, _review_2018("A9", "B0", 1)], cut=30)
    _write(
        tmp_path / "meta_Toys.json.gz",
        [
            {"asin": "B0", "title": "Tom &amp; Jerry", "description": ["One.", "Two."], "price": "$3.99",
             "category": ["Toys", "a &gt; b"]},
            {"asin": "B1", "title": "var aPageStart = (new Date()).getTime();", "description": "<p>A string.</p>"},
            {"asin": "B1", "title": "Repeated", "description": "<p>A string.</p>", "brand": "Me", "price": 3.0},
            {"asin": "B2", "title": "", "description": []},
            {"asin": "B7", "title": "nobody reviewed this"},
            {"title": "no id"},
        ],
    )  # fmt: skip
    result = ingest(tmp_path, format="amazon2018", **_ALL)
    assert _reasons(result) == [("Toys_5.json.gz", 23, "not JSON"), ("meta_Toys.json.gz", 6, "item_key is missing")]
    assert result.stats["interactions"] == 21
    train = result.frame("train")
    assert "Great & cheap" in set(train.review)
    assert result.frame("test").query("user_id == 0").rating.tolist() == [1.0]  # the newer of the duplicates
    assert result.stats["rows_with"]["rated"] == 20
    items = result.frame("items").set_index("item_key")
    assert items.title.to_dict() == {
        "B0": "Tom & Jerry",
        "B1": "Repeated",
        "B2": "item B2",
        "B3": "item B3",
        "B4": "item B4",
        "B9": "item B9",
    }
    assert items.description["B0"] == "One. Two."
    assert items.description["B1"] == "A string."
    assert list(items.categories["B0"]) == ["Toys", "a > b"]
    assert items.brand["B1"] == "Me"
    rated = ingest(tmp_path, format="amazon2018", **_ALL, filters={"min_rating": 4})
    assert ("Toys_5.json.gz", 8, "rating is missing, which data.filters.min_rating needs") in _reasons(rated)


def test_amazon2023(tmp_path: Path, ingest: Ingest) -> None:
    reviews = [
        {"user_id": f"A{u}", "asin": f"X{i}", "parent_asin": f"B{i}", "rating": 4.0, "text": "fine", "title": "t",
         "timestamp": 1_600_000_000_123 + (u + i) * 1000, "images": [], "verified_purchase": True}
        for u in range(4) for i in range(5)
    ]  # fmt: skip
    reviews[5]["timestamp"] = 1_600_000_000  # seconds among milliseconds
    _write(tmp_path / "Electronics.jsonl.gz", reviews)
    _write(
        tmp_path / "meta_Electronics.jsonl.gz",
        [
            {"parent_asin": "B0", "title": "Cable", "store": "ACME", "categories": ["Electronics"], "description": [],
             "features": ["long", "red"], "price": "—"},
            {"parent_asin": "B1", "title": None, "description": ["It &quot;works&quot;"], "features": ["x"]},
        ],
    )  # fmt: skip
    result = ingest(tmp_path, format="amazon2023", **_ALL)
    assert result.all_pairs == sorted((f"A{u}", f"B{i}") for u in range(4) for i in range(5))
    items = result.frame("items").set_index("item_key")
    assert (items.title["B0"], items.brand["B0"], items.description["B0"]) == ("Cable", "ACME", "long red")
    assert (items.title["B1"], items.title_source["B1"]) == ('It "works"', "description")
    assert items.text.isna().all()
    assert (result.stats["first_timestamp"], result.stats["last_timestamp"]) == (1_600_000_000, 1_600_000_007)


def test_yelp(tmp_path: Path, ingest: Ingest) -> None:
    reviews = [
        {"review_id": f"r{u}{i}", "user_id": f"u{u}", "business_id": f"b{i}", "stars": 5.0,
         "date": f"2016-03-{u + i + 1:02d} 12:00:00", "text": "Yum"}
        for u in range(4) for i in range(5)
    ]  # fmt: skip
    reviews[2]["date"] = "2016-03-03"  # the older dumps have days only
    reviews[4]["date"] = "yesterday"
    _write(tmp_path / "yelp_academic_dataset_review.json", reviews)
    _write(tmp_path / "yelp_academic_dataset_user.json", [{"user_id": "u0", "name": "Ann"}])
    _write(
        tmp_path / "yelp_academic_dataset_business.json",
        [
            {"business_id": "b0", "name": "Caf\u00e9 &amp; Co", "city": "Phoenix", "state": "AZ",
             "categories": "Cafes, Bars & Pubs"},
            {"business_id": "b1", "name": "Nowhere", "city": "", "state": None, "categories": None},
        ],
    )  # fmt: skip
    filters = {"since": "2016-03-01", "until": "2016-03-08"}
    result = ingest(tmp_path, format="yelp", filters=filters, **_ALL)
    assert _reasons(result) == [("yelp_academic_dataset_review.json", 5, "timestamp is unreadable")]
    assert result.stats["interactions"] == 18  # the one of March 8th is outside
    items = result.frame("items").set_index("item_key")
    assert (items.title["b0"], items.description["b0"]) == ("Caf\u00e9 & Co", "Phoenix, AZ")
    assert list(items.categories["b0"]) == ["Cafes", "Bars & Pubs"]
    assert items.description.isna()["b1"]


@pytest.mark.parametrize("layout", ["csv", "dat", "100k"])
def test_movielens(layout: str, tmp_path: Path, ingest: Ingest) -> None:
    rows = [(u, m, (u + m) % 5 + 0.5, 978_300_000 + u + m) for u in range(1, 5) for m in range(1, 6)]
    if layout == "csv":
        lines = ["userId,movieId,rating,timestamp", *(f"{u},{m},{r},{t}" for u, m, r, t in rows)]
        movies = [
            "movieId,title,genres",
            '1,"City of Lost Children, The (1995)",Adventure|Drama',
            "2,Am\u00e9lie (2001),(no genres listed)",
        ]
        files = {
            "ratings.csv": "\r\n".join(lines).encode(),
            "movies.csv": "\r\n".join(movies).encode(),
            "tags.csv": b"x",
            "links.csv": b"x",
        }
    elif layout == "dat":
        lines = [f"{u}::{m}::{r:g}::{t}" for u, m, r, t in rows]
        movies = ["1::City of Lost Children, The (1995)::Adventure|Drama", "2::Am\u00e9lie (2001)::"]
        files = {
            "ratings.dat": "\n".join(lines).encode(),
            "movies.dat": "\n".join(movies).encode("latin-1"),
            "users.dat": b"1::F::1::10::48067",
        }
    else:
        lines = [f"{u}\t{m}\t{r:g}\t{t}" for u, m, r, t in rows]
        flags = ["0|0|1|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0", "|".join("0" * 19)]
        movies = [
            f"1|City of Lost Children, The (1995)|01-Jan-1995||http://x|{flags[0]}",
            f"2|Am\u00e9lie (2001)|||x|{flags[1]}",
        ]
        files = {"u.data": "\n".join(lines).encode(), "u.item": "\n".join(movies).encode("latin-1"), "u1.base": b"x"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content + (b"\n1,2\n" if name.startswith("ratings") else b"\n"))
    result = ingest(tmp_path, format="movielens", **_ALL)
    assert result.all_pairs == sorted((str(u), str(m)) for u, m, *_ in rows)
    items = result.frame("items").set_index("item_key")
    assert items.title.tolist()[:3] == ["City of Lost Children, The (1995)", "Am\u00e9lie (2001)", "item 3"]
    assert list(items.categories["1"]) == ["Adventure", "Drama"]
    assert items.categories["2"] is None
    assert [row["reason"].startswith("has ") for row in result.quarantine] == ([] if layout == "100k" else [True])


def test_recbole(tmp_path: Path, ingest: Ingest) -> None:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    splits = {"train": range(3), "valid": range(3, 4), "test": range(4, 5)}
    for split, items in splits.items():
        rows = [f"u{u}\ti{(u + i) % 5}\t4\t{978_300_000 + i}.0" for u in range(5) for i in items]
        (tmp_path / f"ml.{split}.inter").write_text(
            "\n".join([header, *rows]) + ("\nu9\ti9" if split == "train" else "")
        )
    (tmp_path / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\n"
        "i0\tToy Story\tAnimation Children's Comedy\ni1\tHeat\tCrime, Film Noir\n"
    )
    (tmp_path / "ml.user").write_text("user_id:token\tage:token\nu0\t24\n")
    (tmp_path / "ml.net").write_text("source_id:token\n")
    result = ingest(tmp_path, format="recbole", split={"kind": "column"}, max_bad_fraction=0.1)
    assert result.keyed("test") == [("u0", "i4"), ("u1", "i0"), ("u2", "i1"), ("u3", "i2"), ("u4", "i3")]
    assert result.stats["valid"] == 5
    items = result.frame("items").set_index("item_key")
    assert items.title["i0"] == "Toy Story"
    assert [list(items.categories[key]) for key in ("i0", "i1")] == [
        ["Animation", "Children's", "Comedy"],
        ["Crime", "Film Noir"],
    ]
    assert _reasons(result) == [("ml.train.inter", 17, "has 2 of 4 fields")]
    with pytest.raises(UserError, match=r"'rating_x' is not in 'ml.test.inter', which has: user_id, item_id"):
        ingest(tmp_path, format="recbole", columns={"rating": "rating_x"})


def test_lightgcn(tmp_path: Path, ingest: Ingest) -> None:
    (tmp_path / "train.txt").write_text("0 0 1 2 3\n1 1 2 3 4 1\n2 2 3 4 0\n3\n4 x 2\n")
    (tmp_path / "test.txt").write_text("0 4 3\n1 0\n2 1\n9 1\n")
    (tmp_path / "item_list.txt").write_text("org_id remap_id\n")
    result = ingest(tmp_path, format="lightgcn", split={"kind": "column", "valid": 0.25}, max_bad_fraction=0.1)
    assert _reasons(result) == [("train.txt", 5, "not a list of whole numbers")]
    assert result.keyed("test") == [("0", "4"), ("1", "0"), ("2", "1")]  # 0-3 is in both files: training keeps it
    assert result.stats["valid"] == 3
    assert result.stats["held_out_unseen"] == 1  # user 9
    assert result.frame("users").user_key.tolist() == ["0", "1", "2"]


@pytest.mark.parametrize("name", sorted(set(READERS) - {"synthetic", "tables"}))
def test_every_format_says_what_it_expects(name: str, tmp_path: Path) -> None:
    (tmp_path / "something.else").write_text("x")
    with pytest.raises(
        UserError, match=f"holds no interactions for format '{name}', which expects .*there is: something.else"
    ):
        make_reader(DataConfig(format=name, path=str(tmp_path))).parts()


_RECORDS = st.lists(
    st.dictionaries(
        st.sampled_from(["reviewerID", "asin", "overall", "unixReviewTime", "reviewText", "vote"]),
        st.one_of(
            st.none(), st.text(max_size=5), st.integers(0, 9), st.floats(0, 5), st.just(["a"]), st.just({"b": 1})
        ),
    ),
    max_size=5,
)


@given(records=_RECORDS)
def test_the_quick_way_to_read_json_agrees_with_the_slow_one(records: list[dict[str, Any]]) -> None:
    fields = Amazon2018Reader.fields["interactions"]
    lines = [json.dumps(record).encode() for record in records]
    quick = parse_uniform_json(lines, pa.schema(list(fields.values())))
    if quick is None:
        return
    rows, parsed, bad = parse_json_lines(0, lines)
    assert not bad
    slow = {name: [record.get(field) for record in parsed] for name, (field, _) in fields.items()}
    tables = []
    for columns in ({name: quick[field].combine_chunks() for name, (field, _) in fields.items()}, slow):
        table, _, bad = to_table("interactions", Chunk(dict(columns), pa.array(rows).to_numpy(), len(lines)))
        tables.append((table, bad))
    assert tables[0][0].schema == SCHEMAS["interactions"]
    assert tables[0][0].equals(tables[1][0])
    assert [row.row for row in tables[0][1]] == [row.row for row in tables[1][1]]
