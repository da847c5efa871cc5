"""Facts about the run itself: time and memory per stage, what was resolved, on what it ran, what to keep in mind."""

import re
from collections.abc import Mapping
from typing import Any

from hnlm_ray.report.source import Source

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


def timing_facts(source: Source) -> dict[str, float]:
    """Seconds of each stage; `total_s`, their sum; `run_s`, from the start of the run that wrote the report, Ray's
    start included, to the report: less than `total_s` where stages stood from earlier runs."""
    seconds = {stage: entry.seconds for stage, entry in source.entries.items()}
    totals = {"total_s": sum(seconds.values())} | ({} if source.run_s is None else {"run_s": source.run_s})
    return {**seconds, **{name: round(value, 3) for name, value in totals.items()}}


def memory_facts(source: Source) -> dict[str, Any]:
    """Peak memory (GB) of all processes of the run, over all and per stage."""
    peaks = {stage: entry.peak_memory_gb for stage, entry in source.entries.items()}
    return {"peak_gb": max(peaks.values(), default=0.0), "stages": peaks}


def node_facts(source: Source) -> dict[str, Any]:
    """Living nodes by kind over the run: [seconds, count] at every change; empty where there was one node only."""
    points = sorted(point for entry in source.entries.values() for point in entry.nodes)
    if max((sum(counts.values()) for _, counts in points), default=0) < 2:
        return {}
    kinds = sorted({kind for _, counts in points for kind in counts})
    begin = points[0][0]
    return {kind: [[round(at - begin, 1), counts.get(kind, 0)] for at, counts in points] for kind in kinds}


def stage_facts(source: Source) -> dict[str, Any]:
    """What the manifest says of each stage."""
    return {
        stage: {"fingerprint": entry.fingerprint, "completed_at": entry.completed_at, "summary": entry.summary}
        for stage, entry in source.entries.items()
    }


def config_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config; what stands before an @ in a URI could be a secret and is left out."""
    return {key: _without_secrets(value) for key, value in config.items()}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return _USERINFO.sub("***@", value)
    if isinstance(value, Mapping):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value


def notes(source: Source, parts: Mapping[str, Any]) -> list[str]:
    """What a reader must know before quoting a number; `parts`: the facts found so far."""
    found, config = [], source.config
    llm, data = parts.get("llm"), parts.get("data")
    if llm and llm["engine"] == "none":
        found.append(
            "No generator: profiles are composed from the catalogue and from users' newest training items, there "
            "are no text negatives, and triplets take their candidates from semantic neighbours alone."
        )
    elif llm and llm["model"] == "stand-in":
        found.append(
            "The generator is a stand-in: a small language model made on the spot from this catalogue, not a real LLM. "
            "Its profiles and negatives show that the pipeline works, not what an LLM knows. "
            "One line names a real one: --set llm.model=Qwen/Qwen3-8B"
        )
    if config["data"]["format"] == "synthetic":
        found.append("The catalogue is synthetic: its metrics say that every part works, nothing about real users.")
    if "evaluation" in parts:
        found.append("One run, one seed: a few per cent between two such runs mean nothing by themselves.")
    failed = sum(task["failed"] for task in llm["tasks"].values()) if llm else 0
    if failed:
        found.append(f"{failed:,} rows have no usable answer of the generator; they are kept with their reason.")
    missing = source.entries["train"].summary.get("num_missing_negatives", 0) if "train" in source.entries else 0
    if missing:
        found.append(f"{missing:,} training pairs have no LLM negative of their own: the base sampler served them.")
    quarantined = sum(data["quarantined"].values()) if data else 0
    if quarantined:
        found.append(f"{quarantined:,} input rows were set aside in the quarantine and had no part in the run.")
    if data and data["published"]:
        found.append(
            "Published counts need not be met: the filters' exact order and the k-core's scope are not published."
        )
    return found


def count_facts(source: Source) -> dict[str, dict[str, int]]:
    """Rows of every table that each stage wrote."""
    tables = {
        "dataset": ("items", "users", "train", "valid", "test"),
        "quarantine": ("",),
        "profiles": ("items", "users"),
        "negatives": ("pairs", "grounded"),
        "finetune": ("triplets",),
        "embeddings": ("pairs",),
    }
    counts: dict[str, dict[str, int]] = {}
    for stage, entry in source.entries.items():
        written = {artifact: tables[artifact] for artifact in entry.artifacts if artifact in tables}
        if written:
            counts[stage] = {
                name or artifact: source.folders[artifact].num_rows(name)
                for artifact, names in written.items()
                for name in names
            }
    return counts
