"""The pipeline: its stages in order, each skipped where it stands complete and resumed where it does not.

A stage is a function of its config sections and its input artifacts. Its fingerprint covers both and the version of
its code's output, so a changed setting redoes the stages that depend on it and nothing else.
"""

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import yaml

from hnlm_ray.cluster.room import autoscales, check_autoscaled, check_fixed
from hnlm_ray.cluster.timeline import NodeCounts, NodeTimeline
from hnlm_ray.config import RunConfig
from hnlm_ray.errors import UserError
from hnlm_ray.finetune.tuned import encoder_folder
from hnlm_ray.ingest.source import check, input_fingerprint
from hnlm_ray.memory import MemoryMonitor, return_freed_memory
from hnlm_ray.progress import Progress
from hnlm_ray.recommend.names import reads_text
from hnlm_ray.run_lock import sole_writer
from hnlm_ray.store import Folder, ManifestEntry, RunDir
from hnlm_ray.tracking import check_trackers, numbers_of, observed

if TYPE_CHECKING:
    from hnlm_ray.generate.engines import EngineManager
    from hnlm_ray.tracking import Observer


@dataclass(frozen=True)
class Stage:
    """One row of the pipeline's table."""

    name: str
    function: str
    """`module:function`, imported when the stage runs."""
    sections: tuple[str, ...]
    """Config sections that decide its result."""
    reads: tuple[str, ...]
    """Stages whose artifacts it reads."""
    artifacts: tuple[str, ...]
    """Folders of the run directory that it writes."""
    version: int = 1
    """Raised when the stage's code writes something else for the same config and input."""


STAGES = (
    Stage("ingest", "hnlm_ray.ingest.stage:run", ("data", "seed"), (), ("dataset", "quarantine")),
    Stage("signal", "hnlm_ray.recommend.signal_stage:run", ("signal", "seed"), ("ingest",), ("signal",)),
    Stage("profile", "hnlm_ray.generate.profile_stage:run", ("profile", "llm"), ("ingest",), ("profiles",), 3),
    Stage(
        "negative",
        "hnlm_ray.generate.negative_stage:run",
        ("negative", "llm", "encoder"),
        ("ingest", "profile", "signal"),
        ("negatives",),
        3,
    ),
    Stage(
        "finetune",
        "hnlm_ray.finetune.finetune_stage:run",
        ("finetune", "encoder", "seed"),
        ("ingest", "profile", "signal", "negative"),
        ("finetune",),
        2,
    ),
    Stage(
        "embed",
        "hnlm_ray.finetune.embed_stage:run",
        ("embed", "finetune", "encoder"),
        ("ingest", "profile", "signal", "negative", "finetune"),
        ("embeddings",),
    ),
    Stage(
        "text",
        "hnlm_ray.recommend.text_stage:run",
        ("text", "encoder"),
        ("ingest", "profile", "embed"),
        ("text",),
    ),
    Stage(
        "train",
        "hnlm_ray.recommend.train_stage:run",
        ("train", "seed"),
        ("ingest", "signal", "negative", "embed", "text"),
        ("recommender",),
        2,
    ),
    Stage("evaluate", "hnlm_ray.recommend.evaluate_stage:run", ("evaluate",), ("ingest", "train"), ("evaluation",)),
    Stage(
        "report",
        "hnlm_ray.report.stage:run",
        ("report",),
        ("ingest", "signal", "profile", "negative", "finetune", "embed", "text", "train", "evaluate"),
        ("report",),
    ),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
_OWNER = {artifact: stage.name for stage in STAGES for artifact in stage.artifacts}
_USE_ENGINES = ("profile", "negative", "embed", "text")
_READ_FOR_TEXT = {
    "catalogue": ("ingest",),
    "profiles": ("ingest", "profile"),
    "tuned": ("ingest", "embed"),
    "taste": ("ingest", "embed"),
}
"""text.source -> the stages whose artifacts it takes the texts from."""
_PUBLISHED = {"report.html": "report", "report.json": "report", "metrics.json": "evaluation"}
"""Files that are also copied to the run directory's root, and the artifact they come from."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run with its fingerprint and what stands of it."""

    stage: Stage
    fingerprint: str
    state: Literal["done", "partial", "missing"]
    entry: ManifestEntry | None


@dataclass
class StageContext:
    """What a stage gets: its config, where to read and write, the progress line and the engines of the run."""

    config: RunConfig
    run_dir: RunDir
    fingerprints: dict[str, str]
    progress: Progress
    run: "Run"

    def out(self, artifact: str) -> Folder:
        """Where to write `artifact`. What a killed run left there is still there: the stage goes on from it."""
        return self.run_dir.artifact(artifact, self.fingerprints[_OWNER[artifact]])

    def input(self, artifact: str) -> Folder:
        """A complete artifact of an earlier stage."""
        return self.out(artifact)

    @property
    def engines(self) -> "EngineManager":
        """Engines of the run, started on first use and kept across stages."""
        return self.run.engines

    @property
    def manifest_entries(self) -> dict[str, ManifestEntry]:
        """Complete stages of this run, in order."""
        found = {name: self.run_dir.entry(name, fingerprint) for name, fingerprint in self.fingerprints.items()}
        return {name: entry for name, entry in found.items() if entry is not None}


@dataclass
class Run:
    """What lives as long as one run: engines and the clock."""

    config: RunConfig
    terminal: TextIO | None = None
    started_at: float = field(default_factory=time.monotonic)
    observers: "list[Observer]" = field(default_factory=list)
    """Ray's metrics and the trackers of the config."""
    autoscales: bool = False
    """Whether nodes come on demand: each stage then asks whether they can before it waits for them."""

    @cached_property
    def engines(self) -> "EngineManager":
        """The run's engines; nothing starts before one is asked for."""
        from hnlm_ray.generate.engines import EngineManager

        return EngineManager(self.config)

    def make_room(self, item: "PlannedStage") -> None:
        """Before a stage: engines with GPUs end where it needs none, and what it needs must be something to be had.

        Engines on GPUs end first: a training may want the GPUs, and a cluster can give their nodes back.
        """
        from hnlm_ray.plan import demands

        if item.stage.name not in _USE_ENGINES and "engines" in vars(self):
            self.engines.release_gpus()
        if self.autoscales:
            check_autoscaled(demands(self.config, [item]))

    def close(self) -> None:
        """End the engines, if there were any."""
        if "engines" in vars(self):
            self.engines.close()

    def say(self, line: str) -> None:
        """Print a line where the user looks."""
        print(line, file=self.terminal, flush=True)


def check_until(until: str) -> None:
    """Refuse a name that no stage has: `UserError`."""
    if until not in STAGE_NAMES:
        raise UserError(f"--until {until!r} is no stage: there are {', '.join(STAGE_NAMES)}")


def plan(config: RunConfig, run_dir: RunDir, until: str = "report") -> list[PlannedStage]:
    """Fingerprints and states of all stages up to `until`; nothing is written, Ray is not needed."""
    check_until(until)
    fingerprints: dict[str, str] = {}
    planned = []
    for stage in _wanted(config, until):
        fingerprint = fingerprint_of(stage, config, [fingerprints[name] for name in reads(stage, config)])
        fingerprints[stage.name] = fingerprint
        entry = run_dir.entry(stage.name, fingerprint)
        begun = any(run_dir.artifact(artifact, fingerprint).exists() for artifact in stage.artifacts)
        planned.append(PlannedStage(stage, fingerprint, "done" if entry else "partial" if begun else "missing", entry))
    return planned


def _wanted(config: RunConfig, until: str) -> list[Stage]:
    """The stages up to `until`; on the way to `text`, `train` and beyond, only those on which it rests."""
    stages = {stage.name: stage for stage in STAGES[: STAGE_NAMES.index(until) + 1]}
    if "text" not in stages:
        return list(stages.values())
    wanted = {name for name in stages if name in ("train", "evaluate", "report")} or {"text"}
    for stage in reversed(stages.values()):
        if stage.name in wanted:
            wanted |= set(reads(stage, config))
    return [stage for stage in stages.values() if stage.name in wanted]


def reads(stage: Stage, config: RunConfig) -> tuple[str, ...]:
    """The stages whose artifacts `stage` reads under this config: without LLM negatives no engine runs for `train`."""
    if stage.name == "text":
        return _READ_FOR_TEXT[config.text.source]
    left_out = set() if reads_text(config.train.model) else {"text"}
    if config.train.hnlm.variant == "none" and stage.name in ("train", "report"):
        left_out |= {"signal", "profile", "negative", "finetune", "embed"}
    return tuple(name for name in stage.reads if name not in left_out)


def run_stages(config: RunConfig, run_dir: RunDir, planned: Sequence[PlannedStage], run: Run) -> None:
    """Run what is not done, in order; commit each stage when it is complete. Ray must be connected."""
    run_dir.folder.write_bytes("config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
    fingerprints = {item.stage.name: item.fingerprint for item in planned}
    if any(item.stage.name in _USE_ENGINES and item.state != "done" for item in planned):
        run.engines.preload()
    with MemoryMonitor() as memory, NodeTimeline() as nodes:
        for number, item in enumerate(planned, start=1):
            label = f"[{number}/{len(planned)}] {item.stage.name}"
            if item.entry is not None:
                run_dir.commit(item.entry)
                run.say(f"{label}: done before")
                continue
            run.say(label + (": goes on" if item.state == "partial" else ""))
            progress = Progress(item.stage.name, run.terminal, run.observers)
            memory.restart()
            started, began_at = time.monotonic(), time.time()
            try:
                run.make_room(item)
                summary = _function(item.stage)(StageContext(config, run_dir, fingerprints, progress, run))
            finally:
                progress.close()
                return_freed_memory()
            seconds = time.monotonic() - started
            run_dir.commit(_entry(item, summary, seconds, memory.peak_gb, nodes.since(began_at)))
            figures = {"seconds": seconds, "peak_memory_gb": memory.peak_gb}
            progress.finish(figures | numbers_of(summary.get("metrics", {})))
            run.say(f"{label}: {_headline(summary)}{seconds:.1f} s, peak {memory.peak_gb:.1f} GB")
    publish(run_dir, fingerprints)


def run_pipeline(
    config: RunConfig, run_dir: str | Path = "", *, until: str = "report", terminal: TextIO | None = None
) -> RunDir:
    """Run the pipeline, or what is left of it, and return its run directory.

    Raises:
        UserError: the input is missing or not as the config says, resources do not suffice, or another process
            writes the run directory.
    """
    from hnlm_ray.plan import check_models

    check(config.data)
    check_models(config)
    target = RunDir(run_dir or f"runs/{config.name}")
    check_trackers(config.runtime, target.folder.uri)
    with sole_writer(target):
        _run_what_is_left(config, target, until, terminal)
    return target


def _run_what_is_left(config: RunConfig, target: RunDir, until: str, terminal: TextIO | None) -> None:
    from hnlm_ray.plan import check_encoder, demands
    from hnlm_ray.runtime import connected, local_resources, preflight

    planned = plan(config, target, until)
    run = Run(config, terminal)
    if all(item.state == "done" for item in planned):
        publish(target, {item.stage.name: item.fingerprint for item in planned})
        run.say(f"nothing to do: all {len(planned)} stages of this config stand complete in {target.folder.uri}")
        return
    check_encoder(config, planned)
    needed = demands(config, planned)
    if config.runtime.is_local():
        preflight(needed, local_resources(config.runtime, Path(target.folder.path)))
    with connected(config.runtime):
        if not config.runtime.is_local():
            run.autoscales = autoscales()
            if not run.autoscales:
                check_fixed(needed)
        with observed(config, target) as run.observers:
            try:
                run_stages(config, target, planned, run)
            finally:
                run.close()


def publish(run_dir: RunDir, fingerprints: dict[str, str]) -> None:
    """Copy the report and the metrics to the run directory's root, where people look."""
    for name, artifact in _PUBLISHED.items():
        if _OWNER[artifact] in fingerprints:
            source = run_dir.artifact(artifact, fingerprints[_OWNER[artifact]])
            if source.exists(name):
                run_dir.folder.write_bytes(name, source.read_bytes(name))


def fingerprint_of(stage: Stage, config: RunConfig, inputs: list[str]) -> str:
    """The name of what `stage` makes of `config` and the artifacts of the stages it reads, by their fingerprints."""
    values: dict[str, Any] = {"stage": stage.name, "version": stage.version, "inputs": inputs}
    for section in stage.sections:
        value = getattr(config, section)
        values[section] = value.result_dict() if hasattr(value, "result_dict") else value
        if section == "llm":
            values["llm_files"] = _model_identity(value.model)
        if section == "encoder":
            values["encoder_files"] = _model_identity(str(encoder_folder(value.model)))
    if stage.name == "ingest":
        values["input"] = input_fingerprint(config.data)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _model_identity(model: str) -> str:
    """What tells two local model folders apart: names and sizes of the files, and both ends of each."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)}:{size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return digest.hexdigest()


def _function(stage: Stage) -> Callable[[StageContext], dict[str, Any]]:
    module, _, name = stage.function.partition(":")
    function: Callable[[StageContext], dict[str, Any]] = getattr(importlib.import_module(module), name)
    return function


def _entry(
    item: PlannedStage,
    summary: dict[str, Any],
    seconds: float,
    peak_memory_gb: float,
    nodes: list[tuple[float, NodeCounts]],
) -> ManifestEntry:
    return ManifestEntry(
        stage=item.stage.name,
        fingerprint=item.fingerprint,
        artifacts={artifact: f"{artifact}/{item.fingerprint}" for artifact in item.stage.artifacts},
        summary=summary,
        seconds=round(seconds, 3),
        peak_memory_gb=round(peak_memory_gb, 3),
        completed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        nodes=nodes,
    )


def _headline(summary: dict[str, Any]) -> str:
    """The summary's own one-line account, where the stage gives one."""
    return f"{summary['headline']}; " if summary.get("headline") else ""
