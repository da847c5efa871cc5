"""Synthetic user-item graphs of the sizes that peers are measured on: power-law degrees, no data needed."""

from dataclasses import dataclass

import numpy as np

from hnlm_ray.recommend.interactions import Interactions


@dataclass(frozen=True)
class GraphSize:
    """Users, items and training pairs of a data set."""

    num_users: int
    num_items: int
    num_pairs: int

    def shrunk(self, factor: int) -> "GraphSize":
        """A graph of the same density per node, `factor` times smaller."""
        return GraphSize(self.num_users // factor, self.num_items // factor, self.num_pairs // factor)


SIZES = {
    "lastfm": GraphSize(1_892, 4_489, 42_135),
    "gowalla": GraphSize(29_858, 40_981, 810_128),
    "yelp2018": GraphSize(31_668, 38_048, 1_237_259),
}


def power_law_graph(size: GraphSize, seed: int, held_out: int = 0) -> Interactions:
    """Distinct pairs whose user and item degrees follow a power law; every user has a pair.

    `held_out` further pairs become the test split.
    """
    rng = np.random.default_rng(seed)
    wanted = size.num_pairs + held_out
    user_weights = _weights(rng, size.num_users, 0.6)
    item_weights = _weights(rng, size.num_items, 0.8)
    keys = np.arange(size.num_users, dtype=np.int64) * size.num_items + _draw(rng, item_weights, size.num_users)
    while len(keys) < wanted:
        missing = wanted - len(keys)
        more = _draw(rng, user_weights, 2 * missing) * size.num_items + _draw(rng, item_weights, 2 * missing)
        fresh = np.setdiff1d(more, keys)
        keys = np.concatenate([keys, rng.permutation(fresh)[:missing]])
    users, items = (keys // size.num_items).astype(np.int32), (keys % size.num_items).astype(np.int32)
    train, test = slice(0, size.num_pairs), slice(size.num_pairs, wanted)
    return Interactions.from_arrays(
        (users[train], items[train]), size.num_users, size.num_items, test=(users[test], items[test])
    )


def _weights(rng: np.random.Generator, count: int, power: float) -> np.ndarray:
    weights = (np.arange(count) + 0.005 * count + 1) ** -power
    return rng.permutation(weights / weights.sum())


def _draw(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    cumulative = weights.cumsum()
    drawn = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    return np.minimum(drawn, len(weights) - 1).astype(np.int64)
