"""Where the report reads from: the complete stages of a run, their folders, the resolved config."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import yaml

from hnlm_ray.errors import UserError
from hnlm_ray.report.config import ReportConfig
from hnlm_ray.store import Folder, ManifestEntry, RunDir

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext


@dataclass(frozen=True)
class Source:
    """A run as the report sees it. A stage without entry was no part of the run; one with an entry must be readable."""

    entries: Mapping[str, ManifestEntry]
    """Stage -> its complete version."""
    folders: Mapping[str, Folder]
    """Artifact -> committed folder, of the stages in `entries`."""
    config: Mapping[str, Any]
    """The resolved config as plain values."""
    settings: ReportConfig
    run_s: float | None = None
    """Seconds since the run began, Ray's start included; None where the report is made later."""
    titles: dict[int, str] = field(default_factory=dict)
    """item_id -> title, of the items looked up so far."""

    @classmethod
    def of_context(cls, ctx: "StageContext") -> "Source":
        """What a run of the pipeline has completed so far."""
        entries = {stage: entry for stage, entry in ctx.manifest_entries.items() if stage != "report"}
        folders = {name: ctx.input(name) for entry in entries.values() for name in entry.artifacts}
        run_s = time.monotonic() - ctx.run.started_at
        return cls(entries, folders, ctx.config.model_dump(mode="json"), ctx.config.report, run_s)

    @classmethod
    def of_run_dir(cls, run_dir: RunDir) -> "Source":
        """What stands complete in a run directory, in the version used last.

        Raises:
            UserError: nothing stands there.
        """
        entries = {stage: versions[-1] for stage, versions in run_dir.entries().items() if stage != "report"}
        if not entries:
            raise UserError(f"{run_dir.folder.uri!r} holds no complete stage: name the directory of a run (hnlm run)")
        folders = {
            name: run_dir.folder.child(path) for entry in entries.values() for name, path in entry.artifacts.items()
        }
        config = yaml.safe_load(run_dir.folder.read_bytes("config.yaml"))
        return cls(entries, folders, config, ReportConfig.model_validate(config.get("report", {})))

    def has(self, artifact: str) -> bool:
        """Whether the stage that writes `artifact` was part of the run."""
        return artifact in self.folders

    def item_titles(self, item_ids: np.ndarray | list[int]) -> dict[int, str]:
        """Titles of some items: the title, else the beginning of the ready-made text, else the original id."""
        wanted = sorted({int(item) for item in item_ids} - self.titles.keys())
        if wanted:
            columns = ["item_id", "item_key", "title", "text"]
            for row in rows_of(self.folders["dataset"], "items", "item_id", wanted, columns):
                text = row["title"] or (row["text"] or "")[:80] or f"item {row['item_key']}"
                self.titles[row["item_id"]] = text
        return self.titles


def column(folder: Folder, name: str, column: str) -> np.ndarray:
    """One numeric column of a table of shards."""
    return np.asarray(folder.read_table(name, columns=[column])[column])


def rows_of(folder: Folder, name: str, key: str, ids: list[int], columns: list[str]) -> list[dict[str, Any]]:
    """The rows of a table whose `key` is one of `ids`; only matching rows are held."""
    dataset = pads.dataset(folder.parquet_files(name), filesystem=folder.fs, format="parquet")
    wanted = pa.array(ids, type=dataset.schema.field(key).type)
    return list(dataset.to_table(columns=columns, filter=pc.field(key).isin(wanted)).to_pylist())


def spread_rows(
    folder: Folder, name: str, num_rows: int, columns: list[str], where: pc.Expression | None = None
) -> list[dict[str, Any]]:
    """At most `num_rows` rows that are as `where` says, evenly spread: the same ones for the same table.

    Shards are read from the first to the last in equal strides, until there are enough rows.
    """
    shards = folder.parquet_files(name)
    found: list[dict[str, Any]] = []
    for visited, index in enumerate(_strides(len(shards), num_rows)):
        if len(found) >= num_rows:
            break
        dataset = pads.dataset(shards[index], filesystem=folder.fs, format="parquet")
        table = dataset.to_table(columns=columns, filter=where)
        still = max(1, min(len(shards), num_rows) - visited)
        places = _spread(table.num_rows, -(-(num_rows - len(found)) // still))
        found += table.take(pa.array(places, pa.int64())).to_pylist()
    return found


def _strides(total: int, num: int) -> list[int]:
    """All positions: `num` evenly spread ones first, the others behind them."""
    first = _spread(total, num)
    return first + sorted(set(range(total)) - set(first))


def _spread(total: int, num: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, total - 1, min(total, num))}) if total else []


def histogram(values: np.ndarray, edges: np.ndarray) -> dict[str, list[float]]:
    """Counts between `edges`; values outside fall into the first or last bin."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


def count_histogram(values: np.ndarray, num_bins: int = 24) -> dict[str, list[float]]:
    """Histogram of counts (tokens, words) from 0 to the largest, in bins of whole width."""
    largest = int(values.max()) if len(values) else 0
    width = max(1, -(-(largest + 1) // num_bins))
    return histogram(values, np.arange(0, largest + 1 + width, width))


def degree_histogram(degrees: np.ndarray) -> dict[str, list[float]]:
    """Histogram of degrees in bins that grow by a quarter: long tails stay readable on a logarithmic axis."""
    largest = int(degrees.max()) if len(degrees) else 1
    edges = np.unique(np.floor(1.25 ** np.arange(0, np.log(largest + 1) / np.log(1.25) + 1)).astype(np.int64))
    return histogram(degrees, np.append(edges[edges <= largest], largest + 1))
