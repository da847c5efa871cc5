"""Run a training loop under Ray Train, in the driver or on workers, ready for `deepspeed.initialize`.

The loop owns its checkpoints: it writes them into its output folder and looks for one when it starts. A killed
worker (Ray restarts the group) and a killed driver (the user runs the same command again) are then the same case.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from hnlm_ray.cluster.room import off_gpu_nodes
from hnlm_ray.compiler_lock import wait_for_compilers
from hnlm_ray.memory import keep_freed_memory
from hnlm_ray.progress import Progress
from hnlm_ray.runtime import Demand, Resources, RuntimeConfig
from hnlm_ray.store import Folder

Loop = Callable[[dict[str, Any]], None]

_PROGRESS_FILE = "progress.json"
_live_progress: Progress | None = None
"""Set while a loop runs in the driver's own process; workers go through the progress file instead."""
_last_report_at = 0.0
_MOST_REPORTS = 500
"""Reports that the progress file holds; it is read every second, so that none is missed."""
_reports: list[tuple[int, dict[str, float]]] = []


def rank() -> int:
    """This process's rank among the training workers."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of training workers."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def report(out: Folder, metrics: dict[str, float], *, done: int, total: int) -> None:
    """Report one epoch or step; `done` of `total` feeds the progress line and the trackers.

    Not by `ray.train.report`: on workers it waits until the controller, which looks every two seconds, has taken what
    was reported before, and a step takes milliseconds.
    """
    global _last_report_at
    if rank() != 0:
        return
    if _live_progress is not None:
        _live_progress.reach(done, total, metrics)
        return
    _reports.append((done, metrics))
    del _reports[:-_MOST_REPORTS]
    if time.monotonic() - _last_report_at > 1.0 or done >= total:
        _last_report_at = time.monotonic()
        out.write_json(_PROGRESS_FILE, {"total": total, "reports": _reports})


def run_training(
    loop: Loop, loop_config: dict[str, Any], *, runtime: RuntimeConfig, out: Folder, name: str, progress: Progress
) -> None:
    """Run `loop(loop_config)` on `runtime.train_workers` Ray Train workers (0: in this process) and wait for it.

    An elastic group starts again, from the loop's checkpoint, whenever its size changes.

    Inside the loop `torch.distributed` stands (gloo, or nccl on GPUs), so `deepspeed.initialize(...,
    dist_init_required=False)` works. `loop_config` holds plain values and URIs, never data.

    Raises whatever the loop raised, after `runtime.max_failures` restarts of lost workers.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    workers, fewest = runtime.train_workers, runtime.train_group()[0]
    resources = {"CPU": float(runtime.cpus_per_train_worker)} | ({"GPU": 1.0} if runtime.use_gpu else {})
    together = Resources(resources["CPU"] * fewest, resources.get("GPU", 0.0) * fewest, 0, 0)
    trainer = TorchTrainer(
        _on_each_rank,
        train_loop_config={"loop": loop, "config": loop_config, "threads": runtime.train_threads()},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=runtime.use_gpu,
            resources_per_worker=resources if workers else None,
            label_selector=off_gpu_nodes(Demand("the training", together, fewest)),
        ),
        run_config=RunConfig(
            name=f"{name}-{os.getpid()}-{int(time.time() * 1000)}",
            storage_path=out.child("ray_train").uri,
            failure_config=FailureConfig(max_failures=runtime.max_failures),
        ),
    )
    out.delete(_PROGRESS_FILE)
    with _in_this_process(progress) if workers == 0 else _polling(out, progress):
        trainer.fit()
    out.delete(_PROGRESS_FILE)
    out.delete("ray_train")


def _on_each_rank(train_config: dict[str, Any]) -> None:
    import deepspeed.comm
    import torch
    import torch.distributed as dist

    torch.set_num_threads(train_config["threads"])
    keep_freed_memory()
    in_driver = not dist.is_initialized()
    if in_driver:  # Ray Train leaves a group of one to us; a hash store needs neither port nor host name
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed insists on it
    wait_for_compilers()
    deepspeed.comm.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False, verbose=False)
    try:
        train_config["loop"](train_config["config"])
    finally:
        if in_driver:  # through DeepSpeed, which keeps references to the group that would be stale next time
            deepspeed.comm.destroy_process_group()


@contextmanager
def _in_this_process(progress: Progress) -> Iterator[None]:
    global _live_progress
    _live_progress = progress
    try:
        yield
    finally:
        _live_progress = None


@contextmanager
def _polling(out: Folder, progress: Progress) -> Iterator[None]:
    finished = threading.Event()
    reached = 0

    def look() -> None:
        nonlocal reached
        if out.exists(_PROGRESS_FILE):
            state = out.read_json(_PROGRESS_FILE)
            for done, metrics in state["reports"]:
                if done > reached:  # a restarted group repeats what came after its checkpoint
                    progress.reach(done, state["total"], metrics)
                    reached = done

    def poll() -> None:
        while not finished.wait(1.0):
            look()

    with ThreadPoolExecutor(1, thread_name_prefix="training-progress") as pool:
        polling = pool.submit(poll)
        try:
            yield
        finally:
            finished.set()
        polling.result()  # a tracker that cannot be reached is no secret
        look()
