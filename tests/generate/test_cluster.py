"""Several nodes: engines wherever there is a declared GPU, one more when a node joins, none missed when one is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(300)
def test_four_replicas_give_the_table_of_one_while_nodes_come_and_go(tmp_path: Path) -> None:
    """In a process of its own, since this one has a Ray already."""
    script = Path(__file__).with_name("cluster_driver.py")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=280, env=environment
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(lines[-1].removeprefix("RESULT "))
    assert len(found["calls_at_work"]) == 4
    assert all(calls > 0 for calls in found["calls_at_work"]), "four replicas at work at once"
    assert found["joined_at_work"]
    assert found["lost_at_work"]
    assert found["shards_when_lost"] < 40, "the node was lost while there was work"
    assert (found["rows"], found["failed"]) == (320, 0)
    assert found["equal"]
    assert (found["loaded"], found["loaded_by_the_next_task"]) == (4, 0), "one start serves every task of a model"
