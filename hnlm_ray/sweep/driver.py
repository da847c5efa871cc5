"""`hnlm tune`: the stages before `train` once, many trials over their artifacts, the test set once, for the winner."""

import functools
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import yaml

from hnlm_ray.cluster.room import num_places, off_gpu_nodes
from hnlm_ray.config import RunConfig
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import plan, run_pipeline
from hnlm_ray.progress import Progress
from hnlm_ray.recommend.names import reads_text
from hnlm_ray.run_lock import sole_writer
from hnlm_ray.runtime import Demand, Resources, connected
from hnlm_ray.store import Folder, RunDir
from hnlm_ray.sweep.config import SweepConfig, load_sweep, most_epochs, with_point
from hnlm_ray.sweep.outcome import Outcome, TrialRow, write_outcome
from hnlm_ray.sweep.record import Recorder, recorded
from hnlm_ray.sweep.space import decode, is_searched, name_of, num_points, random_points, tune_space
from hnlm_ray.sweep.trial import METRIC, run_trial
from hnlm_ray.tracking import check_trackers, observed

_LOST_NODE_RETRIES = 3


@dataclass(frozen=True)
class Sweep:
    """A sweep at its place: what is shared, and where trials and results lie."""

    config: RunConfig
    settings: SweepConfig
    run_dir: RunDir
    folder: Folder
    artifacts: dict[str, str]
    """Artifact name -> URI, for the artifacts that trials read"""


def tune(config_path: str, overrides: Sequence[str] = (), run_dir: str = "", terminal: TextIO | None = None) -> Outcome:
    """Run a sweep, or what is left of it, then train and test its winner once.

    Raises:
        UserError: the file is not accepted, no validation data, no room for a single trial, or another process
            writes the run directory.
    """
    config, settings = load_sweep(config_path, overrides)
    target = RunDir(run_dir or f"runs/{config.name}")
    check_trackers(config.runtime, target.folder.uri)
    with sole_writer(target), connected(config.runtime), observed(config, target) as observers:
        for stage in _shared_stages(config, settings):
            run_pipeline(config, target.folder.uri, until=stage, terminal=terminal)
        sweep = _at(config, settings, target)
        if not Folder(sweep.artifacts["dataset"]).num_rows("valid"):
            raise UserError("a sweep compares trials on validation data, and the data set has none: set data.split")
        started, progress = time.monotonic(), Progress("tune", terminal, observers)
        rows = _run_trials(sweep, progress)
        outcome = write_outcome(sweep.folder, settings, rows, config.train.monitor, time.monotonic() - started)
        progress.finish({"best_valid": outcome.winner.valid})
        winner = with_point(config, outcome.winner.values)
        text = yaml.safe_dump(winner.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        sweep.folder.write_bytes("winner.yaml", text.encode())
        run_pipeline(winner, target.folder.uri, until="evaluate", terminal=terminal)
    return outcome


def trial_demand(settings: SweepConfig) -> Demand:
    """What one trial asks of a node."""
    what = "a trial (sweep.cpus_per_trial, sweep.gpus_per_trial)"
    return Demand(what, Resources(settings.cpus_per_trial, settings.gpus_per_trial, 0, 0), pieces=1)


def num_concurrent(settings: SweepConfig, places: int | None) -> int:
    """Trials at the same time, so that none waits for resources that another one holds.

    `places`: trials that have room now; None where nodes come on demand, and as many are tried as is useful.
    """
    useful = settings.trials if settings.search == "random" else math.ceil(settings.trials / 4)
    return min(settings.max_concurrent or settings.trials, settings.trials, useful if places is None else places)


def _at(config: RunConfig, settings: SweepConfig, target: RunDir) -> Sweep:
    """The sweep's folder carries the fingerprint of everything that decides its trials: a changed one starts anew."""
    shared = [item for stage in _shared_stages(config, settings) for item in plan(config, target, until=stage)]
    fingerprints = {item.stage.name: item.fingerprint for item in shared}
    values = [fingerprints, config.train.result_dict(), config.seed, settings.result_dict()]
    name = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    owners = {"dataset": "ingest", "signal": "signal", "negatives": "negative", "embeddings": "embed", "text": "text"}
    artifacts = {
        name: target.artifact(name, fingerprints[stage]).uri for name, stage in owners.items() if stage in fingerprints
    }
    return Sweep(config, settings, target, target.folder.child("sweeps", name), artifacts)


def _shared_stages(config: RunConfig, settings: SweepConfig) -> tuple[str, ...]:
    """What trials rest on. Those of classical samplers need the data only; no engine starts for them."""
    classical = config.train.hnlm.variant == "none" and "train.hnlm.variant" not in settings.space
    models = settings.space["train.model"].choice if "train.model" in settings.space else [config.train.model]
    texts = ("text",) if any(reads_text(str(model)) for model in models or []) else ()
    return ("ingest" if classical else "embed", *texts)


def _run_trials(sweep: Sweep, progress: Progress) -> list[TrialRow]:
    """All trials that have no result yet; returns the results of all.

    Raises:
        RuntimeError: a trial failed again and again, by an error that is not the setting's.
    """
    settings, trials = sweep.settings, sweep.folder.child("trials")
    done = recorded(trials)
    progress.start(num_points(settings), unit="trials")
    progress.update(len(done))
    try:
        if len(done) < num_points(settings):
            _search(sweep, done, Recorder(trials, progress))
    finally:
        progress.close()
    return [_row(settings, result) for result in recorded(trials)]


def _search(sweep: Sweep, done: list[dict[str, Any]], recorder: Recorder) -> None:
    from ray import tune as ray_tune

    settings, trials = sweep.settings, sweep.folder.child("trials")
    job = {
        "config": sweep.config.model_dump(mode="json"),
        "sweep": settings.model_dump(mode="json"),
        "artifacts": sweep.artifacts,
        "trials": trials.uri,
    }
    demand = trial_demand(settings)
    labels = off_gpu_nodes(demand)
    resources = ray_tune.PlacementGroupFactory([demand.piece()], bundle_label_selector=[labels] if labels else None)
    trainable = ray_tune.with_resources(functools.partial(run_trial, job=job), resources)
    searcher = _searcher(settings, done)
    with tempfile.TemporaryDirectory(prefix="hnlm-tune-") as own:  # Tune's own state: what counts is in `trials`
        grid = ray_tune.Tuner(
            trainable,
            param_space={} if is_searched(settings) else tune_space(settings),
            tune_config=ray_tune.TuneConfig(
                search_alg=searcher,
                scheduler=_scheduler(sweep),
                num_samples=num_points(settings) - len(done),
                max_concurrent_trials=num_concurrent(settings, num_places(demand)),
                reuse_actors=True,  # the imports of a process are paid once, not once per trial
            ),
            run_config=ray_tune.RunConfig(
                name="trials",
                storage_path=own,
                failure_config=ray_tune.FailureConfig(max_failures=_LOST_NODE_RETRIES),
                callbacks=[recorder],
                verbose=0,
            ),
        ).fit()
    if grid.errors:
        raise RuntimeError(f"{len(grid.errors)} trial(s) failed; the same command tries them again: {grid.errors[0]}")


def _searcher(settings: SweepConfig, done: list[dict[str, Any]]) -> Any:
    """What draws the points that are left; `optuna` first learns from those that stand."""
    if is_searched(settings):
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(
            OptunaSearch.convert_search_space(tune_space(settings)),
            metric=METRIC,
            mode="max",
            sampler=TPESampler(seed=settings.seed + len(done)),
            points_to_evaluate=[result["point"] for result in done] or None,
            evaluated_rewards=[result["valid"] for result in done] or None,
        )
    from ray.tune.search.basic_variant import BasicVariantGenerator

    known = {name_of(result["point"]) for result in done}
    left = [point for point in random_points(settings) if name_of(point) not in known]
    return BasicVariantGenerator(points_to_evaluate=left, random_state=settings.seed)


def _scheduler(sweep: Sweep) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

    if sweep.settings.early_stop == "none":
        return FIFOScheduler()
    epochs, grace = most_epochs(sweep.config, sweep.settings), sweep.settings.grace_epochs
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=max(epochs, grace) + 1,  # the last epoch is a trial's own end, not a stop
        grace_period=grace,
        reduction_factor=sweep.settings.reduction,
    )


def _row(settings: SweepConfig, result: dict[str, Any]) -> TrialRow:
    values = {**result, "values": decode(settings, result["point"])}
    del values["point"]
    return TrialRow(**values)
