"""The stage `report`: facts from the artifacts that stand, as report.json and as one self-contained page."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hnlm_ray.report.environment import machine, versions
from hnlm_ray.report.facts import cost, data, evaluation, texts, training
from hnlm_ray.report.page import render
from hnlm_ray.report.source import Source
from hnlm_ray.store import Folder, RunDir

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext

_PARTS = {  # part of report.json -> (artifact that it needs, the function that finds its facts)
    "data": ("dataset", data.data_facts),
    "llm": ("profiles", texts.llm_facts),
    "samples": ("profiles", texts.sample_facts),
    "grounding": ("negatives", texts.grounding_facts),
    "history": ("signal", training.history_facts),
    "triplets": ("finetune", training.triplet_facts),
    "encoder": ("finetune", training.encoder_facts),
    "embeddings": ("embeddings", training.embedding_facts),
    "tune": ("embeddings", training.tune_facts),
    "evaluation": ("evaluation", evaluation.evaluation_facts),
}


def run(ctx: "StageContext") -> dict[str, Any]:
    """Write report.html and report.json of the run so far."""
    ctx.progress.start(1, unit="reports")
    out = ctx.out("report")
    _write(Source.of_context(ctx), out)
    ctx.progress.update(1)
    return {"headline": "report.html", "html_bytes": len(out.read_bytes("report.html"))}


def build_report(run_dir: RunDir) -> str:
    """Rebuild the report from what stands complete in `run_dir`, into its root; returns where the page lies.

    Raises:
        UserError: no complete stage stands there.
    """
    _write(Source.of_run_dir(run_dir), run_dir.folder)
    return run_dir.folder.child("report.html").uri


def collect(source: Source) -> dict[str, Any]:
    """Everything that report.json holds, as plain JSON values."""
    parts: dict[str, Any] = {part: find(source) for part, (artifact, find) in _PARTS.items() if source.has(artifact)}
    report = {
        "schema": 1,
        "name": source.config.get("name", "run"),
        "notes": cost.notes(source, parts),
        **parts,
        "timing": cost.timing_facts(source),
        "memory": cost.memory_facts(source),
        "nodes": cost.node_facts(source),
        "counts": cost.count_facts(source),
        "stages": cost.stage_facts(source),
        "machine": machine(),
        "versions": versions(),
        "config": cost.config_facts(source.config),
    }
    if "evaluation" in parts:
        report["metrics"] = parts["evaluation"]["metrics"]
    return plain(report)


def plain(value: Any) -> Any:
    """Plain JSON values: mappings, lists, text, finite numbers; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(source: Source, out: Folder) -> None:
    report = collect(source)
    out.write_json("report.json", report)
    out.write_bytes("report.html", render(report).encode())
