"""One pipeline on a cluster that scales from nothing: which nodes come, when they go, what the head does.

A real head without CPUs and the real autoscaler, whose worker nodes are raylets on this machine: a `cpu` type, and a
`gpu` type of spot nodes that declare a GPU. The run is submitted as a job. Its engines are vLLM's CPU build and ask for
half a declared GPU each, so that everything that places them is real and the arithmetic is the CPU's.
"""

import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement
from hnlm_ray.cluster.local_head import Head, local_head
from hnlm_ray.cluster.timeline import NodeCounts, NodeTimeline, node_counts
from hnlm_ray.store import ManifestEntry, RunDir

_NODE_TYPES = {
    "cpu": {"resources": {"CPU": 2}, "labels": {}, "min_workers": 0, "max_workers": 3, "node_config": {}},
    "gpu": {
        "resources": {"CPU": 2, "GPU": 1},
        "labels": {"ray.io/market-type": "spot", "ray.io/accelerator-type": "A10G"},
        "min_workers": 0,
        "max_workers": 2,
        "node_config": {},
    },
}
_IDLE_TIMEOUT_S = 10.0
_ENVIRONMENT = {  # a CPU engine where the config says GPU
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
}
_IN_ONE_PROCESS = {"enforce_eager": True, "distributed_executor_backend": "uni"}
_CONFIG: dict[str, Any] = {
    "data": {"format": "synthetic", "synthetic": {"num_users": 60, "num_items": 40}},
    "llm": {
        "standin": {"num_steps": 150, "min_genre_accuracy": 0.3},
        "gpus_per_replica": 0.5,
        "replicas": [1, 2],
        "dtype": "float32",
        "engine_args": _IN_ONE_PROCESS,
    },
    "encoder": {"max_length": 64, "engine_args": _IN_ONE_PROCESS},
    "negative": {"max_pairs_per_user": 1},
    "signal": {"epochs": 3},
    "finetune": {"max_triplets": 64, "batch_size": 32, "epochs": 1},
    "embed": {"dtype": "float32", "max_pairs_per_user": 3},
    "train": {"epochs": 3},
    "runtime": {"address": "auto", "train_workers": 1},
}
_LLM_STAGES = ("profile", "negative", "embed")
_OTHER_STAGES = ("ingest", "signal", "finetune", "train")
_DRIVER = """
import functools, sys
from hnlm_ray.runtime import set_environment
set_environment()
import ray
ray.init = functools.partial(ray.init, _node_ip_address=ray.util.get_node_ip_address())
from hnlm_ray.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""`hnlm` as a job's driver: on a machine with several nodes it must be told that it is not on the head (local_head)."""
_HEAD = "node:__internal_head__"
_RAYS_OWN = frozenset({"JobSupervisor", "PlacementGroupCleaner", "PreemptionWatcher"})
"""Watchers that Ray starts for a job or a training; they take no CPU, so any node may get them."""
_LONGEST_RUN_S = 900.0
_TO_ZERO_S = 90.0


def measure(options: BenchOptions) -> Measurement:
    """Nodes over a whole run, then a demand that no node type can meet, then the way back to zero."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "shop.yaml").write_text(yaml.safe_dump(_CONFIG))
        with local_head(
            num_cpus=0, worker_types=_NODE_TYPES, idle_timeout_s=_IDLE_TIMEOUT_S, environment=_ENVIRONMENT
        ) as head:
            # before Ray is imported, which reads them then
            os.environ.update({name: value for name, value in head.environment.items() if name.startswith("RAY_AUTH")})
            return _watched(head, folder)


def _watched(head: Head, folder: Path) -> Measurement:
    import ray

    ray.init(address=head.gcs_address, log_to_driver=False)
    try:
        began = time.time()
        with NodeTimeline(0.5) as timeline:
            at_start = _workers(node_counts())
            _submit(head, folder)
            run_s = time.time() - began
            on_head = _on_the_head(head.url)
            refused_s = _refusal(head, folder)
            ended = time.time()
            while _workers(node_counts()) and time.time() - ended < _TO_ZERO_S:
                time.sleep(0.5)
        points = timeline.since(began)
        most = {kind: max(counts.get(kind, 0) for _, counts in points) for kind in _NODE_TYPES}
        at_end = _workers(node_counts())
        left = _what_stays(head.url)
        to_zero_s = time.time() - ended
    finally:
        ray.shutdown()
    entries = {stage: versions[-1] for stage, versions in RunDir(folder / "run").entries().items()}
    in_report = RunDir(folder / "run").folder.read_json("report.json")["nodes"]
    work_on_head = [name for name in on_head if name not in _RAYS_OWN]
    needless = max(_gpu_nodes(entries[stage])[-1] for stage in _OTHER_STAGES)
    figures = {
        "worker_nodes_at_start": at_start,
        "most_cpu_nodes": most["cpu"],
        "most_gpu_nodes": most["gpu"],
        "run_s": run_s,
        "to_zero_s": to_zero_s,
        "changes_in_report": sum(len(points) for points in in_report.values()),
    }
    bars = [
        Bar("worker_nodes_at_end", at_end, 0, better="lower"),
        Bar("actors_and_tasks_on_the_head", len(work_on_head), 0, better="lower"),
        Bar("least_gpu_nodes_of_an_llm_stage", min(max(_gpu_nodes(entries[stage])) for stage in _LLM_STAGES), 1),
        Bar("most_gpu_nodes_at_the_end_of_another", needless, 0, better="lower"),
        Bar("refusal_s", refused_s, 60.0, better="lower"),
    ]
    notes = [f"{stage}: gpu nodes {_gpu_nodes(entry)}, {entry.seconds:.0f} s" for stage, entry in entries.items()]
    notes += left
    watchers = sorted(name for name in on_head if name in _RAYS_OWN)
    notes += [f"on the head: {', '.join(work_on_head) or 'nothing'}; watchers of Ray: {', '.join(watchers)}"]
    notes += ["nodes: " + _in_words(points, began)]
    return Measurement(figures, bars, notes)


def _submit(head: Head, folder: Path, *overrides: str) -> str:
    """Run the pipeline as a Ray job that is to succeed unless it has overrides; returns its log.

    As a plain job, not by `hnlm submit`: nodes on one machine share a session folder, and each deletes the job's
    package there when it needs it no more, under the others' feet.
    """
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(head.url)
    command = [sys.executable, "-c", _DRIVER, "run", str(folder / "shop.yaml"), "--run-dir", str(folder / "run")]
    command += [part for override in overrides for part in ("--set", override)]
    job_id = client.submit_job(entrypoint=shlex.join(command), entrypoint_num_cpus=1)
    deadline = time.monotonic() + _LONGEST_RUN_S
    while not (status := client.get_job_status(job_id)).is_terminal():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no end of the run in {_LONGEST_RUN_S:g} s: {client.get_job_logs(job_id)[-4000:]}")
        time.sleep(0.5)
    log: str = client.get_job_logs(job_id)
    if not overrides and status.value != "SUCCEEDED":
        raise RuntimeError(f"the run failed: {log[-4000:]}")
    return log


def _refusal(head: Head, folder: Path) -> float:
    """Seconds until a run is refused whose engines take two GPUs of one node, where no type has two.

    With another seed the stages of the LLM are to be done again; ingest and signal stand.
    """
    began = time.time()
    said = _submit(head, folder, "llm.gpus_per_replica=2", "llm.tensor_parallel_size=2", "llm.seed=1")
    if not re.search(r"can never be scheduled: it needs 1 x \(0.5 CPUs and 2 GPUs\)", said):
        raise RuntimeError(f"the run was not refused with the numbers: {said[-4000:]}")
    return time.time() - began


def _on_the_head(url: str) -> list[str]:
    """Actors and tasks that were placed on the head, by name."""
    import ray
    from ray.util.state import list_actors, list_tasks

    [head] = [node["NodeID"] for node in ray.nodes() if _HEAD in node["Resources"]]
    actors, tasks = list_actors(url, limit=10_000), list_tasks(url, limit=10_000)
    actors_here = [str(actor.class_name) for actor in actors if actor.node_id == head]
    tasks_here = [str(task.name) for task in tasks if task.node_id == head and task.type == "NORMAL_TASK"]
    return actors_here + tasks_here


def _what_stays(url: str) -> list[str]:
    """Of each worker node that did not go: the actors that live on it."""
    import ray
    from ray.util.state import list_actors

    alive = [actor for actor in list_actors(url, limit=10_000) if actor.state == "ALIVE"]
    stays = [node["NodeID"] for node in ray.nodes() if node["Alive"] and _HEAD not in node["Resources"]]
    actors = {node_id: [str(actor.class_name) for actor in alive if actor.node_id == node_id] for node_id in stays}
    return [f"a node stays with: {', '.join(names) or 'no actor'}" for names in actors.values()]


def _workers(counts: NodeCounts) -> int:
    return sum(count for kind, count in counts.items() if kind != "head")


def _gpu_nodes(entry: ManifestEntry) -> list[int]:
    return [counts.get("gpu", 0) for _, counts in entry.nodes]


def _in_words(points: Sequence[tuple[float, NodeCounts]], began: float) -> str:
    changes = (f"{at - began:.0f} s {counts.get('cpu', 0)} cpu {counts.get('gpu', 0)} gpu" for at, counts in points)
    return ", ".join(changes)
