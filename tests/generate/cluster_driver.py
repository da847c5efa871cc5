"""Four nodes on this machine that declare a GPU each; one joins and one is lost while engines work. Prints JSON.

A gate holds every call until the nodes are as the test wants them, so that work cannot be over before.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parent))
from paced_engine import Gate, PacedEngine
from paced_tasks import paced_group, paced_plan, title_task

from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.protocol import Completion, EngineSpec, GenerateRequest
from hnlm_ray.generate.unit_worker import UnitWorker
from hnlm_ray.generate.units import list_units, run_task
from hnlm_ray.progress import Progress

NUM_ROWS, ROWS_PER_UNIT = 320, 8
GPU_NODE = {"num_cpus": 0, "num_gpus": 1, "object_store_memory": 80 * 2**20}
"""Nodes for engines and nothing else."""
HEALTH = {"health_check_period_ms": 500, "health_check_timeout_ms": 20_000}
"""A node that is gone is noticed in seconds; one that is slow stays."""


T = TypeVar("T")


class OneEngine:
    """A single engine in this process."""

    def __init__(self) -> None:
        self._engine = PacedEngine(EngineSpec("generate", "paced", "paced", engine_args={"row_s": 0.0}))

    def generate(self, request: GenerateRequest, *, alone: bool = False) -> list[Completion]:
        return self._engine.generate(request)


def main(root: Path) -> None:
    titles = [f"title {n}" for n in range(NUM_ROWS)]
    alone = title_task(root / "one", titles, ROWS_PER_UNIT)
    for unit in list_units(alone.inputs):
        UnitWorker(alone, OneEngine()).run(unit)

    gate = Gate(root)
    head = {**GPU_NODE, "include_dashboard": False, "_system_config": HEALTH}
    cluster = up(lambda: Cluster(initialize_head=True, head_node_args=head))
    add_node = partial(cluster.add_node, **GPU_NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    many = title_task(root / "four", titles, ROWS_PER_UNIT)
    plan = paced_plan(
        options={"num_cpus": 0, "num_gpus": 1}, replicas=(3, 4), start_timeout_s=120.0, unit_timeout_s=300.0
    )
    loaded = root / "loaded"
    loaded.mkdir()
    group = paced_group(plan, 0.0, started=str(loaded), gate=str(root))
    llm = LLMConfig(max_num_seqs=8, replicas=(3, 4))

    def all_at_work(num_nodes: int) -> bool:
        return len(gate.nodes_at_work()) == num_nodes and min(group.state()["in_flight"]) > 0

    def reach(num_nodes: int) -> set[str]:
        """Nodes at work, once they are so many and each has a call in hand.

        Calls end one by one until then: the next one goes to the least busy engine. There is not always a next one:
        the units of the estimate are a pool of their own.
        """
        wait_until(lambda: group.state()["ready"] == num_nodes, group.state)
        while not came_true(lambda: all_at_work(num_nodes), timeout_s=2.0):
            more = len(many.outputs.names(".parquet")) + 1
            gate.let_one_end()
            wait_until(lambda more=more: len(many.outputs.names(".parquet")) >= more, group.state)
        return gate.nodes_at_work()

    with ThreadPoolExecutor(1) as background:
        running = background.submit(run_task, many, group, llm, Progress("four"), "rows")
        try:
            lost, _ = up(add_node), up(add_node)
            reach(3)
            joined = up(add_node)
            nodes_at_work = reach(4)
            calls_at_work = group.state()["in_flight"]
            shards_when_lost = len(many.outputs.names(".parquet"))
            cluster.remove_node(lost, allow_graceful=False)
        finally:
            gate.open()
        summary = running.result(timeout=120)
    table, num_loaded = many.outputs.read_table(), len(list(loaded.iterdir()))
    run_task(title_task(root / "next", titles, ROWS_PER_UNIT), group, llm, Progress("next"), "rows")
    found = {
        "calls_at_work": calls_at_work,
        "joined_at_work": joined.node_id in nodes_at_work,
        "lost_at_work": lost.node_id in nodes_at_work,
        "shards_when_lost": shards_when_lost,
        "rows": table.num_rows,
        "failed": summary.failed,
        "loaded": num_loaded,
        "loaded_by_the_next_task": len(list(loaded.iterdir())) - num_loaded,
        "equal": table == alone.outputs.read_table(),
    }
    print("RESULT " + json.dumps(found), flush=True)
    ray.shutdown()
    cluster.shutdown()


def up(start: Callable[[], T]) -> T:
    """A node, however busy the machine: Ray gives its own processes half a minute to come up."""
    for attempt in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == 2:
                raise
    raise AssertionError


def wait_until(reached: Callable[[], bool], state: Callable[[], Any]) -> None:
    """Wait for at most two minutes."""
    if not came_true(reached, timeout_s=120.0):
        raise TimeoutError(f"engines never came up: {state()}")


def came_true(reached: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it did within the time."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
