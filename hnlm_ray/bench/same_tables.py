"""What two versions of the same artifacts differ in: rows that are missing, rows that are there twice, numbers."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from safetensors.numpy import load_file


class Differences(NamedTuple):
    """How a folder differs from the one that it should equal."""

    rows: int
    """Rows compared."""
    lost: int
    """Rows that are not there, or are there with another text or id."""
    twice: int
    """Rows that should not be there, or not so often."""
    largest: float
    """Largest difference of a number in a table or a tensor."""


def differences(expected: Path, found: Path) -> Differences:
    """Compare every table (a folder of Parquet shards counts as one, in any order) and every safetensors file."""
    rows = lost = twice = 0
    largest = 0.0
    for name in sorted(_tables(expected) | _tables(found)):
        ours, theirs = _rows(expected / name), _rows(found / name)
        texts, other = Counter(text for text, _ in ours), Counter(text for text, _ in theirs)
        rows += len(ours)
        lost += (texts - other).total()
        twice += (other - texts).total()
        if texts == other:
            largest = max([largest, *(_distance(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))])
    for file in expected.rglob("*.safetensors"):
        ours, theirs = load_file(file), load_file(found / file.relative_to(expected))
        largest = max([largest, *(_distance(ours[name], theirs[name]) for name in ours)])
    return Differences(rows, lost, twice, largest)


def in_all(each: Sequence[Differences]) -> Differences:
    """Of several folders together."""
    rows, lost, twice = (sum(getattr(one, name) for one in each) for name in ("rows", "lost", "twice"))
    return Differences(rows, lost, twice, max(one.largest for one in each))


def _tables(folder: Path) -> set[Path]:
    return {file.parent.relative_to(folder) for file in folder.rglob("*.parquet")}


def _rows(folder: Path) -> list[tuple[str, np.ndarray]]:
    """(everything but fractions as text, the fractions) of each row, in the order of the text."""
    files = sorted(folder.glob("*.parquet"))
    rows = [row for file in files for row in _read(file)]
    return sorted(rows, key=lambda row: row[0])


def _read(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    table = pads.dataset(file, format="parquet").to_table()
    fractions = {field.name for field in table.schema if _is_fraction(field.type)}
    for row in table.to_pylist():
        numbers = [np.ravel(row[name]) for name in sorted(fractions) if row[name] is not None]
        text = json.dumps({name: value for name, value in row.items() if name not in fractions}, default=str)
        yield text, np.concatenate([*numbers, np.empty(0)])


def _is_fraction(kind: Any) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_floating(kind))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0))
