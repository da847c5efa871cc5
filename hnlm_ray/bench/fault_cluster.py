"""A cluster of several nodes on this machine whose nodes and processes can be killed; ends only what it started."""

import random
import signal
import time
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_STORE_BYTES = 100 * 2**20
_BLOCK_BYTES = 10 * 2**20
_CPUS_PER_NODE = 2
_JOIN_TIMEOUT_S = 180.0


class FaultCluster:
    """A head without CPUs, to which this process is connected, and worker nodes of two declared CPUs each."""

    def __init__(self, num_nodes: int) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
                # a dead node is noticed after 5 s; a busy machine is none
                "_system_config": {"health_check_period_ms": 1000, "agent_register_timeout_ms": 180_000},
            },
        )
        self.add_nodes(num_nodes)
        ray.init(address=self.address, logging_level="error", log_to_driver=False)
        deadline = time.monotonic() + _JOIN_TIMEOUT_S
        while sum(node["Alive"] for node in ray.nodes()) <= num_nodes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{num_nodes} nodes did not join within {_JOIN_TIMEOUT_S:g} s")
            time.sleep(0.2)

    @property
    def address(self) -> str:
        """Where other drivers connect."""
        return str(self._cluster.address)

    def add_nodes(self, count: int) -> None:
        """Start worker nodes; they join when they are ready."""
        for _ in range(count):
            self._cluster.add_node(wait=False, num_cpus=_CPUS_PER_NODE, object_store_memory=_STORE_BYTES)

    def remove_nodes(self, count: int) -> None:
        """End the least busy worker nodes."""
        for node in sorted(self._cluster.worker_nodes, key=lambda node: len(_working(node)))[:count]:
            self._cluster.remove_node(node, allow_graceful=False)

    def kill_node(self, title: str, randomness: random.Random) -> bool:
        """SIGKILL a worker node on which a process runs whose title names `title`; another one joins in its place.

        False where there is none.
        """
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: str(node.unique_id))
        found = [node for node in nodes if any(title in _title(each) for each in _working(node))]
        if found:
            self._cluster.remove_node(randomness.choice(found), allow_graceful=False)
            self.add_nodes(1)
        return bool(found)

    def kill_process(self, title: str, randomness: random.Random) -> bool:
        """SIGKILL one worker process whose title names `title`; False where there is none."""
        found = [each for node in self._cluster.worker_nodes for each in _working(node) if title in _title(each)]
        if found:
            randomness.choice(found).send_signal(signal.SIGKILL)
        return bool(found)

    def fill_object_stores(self) -> list[Any]:
        """Put half as much again as fits into the store of every worker node; it stays while the result is kept."""
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        actors = [
            ray.remote(_Ballast).options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, False))
            for node in nodes
        ]
        ballast = [actor.remote() for actor in actors]
        ray.get([each.fill.remote(_STORE_BYTES * 3 // 2) for each in ballast], timeout=120)
        return ballast

    def close(self) -> None:
        """End this cluster, and no other Ray of the machine."""
        ray.shutdown()
        for node in [*self._cluster.worker_nodes, self._cluster.head_node]:
            self._cluster.remove_node(node)


class _Ballast:
    """Holds objects on its node."""

    def __init__(self) -> None:
        self._held: list[Any] = []

    def fill(self, num_bytes: int) -> None:
        self._held = [ray.put(bytes(_BLOCK_BYTES)) for _ in range(num_bytes // _BLOCK_BYTES)]


def _working(node: Any) -> list[psutil.Process]:
    """Processes of a node's tasks and actors: children of its raylet that are not idle."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    titles = [(process, _title(process)) for process in raylet.children(recursive=True)]
    return [process for process, title in titles if "ray::" in title and "ray::IDLE" not in title]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
