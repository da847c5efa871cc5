"""Raw values of any type to the column types of `schema`: vectorised where the values allow it, else one by one.

Real dumps mix types within a column: ids as numbers, ratings as text, descriptions that are now a string and now a
list. A value that makes no sense is marked bad, never guessed.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.ingest.schema import SCHEMAS, BadRow, Chunk, RawColumn, TableName

_MILLISECONDS_FROM = 1e11  # as seconds that is the year 5138, as milliseconds 1973
_MICROSECONDS_FROM = 1e14
_NANOSECONDS_FROM = 1e17
_INT64_END = 2.0**63


def to_table(table: TableName, chunk: Chunk) -> tuple[pa.Table, np.ndarray, list[BadRow]]:
    """A chunk as a table of the schema of `table`: the table, the row numbers [N], the rows that were left out."""
    num_rows = len(chunk.rows)
    arrays: list[pa.Array] = []
    reasons = np.full(num_rows, None, dtype=object)
    for column in SCHEMAS[table]:
        raw = chunk.columns.get(column.name)
        if raw is None:
            arrays.append(pa.nulls(num_rows, column.type))
            continue
        array, is_bad = _TO_TYPE[column.name](raw)
        arrays.append(array.cast(column.type))
        if is_bad is not None:
            for at in np.flatnonzero(is_bad & (reasons == None)):  # noqa: E711 (elementwise)
                reasons[at] = (f"{column.name} is unreadable", raw[int(at)])
    bad_at = np.flatnonzero(reasons != None)  # noqa: E711 (elementwise)
    bad = [BadRow(int(chunk.rows[at]), reasons[at][0], _shown(reasons[at][1])) for at in bad_at]
    result = pa.Table.from_arrays(arrays, schema=SCHEMAS[table])
    if not bad:
        return result, chunk.rows, list(chunk.bad)
    good = np.setdiff1d(np.arange(num_rows), bad_at)
    return result.take(pa.array(good)), chunk.rows[good], [*chunk.bad, *bad]


Coerced = tuple[pa.Array, np.ndarray | None]
"""The typed array, and which values [N] were bad (None: none was)."""


def to_text(raw: RawColumn) -> Coerced:
    """Strings, trimmed, empty ones null; numbers as written, lists joined by blanks. Bad: bytes that are not UTF-8."""
    array = _as_array(raw)
    if array is not None and (pa.types.is_string(array.type) or pa.types.is_integer(array.type)):
        # Reading checks nothing: bytes in a string column of a Parquet file may be anything.
        with contextlib.suppress(pa.ArrowInvalid):
            strings = array.cast(pa.binary()).cast(pa.string()) if pa.types.is_string(array.type) else array
            return _null_if_empty(pc.utf8_trim_whitespace(strings.cast(pa.string()))), None
    return _one_by_one(_python_values(array, raw), _text, pa.string())


def to_number(raw: RawColumn) -> Coerced:
    """Finite float64 numbers, NaN and empty text null. Bad: anything else."""
    array = _as_array(raw)
    if array is not None and (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
        numbers = array.cast(pa.float64(), safe=False)  # times in nanoseconds have more digits than a float
        numbers = pc.if_else(pc.is_nan(numbers), None, numbers)
        infinite = pc.fill_null(pc.is_inf(numbers), False).to_numpy(zero_copy_only=False)
        return numbers, _if_any(infinite)
    if array is not None and pa.types.is_string(array.type):
        with contextlib.suppress(pa.ArrowInvalid):
            return to_number(_null_if_empty(pc.utf8_trim_whitespace(array)).cast(pa.float64()))
    return _one_by_one(_python_values(array, raw), _number, pa.float64())


def to_seconds(raw: RawColumn) -> Coerced:
    """Unix seconds int64 from seconds, milli-, micro- or nanoseconds, dates, timestamps and ISO text."""
    array = _as_array(raw)
    if array is not None and (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
        return pc.floor_temporal(array.cast(pa.timestamp("ns")), unit="second").cast(pa.timestamp("s")).cast(
            pa.int64()
        ), None
    numbers, is_bad = to_number(raw)
    values = numbers.to_numpy(zero_copy_only=False)
    size = np.abs(values)
    scale = np.select([size >= _NANOSECONDS_FROM, size >= _MICROSECONDS_FROM, size >= _MILLISECONDS_FROM],
                      [1e9, 1e6, 1e3], 1.0)  # fmt: skip
    seconds, is_out = _floored(values / scale)
    if is_bad is None:
        return seconds, _if_any(is_out)
    moments = _iso_seconds(to_text(raw)[0])
    if pc.any(moments.filter(pa.array(is_bad)).is_valid()).as_py():  # among dates 2014 is a year, else a number
        seconds = pc.coalesce(moments, seconds)
    return seconds, _if_any((is_bad | is_out) & seconds.is_null().to_numpy(zero_copy_only=False))


def to_order(raw: RawColumn) -> Coerced:
    """Whole numbers, others rounded down. Bad: what is none."""
    numbers, is_bad = to_number(raw)
    order, is_out = _floored(numbers.to_numpy(zero_copy_only=False))
    return order, _if_any(is_out if is_bad is None else is_bad | is_out)


def to_text_list(raw: RawColumn) -> Coerced:
    """Lists of strings, without empty and repeated ones; text is cut at `|`, or else at commas."""
    array = _as_array(raw)
    return _one_by_one(_python_values(array, raw), _texts, pa.list_(pa.string()))


_TO_TYPE: dict[str, Callable[[RawColumn], Coerced]] = {
    "user_key": to_text,
    "item_key": to_text,
    "rating": to_number,
    "timestamp": to_seconds,
    "review": to_text,
    "split": to_text,
    "order": to_order,
    "title": to_text,
    "brand": to_text,
    "categories": to_text_list,
    "description": to_text,
    "text": to_text,
}


def _as_array(raw: RawColumn) -> pa.Array | None:
    """One Arrow array of a plain type, or None where the values mix types."""
    if isinstance(raw, list):
        try:
            raw = pa.array(raw)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            return None
    if pa.types.is_dictionary(raw.type):
        raw = raw.dictionary_decode()
    if pa.types.is_large_string(raw.type):
        raw = raw.cast(pa.string())
    if pa.types.is_binary(raw.type) or pa.types.is_large_binary(raw.type):
        try:
            raw = raw.cast(pa.binary()).cast(pa.string())
        except pa.ArrowInvalid:
            return None
    return pa.nulls(len(raw), pa.string()) if pa.types.is_null(raw.type) else raw


def _python_values(array: pa.Array | None, raw: RawColumn) -> list[Any]:
    """The values as Python objects; strings as bytes where they are not all UTF-8."""
    if array is not None:
        with contextlib.suppress(pa.ArrowInvalid):
            array.validate(full=True)
            return list(array.to_pylist())
    if isinstance(raw, list):
        return raw
    binary = raw.dictionary_decode() if pa.types.is_dictionary(raw.type) else raw
    return list(binary.cast(pa.binary()).to_pylist())


def _one_by_one(values: list[Any], convert: Callable[[Any], Any], kind: pa.DataType) -> Coerced:
    converted: list[Any] = []
    is_bad = np.zeros(len(values), dtype=bool)
    for at, value in enumerate(values):
        try:
            converted.append(convert(value))
        except ValueError:
            converted.append(None)
            is_bad[at] = True
    return pa.array(converted, type=kind), _if_any(is_bad)


def _floored(values: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Floats [N] as int64, rounded down, NaN null. Bad: what int64 does not hold, such as infinity."""
    is_bad = np.abs(values) >= _INT64_END
    whole = pa.array(np.floor(np.where(is_bad, np.nan, values)), from_pandas=True).cast(pa.int64())
    return whole, is_bad


def _if_any(is_bad: np.ndarray) -> np.ndarray | None:
    return is_bad if is_bad.any() else None


def _iso_seconds(texts: pa.Array) -> pa.Array:
    """Unix seconds of dates and times in ISO 8601; null where a text is none."""
    moments = pd.to_datetime(texts.to_pandas(), errors="coerce", utc=True, format="ISO8601")
    seconds = pa.array(moments.dt.floor("s").dt.tz_localize(None), type=pa.timestamp("s"), from_pandas=True)
    return seconds.cast(pa.int64())


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode()  # UnicodeDecodeError is a ValueError
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value  # ids that passed through a float column
    if isinstance(value, list | tuple):
        value = " ".join(filter(None, map(_text, value)))
    if isinstance(value, dict):
        raise ValueError("an object is no text")
    if value is None:
        return None
    text = str(value).strip()
    text.encode()  # lone surrogates of a broken JSON escape: UnicodeEncodeError is a ValueError
    return text or None


def _number(value: Any) -> float | None:
    text = _text(value)
    if text is None:
        return None
    number = float(text)
    if math.isinf(number):
        raise ValueError("infinite")
    return None if math.isnan(number) else number


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, list | tuple):  # also lists of lists: paths in a tree of categories
        texts = [
            text for inner in value for text in (_texts(inner) if isinstance(inner, list) else [_text(inner)]) or []
        ]
    else:
        text = _text(value) or ""
        texts = list(text.split("|" if "|" in text else ","))
    stripped = dict.fromkeys(text.strip() for text in texts if text)
    return [text for text in stripped if text] or None


def _null_if_empty(array: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(array, ""), None, array)


def _shown(value: Any) -> str:
    value = value.as_py() if isinstance(value, pa.Scalar) and not pa.types.is_string(value.type) else value
    if isinstance(value, pa.Scalar):
        value = value.as_buffer().to_pybytes() if value.is_valid else None
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return raw[:200].decode("utf-8", "backslashreplace")
