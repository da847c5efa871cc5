"""The steps that a bucket of users goes through, each a task that reads files and writes files.

`index_bucket` drops duplicate pairs and turns users into codes, `encode_bucket` items into codes, then comes the
k-core (`kcore.py`), `split_bucket` and `write_bucket`. Pairs travel as arrays: user (code within the bucket, in the
order of the keys), item (code within the data), row (place within the bucket).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.ingest import split as splits
from hnlm_ray.ingest.clean import newest_of_pairs
from hnlm_ray.ingest.config import SplitConfig
from hnlm_ray.ingest.schema import INTERACTIONS, SPLITS
from hnlm_ray.ingest.shards import hash_keys, read_bucket
from hnlm_ray.ingest.tasks import Result
from hnlm_ray.store import Folder

_OLDEST = np.iinfo(np.int64).min
_ROW_GROUP_ROWS = 1 << 16


def index_bucket(work: Folder, bucket: int) -> Result:
    """Newest row of every pair -> `index/<bucket>`, degrees of its items -> `degrees/<bucket>.parquet`."""
    rows = read_bucket(work.child("rows"), bucket, INTERACTIONS, ["user_key", "item_key", "timestamp", "order"])
    users, user_keys = _codes(rows["user_key"])
    items, item_keys = _codes(rows["item_key"])
    kept = newest_of_pairs(users, items, _timestamps(rows), rows["order"].to_numpy())
    work.write_tensors(
        f"index/{bucket:05d}",
        {"user": users[kept].astype(np.int32), "item": items[kept].astype(np.int32), "row": kept.astype(np.int32)},
    )
    degrees = pa.table({"item_key": item_keys, "degree": np.bincount(items[kept], minlength=len(item_keys))})
    work.write_table(f"degrees/{bucket:05d}.parquet", degrees)
    return {"interactions": len(kept), "users": len(user_keys)}


def encode_bucket(work: Folder, bucket: int) -> Result:
    """`index/<bucket>` -> `core/0/<bucket>`: items by their code in `item_keys.parquet`."""
    own_keys = work.read_table(f"degrees/{bucket:05d}.parquet")["item_key"]
    all_keys = work.read_table("item_keys.parquet")["item_key"]
    codes = pc.index_in(own_keys, value_set=all_keys).to_numpy().astype(np.int32)
    pairs = work.read_tensors(f"index/{bucket:05d}")
    work.write_tensors(f"core/0/{bucket:05d}", {**pairs, "item": codes[pairs["item"]]})
    return {"interactions": len(pairs["user"])}


@dataclass(frozen=True)
class SplitPlan:
    """How every bucket splits its pairs."""

    config: SplitConfig
    seed: int
    valid_from: int = 0
    test_from: int = 0
    carve_valid: bool = False
    """The source has no validation rows: take them from its training rows."""


def count_times(work: Folder, core: str, unit_s: int, since: int, until: int, bucket: int) -> Result:
    """Pairs per `unit_s` seconds between `since` and `until`: {start: count}; and the pairs without a time."""
    times = _rows_of(work, work.read_tensors(f"{core}/{bucket:05d}"), bucket, ["timestamp"])["timestamp"]
    known = times.drop_null().to_numpy()
    known = known[(known >= since) & (known < until)]
    starts, counts = np.unique(known // unit_s * unit_s, return_counts=True)
    return {"counts": dict(zip(map(str, starts.tolist()), counts.tolist(), strict=True)), "null": times.null_count}


def split_bucket(work: Folder, core: str, plan: SplitPlan, bucket: int) -> Result:
    """Pairs of the k-core, sorted and with their split -> `split/<bucket>`; items that occur -> `present/<bucket>`."""
    pairs = work.read_tensors(f"{core}/{bucket:05d}")
    rows = _rows_of(work, pairs, bucket, ["user_key", "item_key", "timestamp", "order", "split"])
    by_age = np.lexsort((rows["order"].to_numpy(), _timestamps(rows), pairs["user"]))
    pairs = {name: values[by_age] for name, values in pairs.items()}
    rows = rows.take(pa.array(by_age))
    codes = _split(pairs["user"], rows, plan)
    work.write_tensors(f"split/{bucket:05d}", {**pairs, "code": codes})
    in_train = codes == splits.TRAIN
    present = {"in_train": np.unique(pairs["item"][in_train]), "in_data": np.unique(pairs["item"])}
    work.write_tensors(f"present/{bucket:05d}", present)
    return {
        "null_times": rows["timestamp"].null_count,
        "users": len(np.unique(pairs["user"])),
        "users_in_train": len(np.unique(pairs["user"][in_train])),
        **{name: int((codes == code).sum()) for code, name in enumerate(SPLITS)},
    }


def _split(users: np.ndarray, rows: pa.Table, plan: SplitPlan) -> np.ndarray:
    kind = plan.config.kind
    if kind == "leave_last":
        return splits.split_leave_last(users)
    if kind == "time":
        return splits.split_time(_timestamps(rows), plan.valid_from, plan.test_from)
    randoms = splits.random_numbers(hash_keys(rows["user_key"]), hash_keys(rows["item_key"]), plan.seed)
    if kind == "random":
        return splits.split_random(users, randoms, plan.config)
    if kind == "ratio":
        return splits.split_ratio(randoms, plan.config)
    codes = pc.index_in(rows["split"], value_set=pa.array(SPLITS)).to_numpy().astype(np.int8)
    return splits.carve_valid(codes, users, randoms, plan.config.valid) if plan.carve_valid else codes


def write_bucket(work: Folder, dataset: Folder, keep_unseen: bool, user_offsets: Sequence[int], bucket: int) -> Result:
    """The final shards of train, valid and test, and the keys of the bucket's users -> `user_keys/<bucket>.parquet`."""
    pairs = work.read_tensors(f"split/{bucket:05d}")
    catalogue = work.read_tensors("catalogue")
    users, items, codes = pairs["user"], pairs["item"], pairs["code"]
    unseen = splits.held_out_and_unseen(users, items, codes, catalogue["in_train"])
    if not keep_unseen:
        users, items, codes, pairs = users[~unseen], items[~unseen], codes[~unseen], {"row": pairs["row"][~unseen]}
    rows = _rows_of(work, pairs, bucket, ["user_key", "rating", "timestamp", "review"])
    present, first, user_codes = np.unique(users, return_index=True, return_inverse=True)
    work.write_table(f"user_keys/{bucket:05d}.parquet", rows.select(["user_key"]).take(pa.array(first)))
    table = pa.table(
        {
            "user_id": (user_codes + user_offsets[bucket]).astype(np.int32),
            "item_id": catalogue["item_id"][items],
            "rating": rows["rating"],
            "timestamp": rows["timestamp"],
            "review": rows["review"],
        }
    )
    _assert_no_leak(table, codes, keep_unseen)
    for code, name in enumerate(SPLITS):
        shard = table.filter(pa.array(codes == code))
        if code != splits.TRAIN:  # what a held-out pair says is never written, so that no prompt can hold it
            shard = shard.set_column(4, "review", pa.nulls(shard.num_rows, pa.string()))
        if shard.num_rows or bucket == 0:
            dataset.write_table(f"{name}/part-{bucket:05d}.parquet", shard, row_group_size=_ROW_GROUP_ROWS)
    times = pc.min_max(table["timestamp"]).as_py()
    item_ids, item_degrees = np.unique(table["item_id"].to_numpy(), return_counts=True)
    work.write_tensors(f"item_degrees/{bucket:05d}", {"item_id": item_ids, "degree": item_degrees})
    return {
        "users": len(present),
        "unseen": int(unseen.sum()),
        "first_timestamp": times["min"],
        "last_timestamp": times["max"],
        "rated": table.num_rows - table["rating"].null_count,
        "reviewed": table.num_rows - table["review"].null_count,
        "user_degrees": dict(_histogram(np.bincount(user_codes, minlength=1))),
        **{name: int((codes == code).sum()) for code, name in enumerate(SPLITS)},
    }


def _assert_no_leak(table: pa.Table, codes: np.ndarray, keep_unseen: bool) -> None:
    """No pair twice, so none both in training and held out; no held-out user without training rows."""
    users, items = table["user_id"].to_numpy().astype(np.int64), table["item_id"].to_numpy()
    assert len(np.unique(users << 32 | items)) == len(users), "a pair occurs twice"
    assert keep_unseen or np.isin(users[codes != splits.TRAIN], users[codes == splits.TRAIN]).all(), "an unseen user"
    assert (items >= 0).all(), "an item outside the catalogue"


def _histogram(degrees: np.ndarray) -> list[tuple[str, int]]:
    values, counts = np.unique(degrees[degrees > 0], return_counts=True)
    return [(str(value), int(count)) for value, count in zip(values, counts, strict=True)]


def _codes(keys: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Codes [N] in the order of the keys, and the distinct keys, sorted."""
    encoded = keys.combine_chunks().dictionary_encode()
    by_key = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(by_key), dtype=np.int64)
    rank[by_key] = np.arange(len(by_key))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(pa.array(by_key))


def _timestamps(rows: pa.Table) -> np.ndarray:
    return pc.fill_null(rows["timestamp"], _OLDEST).to_numpy()


def _rows_of(work: Folder, pairs: dict[str, np.ndarray], bucket: int, columns: list[str]) -> pa.Table:
    return read_bucket(work.child("rows"), bucket, INTERACTIONS, columns).take(pa.array(pairs["row"]))
