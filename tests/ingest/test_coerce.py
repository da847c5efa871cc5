"""Raw values of all kinds of type become the schema's types; what makes no sense is refused with its row."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.ingest.coerce import to_number, to_order, to_seconds, to_table, to_text, to_text_list
from hnlm_ray.ingest.schema import Chunk


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (["a", " b ", "", None], ["a", "b", None, None]),
        ([1, 2, None], ["1", "2", None]),
        ([1.0, 2.5, float("nan")], ["1", "2.5", None]),
        (["a", 7, None, ["x", "y"]], ["a", "7", None, "x y"]),
        ([["x", "y"], []], ["x y", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([b"a", b"\xc3\xa9"]), ["a", "é"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        ([None, None], [None, None]),
    ],
)
def test_text(raw: Any, expected: list[str | None]) -> None:
    array, is_bad = to_text(raw)
    assert array.to_pylist() == expected
    assert is_bad is None


def test_bytes_that_are_not_utf8_are_bad() -> None:
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff\xfe"]).buffers())
    for raw in (broken, pa.array([b"ok", b"\xff\xfe"]), [b"ok", b"\xff\xfe"], ["ok", "\udcff"]):
        array, is_bad = to_text(raw)
        assert array.to_pylist() == ["ok", None]
        assert is_bad is not None
        assert is_bad.tolist() == [False, True]


@pytest.mark.parametrize(
    ("raw", "expected", "bad"),
    [
        ([5, 4], [5.0, 4.0], []),
        (["5.0", " 4", ""], [5.0, 4.0, None], []),
        (["5", "good", None], [5.0, None, None], [1]),
        ([5, "4", None], [5.0, 4.0, None], []),
        ([1.0, float("nan"), float("inf")], [1.0, None, float("inf")], [2]),
    ],
)
def test_number(raw: list[Any], expected: list[float | None], bad: list[int]) -> None:
    array, is_bad = to_number(raw)
    assert bad == [] if is_bad is None else np.flatnonzero(is_bad).tolist() == bad
    good = [at for at in range(len(raw)) if at not in bad]
    assert [array.to_pylist()[at] for at in good] == [expected[at] for at in good]


@pytest.mark.parametrize(
    "raw",
    [
        [1_420_070_400],
        [1_420_070_400_000],  # milliseconds
        [1_420_070_400_000_123_456],  # nanoseconds
        ["1420070400"],
        ["2015-01-01"],
        ["2015-01-01 00:00:00"],
        ["2015-01-01T01:00:00+01:00"],
        pa.array([16436]).cast(pa.int32()).cast(pa.date32()),
        pa.array([1_420_070_400_000_000], pa.timestamp("us")),
    ],
)
def test_moments_in_every_spelling(raw: Any) -> None:
    array, is_bad = to_seconds(raw)
    assert array.to_pylist() == [1_420_070_400]
    assert is_bad is None


def test_seconds_and_milliseconds_in_one_column() -> None:
    assert to_seconds([1_420_070_400, None, 1_420_070_401_999])[0].to_pylist() == [1_420_070_400, None, 1_420_070_401]


def test_a_moment_that_is_none_is_bad() -> None:
    array, is_bad = to_seconds(["2015-01-01", "soon", None])
    assert array.to_pylist() == [1_420_070_400, None, None]
    assert is_bad is not None
    assert is_bad.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("raw", "expected", "bad"),
    [
        (["1400000000", "1400000001", "n/a"], [1_400_000_000, 1_400_000_001, None], [2]),
        ([1.4e9, float("inf"), float("nan")], [1_400_000_000, None, None], [1]),
        (["1400000000000", "2015-01-01", "soon", ""], [1_400_000_000, 1_420_070_400, None, None], [2]),
        (["2014", "20140513"], [2014, 20_140_513], []),
        (["2014", "20140513", "n/a"], [2014, 20_140_513, None], [2]),
        (["2014", "20140513", "2015-01-01"], [1_388_534_400, 1_399_939_200, 1_420_070_400], []),
        ([1_400_000_000, 1e300], [1_400_000_000, None], [1]),
        (["2015-01-01", b"\xff"], [1_420_070_400, None], [1]),
    ],
)
def test_a_bad_moment_leaves_the_others_as_they_are(raw: list[Any], expected: list[int | None], bad: list[int]) -> None:
    array, is_bad = to_seconds(raw)
    assert array.to_pylist() == expected
    assert ([] if is_bad is None else np.flatnonzero(is_bad).tolist()) == bad


@pytest.mark.parametrize(
    ("raw", "expected", "bad"),
    [
        ([1, 2.5, None], [1, 2, None], []),
        (["1", "2", "x", "4"], [1, 2, None, 4], [2]),
        ([1.0, float("inf"), 3.0, 1e30], [1, None, 3, None], [1, 3]),
    ],
)
def test_a_bad_order_leaves_the_others_as_they_are(raw: list[Any], expected: list[int | None], bad: list[int]) -> None:
    array, is_bad = to_order(raw)
    assert array.to_pylist() == expected
    assert ([] if is_bad is None else np.flatnonzero(is_bad).tolist()) == bad


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ([["a", "b", "a", " "], None, []], [["a", "b"], None, None]),
        (["Pizza, Bars", "Action|Comedy, dark"], [["Pizza", "Bars"], ["Action", "Comedy, dark"]]),
        ([[["Toys", "Games"], ["Toys", "Dolls"]]], [["Toys", "Games", "Dolls"]]),
        (["a", ["b", "c"]], [["a"], ["b", "c"]]),
    ],
)
def test_lists(raw: list[Any], expected: list[list[str] | None]) -> None:
    assert to_text_list(raw)[0].to_pylist() == expected


def test_bad_values_keep_their_row_number_and_value() -> None:
    chunk = Chunk(
        {"user_key": ["a", "b", "c"], "item_key": [1, 2, 3], "rating": ["5", "great", "4"]}, np.array([7, 8, 9]), 10
    )
    table, rows, bad = to_table("interactions", chunk)
    assert table["user_key"].to_pylist() == ["a", "c"]
    assert table["item_key"].to_pylist() == ["1", "3"]
    assert rows.tolist() == [7, 9]
    assert [(row.row, row.reason, row.value) for row in bad] == [(8, "rating is unreadable", "great")]
