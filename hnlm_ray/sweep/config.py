"""A sweep's file: an ordinary run config with a section `sweep`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hnlm_ray.config import RunConfig, load_with_section, parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.settings import Section, operational

SEARCHED_SECTION = "train"
"""The only section a sweep may vary: all trials share the artifacts of the stages before it."""
MONITOR = "train.monitor"
"""The one key of it that may not vary: the metric by which settings are ranked."""
_EPOCHS = "train.epochs"


class Dimension(Section):
    """The values of one key; exactly one of these."""

    choice: list[Any] | None = Field(None, min_length=2)
    """One of the listed values."""
    uniform: tuple[float, float] | None = None
    """A number between two bounds."""
    loguniform: tuple[float, float] | None = None
    """A number between two positive bounds, spread evenly over its logarithm."""
    randint: tuple[int, int] | None = None
    """An integer from the first bound up to, not including, the second."""

    @model_validator(mode="after")
    def _check(self) -> "Dimension":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(type(self).model_fields)}; there are {len(given)}")
        bounds = self.uniform or self.loguniform or self.randint
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"{given[0]}={list(bounds)} must be [low, high] with low < high")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform={list(self.loguniform)} needs bounds above 0")
        return self

    @property
    def num_values(self) -> float:
        """How many there are; infinite between the bounds of numbers that are no integers."""
        if self.choice:
            return len(self.choice)
        return self.randint[1] - self.randint[0] if self.randint else math.inf

    def examples(self) -> list[Any]:
        """All values of a choice, else the lowest and the highest."""
        if self.randint:
            return [self.randint[0], self.randint[1] - 1]
        return self.choice or list(self.uniform or self.loguniform or ())


class SweepConfig(Section):
    """What is searched and how."""

    space: dict[str, Dimension] = Field(min_length=1)
    """Dotted keys below `train.` and their values."""
    trials: int = Field(16, ge=1)
    """Settings to try; fewer only where the space holds no more."""
    search: Literal["random", "optuna"] = "random"
    """`random`: independent draws. `optuna`: TPE, which learns from the trials before."""
    seed: int = Field(0, ge=0)
    """Seed of the search."""
    early_stop: Literal["asha", "none"] = "asha"
    """`asha`: the worse trials end early, by validation; `none`: every trial runs to its own end."""
    grace_epochs: int = Field(10, ge=1)
    """Epochs that every trial gets before `asha` may end it."""
    reduction: float = Field(3.0, gt=1)
    """Of each rung's trials, `asha` lets one in this many go on."""
    cpus_per_trial: float = operational(1.0, gt=0)
    """CPUs that a trial reserves, also its threads; a fraction packs several on one CPU."""
    gpus_per_trial: float = operational(0.0, ge=0)
    """GPUs that a trial reserves; a fraction packs several on one GPU."""
    max_concurrent: int = operational(0, ge=0)
    """At most so many trials at a time; 0 = as many as the cluster has room for. Where it starts nodes on demand: all
    of them, or with `optuna`, which learns from those that ended, a quarter."""

    @model_validator(mode="after")
    def _only_training(self) -> "SweepConfig":
        for key in self.space:
            if not key.startswith(f"{SEARCHED_SECTION}."):
                raise ValueError(
                    f"sweep.space: {key!r} cannot be searched, since all trials share the stages before `train`; "
                    "accepted: keys that begin with 'train.'"
                )
        if MONITOR in self.space:
            raise ValueError(f"sweep.space: {MONITOR!r} cannot be searched: it is the metric that ranks all trials")
        return self


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, SweepConfig]:
    """Read a sweep's file; `sweep.trials=8` overrides the sweep, any other key the run.

    Raises:
        UserError: the file is missing, has no section `sweep`, or one of its keys or values is not accepted.
    """
    config, sweep = load_with_section(path, overrides, "sweep", SweepConfig, "configs/sweeps/alignment.yaml")
    _check_keys(config, sweep)
    most_epochs(config, sweep)  # refuses values that are no number of epochs
    return config, sweep


def most_epochs(config: RunConfig, sweep: SweepConfig) -> int:
    """The `train.epochs` of the trial that may train longest. Raises `UserError` where one of its values is none."""
    values = sweep.space[_EPOCHS].examples() if _EPOCHS in sweep.space else [config.train.epochs]
    return max(with_point(config, {_EPOCHS: value}).train.epochs for value in values)


def with_point(config: RunConfig, point: dict[str, Any]) -> RunConfig:
    """The run config with the values of one trial, `point`, by dotted key.

    Raises:
        UserError: as for any config, and where it trains in bf16, which is DeepSpeed's: trials train without.
    """
    values = config.model_dump(mode="json")
    for key, value in point.items():
        *parents, leaf = key.split(".")
        node = values
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                raise UserError(f"{key!r} is no key of the config")
            node = node[parent]
        node[leaf] = value
    found = parse_config(values)
    if found.train.precision != "fp32":
        raise UserError(f"train.precision={found.train.precision!r} is for `hnlm run`: trials train in fp32, set that")
    return found


def _check_keys(config: RunConfig, sweep: SweepConfig) -> None:
    """Every key must be one of the config; what its values combine to is checked trial by trial."""
    known = config.train.model_dump()
    for key in sweep.space:
        node: Any = {SEARCHED_SECTION: known}
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                with_point(config, {key: sweep.space[key].examples()[0]})  # names the nearest key
                raise UserError(f"sweep.space: {key!r} is no key of the config")
            node = node[part]
