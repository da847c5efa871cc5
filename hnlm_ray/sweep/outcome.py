"""What a sweep found: table, parallel coordinates, importance of each key, the winner."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from hnlm_ray.errors import UserError
from hnlm_ray.store import Folder
from hnlm_ray.sweep.config import Dimension, SweepConfig

_MIN_TRIALS_FOR_IMPORTANCE = 4


@dataclass(frozen=True)
class TrialRow:
    """One trial of the table."""

    values: dict[str, Any]
    valid: float
    """Best value of the monitored metric on validation data"""
    epochs: int
    state: Literal["finished", "stopped early", "refused"]
    note: str
    """Why it was refused; else empty"""
    seconds: float
    """Wall time from when its place became free to its end"""
    training_s: float
    """Of these, training and validating"""


@dataclass(frozen=True)
class Outcome:
    """A finished sweep."""

    folder: Folder
    monitor: str
    rows: list[TrialRow]
    """Best first"""
    importance: dict[str, float]
    """Share of the metric's variation that each key explains; empty where there are too few trials"""
    seconds: float

    @property
    def overhead_s(self) -> float:
        """Mean seconds of a trial beside its training: the wait for its start, the imports of a new process, reading
        artifacts, building the model, compiling, reporting."""
        return float(np.mean([row.seconds - row.training_s for row in self.rows]))

    @property
    def winner(self) -> TrialRow:
        """The best trial."""
        return self.rows[0]

    def table(self) -> str:
        """The trials as text, best first."""
        keys = list(self.winner.values)
        heads = [self.monitor, "epochs", "state", *(key.removeprefix("train.") for key in keys)]
        body = [
            [f"{row.valid:.4f}", str(row.epochs), row.state, *(_short(row.values[key]) for key in keys)]
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in [heads, *body]) for column in range(len(heads))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [heads, *body]
        ]
        return "\n".join(line.rstrip() for line in lines)


def write_outcome(
    folder: Folder, settings: SweepConfig, rows: Sequence[TrialRow], monitor: str, seconds: float
) -> Outcome:
    """Write `trials.parquet`, `sweep.json`, `parallel.svg` and `importance.svg`; returns what they show.

    Raises:
        UserError: not one trial could be trained.
    """
    ordered = sorted(rows, key=lambda row: -row.valid)
    if not ordered or ordered[0].valid <= 0:
        reasons = "; ".join(sorted({row.note for row in rows if row.note}))
        raise UserError(f"none of {len(rows)} trials could be trained: {reasons or 'no metric above 0'}")
    outcome = Outcome(folder, monitor, ordered, importance(settings, rows), seconds)
    flat = [
        {**asdict(row), "values": None, **{key: _short(value) for key, value in row.values.items()}} for row in ordered
    ]
    folder.write_table("trials.parquet", pa.Table.from_pylist(flat).drop_columns(["values"]))
    summary = {
        "monitor": monitor,
        "seconds": round(seconds, 2),
        "overhead_s_per_trial": round(outcome.overhead_s, 2),
        "winner": asdict(outcome.winner),
        "importance": outcome.importance,
        "trials": [asdict(row) for row in ordered],
    }
    folder.write_json("sweep.json", summary)
    folder.write_bytes("parallel.svg", _parallel(settings, ordered, monitor))
    if outcome.importance:
        folder.write_bytes("importance.svg", _importance_bars(outcome.importance))
    return outcome


def importance(settings: SweepConfig, rows: Sequence[TrialRow]) -> dict[str, float]:
    """PED-ANOVA importance of each key over the trials that were trained, highest first."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    trained = [row for row in rows if row.valid > 0]
    if len(trained) < _MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {key: _distribution(dimension) for key, dimension in settings.space.items()}
    for row in trained:
        params = {key: _position(settings.space[key], value) for key, value in row.values.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=row.valid))
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: float(value) for key, value in found.items() if np.isfinite(value)}


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choice:
        return CategoricalDistribution(list(range(len(dimension.choice))))
    if dimension.randint:
        return IntDistribution(dimension.randint[0], dimension.randint[1] - 1)
    low, high = dimension.uniform or dimension.loguniform or (0.0, 1.0)
    return FloatDistribution(low, high, log=dimension.loguniform is not None)


def _position(dimension: Dimension, value: Any) -> Any:
    """A value as the search drew it: the index of a choice, else the number itself."""
    return dimension.choice.index(value) if dimension.choice else value


def _height(dimension: Dimension, value: Any) -> float:
    """Where a value lies between the lowest (0) and the highest (1) of its dimension."""
    if dimension.choice:
        return dimension.choice.index(value) / (len(dimension.choice) - 1)
    low, high = dimension.uniform or dimension.loguniform or dimension.randint or (0, 1)
    if dimension.loguniform:
        return float(np.log(value / low) / np.log(high / low))
    return float((value - low) / (high - low))


def _parallel(settings: SweepConfig, rows: Sequence[TrialRow], monitor: str) -> bytes:
    """One line per trial over all keys, coloured by its validation metric."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    keys = list(settings.space)
    trained = [row for row in rows if row.valid > 0]
    values = [row.valid for row in trained]
    norm = mpl.colors.Normalize(min(values), max(values))
    colours = mpl.colormaps["viridis"]
    figure = Figure(figsize=(max(6.0, 1.5 * (len(keys) + 1)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    for row in reversed(trained):  # the best lies on top
        heights = [_height(settings.space[key], row.values[key]) for key in keys] + [float(norm(row.valid))]
        axes.plot(range(len(heights)), heights, color=colours(norm(row.valid)), linewidth=1.5)
    axes.set_xticks(
        range(len(keys) + 1), [*(key.removeprefix("train.") for key in keys), monitor], rotation=20, ha="right"
    )
    axes.set_yticks([])
    for position, key in enumerate(keys):
        axes.axvline(position, color="0.8", zorder=0)
        for value in _labelled(settings.space[key]):
            axes.annotate(_short(value), (position, _height(settings.space[key], value)), fontsize=7, color="0.3")
    figure.colorbar(mpl.cm.ScalarMappable(norm, colours), ax=axes, label=f"{monitor} on validation")
    return _svg(figure)


def _importance_bars(importances: dict[str, float]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 1.0 + 0.35 * len(importances)), layout="constrained")
    axes = figure.add_subplot()
    keys = list(reversed(importances))
    axes.barh([key.removeprefix("train.") for key in keys], [importances[key] for key in keys], color="#3b6ea5")
    axes.set_xlabel("importance (PED-ANOVA share)")
    return _svg(figure)


def _labelled(dimension: Dimension) -> list[Any]:
    bounds = dimension.uniform or dimension.loguniform or dimension.randint or ()
    return dimension.choice or list(bounds)


def _svg(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
