"""Text without markup, dates, duplicates, and the spellings of splits."""

import time
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.ingest.clean import (
    clean_lists,
    clean_splits,
    clean_text,
    date_mask,
    newest_of_pairs,
    rating_mask,
    strip_markup,
)
from hnlm_ray.ingest.config import FilterConfig


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Othello: Complete &amp; Unabridged", "Othello: Complete & Unabridged"),
        ("a &amp;quot;doubly&amp;quot; escaped title", 'a "doubly" escaped title'),
        ("<p>A <i>very</i> good<br/>book</p>", "A very good book"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("I <3 this, 2 < 3 and 5 > 4", "I <3 this, 2 < 3 and 5 > 4"),
        ("x<script>alert('x')</script>y<!-- no -->z<style>p {}</style>", "x y z"),
        ("a <!-- b <script> --> c </script> d", "a c d"),
        ("a <SCRIPT> b <!-- c </Script > d --> e", "a d --> e"),
        ("a <script> b <style> c </style> d <!-- e", "a b d <!-- e"),
        ("a <scripted> b </script> c", "a b c"),
        ('<a href="http://x">link</a>', "link"),
        ("  two\t\n lines\r\n and\u00a0blanks\u200b ", "two lines and blanks"),
        ("bell\x07 and nul\x00", "bell and nul"),
        ("caf\u00e9 \u4e2d\u6587 \U0001f600", "caf\u00e9 \u4e2d\u6587 \U0001f600"),
        ("", None),
        ("<br>", None),
        (None, None),
    ],
)
def test_text(raw: str | None, clean: str | None) -> None:
    assert clean_text(pa.array([raw, "other"], pa.string())).to_pylist() == [clean, "other"]


@pytest.mark.parametrize("opening", ["<script ", "<style ", "<!-- "])
def test_what_is_never_closed_costs_no_more_than_it_is_long(opening: str) -> None:
    text = opening * 60_000
    started = time.process_time()
    assert strip_markup(text) == text
    assert time.process_time() - started < 2, "from every opening to the end of the text it would be minutes"


def test_lists_lose_what_comes_out_empty() -> None:
    raw = pa.array([["A &amp; B", "<br>"], None, ["&nbsp;"], ["c"]], pa.list_(pa.string()))
    assert clean_lists(raw).to_pylist() == [["A & B"], None, None, ["c"]]


def test_lists_that_are_a_slice_or_all_null() -> None:
    raw = pa.array([["x"], ["a", "b"], None], pa.list_(pa.string()))
    assert clean_lists(raw.slice(1)).to_pylist() == [["a", "b"], None]
    assert clean_lists(pa.nulls(2, pa.list_(pa.string()))).to_pylist() == [None, None]


def test_every_spelling_of_a_split() -> None:
    raw = ["trn", "train", "Val", "valid", "validation", "tst", "test", "holdout", None]
    cleaned, is_unknown = clean_splits(pa.array(raw))
    assert cleaned.to_pylist() == ["train", "train", "valid", "valid", "valid", "test", "test", None, None]
    assert np.flatnonzero(is_unknown).tolist() == [7]


def test_filters_at_their_edges() -> None:
    filters = FilterConfig(min_rating=4, since=date(2015, 1, 1), until=date(2015, 1, 2))
    assert rating_mask(pa.array([3.9, 4.0, None]), filters).tolist() == [False, True, False]
    day = 1_420_070_400
    moments = pa.array([day - 1, day, day + 86_399, day + 86_400, None])
    assert date_mask(moments, filters).tolist() == [False, True, True, False, False]


def test_of_a_repeated_pair_the_newest_row_stays() -> None:
    users, items = np.array([0, 0, 0, 1, 0]), np.array([5, 5, 6, 5, 5])
    times, orders = np.array([10, 30, 1, 1, 30]), np.arange(5)
    assert newest_of_pairs(users, items, times, orders).tolist() == [2, 3, 4]  # 1 and 4 are equally old: the later line
