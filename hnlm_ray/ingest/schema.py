"""The three tables every reader delivers, under the same column names, and what a chunk of raw rows is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

TableName = Literal["interactions", "items", "users"]

INTERACTIONS = pa.schema(
    [
        ("user_key", pa.string()),
        ("item_key", pa.string()),
        ("rating", pa.float32()),
        ("timestamp", pa.int64()),  # Unix seconds, UTC
        ("review", pa.string()),
        ("split", pa.string()),  # train, valid or test, where the source knows it
        ("order", pa.int64()),  # decides between rows of the same timestamp, or of none
    ]
)
ITEMS = pa.schema(
    [
        ("item_key", pa.string()),
        ("title", pa.string()),
        ("brand", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("description", pa.string()),
        ("text", pa.string()),  # ready-made, such as a supplied profile
    ]
)
USERS = pa.schema([("user_key", pa.string()), ("text", pa.string())])
SCHEMAS: dict[TableName, pa.Schema] = {"interactions": INTERACTIONS, "items": ITEMS, "users": USERS}
KEYS: dict[TableName, tuple[str, ...]] = {
    "interactions": ("user_key", "item_key"),
    "items": ("item_key",),
    "users": ("user_key",),
}
QUARANTINE = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("value", pa.string())])

SPLITS = ("train", "valid", "test")

ROW_GROUP_ROWS = 256
"""Rows per Parquet row group of items and users: one unit of LLM work in later stages."""

RawColumn: TypeAlias = pa.Array | list[Any]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    row: int
    """Line or record number within the part, counted from 0."""
    reason: str
    value: str


@dataclass
class Chunk:
    """Some consecutive rows of a file under canonical names, values as the file has them."""

    columns: dict[str, RawColumn]
    """Canonical name -> raw values; a column that the source does not have is absent."""
    rows: np.ndarray
    """[N] line or record number of each row within its part, counted from 0."""
    num_lines: int
    """Lines or records consumed so far in the part, headers and bad ones included."""
    bad: Sequence[BadRow] = field(default_factory=list)
    """Rows that could not even be parsed."""


@dataclass(frozen=True)
class SourceFile:
    """A file of the user's data."""

    path: str
    """Path on its filesystem."""
    name: str
    """Path below `data.path`."""
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Part:
    """What one task reads: a byte range of a text file, row groups of a Parquet file, or all of a file."""

    table: TableName
    path: str
    name: str
    start: int = 0
    """First byte or row group."""
    stop: int = -1
    """One past the last byte or row group; -1: to the end."""
