"""First pass over interactions: read, filter, clean, and write by bucket of the user."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.ingest.clean import clean_text, date_mask, rating_mask
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.reading import PartReading
from hnlm_ray.ingest.schema import INTERACTIONS, Part
from hnlm_ray.ingest.shards import ShardWriter, bucket_of
from hnlm_ray.ingest.tasks import Result
from hnlm_ray.store import Folder

_PART_SHIFT = 40  # position of a row in all the data: part << 40 | line


def read_rows(config: DataConfig, parts: list[Part], num_buckets: int, work: Folder, number: int) -> Result:
    """Read part `number`: usable rows go to `work/rows`, bad ones to `work/quarantine`; returns the counts."""
    reading = PartReading(config, parts[number])
    shards = ShardWriter(work.child("rows"), number, num_buckets, lambda rows: bucket_of(rows["user_key"], num_buckets))
    for table, rows in reading:
        if config.split.kind == "column":
            reading.counts["in_valid"] += int(pc.sum(pc.equal(table["split"], "valid")).as_py() or 0)
        rated = rating_mask(table["rating"], config.filters)
        kept = rated & date_mask(table["timestamp"], config.filters)
        reading.counts.update(rated=int(rated.sum()), dated=int(kept.sum()))
        shards.add(_finished(table.filter(pa.array(kept)), rows[kept], number))
    shards.close()
    return reading.finish(work, number)


def _finished(table: pa.Table, rows: np.ndarray, number: int) -> pa.Table:
    """Cleaned reviews; every row's place in the data as its order where it brought none."""
    position = pa.array(rows + (number << _PART_SHIFT))
    columns = {
        **{name: table[name] for name in table.column_names},
        "review": clean_text(table["review"].combine_chunks()),
        "order": pc.coalesce(table["order"].combine_chunks(), position),
    }
    return pa.table(columns, schema=INTERACTIONS)
