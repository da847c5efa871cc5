"""The artifact `recommender`: safetensors and JSON, nothing else, readable without this package."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hnlm_ray.recommend.ease import LinearScorer
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.ranking import EmbeddingScorer, Scorer
from hnlm_ray.store import Folder

MODEL_FILE, CONFIG_FILE, IDS_FILE, HISTORY_FILE = "model.safetensors", "config.json", "ids.parquet", "history.json"


@dataclass(frozen=True)
class RecommenderArtifact:
    """A trained model as tensors: `user_emb` and `item_emb`, or `item_weights` of a linear model."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    """What it was trained with, and what its numbers mean"""
    seen: UserItems
    """Training items, which recommendations leave out"""

    def scorer(self, device: torch.device | str = "cpu") -> Scorer:
        """The model as a scorer of all items."""
        if "item_weights" in self.tensors:
            return LinearScorer(self.seen, self.tensors["item_weights"])
        user_emb, item_emb = (torch.from_numpy(self.tensors[name]).to(device) for name in ("user_emb", "item_emb"))
        return EmbeddingScorer(user_emb, item_emb)

    def save(self, folder: Folder) -> None:
        """Write `model.safetensors` and, last, `config.json`."""
        seen = {"seen.indptr": self.seen.indptr, "seen.item_ids": self.seen.item_ids}
        folder.write_tensors(MODEL_FILE, {**self.tensors, **seen})
        folder.write_json(CONFIG_FILE, {**self.config, "num_items": self.seen.num_items})

    @classmethod
    def load(cls, folder: Folder) -> "RecommenderArtifact":
        """Read what `save` wrote."""
        tensors, config = folder.read_tensors(MODEL_FILE), folder.read_json(CONFIG_FILE)
        num_items = config.pop("num_items")
        seen = UserItems(tensors.pop("seen.indptr"), tensors.pop("seen.item_ids"), num_items)
        return cls(tensors, config, seen)


def ids_table(user_keys: pa.ChunkedArray, item_keys: pa.ChunkedArray) -> pa.Table:
    """`ids.parquet`: kind ('user' | 'item'), id int32, key (the original id)."""
    kinds = ["user"] * len(user_keys) + ["item"] * len(item_keys)
    ids = np.concatenate([np.arange(len(user_keys)), np.arange(len(item_keys))]).astype(np.int32)
    keys = pa.concat_arrays([*user_keys.cast(pa.string()).chunks, *item_keys.cast(pa.string()).chunks])
    return pa.table({"kind": pa.array(kinds).dictionary_encode(), "id": ids, "key": keys})
