"""Rows grouped by a hash of their key, on disk: how a table is shuffled without any process holding it.

A task that reads raw data writes one Parquet file with one row group per bucket; the task of a bucket later reads its
row group of every file. As in a sort-based shuffle there are as many files as readers, not readers x buckets.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hnlm_ray.store import Folder

_SHARD_BYTES = 64 << 20
_SHARD_ROWS = 1 << 20


def hash_keys(keys: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """[N] uint64, the same for the same string in every process."""
    encoded = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    hashes = pd.util.hash_array(encoded.dictionary.to_numpy(zero_copy_only=False), categorize=False)
    return hashes[encoded.indices.to_numpy()]


def bucket_of(keys: pa.Array | pa.ChunkedArray, num_buckets: int) -> np.ndarray:
    """[N] the bucket of each key."""
    if num_buckets == 1:
        return np.zeros(len(keys), dtype=np.int64)
    return (hash_keys(keys) % np.uint64(num_buckets)).astype(np.int64)


def write_buckets(folder: Folder, name: str, table: pa.Table, buckets: np.ndarray, num_buckets: int) -> None:
    """Write `table` as the file `name` with row group b holding the rows of bucket b, in their order."""
    by_bucket = np.argsort(buckets, kind="stable")
    ends = np.searchsorted(buckets[by_bucket], np.arange(num_buckets), side="right")
    table = table.take(pa.array(by_bucket)) if num_buckets > 1 else table
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="lz4") as writer:
        start = 0
        for end in ends.tolist():
            writer.write_table(table.slice(start, end - start), row_group_size=max(end - start, 1))
            start = end
    folder.write_bytes(name, sink.getvalue())


class ShardWriter:
    """Gathers the tables of one task and writes them by bucket, a file whenever enough has come together."""

    def __init__(
        self, folder: Folder, number: int, num_buckets: int, buckets_of: Callable[[pa.Table], np.ndarray]
    ) -> None:
        self._folder, self._number, self._num_buckets, self._buckets_of = folder, number, num_buckets, buckets_of
        self._pending: list[pa.Table] = []
        self._num_files = 0

    def add(self, table: pa.Table) -> None:
        """Take over the rows of `table`; all tables have one schema."""
        if table.num_rows:
            self._pending.append(table)
        is_enough = sum(each.nbytes for each in self._pending) >= _SHARD_BYTES
        if is_enough or sum(map(len, self._pending)) >= _SHARD_ROWS:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        if self._pending:
            table = pa.concat_tables(self._pending)
            name = f"{self._number:06d}-{self._num_files:04d}.parquet"
            write_buckets(self._folder, name, table, self._buckets_of(table), self._num_buckets)
            self._num_files += 1
            self._pending = []


def read_bucket(folder: Folder, bucket: int, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """All rows of one bucket, in the order of the files' names; an empty table of `schema` when there are none."""
    tables = [
        pq.ParquetFile(path, filesystem=folder.fs).read_row_group(bucket, columns=columns)
        for path in folder.parquet_files()
    ]
    wanted = pa.schema([schema.field(name) for name in columns]) if columns else schema
    return pa.concat_tables([table.select(wanted.names) for table in tables]) if tables else wanted.empty_table()
