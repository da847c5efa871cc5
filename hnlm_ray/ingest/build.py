"""From raw data to the data set: the steps of `ingest` in their order."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from hnlm_ray.errors import UserError
from hnlm_ray.ingest import bucket as buckets
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.entities import ITEMS_PER_SHARD, read_entities, write_items, write_users
from hnlm_ray.ingest.kcore import k_core_rounds
from hnlm_ray.ingest.quarantine import publish, refuse_too_many
from hnlm_ray.ingest.readers import make_reader
from hnlm_ray.ingest.readers.columns import refuse_unseen
from hnlm_ray.ingest.rows import read_rows
from hnlm_ray.ingest.schema import SPLITS, Part, TableName
from hnlm_ray.ingest.source import input_size
from hnlm_ray.ingest.stats import make_stats, total
from hnlm_ray.ingest.tasks import Remembered, Result, run_tasks
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

_SECONDS_PER_DAY = 86_400
_BUCKET_BYTES = 256 << 20
_BUCKET_ROWS = 1 << 20
_MERGE_ROWS = 4_000_000
_RAY_FROM_BYTES = 512 << 20  # a single process handles less in the time that Ray Data needs to get going
_RAY_FROM_ROWS = 2_000_000


class Build:
    """One ingest: the folders, the number of buckets, and where tasks run.

    `dataset` and `quarantine` belong to this config and this input alone; what a killed run left there is used.
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int,
        dataset: Folder,
        quarantine: Folder,
        progress: Progress,
        num_buckets: int | None = None,
    ) -> None:
        self.config, self.seed, self.progress = config, seed, progress
        self.dataset, self.quarantine = dataset, quarantine
        self.work = dataset.child("_work")
        self.parts = make_reader(config).parts()
        num_bytes, num_rows = input_size(config, self.parts)
        # By the data alone, never by the machine: the order of the user ids depends on it.
        self.num_buckets = num_buckets or max(1, -(-num_bytes // _BUCKET_BYTES), -(-num_rows // _BUCKET_ROWS))
        is_large = num_bytes >= _RAY_FROM_BYTES or num_rows >= _RAY_FROM_ROWS
        self.on_ray = config.engine == "ray" or (config.engine == "auto" and is_large)
        self.steps: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        """Wall-clock seconds of each step; not part of the data set, which is the same whatever the machine."""

    def run(self) -> dict[str, Any]:
        """Write data set and quarantine; returns what also stands in `dataset/stats.json`."""
        if self.dataset.exists("stats.json"):  # written last: only the clearing up was cut short
            self.work.delete()
            return dict(self.dataset.read_json("stats.json"))
        self.quarantine.fs.create_dir(self.quarantine.path, recursive=True)
        self.progress.start(len(self.parts) + 5 * self.num_buckets + 2, unit="tasks")
        read = self._read("interactions", read_rows, self.num_buckets)
        self._note_reading(read)
        item_keys, degrees = self._index()
        core = self._k_core(degrees)
        self._split(core, item_keys, read)
        item_stats, user_stats = self._entities()
        stats = make_stats(self, item_stats, user_stats)
        self.dataset.write_json("stats.json", stats)
        self.work.delete()
        return stats

    def _each(self, name: str, function: Callable[[int], Result], num: int, counted: bool = True) -> list[Result]:
        """Run what is left of a step's tasks and count them on the progress line; results in the tasks' order."""
        function = Remembered(function, self.work.child("done", name.replace(" ", "-")))
        results: dict[int, Result] = {}
        self.progress.update(0, note=name)
        started = time.perf_counter()
        for number, result in run_tasks(function, range(num), on_ray=self.on_ray):
            results[number] = result
            self.progress.update(int(counted), note=name)
        self.seconds[name] = time.perf_counter() - started
        return [results[number] for number in range(num)]

    def _read(self, table: TableName, function: Callable[..., Result], num_buckets: int) -> dict[str, Any]:
        """First pass over one table, its quarantine published; counts, and the failure of too many bad rows."""
        parts: list[Part] = [part for part in self.parts if part.table == table]
        results = self._each(f"read {table}", partial(function, self.config, parts, num_buckets, self.work), len(parts))
        publish(self.work, self.quarantine, table, parts, [result["lines"] for result in results])
        counts = total(result["counts"] for result in results)
        reasons = total(result["reasons"] for result in results)
        tells_columns = all("columns" in result for result in results)  # not those that an older version had read
        if self.config.format == "tables" and counts["read"] and tells_columns:
            refuse_unseen(self.config.columns, table, {name for result in results for name in result["columns"]})
        refuse_too_many(
            table, counts["bad"], counts["read"], self.config.max_bad_fraction, reasons, self.quarantine.uri
        )
        return {"counts": counts, "reasons": dict(reasons.most_common())}

    def _note_reading(self, read: dict[str, Any]) -> None:
        counts, filters = read["counts"], self.config.filters
        self.reasons = read["reasons"]
        self.bad_rows = {"interactions": counts["bad"]}
        self._step("read", counts["read"])
        self._step("usable rows", counts["usable"])
        if filters.min_rating is not None:
            self._step(f"rating >= {filters.min_rating:g}", counts["rated"])
        if filters.since or filters.until:
            self._step(f"dates {filters.since or '...'} to {filters.until or '...'}", counts["dated"])

    def _step(self, name: str, interactions: int, users: int | None = None, items: int | None = None) -> None:
        """Note a step's counts; a step that leaves nothing ends the run with its name."""
        self.steps.append({"step": name, "interactions": interactions, "users": users, "items": items})
        if interactions == 0:
            trail = ", ".join(f"{step['step']}: {step['interactions']:,}" for step in self.steps)
            raise UserError(f"no interactions are left after {name!r} ({trail}): check data.path and data.filters")

    def _index(self) -> tuple[pa.Array, np.ndarray]:
        """Duplicates dropped, users and items coded: the item keys, sorted, and their degrees."""
        results = self._each("index", partial(buckets.index_bucket, self.work), self.num_buckets)
        merged = self._summed_degrees().sort_by("item_key").combine_chunks()
        self.work.write_table("item_keys.parquet", merged.select(["item_key"]))
        interactions, users = (sum(result[name] for result in results) for name in ("interactions", "users"))
        self._step("newest of duplicate pairs", interactions, users, merged.num_rows)
        self._each("encode", partial(buckets.encode_bucket, self.work), self.num_buckets)
        return merged["item_key"].combine_chunks(), merged["degree"].to_numpy()

    def _summed_degrees(self) -> pa.Table:
        """Degree of every item over all buckets: one row per item is all that the driver ever holds of them."""
        tables: list[pa.Table] = []
        for number in range(self.num_buckets):
            tables.append(self.work.read_table(f"degrees/{number:05d}.parquet"))
            if number == self.num_buckets - 1 or sum(map(len, tables)) > _MERGE_ROWS + 2 * len(tables[0]):
                summed = pa.concat_tables(tables).group_by("item_key").aggregate([("degree", "sum")])
                tables = [summed.rename_columns({"degree_sum": "degree"}).select(["item_key", "degree"])]
        return tables[0]

    def _k_core(self, degrees: np.ndarray) -> str:
        """Folder below `work` that holds the pairs of the k-core."""
        self.core_rounds: list[dict[str, int]] = []
        k = self.config.filters.k_core
        self.progress.update(1, note=f"{k}-core")
        if k <= 1:
            return "core/0"
        started = time.perf_counter()
        self.core_rounds = k_core_rounds(self.work, self.num_buckets, degrees, k, on_ray=self.on_ray)
        self.seconds["k-core"] = time.perf_counter() - started
        self._step(f"{k}-core", **self.core_rounds[-1])
        return f"core/{len(self.core_rounds)}"

    def _split(self, core: str, item_keys: pa.Array, read: dict[str, Any]) -> None:
        """Split every bucket, decide the final ids, write train, valid and test."""
        config = self.config.split
        plan = self._split_plan(core, read["counts"])
        split = partial(buckets.split_bucket, self.work, core, plan)
        results = self._each("split", split, self.num_buckets)
        self._check_split(results)
        in_train, in_data = (np.zeros(len(item_keys), dtype=bool) for _ in range(2))
        for number in range(self.num_buckets):
            present = self.work.read_tensors(f"present/{number:05d}")
            in_train[present["in_train"]] = True
            in_data[present["in_data"]] = True
        kept = in_data if config.keep_unseen else in_train
        item_id = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
        self.num_items = int(kept.sum())
        self.work.write_tensors("catalogue", {"in_train": in_train, "item_id": item_id})
        self.work.write_table("final_item_keys.parquet", pa.table({"item_key": item_keys.filter(pa.array(kept))}))

        users = [result["users" if config.keep_unseen else "users_in_train"] for result in results]
        self.user_offsets = [0, *np.cumsum(users).tolist()]
        write = partial(buckets.write_bucket, self.work, self.dataset, config.keep_unseen, self.user_offsets)
        self.written = self._each("write", write, self.num_buckets)
        counts = total({name: result[name] for name in SPLITS} for result in self.written)
        self._step("final" if config.keep_unseen else "held-out rows seen in train", sum(counts.values()),
                   self.user_offsets[-1], self.num_items)  # fmt: skip
        missing = [name for name in ("train", "test") if not counts[name]]
        if not counts["valid"] and (config.valid > 0 or config.kind == "leave_last"):
            missing.append("valid")
        if missing:
            raise UserError(
                f"data.split.kind={config.kind} leaves no {' and no '.join(missing)} rows "
                f"({', '.join(f'{name} {counts[name]:,}' for name in SPLITS)}): choose other shares or another kind"
            )

    def _split_plan(self, core: str, read_counts: dict[str, int]) -> buckets.SplitPlan:
        config = self.config.split
        if config.kind == "time":
            valid_from, test_from = (self._moment(core, share) for share in (config.valid + config.test, config.test))
            return buckets.SplitPlan(config, self.seed, valid_from, test_from)
        carve = config.kind == "column" and not read_counts["in_valid"] and config.valid > 0
        return buckets.SplitPlan(config, self.seed, carve_valid=carve)

    def _moment(self, core: str, share: float) -> int:
        """The earliest second such that at most `share` of all pairs are as late or later: by day, then within it."""
        since, until, unit_s = -(1 << 62), 1 << 62, _SECONDS_PER_DAY
        later = 0
        while True:
            count = partial(buckets.count_times, self.work, core, unit_s, since, until)
            results = self._each(f"times {since} {unit_s}", count, self.num_buckets, counted=False)
            if num_null := sum(result["null"] for result in results):
                raise UserError(
                    f"data.split.kind=time needs a timestamp in every row, and {num_null:,} have none: "
                    "choose another kind, or name the right column in data.columns.timestamp"
                )
            per_unit = total(result["counts"] for result in results)
            starts = sorted(map(int, per_unit), reverse=True)
            allowed = share * self.steps[-1]["interactions"]
            moment = starts[0] + unit_s
            for start in starts:
                if later + per_unit[str(start)] > allowed:
                    break
                later += per_unit[str(start)]
                moment = start
            else:
                return moment
            if unit_s == 1:
                return moment
            since, until, unit_s = start, start + unit_s, 1

    def _check_split(self, results: list[Result]) -> None:
        num_null = sum(result["null_times"] for result in results)
        num_rows = sum(result[name] for result in results for name in SPLITS)
        if self.config.split.kind == "leave_last" and 0 < num_null < num_rows:
            raise UserError(
                f"data.split.kind=leave_last needs a timestamp in every row or in none (then the order of the rows "
                f"counts), and {num_null:,} of {num_rows:,} have none: choose another kind"
            )

    def _entities(self) -> tuple[list[Result], list[Result]]:
        num_shards = -(-self.num_items // ITEMS_PER_SHARD)
        for table, num in (("items", num_shards), ("users", self.num_buckets)):
            read = self._read(table, read_entities, num)  # type: ignore[arg-type]
            self.bad_rows[table] = read["counts"]["bad"]
            self.reasons = {**self.reasons, **{f"{table}: {why}": count for why, count in read["reasons"].items()}}
        items = self._each("items", partial(write_items, self.work, self.dataset), num_shards, counted=False)
        self.progress.update(1)
        write = partial(write_users, self.work, self.dataset, self.user_offsets)
        return items, self._each("users", write, self.num_buckets)
