"""The trainings of a comparison: which there are, and what each is called.

A run is named by everything that decides it (the fingerprints of the pipeline), never by its row: a comparison that
gets more rows, seeds or trials repeats nothing, and rows that agree share their runs.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hnlm_ray.compare.config import CompareConfig, RowConfig, row_config, settings_of
from hnlm_ray.config import RunConfig
from hnlm_ray.pipeline import STAGES, fingerprint_of, plan, reads
from hnlm_ray.recommend.config import CLOSED_FORM_MODELS
from hnlm_ray.store import Folder, RunDir

RESULT_FILE = "result.json"
_STAGES = {stage.name: stage for stage in STAGES}
_VERSION = 1
"""Raised when a run writes something else for the same settings."""


@dataclass(frozen=True)
class RunSpec:
    """One training, as plain values that travel to a worker."""

    purpose: Literal["trial", "seed"]
    """`trial`: judged on validation. `seed`: also tested, once."""
    name: str
    folder: str
    config: dict[str, Any]
    seed: int
    artifacts: dict[str, str]
    """Artifact -> URI, of the stages before `train` that it reads, and of the warm-up signal"""
    max_negatives: int
    num_threads: int


class Runs:
    """Makes the runs of a comparison in a run directory whose stages before `train` stand."""

    def __init__(self, config: RunConfig, compare: CompareConfig, run_dir: RunDir) -> None:
        self.config, self.compare, self.run_dir = config, compare, run_dir
        self._shared: dict[str, dict[str, str]] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._trials: dict[str, list[RunSpec]] = {}
        self._seeds: dict[str, list[RunSpec]] = {}

    def trials(self, row: RowConfig) -> list[RunSpec]:
        """One run per setting; none where nothing is tuned."""
        if row.name not in self._trials:
            settings = settings_of(self.compare, row) if row.space else []
            self._trials[row.name] = [self._spec("trial", row, tried, self.compare.tune_seed) for tried in settings]
        return self._trials[row.name]

    def tuned(self, row: RowConfig) -> dict[str, Any] | None:
        """The setting that is best on validation, a control's that of its row; None while trials are missing."""
        if row.of:
            return self.tuned(self.compare.row(row.of))
        results = [result for run in self.trials(row) if (result := self.result(run)) is not None]
        if len(results) < len(self.trials(row)):
            return None
        found = [result["valid"] for result in results]
        return settings_of(self.compare, row)[found.index(max(found))] if found else {}

    def seeds(self, row: RowConfig) -> list[RunSpec]:
        """One run per seed at the tuned setting, none while that is not known.

        The same run for all of them where there is no chance in the model.
        """
        if row.name not in self._seeds:
            tuned = self.tuned(row)
            if tuned is None:
                return []
            closed = row_config(self.config, self.compare, row, tuned).train.model in CLOSED_FORM_MODELS
            seeds = self.compare.seeds[:1] * len(self.compare.seeds) if closed else self.compare.seeds
            self._seeds[row.name] = [self._spec("seed", row, tuned, seed) for seed in seeds]
        return self._seeds[row.name]

    def result(self, run: RunSpec) -> dict[str, Any] | None:
        """What stands of a run."""
        folder = Folder(run.folder)
        if run.name not in self._results and folder.exists(RESULT_FILE):
            self._results[run.name] = folder.read_json(RESULT_FILE)
        return self._results.get(run.name)

    def open(self) -> list[RunSpec]:
        """Runs that can start and have no result: trials at once, seeds when their row's setting is known."""
        rows = self.compare.rows
        runs = [run for row in rows for run in self.trials(row)] + [run for row in rows for run in self.seeds(row)]
        return [run for run in {run.name: run for run in runs}.values() if self.result(run) is None]

    def num_done(self) -> int:
        """Runs with a result, counted for every row that they serve."""
        rows = self.compare.rows
        return sum(self.result(run) is not None for row in rows for run in [*self.trials(row), *self.seeds(row)])

    def num_total(self) -> int:
        """All runs of all rows."""
        return sum(len(self.trials(row)) + len(self.compare.seeds) for row in self.compare.rows)

    def _spec(self, purpose: Literal["trial", "seed"], row: RowConfig, tuned: dict[str, Any], seed: int) -> RunSpec:
        config = row_config(self.config, self.compare, row, tuned)
        fingerprints = self.shared(config)
        seeded = config.model_copy(update={"seed": seed})
        train = fingerprint_of(
            _STAGES["train"], seeded, [fingerprints[name] for name in reads(_STAGES["train"], config)]
        )
        decides = [_VERSION, purpose, train, fingerprints["signal"]]
        if purpose == "seed":
            evaluate = fingerprint_of(_STAGES["evaluate"], seeded, [fingerprints["ingest"], train])
            decides += [evaluate, self.compare.max_negatives]
        name = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
        return RunSpec(
            purpose,
            name,
            self.run_dir.folder.child("compare", f"{purpose}s", name).uri,
            config.model_dump(mode="json"),
            seed,
            self._artifacts(fingerprints),
            self.compare.max_negatives,
            max(1, int(self.compare.cpus_per_run)),
        )

    def shared(self, config: RunConfig) -> dict[str, str]:
        """Fingerprints of the stages that stand before the training of `config`, and of the warm-up signal."""
        key = upstream_key(config)
        if key not in self._shared:
            planned = [item for until in shared_stages(config) for item in plan(config, self.run_dir, until)]
            self._shared[key] = {item.stage.name: item.fingerprint for item in planned}
        return self._shared[key]

    def _artifacts(self, fingerprints: dict[str, str]) -> dict[str, str]:
        return {
            artifact: self.run_dir.artifact(artifact, fingerprint).uri
            for stage, fingerprint in fingerprints.items()
            for artifact in _STAGES[stage].artifacts
        }


def last_shared_stage(config: RunConfig) -> str:
    """Up to where the pipeline is run for a row: the warm-up signal is the measure of hardness of every row."""
    return "embed" if "embed" in reads(_STAGES["train"], config) else "signal"


def shared_stages(config: RunConfig) -> tuple[str, ...]:
    """The stages up to which the pipeline is run for a row: texts too where its model reads them."""
    texts = ("text",) if "text" in reads(_STAGES["train"], config) else ()
    return (last_shared_stage(config), *texts)


def upstream_key(config: RunConfig) -> str:
    """Equal for configs that share the stages before `train`."""
    sections = config.model_dump(mode="json", exclude={"train", "evaluate", "report", "runtime", "name"})
    return json.dumps([shared_stages(config), sections], sort_keys=True)


def as_job(run: RunSpec) -> dict[str, Any]:
    """The run as plain values."""
    return asdict(run)
