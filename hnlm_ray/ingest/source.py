"""What can be said about the input before a run: whether it can be read, how much it is, and its fingerprint."""

import hashlib
import json
from collections import Counter
from itertools import islice
from typing import Any

import pyarrow.fs as pafs

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.files import compression_of, list_files, open_parquet, read_head
from hnlm_ray.ingest.readers import make_reader
from hnlm_ray.ingest.reading import PartReading
from hnlm_ray.ingest.schema import Part, TableName
from hnlm_ray.store import Folder

_HASH_UP_TO_BYTES = 1 << 30
_COMPRESSION_RATIO = 4  # of text, roughly; only sizes the buckets
_GENERATOR_VERSION = 1


def check(config: DataConfig) -> None:
    """Refuse at once what cannot work: a missing path, an unknown format, wrong columns, nothing readable.

    Reads the first rows of every table only. Raises `UserError`.
    """
    if config.format == "synthetic":
        return
    reader = make_reader(config)
    first: dict[str, Part] = {}
    for part in reader.parts():
        first.setdefault(part.table, part)
    for table, part in first.items():
        reading = PartReading(config, part)
        for _ in islice(reading, 1):
            if table == "interactions":
                _check_columns(config, reading.columns, part.name)
        if not reading.counts["usable"] and table == "interactions":
            why = (
                "; ".join(f"{reason}: {count:,}" for reason, count in reading.reasons.most_common(5))
                or "the table is empty"
            )
            raise UserError(
                f"the first rows of {part.name!r} hold no usable interaction ({why}): is data.format={config.format!r} "
                "right? `hnlm data inspect` guesses it"
            )


def _check_columns(config: DataConfig, present: set[str], name: str) -> None:
    needs = {
        "rating": ("data.filters.min_rating", config.filters.min_rating is not None),
        "timestamp": (
            "data.filters.since/until or data.split.kind=time",
            bool(config.filters.since or config.filters.until) or config.split.kind == "time",
        ),
        "split": ("data.split.kind=column", config.split.kind == "column"),
    }
    for column, (key, is_needed) in needs.items():
        if is_needed and column not in present:
            raise UserError(f"{key} needs a {column}, and {name!r} has none: name it in data.columns or drop the key")


def plan_counts(config: DataConfig) -> dict[str, Any]:
    """Rows per table for a plan: {"interactions": n, "items": n, "users": n, "exact": bool}, before any filter.

    None where the data has no such table.
    Parquet footers are exact; of text files the first lines tell the length of a line.
    """
    if config.format == "synthetic":
        shop = config.synthetic
        rows = round(shop.num_users * shop.interactions_per_user)
        return {"interactions": rows, "items": shop.num_items, "users": shop.num_users, "exact": False}
    counts: Counter[str] = Counter()
    exact = True
    for (name, path), table in _files(make_reader(config).parts()).items():
        rows, is_exact = _num_rows(Folder(config.path).fs, path, name)
        counts[table] += rows
        exact &= is_exact
    return {**{table: counts.get(table) for table in ("interactions", "items", "users")}, "exact": exact}


def input_size(config: DataConfig, parts: list[Part]) -> tuple[int, int]:
    """Bytes (decompressed, roughly) and rows (roughly) of the interactions."""
    if config.format == "synthetic":
        rows = round(config.synthetic.num_users * config.synthetic.interactions_per_user)
        return rows * 100, rows
    fs = Folder(config.path).fs
    files = [file for file, table in _files(parts).items() if table == "interactions"]
    return sum(_plain_bytes(fs, path, name) for name, path in files), sum(
        _num_rows(fs, path, name)[0] for name, path in files
    )


def input_fingerprint(config: DataConfig) -> str:
    """A hash of the raw input: every file's name, size and content (of files above 1 GiB: the time of change).

    Files on remote storage count by name, size and time of change: reading them would take as long as the ingest.
    """
    digest = hashlib.sha256()
    if config.format == "synthetic":
        digest.update(json.dumps([_GENERATOR_VERSION, config.synthetic.result_dict()], sort_keys=True).encode())
        return digest.hexdigest()
    fs = Folder(config.path).fs
    for file in list_files(config.path):
        is_hashed = file.size <= _HASH_UP_TO_BYTES and isinstance(fs, pafs.LocalFileSystem)
        with fs.open_input_file(file.path) as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest() if is_hashed else file.mtime_ns
        digest.update(json.dumps([file.name, file.size, content]).encode())
    return digest.hexdigest()


def _files(parts: list[Part]) -> dict[tuple[str, str], TableName]:
    """(name, path) of every file -> its table."""
    return {(part.name, part.path): part.table for part in parts}


def _plain_bytes(fs: pafs.FileSystem, path: str, name: str) -> int:
    if name.endswith(".parquet"):
        metadata = open_parquet(fs, path, name).metadata
        return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return int(fs.get_file_info(path).size) * (_COMPRESSION_RATIO if compression_of(name) else 1)


def _num_rows(fs: pafs.FileSystem, path: str, name: str) -> tuple[int, bool]:
    """Rows of one file, and whether the number is exact."""
    if name.endswith(".parquet"):
        return int(open_parquet(fs, path, name).metadata.num_rows), True
    head = read_head(fs, path, name, 1 << 20)
    return round(_plain_bytes(fs, path, name) / max(len(head), 1) * head.count(b"\n")), False
