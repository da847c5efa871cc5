"""Small raw tables, and what an ingest made of them as data frames."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from hnlm_ray.store import Folder


class Ingested:
    """The artifacts of one ingest as data frames."""

    def __init__(self, folder: Path, stats: dict[str, Any]) -> None:
        self.folder = folder
        self.dataset = Folder(folder / "dataset")
        self.quarantine_folder = Folder(folder / "quarantine")
        self.stats = stats

    def frame(self, name: str) -> pd.DataFrame:
        return self.dataset.read_table(name).to_pandas()

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        if not self.quarantine_folder.names(".parquet"):
            return []
        return list(self.quarantine_folder.read_table().to_pylist())

    def keyed(self, name: str) -> list[tuple[str, str]]:
        """(user_key, item_key) of every row of a split, sorted."""
        users = self.frame("users").set_index("user_id").user_key
        items = self.frame("items").set_index("item_id").item_key
        rows = self.frame(name)
        return sorted(zip(users[rows.user_id], items[rows.item_id], strict=True))

    @property
    def all_pairs(self) -> list[tuple[str, str]]:
        return sorted(pair for name in ("train", "valid", "test") for pair in self.keyed(name))

    def steps(self) -> dict[str, int]:
        return {step["step"]: step["interactions"] for step in self.stats["steps"]}


Write = Callable[..., Path]
Ingest = Callable[..., Ingested]


def interactions(rows: Sequence[tuple[Any, ...]], names: str = "user_id item_id rating timestamp review") -> pa.Table:
    """A table of interactions; rows may be shorter than the names."""
    columns = names.split()[: max(len(row) for row in rows)]
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(columns)})


def grid(num_users: int, num_items: int) -> list[tuple[Any, ...]]:
    """Every user with every item, rated 5, a second apart; user u begins with item u, so that no two end alike."""
    return [
        (f"u{u}", f"i{(u + at) % num_items}", 5.0, 1000 + u * num_items + at)
        for u in range(num_users)
        for at in range(num_items)
    ]
