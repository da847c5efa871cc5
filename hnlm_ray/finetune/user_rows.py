"""Rows of Parquet files by user, for callers that ask again and again: one block of users after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hnlm_ray.store import Folder

_MAX_KEPT_ROW_GROUPS = 4
"""Blocks of users follow one another: the next one mostly lies in the row groups of the last one."""


@dataclass(frozen=True)
class _RowGroup:
    """A row group and the range of users in it."""

    path: str
    number: int
    first_user: float
    last_user: float


class UserRows:
    """The given columns of a folder of Parquet files with a column user_id, read by ranges of users.

    Footers are read once, and only row groups whose statistics meet the range are opened: a block costs what it holds,
    however many files there are.
    """

    def __init__(self, folder: Folder, columns: Sequence[str]) -> None:
        self._folder = folder
        self._columns = list(columns)
        self._kept: dict[tuple[str, int], pa.Table] = {}

    def __call__(self, user_ids: np.ndarray) -> pa.Table:
        """Rows whose user_id lies between the lowest and the highest of `user_ids`, in the order of the files.

        Raises:
            FileNotFoundError: the folder holds no Parquet file.
        """
        low, high = int(user_ids.min()), int(user_ids.max())
        met = [group for group in self._row_groups if group.first_user <= high and group.last_user >= low]
        if not met:
            return self._schema.empty_table()
        table = pa.concat_tables([self.row_group(group.path, group.number) for group in met])
        users = table["user_id"]
        return table.filter(pc.and_(pc.greater_equal(users, low), pc.less_equal(users, high)))

    def row_group(self, path: str, number: int) -> pa.Table:
        """One row group whole; the last few are kept."""
        key = (path, number)
        table = self._kept.pop(key, None)
        if table is None:
            with self._folder.fs.open_input_file(path) as source:
                table = pq.ParquetFile(source).read_row_group(number, columns=self._columns)
        self._kept[key] = table  # the latest goes last: the first is the one that nobody asked for the longest time
        if len(self._kept) > _MAX_KEPT_ROW_GROUPS:
            del self._kept[next(iter(self._kept))]
        return table

    @cached_property
    def _footers(self) -> dict[str, pq.FileMetaData]:
        paths = self._folder.parquet_files()
        if not paths:
            raise FileNotFoundError(f"no Parquet file in {self._folder.uri}")
        return {path: pq.read_metadata(path, filesystem=self._folder.fs) for path in paths}

    @cached_property
    def _row_groups(self) -> list[_RowGroup]:
        return [
            _RowGroup(path, number, *_user_range(footer.row_group(number)))
            for path, footer in self._footers.items()
            for number in range(footer.num_row_groups)
        ]

    @cached_property
    def _schema(self) -> pa.Schema:
        schema = next(iter(self._footers.values())).schema.to_arrow_schema()
        return pa.schema([schema.field(name) for name in self._columns])


def _user_range(row_group: pq.RowGroupMetaData) -> tuple[float, float]:
    """Lowest and highest user of a row group; everything, where its writer left no statistics."""
    [statistics] = [
        row_group.column(number).statistics
        for number in range(row_group.num_columns)
        if row_group.column(number).path_in_schema == "user_id"
    ]
    if statistics is None or not statistics.has_min_max:
        return float("-inf"), float("inf")
    return statistics.min, statistics.max
