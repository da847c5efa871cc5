"""Ready tables: Parquet, CSV, TSV or JSON lines, with a column map."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.files import (
    CHUNK_BYTES,
    HEAD_BYTES,
    bare_name,
    line_parts,
    open_parquet,
    read_head,
    row_group_parts,
    stream_lines,
)
from hnlm_ray.ingest.readers.base import FileReader, parse_json_lines, shown
from hnlm_ray.ingest.readers.columns import USUAL_NAMES, columns_to_come, resolve_columns
from hnlm_ray.ingest.schema import BadRow, Chunk, Part, SourceFile, TableName

_BATCH_ROWS = 1 << 16
_ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")


class TablesReader(FileReader):
    """A file of interactions, or a folder in which files or subfolders are named interactions, items and users.

    A folder without such names is taken as shards of the interactions.
    """

    expects = f"interactions.*, items.* and users.* ({' '.join(_ENDINGS)}), or one such file"

    @classmethod
    def tables(cls, names: Sequence[str]) -> dict[str, TableName]:
        readable = [name for name in names if bare_name(name).endswith(_ENDINGS)]
        tables: dict[str, TableName] = {}
        for name in readable:
            for table in USUAL_NAMES:
                if any(step.lower().startswith(table) for step in name.split("/")):
                    tables[name] = table
        return tables or dict.fromkeys(readable, "interactions")

    def cut(self, file: SourceFile, table: TableName) -> list[Part]:
        ending = _ending(file.name)
        if ending == ".parquet":
            return row_group_parts(self._fs, file, table)
        if ending in (".csv", ".tsv"):  # a quoted field may hold line ends: only a reader from the start knows
            return [Part(table, file.path, file.name)]
        return line_parts(file, table)

    def read(self, part: Part) -> Iterator[Chunk]:
        if _ending(part.name) == ".parquet":
            return self._read_parquet(part)
        if _ending(part.name) in (".csv", ".tsv"):
            return self._read_csv(part)
        return self._read_json(part)

    def _read_parquet(self, part: Part) -> Iterator[Chunk]:
        file = open_parquet(self._fs, part.path, part.name)
        names = resolve_columns(self._config.columns, part, file.schema_arrow.names)
        first = 0
        groups = list(range(part.start, part.stop))
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=list(names.values())):
            columns = {canonical: batch.column(name) for canonical, name in names.items()}
            rows = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            yield Chunk(columns, rows, first)

    def _read_csv(self, part: Part) -> Iterator[Chunk]:
        # A byte that is not UTF-8 travels as a surrogate and is refused where the value becomes a column.
        lines = (line.decode("utf-8", "surrogateescape") for _, some in stream_lines(self._fs, part) for line in some)
        records = csv.reader((f"{line}\n" for line in lines), delimiter="\t" if _ending(part.name) == ".tsv" else ",")
        header = next(records, [])
        names = resolve_columns(self._config.columns, part, header)
        numbered = _numbered(records, part)
        while batch := list(islice(numbered, _BATCH_ROWS)):
            bad = [
                BadRow(row, f"has {len(record)} of {len(header)} fields", shown(str(record).encode("utf-8", "replace")))
                for row, record in batch
                if len(record) != len(header)
            ]
            good = [(row, record) for row, record in batch if len(record) == len(header)]
            fields = {canonical: header.index(name) for canonical, name in names.items()}
            columns = {canonical: [record[at] for _, record in good] for canonical, at in fields.items()}
            yield Chunk(dict(columns), np.array([row for row, _ in good], dtype=np.int64), records.line_num, bad)

    def _read_json(self, part: Part) -> Iterator[Chunk]:
        config = self._config.columns
        names = resolve_columns(config, part, self._first_fields(part), is_all=False)
        to_come = columns_to_come(config, part, names)
        for first, lines in stream_lines(self._fs, part):
            rows, records, bad = parse_json_lines(first, lines)
            columns: dict[str, list[Any]] = {
                canonical: [record.get(name) for record in records] for canonical, name in names.items()
            }
            fields = set[str]().union(*records)
            for canonical, known in to_come.items():
                if here := [name for name in known if name in fields]:
                    columns[canonical] = [_first_of(record, here) for record in records]
            yield Chunk(dict(columns), np.array(rows, dtype=np.int64), first + len(lines), bad)

    def _first_fields(self, part: Part) -> list[str]:
        """Fields of the file's first records, in their order."""
        records: list[dict[str, Any]] = []
        for num_bytes in (HEAD_BYTES, CHUNK_BYTES):  # the first record may be longer than a head
            head = read_head(self._fs, part.path, part.name, num_bytes)
            _, records, _ = parse_json_lines(0, head.split(b"\n"))
            if records:
                break
        return list(dict.fromkeys(field for record in records for field in record))


def _first_of(record: dict[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if name in record), None)


def _numbered(records: Any, part: Part) -> Iterator[tuple[int, list[str]]]:
    """The records of a csv reader without the blank ones, each with the number of the line it ends in, from 0."""
    try:
        yield from ((records.line_num - 1, record) for record in records if record)
    except csv.Error as error:
        raise UserError(
            f"{part.name!r} cannot be read past line {records.line_num} ({error}): is a quote not closed?"
        ) from None


def _ending(name: str) -> str:
    return "." + bare_name(name).rpartition(".")[2]
