"""What a reader is, and the two shapes that most formats share: files of lines and files of JSON objects."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.files import line_parts, list_files, stream_lines
from hnlm_ray.ingest.schema import BadRow, Chunk, Part, RawColumn, SourceFile, TableName
from hnlm_ray.store import Folder


class Reader(Protocol):
    """Reads one format. Made from the config wherever it is needed, so it keeps no state between parts.

    To read a format of your own, write a class with these methods and give its dotted path as `data.format`.
    """

    def __init__(self, config: DataConfig) -> None: ...

    def parts(self) -> list[Part]:
        """What there is to read, cut so that each part fits into memory; the order decides between equal rows.

        Raises `UserError` when the data is not there or not in this format.
        """
        ...

    def read(self, part: Part) -> Iterator[Chunk]:
        """Stream one part: raw values under the names of `schema.SCHEMAS[part.table]`."""
        ...


class FileReader(ABC):
    """A reader of files: which of them holds which table, by name."""

    expects: ClassVar[str]
    """What files the format consists of, for messages."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._path = config.path
        self._fs = Folder(config.path).fs

    @classmethod
    @abstractmethod
    def tables(cls, names: Sequence[str]) -> dict[str, TableName]:
        """Name of a file below the path -> the table it holds; files of no interest are left out."""

    def parts(self) -> list[Part]:
        files = list_files(self._path)
        tables = self.tables([file.name for file in files])
        if "interactions" not in tables.values():
            present = ", ".join(file.name for file in files[:8]) + (", ..." if len(files) > 8 else "")
            raise UserError(
                f"data.path {self._path!r} holds no interactions for format {self._config.format!r}, "
                f"which expects {self.expects}; there is: {present}; `hnlm data inspect` guesses the format"
            )
        return [part for file in files if file.name in tables for part in self.cut(file, tables[file.name])]

    def cut(self, file: SourceFile, table: TableName) -> list[Part]:
        """The parts of one file: byte ranges of whole lines, unless a format says otherwise."""
        return line_parts(file, table)

    @abstractmethod
    def read(self, part: Part) -> Iterator[Chunk]: ...


class JsonLinesReader(FileReader):
    """One JSON object a line; a subclass names the field of each column, and the type it usually has."""

    fields: ClassVar[dict[TableName, dict[str, tuple[str, pa.DataType]]]]
    """Table -> canonical column -> field of the object and its usual type; other types are read as well, slower."""

    def adapt(self, table: TableName, columns: dict[str, RawColumn]) -> None:
        """Change raw columns in place where a format needs more than other names."""

    def read(self, part: Part) -> Iterator[Chunk]:
        fields = self.fields[part.table]
        usual = pa.schema(list(fields.values()))
        for first, lines in stream_lines(self._fs, part):
            table = parse_uniform_json(lines, usual)
            columns: dict[str, RawColumn]
            if table is not None:
                rows, bad = np.arange(first, first + len(lines)), list[BadRow]()
                columns = {name: table[field].combine_chunks() for name, (field, _) in fields.items()}
            else:
                numbers, records, bad = parse_json_lines(first, lines)
                rows = np.array(numbers, dtype=np.int64)
                columns = {name: [record.get(field) for record in records] for name, (field, _) in fields.items()}
            self.adapt(part.table, columns)
            yield Chunk(columns, rows, first + len(lines), bad)


def parse_uniform_json(lines: list[bytes], schema: pa.Schema) -> pa.Table | None:
    """The fields of `schema`, two to three times faster than line by line; None where a line is not of that shape."""
    text = b"\n".join(lines)
    try:
        text.decode()  # the parser takes any bytes for a string
        table = pa_json.read_json(
            pa.BufferReader(text),
            pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return None
    return table if table.num_rows == len(lines) else None


def parse_json_lines(first: int, lines: list[bytes]) -> tuple[list[int], list[dict[str, Any]], list[BadRow]]:
    """Objects of some lines: (line numbers, objects, lines that are none). Blank lines are passed over."""
    rows, records, bad = [], [], []
    for row, line in enumerate(lines, first):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            bad.append(BadRow(row, "not UTF-8", shown(line)))
            continue
        except ValueError:
            bad.append(BadRow(row, "not JSON", shown(line)))
            continue
        if isinstance(record, dict):
            rows.append(row)
            records.append(record)
        else:
            bad.append(BadRow(row, "no JSON object", shown(line)))
    return rows, records, bad


def shown(line: bytes) -> str:
    """The beginning of a line, printable whatever its bytes are."""
    return line[:200].decode("utf-8", "backslashreplace")


def python_values(column: RawColumn) -> list[Any]:
    """Raw values as a list of Python objects."""
    return column if isinstance(column, list) else list(column.to_pylist())
