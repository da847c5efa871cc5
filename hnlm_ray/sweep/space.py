"""From the file's dimensions to Ray Tune's and back. Choices travel as their index, so that any value may be listed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from hnlm_ray.sweep.config import Dimension, SweepConfig

Point = dict[str, Any]
"""One drawn value per dotted key, as the search sees it: the index of a choice, else the number."""


def tune_space(sweep: SweepConfig) -> dict[str, Any]:
    """Ray Tune's search space, one entry per dotted key."""
    return {key: _domain(dimension) for key, dimension in sweep.space.items()}


def random_points(sweep: SweepConfig) -> list[Point]:
    """All points of a random search: the same seed gives the same ones."""
    rng = np.random.RandomState(sweep.seed)
    space = tune_space(sweep)
    return [
        {key: _plain(domain.sample(random_state=rng)) for key, domain in space.items()} for _ in range(sweep.trials)
    ]


def decode(sweep: SweepConfig, point: Mapping[str, Any]) -> dict[str, Any]:
    """The config's values at a point."""
    return {
        key: dimension.choice[point[key]] if dimension.choice else point[key] for key, dimension in sweep.space.items()
    }


def name_of(point: Mapping[str, Any]) -> str:
    """A point's own name, the same on every machine and in every run."""
    return hashlib.sha256(json.dumps(dict(point), sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _domain(dimension: Dimension) -> Any:
    from ray import tune

    if dimension.choice:
        return tune.choice(list(range(len(dimension.choice))))
    if dimension.uniform:
        return tune.uniform(*dimension.uniform)
    if dimension.loguniform:
        return tune.loguniform(*dimension.loguniform)
    assert dimension.randint
    return tune.randint(*dimension.randint)
