"""The packages that a job needs on nodes whose image does not have them: the pins of the lock file, no test tools."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

import hnlm_ray
from hnlm_ray.config import RunConfig
from hnlm_ray.errors import UserError

Engine = Literal["cpu", "gpu"]
_ALREADY_THERE = ("ray",)
"""What every node of a Ray cluster has; another copy would not fit the one that runs."""


def engine_of(config: RunConfig) -> Engine:
    """Which build of the engine a job installs.

    One environment serves all nodes of a job. The GPU build of torch and vLLM also computes on CPU nodes (training,
    reading), so a job that asks for GPUs takes it everywhere, and any other takes the smaller CPU build.
    """
    return "gpu" if config.llm.gpus_per_replica > 0 or config.runtime.use_gpu else "cpu"


def extras_of(config: RunConfig) -> tuple[str, ...]:
    """The optional parts of `hnlm-ray` that a job needs: its engine, and `track` where the config names trackers."""
    return (engine_of(config), *(["track"] if config.runtime.trackers else []))


def pinned_packages(engine: Engine, extras: Sequence[str] = ()) -> list[str]:
    """`name==version` of everything that `hnlm-ray[cpu]` or `hnlm-ray[gpu]` needs, in the lock file's versions.

    `extras` are further optional parts.

    Raises:
        UserError: there is no lock file, since this is no checkout.
    """
    root = Path(hnlm_ray.__file__).parents[1]
    lock = root / f"requirements-{engine}.lock"
    if not lock.is_file():
        raise UserError(
            f"{lock.name} is not beside the package: submit from a checkout, or use --environment image with an image "
            "made from cluster/Dockerfile"
        )
    pins, wanted_by = _read_lock(lock.read_text(encoding="utf-8"))
    needed = _needed(_direct(root, (engine, *extras)) & set(pins), wanted_by)
    return [pins[name] for name in sorted(needed) if name not in _ALREADY_THERE]


def runtime_packages(config: RunConfig) -> dict[str, Any]:
    """The `uv` field of a Ray runtime environment. The list is complete, so nothing is resolved on the nodes."""
    engine, extras = engine_of(config), extras_of(config)[1:]
    options = ["--no-deps", *(["--torch-backend=cpu"] if engine == "cpu" else [])]
    return {"packages": pinned_packages(engine, extras), "uv_pip_install_options": options}


def _direct(root: Path, extras: Sequence[str]) -> set[str]:
    """Names that the package itself asks for, with its `extras`."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    return {_normal(Requirement(text).name) for text in texts}


def _read_lock(text: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Pins by name, and for each name what asks for it, as the comments below each pin say."""
    pins: dict[str, str] = {}
    wanted_by: dict[str, set[str]] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==\S+", line):
            name = _normal(match[1])
            pins[name] = line.strip()
            wanted_by[name] = set()
        elif name and (match := re.match(r"\s+#\s+(?:via\s+)?([A-Za-z0-9._-]+)", line)) and match[1] != "via":
            wanted_by[name].add(_normal(match[1]))
    return pins, wanted_by


def _needed(roots: set[str], wanted_by: dict[str, set[str]]) -> set[str]:
    needed = set(roots)
    while more := {name for name, parents in wanted_by.items() if name not in needed and parents & needed}:
        needed |= more
    return needed


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
