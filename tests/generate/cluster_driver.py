"""Four nodes on this machine that declare a GPU each; one joins and one is lost while engines work. Prints JSON."""

import json
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parent))
from paced_tasks import paced_group, paced_plan, title_task

from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.units import run_task
from hnlm_ray.progress import Progress

NUM_ROWS, ROWS_PER_UNIT = 960, 8
GPU_NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20}


def main(root: Path) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False},
    )
    nodes = [cluster.add_node(**GPU_NODE) for _ in range(3)]
    ray.init(address=cluster.address, log_to_driver=False)
    titles = [f"title {n}" for n in range(NUM_ROWS)]
    on_gpu = {"num_cpus": 0.25, "num_gpus": 1}

    alone = title_task(root / "one", titles, ROWS_PER_UNIT)
    run_task(alone, paced_group(paced_plan(options=on_gpu), 0.0), LLMConfig(max_num_seqs=8), Progress("one"), "rows")

    many = title_task(root / "four", titles, ROWS_PER_UNIT)
    group = paced_group(paced_plan(options=on_gpu, replicas=(1, 4)), 0.15)
    llm = LLMConfig(max_num_seqs=8, replicas=(1, 4))
    running = threading.Thread(target=run_task, args=(many, group, llm, Progress("four"), "rows"))
    running.start()

    def wait_for(ready: int) -> list[int]:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            state = group.state()
            if state["ready"] >= ready and sum(calls > 0 for calls in state["in_flight"]) >= ready:
                return list(state["in_flight"])
            time.sleep(0.05)
        raise TimeoutError(f"never {ready} engines at work: {group.state()}")

    three_at_work = wait_for(3)
    shards_before = len(many.outputs.names(".parquet"))
    cluster.add_node(**GPU_NODE)
    four_at_work = wait_for(4)
    shards_then = len(many.outputs.names(".parquet"))
    cluster.remove_node(nodes[0], allow_graceful=False)
    running.join(timeout=240)
    tables = [task.outputs.read_table() for task in (alone, many)]
    found = {
        "finished": not running.is_alive(),
        "three_at_work": three_at_work,
        "four_at_work": four_at_work,
        "shards_when_joined": shards_before,
        "shards_when_lost": shards_then,
        "started": group.state()["started"],
        "equal": tables[0] == tables[1],
        "rows": tables[1].num_rows,
    }
    print("RESULT " + json.dumps(found), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
