"""The vectors z_ui of training pairs, memory-mapped: 500k pairs never become Python objects or a table in memory.

Legend: P training pairs, V vectors, B pairs of a batch, K vectors per pair, r width of a vector.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import torch

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.samplers import drawing
from hnlm_ray.store import Folder

_STREAM = 5
_ROWS_PER_READ = 65_536


@dataclass(frozen=True)
class PairVectors:
    """Vectors by training pair."""

    vectors: np.ndarray
    """float16 [V, r], usually a memory map"""
    row_of_pair: np.ndarray
    """int32 [P]: row of the pair's vector, -1 where it has none"""
    pairs_by_user: np.ndarray
    """int64 [P]: pair ids grouped by user"""
    user_starts: np.ndarray
    """int64 [U + 1]: where each user's group starts"""
    user_ids: np.ndarray
    """int32 [P]: user of each pair"""
    seed: int

    @property
    def dim(self) -> int:
        """r"""
        return int(self.vectors.shape[1])

    @property
    def num_missing(self) -> int:
        """Training pairs without a vector."""
        return int((self.row_of_pair < 0).sum())

    def rows(self, pair_ids: np.ndarray, num_hard_negatives: int) -> np.ndarray:
        """Rows of the K vectors of each pair, int64 [B, K], -1 where there is none.

        The first is the pair's own; the others belong to pairs of the same user, drawn once and for all: what the
        encoder says about the user's other choices.
        """
        chosen = np.empty((len(pair_ids), num_hard_negatives), np.int64)
        chosen[:, 0] = pair_ids
        if num_hard_negatives > 1:
            users = self.user_ids[pair_ids]
            fractions = np.empty((len(pair_ids), num_hard_negatives - 1), np.float32)
            drawing.draw_fractions(drawing.stream_key(self.seed, _STREAM, 0), pair_ids, fractions)
            starts, counts = self.user_starts[users], np.diff(self.user_starts)[users]
            chosen[:, 1:] = self.pairs_by_user[starts[:, None] + (fractions * counts[:, None]).astype(np.int64)]
        rows = self.row_of_pair[chosen].astype(np.int64)
        rows[:, 1:][chosen[:, 1:] == chosen[:, :1]] = -1  # the pair's own vector counts once
        return rows

    def read(self, pair_ids: np.ndarray, num_hard_negatives: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """(z float32 [B, K, r], present bool [B, K]); absent vectors are zero."""
        rows = self.rows(pair_ids, num_hard_negatives)
        present = rows >= 0
        z = self.vectors[np.maximum(rows, 0).ravel()].astype(np.float32).reshape(*rows.shape, self.dim)
        z[~present] = 0
        return torch.from_numpy(z), torch.from_numpy(present)


def load_pair_vectors(embeddings: Folder, interactions: Interactions, control: str, seed: int) -> PairVectors:
    """Stream `embeddings/pairs` into a memory-mapped file and find each pair's vector.

    `control`: `shuffled` gives every pair the vector of another one, `gaussian` replaces the vectors by noise of the
    same norms (METHOD.md section 6).

    Raises:
        UserError: there are no vectors, or they belong to other pairs than the data set's.
    """
    files = embeddings.parquet_files("pairs")
    num_vectors = embeddings.num_rows("pairs")
    if num_vectors == 0:
        raise UserError(f"{embeddings.uri}/pairs is empty: run the stage `embed`, or set train.hnlm.variant=none")
    width = pq.read_schema(files[0], filesystem=embeddings.fs).field("z").type.list_size
    noise = np.random.default_rng([seed, _STREAM])
    with tempfile.TemporaryFile() as file:  # the map keeps the file alive; it goes with the process
        vectors = np.memmap(file, np.float16, "w+", shape=(num_vectors, width))
    keys = np.empty(num_vectors, np.int64)
    row = 0
    for batch_keys, batch in _stream(embeddings, files, interactions.num_items):
        keys[row : row + len(batch_keys)] = batch_keys
        if control == "gaussian":
            norms = np.linalg.norm(batch.astype(np.float32), axis=1, keepdims=True)
            random = noise.standard_normal(batch.shape, np.float32)
            batch = (random / np.linalg.norm(random, axis=1, keepdims=True) * norms).astype(np.float16)
        vectors[row : row + len(batch_keys)] = batch
        row += len(batch_keys)
    row_of_pair = _find_pairs(keys, interactions)
    if (row_of_pair < 0).all():
        raise UserError(f"no vector in {embeddings.uri} belongs to a training pair: were they made from other data?")
    if control == "shuffled":
        present = np.flatnonzero(row_of_pair >= 0)
        cycle = noise.permutation(present)  # each takes its successor's vector: none keeps its own
        row_of_pair[cycle] = row_of_pair[np.roll(cycle, 1)]
    return from_arrays(vectors, row_of_pair, interactions, seed)


def from_arrays(vectors: np.ndarray, row_of_pair: np.ndarray, interactions: Interactions, seed: int = 0) -> PairVectors:
    """Pair vectors that are at hand already."""
    starts = np.zeros(interactions.num_users + 1, np.int64)
    np.cumsum(np.bincount(interactions.user_ids, minlength=interactions.num_users), out=starts[1:])
    by_user = np.argsort(interactions.user_ids, kind="stable")
    return PairVectors(vectors, row_of_pair, by_user, starts, interactions.user_ids, seed)


def _stream(embeddings: Folder, files: list[str], num_items: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(keys u I + i, vectors float16 [n, r]) block by block."""
    for path in files:
        with pq.ParquetFile(path, filesystem=embeddings.fs) as shard:
            for batch in shard.iter_batches(_ROWS_PER_READ, columns=["user_id", "item_id", "z"]):
                users, items = batch["user_id"].to_numpy(), batch["item_id"].to_numpy()
                z = batch["z"].flatten().to_numpy().reshape(len(users), -1)
                yield users.astype(np.int64) * num_items + items, z


def _find_pairs(keys: np.ndarray, interactions: Interactions) -> np.ndarray:
    """For each training pair the row of its key, or -1: int32 [P]."""
    order = np.argsort(keys, kind="stable")
    wanted = interactions.user_ids.astype(np.int64) * interactions.num_items + interactions.item_ids
    place = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    return np.where(keys[order][place] == wanted, order[place], -1).astype(np.int32)
