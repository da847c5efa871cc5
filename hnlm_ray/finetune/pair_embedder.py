"""Units of training pairs, and the worker that turns one into a shard of z. Plain classes: no Ray, no torch, no vLLM.

A unit is a range of rows of one row group of the training pairs. Its shard carries the unit's own name and is written
atomically: a unit is done exactly when its shard is there.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnlm_ray.finetune.pairs import PairTexts, Sources, group_by_user
from hnlm_ray.finetune.projection import Projection
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.user_rows import UserRows
from hnlm_ray.store import Folder


class Encoder(Protocol):
    """What a worker needs of an engine group."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [len(texts), d] float32."""


@dataclass(frozen=True)
class PairUnit:
    """Rows [start, stop) of a row group of a file of training pairs."""

    name: int
    file: str
    row_group: int
    start: int
    stop: int

    @property
    def shard(self) -> str:
        """Name of its output file."""
        return f"part-{self.name:06d}.parquet"

    @property
    def num_rows(self) -> int:
        """Training pairs in the unit, before any cap per user."""
        return self.stop - self.start


def pair_units(train: Folder, unit_rows: int) -> list[PairUnit]:
    """All units of the training pairs, in order; only Parquet footers are read."""
    units: list[PairUnit] = []
    for path in train.parquet_files():
        file = path.rpartition("/")[2]
        metadata = pq.read_metadata(path, filesystem=train.fs)
        for group in range(metadata.num_row_groups):
            num_rows = metadata.row_group(group).num_rows
            for start in range(0, num_rows, unit_rows):
                units.append(PairUnit(len(units), file, group, start, min(start + unit_rows, num_rows)))
    return units


@dataclass(frozen=True)
class UnitReport:
    """What became of a unit, and where its time went."""

    rows: int
    """Pairs of the unit."""
    embedded: int
    """Those of them whose item has text and that a cap per user let through."""
    text_s: float
    engine_s: float
    write_s: float


@dataclass(frozen=True)
class EmbedTask:
    """What every worker of a run needs."""

    sources: Sources
    template: TextTemplate
    shards: str
    """Folder of the output shards."""
    dim: int
    """Width of z as it is stored."""
    max_pairs_per_user: int | None
    projection: str
    """Folder with `projection.safetensors`, empty where z keeps its width."""


class PairEmbedder:
    """Embeds units: reads the pairs, writes their q, asks the engine, reduces, writes the shard."""

    def __init__(self, task: EmbedTask, encoder: Encoder) -> None:
        self.task = task
        self._texts = PairTexts(task.sources, task.template)
        self._encoder = encoder
        self._train = Folder(task.sources.train)
        self._train_rows = UserRows(self._train, ["user_id", "item_id"])
        self._projection = read_projection(Folder(task.projection)) if task.projection else None

    def run(self, unit: PairUnit) -> UnitReport:
        """Do one unit."""
        started = time.perf_counter()
        user_ids, item_ids = self.pairs_of(unit)
        texts = self._texts.queries(user_ids, item_ids) if len(user_ids) else []
        text_s = time.perf_counter() - started
        z_nr = np.empty((0, self.task.dim), dtype=np.float32)
        if texts:
            z_nd = self._encoder.embed(texts)
            z_nr = self._projection(z_nd) if self._projection is not None else z_nd
        engine_s = time.perf_counter() - started - text_s
        Folder(self.task.shards).write_table(unit.shard, shard_table(user_ids, item_ids, z_nr))
        write_s = time.perf_counter() - started - text_s - engine_s
        return UnitReport(unit.num_rows, len(texts), text_s, engine_s, write_s)

    def pairs_of(self, unit: PairUnit) -> tuple[np.ndarray, np.ndarray]:
        """user_ids and item_ids of the unit whose item has text; with a cap, those among the newest of their user."""
        table = self._train_rows.row_group(f"{self._train.path}/{unit.file}", unit.row_group)
        table = table.slice(unit.start, unit.num_rows)
        user_ids, item_ids = table["user_id"].to_numpy(), table["item_id"].to_numpy()
        told = self._texts.has_text[item_ids]
        user_ids, item_ids = user_ids[told], item_ids[told]
        cap = self.task.max_pairs_per_user
        if cap is None or not len(user_ids):
            return user_ids, item_ids
        # a user's rows lie together, oldest first, but may go on in the next unit: read those of the unit's users
        everything = self._train_rows(user_ids)
        items_of = group_by_user(everything["user_id"].to_numpy(), everything["item_id"].to_numpy())
        newest = {(user, item) for user, items in items_of.items() for item in items[-cap:].tolist()}
        kept = np.fromiter((pair in newest for pair in zip(user_ids.tolist(), item_ids.tolist(), strict=True)), bool)
        return user_ids[kept], item_ids[kept]


def shard_table(user_ids: np.ndarray, item_ids: np.ndarray, z_nr: np.ndarray) -> pa.Table:
    """The rows of a shard: ids and z as fixed-size lists of float16."""
    flat = pa.array(np.ascontiguousarray(z_nr, dtype=np.float16).ravel())
    return pa.table(
        {
            "user_id": pa.array(user_ids, pa.int32()),
            "item_id": pa.array(item_ids, pa.int32()),
            "z": pa.FixedSizeListArray.from_arrays(flat, z_nr.shape[1]),
        }
    )


def write_projection(folder: Folder, projection: Projection) -> None:
    """Keep the projection beside the vectors it made: new texts go through the same."""
    folder.write_tensors("projection.safetensors", vars(projection))


def read_projection(folder: Folder) -> Projection:
    """What `write_projection` wrote."""
    return Projection(**folder.read_tensors("projection.safetensors"))
