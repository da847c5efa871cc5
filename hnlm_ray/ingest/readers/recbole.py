"""RecBole atomic files: `<name>.inter`, `<name>.item`, `<name>.user`; tab-separated, `field:type` in the header."""

from collections.abc import Iterator, Sequence

import numpy as np

from hnlm_ray.ingest.files import bare_name, read_head, stream_lines
from hnlm_ray.ingest.readers.base import FileReader, shown
from hnlm_ray.ingest.readers.columns import resolve_columns
from hnlm_ray.ingest.schema import SPLITS, BadRow, Chunk, Part, RawColumn, TableName

_TABLES: dict[str, TableName] = {".inter": "interactions", ".item": "items", ".user": "users"}


class RecBoleReader(FileReader):
    """Atomic files; `<name>.train.inter`, `.valid.inter` and `.test.inter` bring their split."""

    expects = "<name>.inter (or <name>.train.inter, ...), and <name>.item, <name>.user where there is text"

    @classmethod
    def tables(cls, names: Sequence[str]) -> dict[str, TableName]:
        endings = {name: "." + bare_name(name).rpartition(".")[2] for name in names}
        return {name: _TABLES[ending] for name, ending in endings.items() if ending in _TABLES}

    def read(self, part: Part) -> Iterator[Chunk]:
        head = read_head(self._fs, part.path, part.name).partition(b"\n")[0]
        header = [field.partition(":") for field in head.decode("utf-8-sig", "replace").strip("\r").split("\t")]
        types = {name: kind for name, _, kind in header}
        names = resolve_columns(self._config.columns, part, list(types))
        places = {canonical: list(types).index(name) for canonical, name in names.items()}
        split = next((word for word in SPLITS if f".{word}." in part.name), None)
        for first, lines in stream_lines(self._fs, part):
            rows, records, bad = [], [], []
            for row, line in enumerate(lines, first):
                if (row == 0 and part.start == 0) or not line:
                    continue
                fields = line.split(b"\t")
                if len(fields) == len(header):
                    rows.append(row)
                    records.append(fields)
                else:
                    bad.append(BadRow(row, f"has {len(fields)} of {len(header)} fields", shown(line)))
            columns: dict[str, RawColumn] = {name: [record[at] for record in records] for name, at in places.items()}
            if "categories" in columns and types[names["categories"]] == "token_seq":
                columns["categories"] = [_tokens(value) for value in columns["categories"]]
            if split and part.table == "interactions":
                columns["split"] = [split] * len(rows)
            yield Chunk(columns, np.array(rows, dtype=np.int64), first + len(lines), bad)


def _tokens(value: bytes) -> bytes:
    """A sequence of tokens stands between blanks, unless commas or bars separate names of several words."""
    return value if b"," in value or b"|" in value else b"|".join(value.split())
