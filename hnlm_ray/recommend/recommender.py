"""The recommender as a library: fit, recommend, similar items, save, load, with the user's own ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.artifact import IDS_FILE, RecommenderArtifact, ids_table
from hnlm_ray.recommend.closed_form import solve
from hnlm_ray.recommend.config import CLOSED_FORM_MODELS, FitConfig
from hnlm_ray.recommend.fitting import LlmNegatives, build_trainer
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.ranking import top_items
from hnlm_ray.recommend.text_vectors import TextVectors
from hnlm_ray.store import Folder

Ids = str | int | Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class IdMap:
    """Original ids <-> 0..n-1. Ids are told apart by their text: a saved recommender keeps 7 as "7" and finds both."""

    keys: np.ndarray
    """The original id of each index; text after `load`"""
    kind: str

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {str(key): index for index, key in enumerate(self.keys)}

    def indices(self, ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """int64 indices. Raises `UserError` naming the first unknown id."""
        found = [self._index_of.get(str(key), -1) for key in ids]
        if -1 in found:
            unknown = ids[found.index(-1)]
            raise UserError(
                f"{self.kind} {unknown!s} is unknown: it is not in the training data; fit on data that has it"
            )
        return np.array(found, np.int64)


class Recommender:
    """A trained model with its ids and the items each user has seen.

    >>> model = Recommender.fit(["ann", "ann", "bob"], ["tea", "jam", "tea"], FitConfig(model="ease"))
    >>> ids, scores = model.recommend("bob", k=1)
    >>> ids.tolist()
    ['jam']
    """

    def __init__(self, artifact: RecommenderArtifact, users: IdMap, items: IdMap) -> None:
        self.artifact, self.users, self.items = artifact, users, items
        self._scorer = artifact.scorer()

    @classmethod
    def fit(
        cls,
        user_ids: Sequence[Any] | np.ndarray,
        item_ids: Sequence[Any] | np.ndarray,
        config: FitConfig | None = None,
        valid: tuple[Sequence[Any], Sequence[Any]] | None = None,
        llm: LlmNegatives | None = None,
        item_text_emb: Mapping[Any, np.ndarray] | None = None,
        seed: int = 0,
    ) -> "Recommender":
        """Train on pairs (user_ids[n], item_ids[n]) in this process, without Ray.

        `valid`: held-out pairs that pick the best epoch; without them training ends after `config.epochs`.
        `llm`: negatives of the LLM stages, for a `TrainConfig` whose `hnlm.variant` uses them; its pair order is that
        of the arguments.
        `item_text_emb`: a vector of its text by item id, for models that read text; an item it has not is without.
        """
        if len(user_ids) != len(item_ids):
            raise UserError(f"there are {len(user_ids)} user ids and {len(item_ids)} item ids: pairs need one of each")
        config = config or FitConfig()
        user_keys, users = np.unique(np.asarray(user_ids), return_inverse=True)
        item_keys, items = np.unique(np.asarray(item_ids), return_inverse=True)
        user_map, item_map = IdMap(user_keys, "user"), IdMap(item_keys, "item")
        held_out = (user_map.indices(valid[0]), item_map.indices(valid[1])) if valid is not None else None
        data = Interactions.from_arrays((users, items), len(user_keys), len(item_keys), held_out)
        text = TextVectors.of(data.train, _rows_of(item_text_emb, item_keys)) if item_text_emb else None
        if config.model in CLOSED_FORM_MODELS:
            tensors = solve(config, data.train, text)
        else:
            tensors = build_trainer(data, config, seed, llm, text).fit()
        return cls(RecommenderArtifact(tensors, config.result_dict(), data.train), user_map, item_map)

    def recommend(self, user_ids: Ids, k: int = 10, filter_seen: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The best k items: (item ids [k], scores [k]) for one user, [n, k] each for several.

        Seen items are left out; where fewer than k remain, the row is filled with None and -inf.

        Raises:
            UserError: a user is unknown.
        """
        users = self.users.indices(_several(user_ids))
        seen = self.artifact.seen if filter_seen else self.artifact.seen.without_entries()
        items, scores = top_items(self._scorer, users, seen, k)
        return _shaped(user_ids, self._keys(items, scores), scores)

    def similar_items(self, item_ids: Ids, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The k items most like each of `item_ids`, without itself: cosine of item vectors."""
        wanted = self.items.indices(_several(item_ids))
        vectors = torch.nn.functional.normalize(self._item_vectors(), dim=-1)
        similarity = vectors[wanted] @ vectors.T
        similarity[torch.arange(len(wanted)), torch.from_numpy(wanted)] = -torch.inf
        best = similarity.topk(min(k, similarity.shape[1]), dim=1)
        scores = best.values.numpy()
        return _shaped(item_ids, self._keys(best.indices.numpy(), scores), scores)

    def save(self, uri: str) -> None:
        """Write safetensors, JSON and Parquet to a folder; ids are kept as text."""
        folder = Folder(uri)
        folder.write_table(IDS_FILE, ids_table(_text(self.users.keys), _text(self.items.keys)))
        self.artifact.save(folder)

    @classmethod
    def load(cls, uri: str) -> "Recommender":
        """Read what `save`, or the stage `train`, wrote."""
        folder = Folder(uri)
        if not folder.exists(IDS_FILE):
            raise UserError(f"{uri!r} holds no recommender: give a folder that `save` or the stage `train` wrote")
        table = folder.read_table(IDS_FILE)
        kinds, keys = table["kind"].to_numpy(), np.array(table["key"].to_pylist(), dtype=object)
        maps = (IdMap(keys[kinds == kind], kind) for kind in ("user", "item"))
        return cls(RecommenderArtifact.load(folder), *maps)

    def _item_vectors(self) -> torch.Tensor:
        tensors = self.artifact.tensors
        return torch.from_numpy(tensors["item_emb"] if "item_emb" in tensors else tensors["item_weights"].T.copy())

    def _keys(self, items: np.ndarray, scores: np.ndarray) -> np.ndarray:
        keys = self.items.keys[items]
        if np.isneginf(scores).any():
            keys = keys.astype(object)
            keys[np.isneginf(scores)] = None
        return keys


def _several(ids: Ids) -> Sequence[Any] | np.ndarray:
    return [ids] if np.isscalar(ids) else ids  # type: ignore[return-value]


def _shaped(given: Ids, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (ids[0], scores[0]) if np.isscalar(given) else (ids, scores)


def _rows_of(vectors: Mapping[Any, np.ndarray], keys: np.ndarray) -> np.ndarray:
    """The vectors of `keys` as float32 [len(keys), d], zero for those without."""
    nothing = np.zeros_like(next(iter(vectors.values())))
    return np.stack([vectors.get(key, nothing) for key in keys.tolist()]).astype(np.float32)


def _text(keys: np.ndarray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([str(key) for key in keys], pa.string())])
