"""Items and users: their metadata read, cleaned, joined to the ids, one row per id."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.ingest.clean import clean_lists, clean_text
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.reading import PartReading
from hnlm_ray.ingest.schema import KEYS, ROW_GROUP_ROWS, SCHEMAS, Part, TableName
from hnlm_ray.ingest.shards import ShardWriter, bucket_of, read_bucket
from hnlm_ray.ingest.tasks import Result
from hnlm_ray.store import Folder

ITEMS_PER_SHARD = 100_000
_TITLE_WORDS = 12


def read_entities(config: DataConfig, parts: list[Part], num_buckets: int, work: Folder, number: int) -> Result:
    """Read part `number` of items or users: rows of known items, and of all users, go to `work/<table>`."""
    table_name = parts[number].table
    key = KEYS[table_name][0]
    reading = PartReading(config, parts[number])
    if table_name == "items":
        item_keys = work.read_table("final_item_keys.parquet")["item_key"]
        shards = ShardWriter(
            work.child(table_name),
            number,
            num_buckets,
            lambda rows: pc.index_in(rows[key], value_set=item_keys).to_numpy() // ITEMS_PER_SHARD,
        )
        for table, _ in reading:
            shards.add(_cleaned(table.filter(pc.is_in(table[key], value_set=item_keys))))
    else:
        shards = ShardWriter(
            work.child(table_name), number, num_buckets, lambda rows: bucket_of(rows[key], num_buckets)
        )
        for table, _ in reading:
            shards.add(_cleaned(table))
    shards.close()
    return reading.finish(work, number)


def write_items(work: Folder, dataset: Folder, bucket: int) -> Result:
    """One row per item id of the shard -> `dataset/items`."""
    start = bucket * ITEMS_PER_SHARD
    keys = work.read_table("final_item_keys.parquet")["item_key"].slice(start, ITEMS_PER_SHARD)
    table, num_found = _joined(work, "items", bucket, keys)
    titles, sources = title_or_fallback(table)
    final = pa.table(
        {
            "item_id": pa.array(np.arange(start, start + len(keys), dtype=np.int32)),
            "item_key": table["item_key"],
            "title": titles,
            "title_source": sources,
            **{name: table[name] for name in ("brand", "categories", "description", "text")},
        }
    )
    dataset.write_table(f"items/part-{bucket:05d}.parquet", final, row_group_size=ROW_GROUP_ROWS)
    filled = {name: len(table) - table[name].null_count for name in table.column_names[1:]}
    return {"rows": len(table), "with_metadata": num_found, **filled}


def write_users(work: Folder, dataset: Folder, offsets: list[int], bucket: int) -> Result:
    """One row per user id of the bucket -> `dataset/users`."""
    keys = work.read_table(f"user_keys/{bucket:05d}.parquet")["user_key"]
    table, num_found = _joined(work, "users", bucket, keys)
    ids = pa.array(np.arange(offsets[bucket], offsets[bucket] + len(keys), dtype=np.int32))
    final = table.add_column(0, "user_id", ids)
    if len(keys) or bucket == 0:
        dataset.write_table(f"users/part-{bucket:05d}.parquet", final, row_group_size=ROW_GROUP_ROWS)
    return {"rows": len(keys), "with_metadata": num_found, "text": len(table) - table["text"].null_count}


def title_or_fallback(items: pa.Table) -> tuple[pa.Array, pa.Array]:
    """A title for every item, and its source: `title`, or the first words of `text` or `description`, or `key`."""
    titles, sources = [], []
    for row in items.select(["item_key", "title", "text", "description"]).to_pylist():
        source = next((name for name in ("title", "text", "description") if row[name]), "key")
        titles.append(f"item {row['item_key']}" if source == "key" else _first_words(row[source], source == "title"))
        sources.append(source)
    return pa.array(titles, pa.string()), pa.array(sources, pa.string()).dictionary_encode()


def _first_words(text: str, whole: bool) -> str:
    return text if whole else " ".join(text.split()[:_TITLE_WORDS])


def _cleaned(table: pa.Table) -> pa.Table:
    columns = {}
    for field in table.schema:
        values = table[field.name].combine_chunks()
        is_key = field.name.endswith("_key")
        clean = clean_lists if pa.types.is_list(field.type) else clean_text
        columns[field.name] = values if is_key else clean(values)
    return pa.table(columns, schema=table.schema)


def _joined(work: Folder, table_name: TableName, bucket: int, keys: pa.ChunkedArray) -> tuple[pa.Table, int]:
    """The metadata of `keys`, in their order, null where there is none; and of how many there was some.

    Of repeated rows the one with the most columns filled counts, of equals the first.
    """
    schema = SCHEMAS[table_name]
    rows = read_bucket(work.child(table_name), bucket, schema)
    codes = pc.fill_null(pc.index_in(rows[schema.names[0]], value_set=keys), -1).to_numpy()
    filled = sum(column.is_valid().to_numpy().astype(np.int64) for column in rows.columns)
    best_first = np.lexsort((-filled, codes)) if len(codes) else np.empty(0, dtype=np.int64)
    found, first = np.unique(codes[best_first], return_index=True)
    chosen = best_first[first][found >= 0]
    place = np.full(len(keys), -1, dtype=np.int64)
    place[found[found >= 0]] = chosen
    taken = rows.take(pa.array(place, mask=place < 0))
    return taken.set_column(0, schema.names[0], keys), len(chosen)
