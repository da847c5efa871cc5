"""Where a run happens: connecting to Ray, environment variables, resources and the preflight.

The only place that reads or sets environment variables for Ray and the libraries under it.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field, model_validator

from hnlm_ray.errors import UserError
from hnlm_ray.settings import Section

GB = 1e9

SPIN_COUNT = "10000"
"""Turns (about 0.1 ms) for which an idle OpenMP thread waits awake: long enough for the next of many small products,
too short to keep a core from others."""

_START_ATTEMPTS = 4

_ENVIRONMENT = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a busy small machine needs minutes; the default retries for ever
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing about a run leaves the cluster
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # one line per stage is ours
    "TOKENIZERS_PARALLELISM": "false",  # forks after threads would only warn
    "GOMP_SPINCOUNT": SPIN_COUNT,
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder of runs needs no server
}


class RuntimeConfig(Section):
    """Where the run happens and what it may use."""

    address: str = ""
    """Ray to connect to: `local` (a Ray of our own on this machine), `auto`, or an address; empty = $RAY_ADDRESS, else
    `local`."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of a Ray of our own; null = all of this machine."""
    num_gpus: int | None = Field(None, ge=0)
    """GPUs of a Ray of our own; null = all that are found."""
    object_store_gb: float = Field(0.5, gt=0)
    """Shared memory of a Ray of our own; rows are streamed, so little is needed."""
    train_workers: int | tuple[int, int] = 0
    """Ray Train workers; 0 = training runs in the driver, which saves a minute of start-up per stage on a laptop;
    `[min, max]` is elastic: as many as there is room for, and after a loss those that are left."""
    cpus_per_train_worker: int = Field(1, ge=1)
    """CPUs that each training worker reserves; also its threads."""
    use_gpu: bool = False
    """Whether each training worker takes a GPU."""
    max_failures: int = Field(3, ge=0)
    """Restarts of a training after lost workers, before the run gives up."""
    trackers: tuple[Literal["mlflow", "tensorboard"], ...] = ()
    """Where curves of rows, tokens, losses and metrics go beside Ray's own metrics: `[mlflow, tensorboard]`, or one."""
    mlflow_uri: str = ""
    """Tracking server (`http://host:5000`) or folder of `mlflow`; empty = `mlruns` in the run directory, where that is
    local. A server's login comes from the environment, as MLflow reads it."""
    tensorboard_dir: str = ""
    """Folder of the event files of `tensorboard`; empty = `tensorboard` in the run directory, where that is local."""

    @model_validator(mode="after")
    def _train_workers_in_order(self) -> "RuntimeConfig":
        low, high = self.train_group()
        if low < 0 or low > high or (low == 0 and high > 0):
            raise ValueError(
                f"runtime.train_workers={self.train_workers} is not accepted: "
                "0 (train in the driver), a number of workers, or [min, max] with 1 <= min <= max"
            )
        return self

    def train_group(self) -> tuple[int, int]:
        """The fewest and the most training workers; (0, 0) is the driver."""
        return (self.train_workers, self.train_workers) if isinstance(self.train_workers, int) else self.train_workers

    def train_threads(self) -> int:
        """Compute threads of one training process."""
        return self.cpus_per_train_worker if self.train_workers else self.num_cpus or os.cpu_count() or 1

    def is_local(self) -> bool:
        """Whether the run starts a Ray of its own on this machine."""
        return (self.address or os.environ.get("RAY_ADDRESS", "local")) == "local"


@dataclass(frozen=True)
class Resources:
    """What a machine or cluster has, or what something needs."""

    cpus: float
    gpus: float
    memory_gb: float
    disk_gb: float


@dataclass(frozen=True)
class Demand:
    """What one part of a plan needs at the same time."""

    what: str
    resources: Resources
    """Of all pieces together."""
    pieces: int = 0
    """Actors or workers over which it is spread, each on one node; 0: it runs in the driver, which has its place."""
    accelerator: str = ""
    """Accelerator type that each piece wants; empty = any."""
    reserved_gb: float = 0.0
    """Memory that Ray sets aside for each piece; 0: it is used, and not reserved."""

    def piece(self) -> dict[str, float]:
        """What one piece asks of its node, as Ray names it."""
        needed = {"CPU": self.resources.cpus / self.pieces, "GPU": self.resources.gpus / self.pieces}
        if self.accelerator and needed["GPU"]:
            needed[f"accelerator_type:{self.accelerator}"] = 0.001  # as an actor's `accelerator_type` asks for it
        needed["memory"] = self.reserved_gb * 1e9
        return {name: value for name, value in needed.items() if value}


def set_environment() -> None:
    """Set the variables that Ray and its libraries read when imported; what the user has set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    own_tools = str(Path(sys.executable).parent)  # ninja, also where the environment is not activated
    if own_tools not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([own_tools, os.environ["PATH"]])


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, without importing torch."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def local_resources(config: RuntimeConfig, run_dir: Path) -> Resources:
    """What this machine has for a Ray of our own; `disk_gb` is free space where `run_dir` lies or will lie."""
    place = run_dir.absolute()
    while not place.exists():
        place = place.parent
    return Resources(
        cpus=float(config.num_cpus or os.cpu_count() or 1),
        gpus=float(config.num_gpus if config.num_gpus is not None else _count_gpus()),
        memory_gb=psutil.virtual_memory().available / GB,
        disk_gb=shutil.disk_usage(place).free / GB,
    )


def cluster_resources() -> Resources:
    """What the connected cluster has now; disk is not known to Ray and counted as unlimited."""
    import ray

    total = ray.cluster_resources()
    return Resources(total.get("CPU", 0.0), total.get("GPU", 0.0), total.get("memory", 0.0) / GB, float("inf"))


def preflight(demands: Sequence[Demand], present: Resources) -> None:
    """Refuse a plan that can never be scheduled, with the numbers, instead of letting it hang."""
    for demand in demands:
        need = demand.resources
        for unit, needed, has in (
            ("CPUs", need.cpus, present.cpus),
            ("GPUs", need.gpus, present.gpus),
            ("GB memory", need.memory_gb, present.memory_gb),
            ("GB disk", need.disk_gb, present.disk_gb),
        ):
            if needed > has:
                raise UserError(
                    f"{demand.what} needs {needed:g} {unit}, and there are {has:.4g}: "
                    "lower what the config asks for (llm.*, runtime.*) or use a larger machine or cluster"
                )


@contextmanager
def connected(config: RuntimeConfig) -> Iterator[None]:
    """Connect to Ray, or start one on this machine and stop it afterwards."""
    set_environment()
    import ray

    if ray.is_initialized():  # inside a Ray job or a test, which keeps its own
        yield
        return
    try:
        if config.is_local():
            _start_own(config)
        else:
            ray.init(address=config.address or None, logging_level="warning")
    except ConnectionError as error:
        address = config.address or os.environ.get("RAY_ADDRESS")
        raise UserError(
            f"no Ray answers at {address!r}: start one there, or set runtime.address=local "
            f"({' '.join(str(error).split())[:160]})"
        ) from None
    try:
        yield
    finally:
        _end_named_actors()
        ray.shutdown()


def _end_named_actors() -> None:
    """End what this job leaves behind: Ray Data keeps detached actors on the driver's node, for good.

    A node with an actor is not idle, so it would never go. Another job gets new ones with its next data set; one that
    reads a data set meanwhile goes on with the nodes that it has.
    """
    import ray

    job_id = ray.get_runtime_context().get_job_id()
    for name in ray.util.list_named_actors(all_namespaces=True):
        try:
            actor = ray.get_actor(**name)
        except ValueError:  # it ended by itself
            continue
        if actor._actor_id.hex().endswith(job_id):
            ray.kill(actor)


def _start_own(config: RuntimeConfig) -> None:
    """Start a Ray on this machine. Ray gives its own processes 30 s to come up, too short for a busy laptop."""
    import ray

    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=config.num_cpus,
                num_gpus=config.num_gpus,
                object_store_memory=int(config.object_store_gb * GB),
                include_dashboard=False,
                logging_level="warning",
            )
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == _START_ATTEMPTS:
                raise
            ray.shutdown()


def _count_gpus() -> int:
    if not has_gpu():
        return 0
    import torch

    return torch.cuda.device_count()
