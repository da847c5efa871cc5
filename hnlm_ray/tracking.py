"""Where a run's figures go while it runs: Ray's own metrics always, MLflow and TensorBoard by `runtime.trackers`."""

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hnlm_ray.errors import UserError

if TYPE_CHECKING:
    from hnlm_ray.config import RunConfig
    from hnlm_ray.runtime import RuntimeConfig
    from hnlm_ray.store import RunDir

_EXPERIMENT = "hnlm_ray"
_FLUSH_EVERY_S = 2.0
"""A tracking server is called this often at most, however short the epochs are."""
_MOST_PARAMS = 100
"""Parameters that MLflow takes at a time, and the longest value that every back end takes."""
_LONGEST_PARAM = 500


class Observer(Protocol):
    """Hears of everything that a progress line shows."""

    def count(self, stage: str, rows: int, tokens: int, failed: int) -> None:
        """So many more rows are finished."""

    def reach(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """A training has come to an epoch or step."""

    def finish(self, stage: str, metrics: Mapping[str, float]) -> None:
        """A stage is complete."""


class RayMetrics:
    """Counters and gauges of the running Ray, tagged with run and stage; Prometheus reads them with Ray's own.

    Their names there: `ray_hnlm_rows_total`, `ray_hnlm_tokens_total`, `ray_hnlm_failed_rows_total`, `ray_hnlm_epoch`,
    `ray_hnlm_loss`.
    """

    def __init__(self, run_name: str) -> None:
        from ray.util.metrics import Counter, Gauge

        tags = ("run", "stage")
        self._run_name = run_name
        self._rows = Counter("hnlm_rows", "Rows finished, those of an earlier run included", tags)
        self._tokens = Counter("hnlm_tokens", "Tokens of prompts and answers", tags)
        self._failed = Counter("hnlm_failed_rows", "Rows without a usable answer", tags)
        self._epoch = Gauge("hnlm_epoch", "Epoch or step that a training has reached", tags)
        self._loss = Gauge("hnlm_loss", "Training loss of that epoch or step", tags)

    def count(self, stage: str, rows: int, tokens: int, failed: int) -> None:
        """Add to the counters."""
        for counter, value in ((self._rows, rows), (self._tokens, tokens), (self._failed, failed)):
            if value > 0:
                counter.inc(value, self._tags(stage))

    def reach(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Set the gauges."""
        self._epoch.set(step, self._tags(stage))
        if "loss" in metrics:
            self._loss.set(metrics["loss"], self._tags(stage))

    def finish(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Nothing more to say: a gauge of something that is over would stand for ever."""

    def _tags(self, stage: str) -> dict[str, str]:
        return {"run": self._run_name, "stage": stage}


class Point(NamedTuple):
    """One value of one curve."""

    name: str
    value: float
    step: int
    at_ms: int


class Tracker(ABC):
    """What MLflow and TensorBoard share: counts become curves, and points are written a few seconds' worth at a time.

    Curves are named `stage/metric`; `@`, which neither takes, is written `_at_`.
    """

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._written_at = time.monotonic()
        self._totals: dict[tuple[str, str], int] = {}

    @abstractmethod
    def write(self, points: Sequence[Point]) -> None:
        """Hand points to the back end."""

    @abstractmethod
    def end(self, failed: bool) -> None:
        """Close the back end."""

    def count(self, stage: str, rows: int, tokens: int, failed: int) -> None:
        """Curves of totals over rows."""
        for name, more in (("rows", rows), ("tokens", tokens), ("failed", failed)):
            self._totals[stage, name] = self._totals.get((stage, name), 0) + more
        totals = {name: float(total) for (of, name), total in self._totals.items() if of == stage}
        self.reach(stage, self._totals[stage, "rows"], totals)

    def reach(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Points of a training."""
        now_ms = int(time.time() * 1000)
        self._points += [
            Point(f"{stage}/{name}".replace("@", "_at_"), float(value), step, now_ms) for name, value in metrics.items()
        ]
        if time.monotonic() - self._written_at > _FLUSH_EVERY_S:
            self.flush()

    def finish(self, stage: str, metrics: Mapping[str, float]) -> None:
        """A stage's last figures; everything before is written too."""
        self.reach(stage, 0, metrics)
        self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        points, self._points = self._points, []
        self._written_at = time.monotonic()
        if points:
            self.write(points)


class MLflowTracker(Tracker):
    """One MLflow run per run directory and config: a run that was killed goes on in the same one."""

    def __init__(self, config: "RunConfig", run_dir: "RunDir") -> None:
        super().__init__()
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        values = _flat(config.model_dump(mode="json"))
        key = hashlib.sha256(json.dumps([run_dir.folder.uri, values], sort_keys=True).encode()).hexdigest()[:16]
        uri = config.runtime.mlflow_uri or run_dir.folder.child("mlruns").uri
        try:
            self._client = MlflowClient(uri)
            experiment = self._client.get_experiment_by_name(_EXPERIMENT)
            experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(_EXPERIMENT)
            known = self._client.search_runs([experiment_id], f"tags.hnlm_key = '{key}'", max_results=1)
            if known:
                self._run_id = known[0].info.run_id
                self._client.set_terminated(self._run_id, "RUNNING")
                return
            tags = {"hnlm_key": key, "run_dir": run_dir.folder.uri}
            self._run_id = self._client.create_run(experiment_id, tags=tags, run_name=config.name).info.run_id
            params = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in values.items()]
            for start in range(0, len(params), _MOST_PARAMS):
                self._client.log_batch(self._run_id, params=params[start : start + _MOST_PARAMS])
        except MlflowException as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(
                f"runtime.mlflow_uri {uri!r} takes no runs: give a folder or a tracking server ({words})"
            ) from None

    def write(self, points: Sequence[Point]) -> None:
        """Log points; raises `MlflowException` where the server stays away, and the same command goes on later."""
        metrics = [self._metric(point.name, point.value, point.at_ms, point.step) for point in points]
        for start in range(0, len(metrics), 1000):  # MLflow takes so many at a time
            self._client.log_batch(self._run_id, metrics=metrics[start : start + 1000])

    def end(self, failed: bool) -> None:
        """Mark the run as over."""
        self.flush()
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")


class TensorBoardTracker(Tracker):
    """Event files, for `tensorboard --logdir`."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        from tensorboardX import SummaryWriter

        try:
            self._writer = SummaryWriter(folder)
        except OSError as error:
            raise UserError(
                f"runtime.tensorboard_dir {folder!r} takes no event files: give a folder ({error})"
            ) from None

    def write(self, points: Sequence[Point]) -> None:
        """Append to the event file."""
        for point in points:
            self._writer.add_scalar(point.name, point.value, point.step, walltime=point.at_ms / 1000)
        self._writer.flush()

    def end(self, failed: bool) -> None:
        """Close the event file."""
        self.flush()
        self._writer.close()


def check_trackers(runtime: "RuntimeConfig", run_dir: str) -> None:
    """Refuse a tracker whose files would lie in a bucket, as those of a remote run directory do: none writes there.

    Raises:
        UserError: the run directory is remote and the tracker has no place of its own.
    """
    if "://" not in run_dir or run_dir.startswith("file://"):
        return
    places = {
        "mlflow": ("mlflow_uri", runtime.mlflow_uri, "a tracking server, http://HOST:5000"),
        "tensorboard": ("tensorboard_dir", runtime.tensorboard_dir, "a folder on the driver's node"),
    }
    for tracker in runtime.trackers:
        key, place, accepted = places[tracker]
        if not place:
            raise UserError(
                f"runtime.trackers: {tracker} cannot write to the run directory {run_dir!r}: "
                f"set runtime.{key} to {accepted}"
            )


@contextmanager
def observed(config: "RunConfig", run_dir: "RunDir") -> Iterator[list[Observer]]:
    """The observers of a run that `check_trackers` has passed, closed with it. Ray must be connected.

    Raises:
        UserError: a tracker's package is not installed, or its place cannot be used.
    """
    with ExitStack() as stack:
        trackers: list[Observer] = []
        for name in dict.fromkeys(config.runtime.trackers):
            tracker = _tracker(name, config, run_dir)
            # at once: where the next one cannot be made, this one's run ends as failed
            stack.push(lambda kind, _error, _trace, end=tracker.end: end(kind is not None))
            trackers.append(tracker)
        yield [RayMetrics(config.name), *trackers]


def _tracker(name: str, config: "RunConfig", run_dir: "RunDir") -> Tracker:
    try:
        if name == "mlflow":
            return MLflowTracker(config, run_dir)
        return TensorBoardTracker(config.runtime.tensorboard_dir or run_dir.folder.child("tensorboard").path)
    except ImportError as error:
        raise UserError(
            f"runtime.trackers: {name} is not installed ({error.name}): pip install 'hnlm-ray[track]'"
        ) from None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among nested values, by path: {"test": {"recall@20": 0.3}} -> {"test/recall@20": 0.3}."""
    flat = _flat(values).items()
    return {name.replace(".", "/"): float(value) for name, value in flat if isinstance(value, int | float)}
