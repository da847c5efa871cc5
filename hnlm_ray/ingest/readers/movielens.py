"""MovieLens: `ratings.csv`/`movies.csv`, `ratings.dat`/`movies.dat` (1M, 10M), `u.data`/`u.item` (100K)."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hnlm_ray.ingest.files import bare_name, stream_lines
from hnlm_ray.ingest.readers.base import FileReader, shown
from hnlm_ray.ingest.schema import BadRow, Chunk, Part, TableName

_RATING = ("user_key", "item_key", "rating", "timestamp")
_MOVIE = ("item_key", "title", "categories")
_100K_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """How one file of the collection is written."""

    table: TableName
    columns: tuple[str, ...]
    separator: str
    encoding: str
    num_fields: int
    has_header: bool = False


_LAYOUTS = {
    "ratings.csv": _Layout("interactions", _RATING, ",", "utf-8", 4, has_header=True),
    "movies.csv": _Layout("items", _MOVIE, ",", "utf-8", 3, has_header=True),
    "ratings.dat": _Layout("interactions", _RATING, "::", "utf-8", 4),
    "movies.dat": _Layout("items", _MOVIE, "::", "latin-1", 3),
    "u.data": _Layout("interactions", _RATING, "\t", "utf-8", 4),
    "u.item": _Layout("items", ("item_key", "title"), "|", "latin-1", 24),
}


class MovieLensReader(FileReader):
    """All sizes, in the three layouts that the collection has had."""

    expects = "ratings.csv and movies.csv, ratings.dat and movies.dat, or u.data and u.item"

    @classmethod
    def tables(cls, names: Sequence[str]) -> dict[str, TableName]:
        return {name: _LAYOUTS[bare_name(name)].table for name in names if bare_name(name) in _LAYOUTS}

    def read(self, part: Part) -> Iterator[Chunk]:
        layout = _LAYOUTS[bare_name(part.name)]
        for first, lines in stream_lines(self._fs, part):
            rows, records, bad = [], [], []
            for row, line in enumerate(lines, first):
                if (layout.has_header and row == 0 and part.start == 0) or not line:
                    continue
                try:
                    fields = _fields(line.decode(layout.encoding), layout)
                except UnicodeDecodeError:
                    bad.append(BadRow(row, "not UTF-8", shown(line)))
                    continue
                if len(fields) == layout.num_fields:
                    rows.append(row)
                    records.append(fields)
                else:
                    bad.append(BadRow(row, f"has {len(fields)} of {layout.num_fields} fields", shown(line)))
            columns = {name: [record[at] for record in records] for at, name in enumerate(layout.columns)}
            if bare_name(part.name) == "u.item":
                flags = [record[-len(_100K_GENRES) :] for record in records]
                columns["categories"] = [_flagged(each) for each in flags]
            elif layout.table == "items":
                columns["categories"] = ["" if genres.startswith("(no") else genres for genres in columns["categories"]]
            yield Chunk(dict(columns), np.array(rows, dtype=np.int64), first + len(lines), bad)


def _fields(line: str, layout: _Layout) -> list[str]:
    if layout.separator == "," and '"' in line:  # titles with commas are quoted; none holds a line end
        return next(csv.reader([line]))
    return line.split(layout.separator)


def _flagged(flags: list[str]) -> str:
    return "|".join(genre for genre, flag in zip(_100K_GENRES, flags, strict=True) if flag == "1")
