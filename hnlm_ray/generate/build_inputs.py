"""Builds the input folders of the three LLM tasks from the artifacts of earlier stages, in one process or in many."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hnlm_ray.generate.config import LLMConfig, NegativeConfig, ProfileConfig
from hnlm_ray.generate.inputs import (
    SINGLE_NODE_ROWS,
    ItemTexts,
    Range,
    item_rows,
    newest_reviews,
    ok_texts,
    pair_caps,
    pair_rows,
    ranges,
    read_range,
    told_titles,
    user_rows,
    write_ranges,
)
from hnlm_ray.generate.units import UNITS_FILE, commit_inputs, unit_rows
from hnlm_ray.ingest.shards import read_bucket, write_buckets
from hnlm_ray.store import Folder

_REVIEWS = pa.schema([("item_id", pa.int32()), ("timestamp", pa.int64()), ("review", pa.string())])


def is_large(dataset: Folder, single_node_rows: int = SINGLE_NODE_ROWS) -> bool:
    """Whether the inputs are built by many processes."""
    return dataset.num_rows("train") > single_node_rows


def load_item_texts(dataset: Folder, profiles: Folder) -> ItemTexts:
    """Titles and profiles of all items: the one table that every process holds (some 300 bytes per item)."""
    items = dataset.read_table("items", columns=["item_id", "title", "title_source"])
    everything = (0, items.num_rows)
    titles = told_titles(items.sort_by("item_id"))
    return ItemTexts(titles, ok_texts(profiles, "items", "item_id", everything))


def build_item_inputs(dataset: Folder, inputs: Folder, profile: ProfileConfig, llm: LLMConfig, large: bool) -> None:
    """One row per item. Does nothing where the inputs stand complete."""
    if inputs.exists(UNITS_FILE):
        return
    inputs.delete()
    num_items = dataset.num_rows("items")
    rows_per_unit = unit_rows(num_items, llm.unit_rows)
    parts = ranges(num_items, rows_per_unit)
    with_reviews = profile.max_reviews_per_item > 0 and _has_values(dataset, "train", "review")
    buckets = inputs.child("reviews")
    if with_reviews and large:
        _bucket_reviews(dataset, buckets, parts, profile.max_reviews_per_item)

    def build(ids: Range) -> pa.Table:
        items = read_range(dataset, "items", "item_id", ids).sort_by("item_id")
        reviews = None
        if with_reviews:
            if large:
                found = read_bucket(buckets, parts.index(ids), _REVIEWS)
            else:
                found = _reviews(read_range(dataset, "train", "item_id", ids, _REVIEWS.names))
            reviews = newest_reviews(*_columns(found), ids, profile.max_reviews_per_item)
        return item_rows(items, reviews, use_supplied=profile.use_supplied)

    write_ranges(inputs, parts, rows_per_unit, build, distributed=large)
    buckets.delete()
    commit_inputs(inputs)


def build_user_inputs(
    dataset: Folder, profiles: Folder, inputs: Folder, profile: ProfileConfig, llm: LLMConfig, large: bool
) -> None:
    """One row per user, from training interactions and item profiles."""
    if inputs.exists(UNITS_FILE):
        return
    inputs.delete()
    num_users = dataset.num_rows("users")
    rows_per_unit = unit_rows(num_users, llm.unit_rows)
    texts = _SharedTexts(load_item_texts(dataset, profiles), large)

    def build(ids: Range) -> pa.Table:
        train = read_range(dataset, "train", "user_id", ids, ["user_id", "item_id", "review"])
        return user_rows(train, texts(), ids, profile.max_items_per_user)

    write_ranges(inputs, ranges(num_users, rows_per_unit), rows_per_unit, build, distributed=large)
    commit_inputs(inputs)


def build_pair_inputs(
    dataset: Folder,
    profiles: Folder,
    signal: Folder,
    inputs: Folder,
    negative: NegativeConfig,
    llm: LLMConfig,
    large: bool,
) -> None:
    """One row per pair to ask for, chosen as `negative.pairs` says, sorted by user."""
    if inputs.exists(UNITS_FILE):
        return
    inputs.delete()
    num_users = dataset.num_rows("users")
    per_user = None if negative.pairs == "all" else negative.max_pairs_per_user
    caps = pair_caps(_interactions_per_user(dataset, num_users), per_user, negative.max_pairs)
    rows_per_unit = unit_rows(int(caps.sum()), llm.unit_rows)
    texts = _SharedTexts(load_item_texts(dataset, profiles), large)
    # so many users per file that it holds about as many units as the other tasks' files do
    users_per_unit = max(1, round(rows_per_unit / max(caps.mean(), 1)))

    def build(ids: Range) -> pa.Table:
        train = read_range(dataset, "train", "user_id", ids, ["user_id", "item_id"])
        user_ids, item_ids = train["user_id"].to_numpy(), train["item_id"].to_numpy()
        order = -np.arange(train.num_rows, dtype=np.float64)  # newest first
        if negative.pairs == "hardest":
            embeddings = signal.read_tensors("embeddings.safetensors")
            order = np.einsum("nd,nd->n", embeddings["user_emb"][user_ids], embeddings["item_emb"][item_ids])
        user_profiles = ok_texts(profiles, "users", "user_id", ids)
        return pair_rows(train, texts(), user_profiles, ids, order, caps[slice(*ids)])

    write_ranges(inputs, ranges(num_users, users_per_unit), rows_per_unit, build, distributed=large)
    commit_inputs(inputs)


class _SharedTexts:
    """Item texts that Ray tasks read from shared memory, one copy per node, instead of carrying it along."""

    def __init__(self, value: ItemTexts, in_ray: bool) -> None:
        import ray

        self._value = None if in_ray else value
        self._reference = ray.put(value) if in_ray else None

    def __call__(self) -> ItemTexts:
        if self._value is not None:
            return self._value
        import ray

        value: ItemTexts = ray.get(self._reference)
        return value


def _has_values(dataset: Folder, name: str, column: str) -> bool:
    """Whether any value of a column is set, by the footers alone where they tell."""
    for path in dataset.parquet_files(name):
        metadata = pq.read_metadata(path, filesystem=dataset.fs)
        place = metadata.schema.to_arrow_schema().get_field_index(column)
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(place).statistics
            if statistics is None or statistics.num_values > 0:
                return True
    return False


def _reviews(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.is_valid(rows["review"]))


def _columns(rows: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    times = pc.fill_null(rows["timestamp"], 0).to_numpy()
    return rows["item_id"].to_numpy(), times, rows["review"].combine_chunks()


def _bucket_reviews(dataset: Folder, buckets: Folder, parts: list[Range], most: int) -> None:
    """Sort every training shard's newest reviews into the item ranges that will read them."""
    import ray

    ends = np.array([end for _, end in parts])
    num_items = int(ends[-1])

    def write(row: dict[str, str]) -> dict[str, str]:
        table = _reviews(pq.read_table(row["path"], columns=_REVIEWS.names, filesystem=dataset.fs))
        item_ids, times, _ = _columns(table)
        order = np.lexsort((np.arange(len(item_ids)), times, item_ids))
        position = np.arange(len(order))
        item_sorted = item_ids[order]
        last = np.searchsorted(item_sorted, np.arange(num_items), side="right")[item_sorted]
        kept = order[last - position <= most]  # more than `most` newest of one shard can never be wanted
        table = table.take(pa.array(np.sort(kept)))
        where = np.searchsorted(ends, table["item_id"].to_numpy(), side="right")
        write_buckets(buckets, row["path"].rpartition("/")[2], table, where, len(parts))
        return row

    paths = [{"path": path} for path in dataset.parquet_files("train")]
    ray.data.from_items(paths, override_num_blocks=len(paths)).map(write).materialize()


def _interactions_per_user(dataset: Folder, num_users: int) -> np.ndarray:
    counts = np.zeros(num_users, np.int64)
    for path in dataset.parquet_files("train"):
        user_ids = pq.read_table(path, columns=["user_id"], filesystem=dataset.fs)["user_id"].to_numpy()
        counts += np.bincount(user_ids, minlength=num_users)
    return counts
