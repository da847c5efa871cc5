"""LightGCN-style files: `train.txt`, `test.txt` (and `valid.txt`), each line a user and all its items."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from hnlm_ray.ingest.files import bare_name, stream_lines
from hnlm_ray.ingest.readers.base import FileReader, shown
from hnlm_ray.ingest.schema import BadRow, Chunk, Part, TableName

_SPLITS = {"train.txt": "train", "valid.txt": "valid", "val.txt": "valid", "test.txt": "test"}


class LightGCNReader(FileReader):
    """Interactions alone, with their split: no text, no ratings, no times. Use `data.split.kind: column`."""

    expects = "train.txt and test.txt, and valid.txt where there is one"

    @classmethod
    def tables(cls, names: Sequence[str]) -> dict[str, TableName]:
        return {name: "interactions" for name in names if bare_name(name) in _SPLITS}

    def read(self, part: Part) -> Iterator[Chunk]:
        split = _SPLITS[bare_name(part.name)]
        for first, lines in stream_lines(self._fs, part):
            users: list[bytes] = []
            items: list[bytes] = []
            rows: list[int] = []
            bad: list[BadRow] = []
            for row, line in enumerate(lines, first):
                fields = line.split()
                if not all(field.isdigit() for field in fields):
                    bad.append(BadRow(row, "not a list of whole numbers", shown(line)))
                    continue
                users += fields[:1] * (len(fields) - 1)  # a user without items has no row
                items += fields[1:]
                rows += [row] * (len(fields) - 1)
            columns = {"user_key": pa.array(users, pa.string()), "item_key": pa.array(items, pa.string())}
            splits = pa.array([split] * len(rows), pa.string())
            yield Chunk({**columns, "split": splits}, np.array(rows, dtype=np.int64), first + len(lines), bad)
