"""From the file's dimensions to Ray Tune's and back. Choices travel as their index, so that any value may be listed."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hnlm_ray.sweep.config import Dimension, SweepConfig

Point = dict[str, Any]
"""One drawn value per dotted key, as the search sees it: the index of a choice, else the number."""


def tune_space(sweep: SweepConfig) -> dict[str, Any]:
    """Ray Tune's search space, one entry per dotted key."""
    return {key: _domain(dimension) for key, dimension in sweep.space.items()}


def num_points(sweep: SweepConfig) -> int:
    """Distinct points that a sweep tries: one per trial, fewer only where its space holds no more."""
    return int(min(sweep.trials, _size(sweep)))


def is_searched(sweep: SweepConfig) -> bool:
    """Whether optuna chooses the points: where the trials cover the space, all of it is tried, whatever the search."""
    return sweep.search == "optuna" and _size(sweep) > sweep.trials


def _size(sweep: SweepConfig) -> float:
    return math.prod(dimension.num_values for dimension in sweep.space.values())


def draws(sweep: SweepConfig) -> Iterator[Point]:
    """Independent draws without an end, where a point may come again: the same seed gives the same ones."""
    rng = np.random.RandomState(sweep.seed)
    space = tune_space(sweep)
    while True:
        yield {key: _plain(domain.sample(random_state=rng)) for key, domain in space.items()}


def random_points(sweep: SweepConfig) -> list[Point]:
    """All points of a random search, each once, in the order in which they are drawn first."""
    points: dict[str, Point] = {}
    drawn, wanted = draws(sweep), num_points(sweep)
    while len(points) < wanted:
        point = next(drawn)
        points.setdefault(name_of(point), point)
    return list(points.values())


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
