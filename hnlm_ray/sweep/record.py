"""Results of trials, written one by one as they end: what a killed sweep keeps, and its live line."""

import time
from typing import Any

from ray.tune import Callback

from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder
from hnlm_ray.sweep.space import name_of
from hnlm_ray.sweep.trial import METRIC

RESULT_FILE = "result.json"


class Recorder(Callback):
    """Writes `<trial>/result.json` for every trial that ends, by itself or early, and feeds the progress line."""

    def __init__(self, trials: Folder, progress: Progress) -> None:
        self._trials = trials
        self._progress = progress
        self._best = 0.0
        self._began: dict[str, float] = {}
        self._free: list[float] = []
        """When places became free that no trial has taken since"""

    def __getstate__(self) -> dict[str, Any]:
        """What Tune copies into its own state, which is thrown away: an open terminal cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_progress"}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial takes a place: its time counts from when that place became free, so that no wait goes unseen."""
        self._began[trial.trial_id] = self._free.pop(0) if self._free else time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended."""
        metrics = trial.last_result
        result = {
            "point": trial.config,
            "valid": metrics[METRIC],
            "epochs": metrics["epoch"],
            "training_s": metrics["training_s"],
            "seconds": self._end(trial),
            "state": "refused" if metrics["refused"] else "finished" if metrics["finished"] else "stopped early",
            "note": metrics["refused"],
        }
        self._trials.child(name_of(trial.config)).write_json(RESULT_FILE, result)
        self._show(metrics[METRIC])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed for good; it is not kept, so that the same command tries it again."""
        self._end(trial)
        self._show(0.0, failed=1)

    def _end(self, trial: Any) -> float:
        self._free.append(time.monotonic())
        return self._free[-1] - self._began[trial.trial_id]

    def _show(self, valid: float, failed: int = 0) -> None:
        self._best = max(self._best, valid)
        self._progress.update(1, failed=failed, note=f"best {self._best:.4f}")


def recorded(trials: Folder) -> list[dict[str, Any]]:
    """What stands of a sweep."""
    names = [name for name in trials.names() if trials.child(name).exists(RESULT_FILE)]
    return [trials.child(name).read_json(RESULT_FILE) for name in names]
