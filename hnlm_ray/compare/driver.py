"""`hnlm compare`: the shared stages once per distinct set, then all trials and seeds over Ray, then the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from hnlm_ray.cluster.room import num_places, off_gpu_nodes
from hnlm_ray.compare.config import CompareConfig, configs_of, load_compare, reduced
from hnlm_ray.compare.outcome import collect, results_of
from hnlm_ray.compare.page import render
from hnlm_ray.compare.readme import RESULTS_SUFFIX
from hnlm_ray.compare.runs import Runs, RunSpec, as_job, shared_stages, upstream_key
from hnlm_ray.compare.training import train_and_judge
from hnlm_ray.config import RunConfig
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import plan, run_pipeline
from hnlm_ray.plan import check_models
from hnlm_ray.progress import Progress
from hnlm_ray.run_lock import sole_writer
from hnlm_ray.runtime import Demand, Resources, connected
from hnlm_ray.store import Folder, RunDir

_LOST_NODE_RETRIES = 3


@dataclass(frozen=True)
class Outcome:
    """A finished comparison: its numbers, and the folder with `results.json` and `report.html`."""

    folder: Folder
    results: dict[str, Any]


def compare(
    config_path: str,
    overrides: Sequence[str] = (),
    run_dir: str = "",
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    trials: int = 0,
    terminal: TextIO | None = None,
) -> Outcome:
    """Run a comparison, or what is left of it; `rows`, `seeds` and `trials` reduce it.

    The results are written to the run directory and, unless reduced, beside the config as `NAME.results.json`.

    Raises:
        UserError: the file is not accepted, a row's model is not there, there are no validation data, no room for a
            single training, or another process writes the run directory.
    """
    config, whole = load_compare(config_path, overrides)
    wanted = reduced(whole, rows, seeds, trials)
    for row_of_stages in distinct_upstream(config, wanted):
        check_models(row_of_stages)  # a row's own model as well, before the stages of the others take their time
    target = RunDir(run_dir or f"runs/{config.name}")
    runs = Runs(config, wanted, target)
    with sole_writer(target), connected(config.runtime):
        run_shared_stages(config, wanted, target, terminal)
        dataset = target.artifact("dataset", runs.shared(config)["ingest"])
        if not dataset.num_rows("valid") or not dataset.num_rows("test"):
            raise UserError("a comparison needs validation and test data, and the data set lacks one: set data.split")
        run_all(runs, terminal)
    outcome = Outcome(target.folder.child("compare"), results_of(runs, collect(runs), _shown(config_path)))
    outcome.folder.write_json("results.json", outcome.results)
    outcome.folder.write_bytes("report.html", render(outcome.results).encode())
    if wanted == whole:
        beside = Path(config_path)
        Folder(beside.parent).write_json(beside.stem + RESULTS_SUFFIX, outcome.results)
    return outcome


def _shown(config_path: str) -> str:
    """The path as a reader of the results finds it: below the working directory, else the file's name alone."""
    path, here = Path(config_path).absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def run_shared_stages(config: RunConfig, wanted: CompareConfig, target: RunDir, terminal: TextIO | None) -> None:
    """The pipeline up to `train`, once for every set of settings before it that a row has."""
    for row_of_stages in distinct_upstream(config, wanted):
        for until in shared_stages(row_of_stages):
            if any(item.state != "done" for item in plan(row_of_stages, target, until)):
                run_pipeline(row_of_stages, target.folder.uri, until=until, terminal=terminal)


def distinct_upstream(config: RunConfig, wanted: CompareConfig) -> list[RunConfig]:
    """One config per distinct set of stages before `train` that a training of any row rests on.

    A key below `train.` that is tuned can change which there are. Raises `UserError` where a setting is not accepted.
    """
    configs = [found for row in wanted.rows for found in configs_of(config, wanted, row)]
    return list({upstream_key(found): found for found in configs}.values())


def run_all(runs: Runs, terminal: TextIO | None) -> None:
    """Every trial and seed that has no result yet, as many at a time as Ray has room for.

    Raises:
        UserError: there is no room for one.
    """
    import ray

    settings = runs.compare
    needed = Resources(settings.cpus_per_run, settings.gpus_per_run, 0, 0)
    demand = Demand("a training (compare.cpus_per_run, compare.gpus_per_run)", needed, pieces=1)
    num_places(demand)
    remote = ray.remote(
        num_cpus=settings.cpus_per_run,
        num_gpus=settings.gpus_per_run,
        label_selector=off_gpu_nodes(demand),
        max_retries=_LOST_NODE_RETRIES,
    )(train_and_judge)
    progress = Progress("compare", terminal)
    progress.start(runs.num_total(), unit="runs")
    progress.update(counted := runs.num_done())
    in_flight: dict[Any, RunSpec] = {}
    try:
        while todo := runs.open():
            flying = {run.name for run in in_flight.values()}
            in_flight |= {remote.remote(as_job(run)): run for run in todo if run.name not in flying}
            (ready,), _ = ray.wait(list(in_flight), num_returns=1)
            ray.get(ready)
            del in_flight[ready]
            progress.update(runs.num_done() - counted)
            counted = runs.num_done()
    finally:
        progress.close()
