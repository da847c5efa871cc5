"""LLM negatives for somebody else's trainer: one call, `sample(user_ids, item_ids) -> negatives`.

negatives = HardNegatives.of_run("runs/toys")
for user_ids, item_ids in your_batches:                # original ids
    hard_item_ids = negatives.sample(user_ids, item_ids)
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.pair_vectors import load_pair_vectors
from hnlm_ray.recommend.pool import Pool, PoolDraw, in_window, pool_from_vectors
from hnlm_ray.recommend.recommender import IdMap
from hnlm_ray.recommend.samplers.base import Batch, Uniform
from hnlm_ray.store import Folder, RunDir


@dataclass
class HardNegatives:
    """Draws real items near the hard negative of each training pair; other pairs get a random unseen item."""

    interactions: Interactions
    pool: Pool
    users: IdMap
    items: IdMap
    share: float = 1.0
    """Probability that a negative comes from the pool"""
    seed: int = 0
    num_fallbacks: int = 0
    """Negatives so far that no pool could give"""
    _draws: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._base = Uniform(self.interactions.train, self.seed)
        keys = self.interactions.user_ids.astype(np.int64) * self.interactions.num_items + self.interactions.item_ids
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    @classmethod
    def of_run(
        cls, run_dir: str, pool_size: int = 50, window: tuple[float, float] = (0.5, 0.98), seed: int = 0
    ) -> "HardNegatives":
        """From the stages `ingest`, `signal` and `embed` of a run directory."""
        run = RunDir(run_dir)
        folders = {}
        for stage, artifact in (("ingest", "dataset"), ("signal", "signal"), ("embed", "embeddings")):
            entry = run.current(stage)
            if entry is None:
                raise UserError(f"{run_dir!r} has no complete stage {stage!r}: run `hnlm run ... --until embed` first")
            folders[artifact] = run.folder.child(entry.artifacts[artifact])
        data = Interactions.load(folders["dataset"])
        vectors = load_pair_vectors(folders["embeddings"], data, "none", seed)
        text = folders["embeddings"].read_tensors("items.safetensors")["item_text_emb"]
        signal = folders["signal"].read_tensors("embeddings.safetensors")
        pool = pool_from_vectors(vectors, text, data, pool_size)
        pool = in_window(pool, data, signal["user_emb"], signal["item_emb"], window)
        return cls(data, pool, _ids(folders["dataset"], "user"), _ids(folders["dataset"], "item"), seed=seed)

    def sample(self, user_ids: Any, item_ids: Any) -> np.ndarray:
        """One hard negative per pair, as original item ids. The same call draws anew each time.

        Raises:
            UserError: an id is unknown, or a user has every item of the catalogue.
        """
        users, items = self.users.indices(user_ids), self.items.indices(item_ids)
        sated = users[self.interactions.train.counts[users] == self.interactions.num_items]
        if len(sated):
            raise UserError(
                f"user {self.users.keys[sated[0]]!s} has every item of the catalogue, so that nothing is a negative: "
                "leave this user's pairs out"
            )
        keys = users * self.interactions.num_items + items
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = self._keys[place] == keys
        pair_ids = np.where(known, self._order[place], 0)
        draws = np.arange(self._draws, self._draws + len(users))  # a number of its own for every draw
        self._draws += len(users)
        batch = Batch(draws, users.astype(np.int32), items.astype(np.int32), 0, 0, len(users))
        chosen = self._base.draw(batch, 1)
        counts = np.where(known, self.pool.counts[pair_ids], 0).astype(np.int32)
        local = Batch(np.arange(len(users)), batch.user_ids, batch.item_ids, self._draws, 0, len(users))
        PoolDraw(Pool(np.asarray(self.pool.item_ids[pair_ids]), counts), self.share, self.seed).replace(local, chosen)
        self.num_fallbacks += int((counts == 0).sum())
        return self.items.keys[chosen[:, 0]]


def _ids(dataset: Folder, kind: str) -> IdMap:
    table = dataset.read_table(f"{kind}s", columns=[f"{kind}_id", f"{kind}_key"]).sort_by(f"{kind}_id")
    return IdMap(np.array(table[f"{kind}_key"].to_pylist(), dtype=object), kind)
