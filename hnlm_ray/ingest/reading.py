"""Reading one part of a table: usable rows stream on, the others are counted and kept for the quarantine."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.ingest.clean import clean_splits
from hnlm_ray.ingest.coerce import to_table
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.quarantine import MAX_KEPT_PER_PART, bad_rows_table
from hnlm_ray.ingest.readers import make_reader
from hnlm_ray.ingest.schema import KEYS, BadRow, Part, TableName
from hnlm_ray.ingest.tasks import Result
from hnlm_ray.store import Folder


class PartReading:
    """The rows of one part that can be used, and an account of those that cannot."""

    def __init__(self, config: DataConfig, part: Part) -> None:
        self._config, self._part = config, part
        self.columns: set[str] = set()
        """Canonical columns that the source has."""
        self.counts: Counter[str] = Counter()
        """`read`, `bad`, `usable`; the caller adds its own."""
        self.reasons: Counter[str] = Counter()
        self._bad: list[BadRow] = []
        self._num_lines = 0

    def __iter__(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Tables of the part's schema, and the line or record number of each row."""
        for chunk in make_reader(self._config).read(self._part):
            table, rows, unreadable = to_table(self._part.table, chunk)
            table, rows, incomplete = _refuse_incomplete(self._config, self._part.table, table, rows)
            bad = [*unreadable, *incomplete]
            self._num_lines = chunk.num_lines
            self.columns |= set(chunk.columns)
            self.counts.update(read=table.num_rows + len(bad), bad=len(bad), usable=table.num_rows)
            self.reasons.update(row.reason for row in bad)
            self._bad += bad[: MAX_KEPT_PER_PART - len(self._bad)]
            yield table, rows

    def finish(self, work: Folder, number: int) -> Result:
        """Write the part's quarantine; returns its counts and the columns that it had."""
        if self._bad:
            name = f"quarantine/{self._part.table}-{number:06d}.parquet"
            work.write_table(name, bad_rows_table(self._part.name, self._bad))
        return {
            "lines": self._num_lines,
            "counts": dict(self.counts),
            "reasons": dict(self.reasons),
            "columns": sorted(self.columns),
        }


def _refuse_incomplete(
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
            is_absent = pc.and_not(table["split"].is_null(), pa.array(is_unknown))
            missing.append(("split is missing, which data.split.kind=column needs", is_absent))
            missing.append(("split is none of train, valid, test", pa.array(is_unknown)))
            table = table.set_column(table.schema.get_field_index("split"), "split", cleaned)
    bad: list[BadRow] = []
    is_bad = np.zeros(table.num_rows, dtype=bool)
    for reason, mask in missing:
        here = np.asarray(mask)
        for at in np.flatnonzero(here & ~is_bad):
            values = ", ".join(str(table[name][int(at)]) for name in table.column_names[:3])
            bad.append(BadRow(int(rows[at]), reason, values[:200]))
        is_bad |= here
    if not bad:
        return table, rows, []
    return table.filter(pa.array(~is_bad)), rows[~is_bad], bad
