"""First pass over interactions: read, refuse what is unusable, filter, clean, write the rest by bucket of its user."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.ingest.clean import clean_splits, clean_text, date_mask, rating_mask
from hnlm_ray.ingest.coerce import to_table
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.quarantine import MAX_KEPT_PER_PART, bad_rows_table
from hnlm_ray.ingest.readers import make_reader
from hnlm_ray.ingest.schema import INTERACTIONS, KEYS, BadRow, Part, TableName
from hnlm_ray.ingest.shards import bucket_of, write_buckets
from hnlm_ray.ingest.tasks import Result
from hnlm_ray.store import Folder

_SHARD_BYTES = 64 << 20
_SHARD_ROWS = 1 << 20
_PART_SHIFT = 40  # position of a row in all the data: part << 40 | line


def read_rows(config: DataConfig, parts: list[Part], num_buckets: int, work: Folder, number: int) -> Result:
    """Read part `number`: usable rows go to `work/rows`, bad ones to `work/quarantine`; returns the counts."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    bad: list[BadRow] = []
    pending: list[pa.Table] = []
    num_lines = num_shards = 0

    def flush() -> None:
        nonlocal num_shards
        table = pa.concat_tables(pending)
        pending.clear()
        buckets = bucket_of(table["user_key"], num_buckets)
        write_buckets(work.child("rows"), f"{number:06d}-{num_shards:04d}.parquet", table, buckets, num_buckets)
        num_shards += 1

    for chunk in make_reader(config).read(parts[number]):
        num_lines = chunk.num_lines
        table, rows, bad_here = to_table("interactions", chunk)
        table, rows, incomplete = refuse_incomplete(config, "interactions", table, rows)
        found = [*bad_here, *incomplete]
        counts["read"] += table.num_rows + len(found)
        counts["bad"] += len(found)
        reasons.update(row.reason for row in found)
        bad += found[: MAX_KEPT_PER_PART - len(bad)]
        if "split" in chunk.columns:
            counts.update(f"split_{value}" for value in table["split"].to_pylist() if value)

        counts["usable"] += table.num_rows
        rated = rating_mask(table["rating"], config.filters)
        counts["rated"] += int(rated.sum())
        kept = rated & date_mask(table["timestamp"], config.filters)
        counts["dated"] += int(kept.sum())
        if not kept.all():
            table, rows = table.filter(pa.array(kept)), rows[kept]
        if table.num_rows:
            pending.append(_finished(table, rows, number))
        if sum(each.nbytes for each in pending) >= _SHARD_BYTES or sum(map(len, pending)) >= _SHARD_ROWS:
            flush()
    if pending:
        flush()
    if bad:
        work.write_table(f"quarantine/interactions-{number:06d}.parquet", bad_rows_table(parts[number].name, bad))
    return {"lines": num_lines, "counts": dict(counts), "reasons": dict(reasons)}


def refuse_incomplete(
    config: DataConfig, table_name: TableName, table: pa.Table, rows: np.ndarray
) -> tuple[pa.Table, np.ndarray, list[BadRow]]:
    """Leave out rows without what they need: ids, and of interactions what filters and split ask for."""
    missing = [(f"{key} is missing", table[key].is_null()) for key in KEYS[table_name]]
    if table_name == "interactions":
        filters = config.filters
        if filters.min_rating is not None:
            missing.append(("rating is missing, which data.filters.min_rating needs", table["rating"].is_null()))
        if filters.since or filters.until:
            missing.append(("timestamp is missing, which data.filters needs", table["timestamp"].is_null()))
        if config.split.kind == "column":
            cleaned, is_unknown = clean_splits(table["split"].combine_chunks())
            table = table.set_column(table.schema.get_field_index("split"), "split", cleaned)
            is_absent = pc.and_not(table["split"].is_null(), pa.array(is_unknown))
            missing.append(("split is missing, which data.split.kind=column needs", is_absent))
            missing.append(("split is none of train, valid, test", pa.array(is_unknown)))
    bad: list[BadRow] = []
    is_bad = np.zeros(table.num_rows, dtype=bool)
    for reason, mask in missing:
        here = mask.to_numpy() if isinstance(mask, pa.ChunkedArray) else mask.to_numpy(zero_copy_only=False)
        for at in np.flatnonzero(here & ~is_bad):
            values = ", ".join(str(table[name][int(at)]) for name in table.column_names[:3])
            bad.append(BadRow(int(rows[at]), reason, values[:200]))
        is_bad |= here
    if not bad:
        return table, rows, []
    return table.filter(pa.array(~is_bad)), rows[~is_bad], bad


def _finished(table: pa.Table, rows: np.ndarray, number: int) -> pa.Table:
    """Cleaned reviews; every row's place in the data as its order where it brought none."""
    position = pa.array(rows + (number << _PART_SHIFT))
    columns = {
        **{name: table[name] for name in table.column_names},
        "review": clean_text(table["review"].combine_chunks()),
        "order": pc.coalesce(table["order"].combine_chunks(), position),
    }
    return pa.table(columns, schema=INTERACTIONS)


def total(counters: Iterable[dict[str, int]]) -> Counter[str]:
    """The sum of several counters."""
    result: Counter[str] = Counter()
    for counter in counters:
        result.update(counter)
    return result
