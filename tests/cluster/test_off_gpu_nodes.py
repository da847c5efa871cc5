"""Trainings without GPUs leave the GPU nodes that are up alone, unless nothing else has room for them."""

import os
import subprocess
import sys

from hnlm_ray.cluster.local_head import Head

_JOB = """
import sys
import ray
from ray.util.placement_group import placement_group
from hnlm_ray.cluster.room import off_gpu_nodes
from hnlm_ray.runtime import Demand, Resources, RuntimeConfig, connected

def labels(cpus, gpus, pieces):
    return off_gpu_nodes(Demand("the training", Resources(cpus, gpus, 0, 0), pieces))

with connected(RuntimeConfig(address=sys.argv[1])):
    print("nothing to avoid:", labels(1, 0, 1))
    ray.get(placement_group([{"GPU": 1}]).ready(), timeout=120)
    print("one worker:", labels(1, 0, 1))
    print("three workers:", labels(3, 0, 3))
    print("with GPUs:", labels(1, 1, 1))
    print("in the driver:", labels(0, 0, 0))
"""


def test_work_without_gpus_stays_off_gpu_nodes_where_others_have_room(head: Head) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _JOB, head.gcs_address],
        env={**os.environ, **head.environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert said.returncode == 0, said.stderr[-4000:]
    found = dict(line.split(": ", 1) for line in said.stdout.splitlines() if ": " in line)
    assert found["nothing to avoid"] == "None"
    assert found["one worker"] == "{'ray.io/accelerator-type': '!in(A10G)'}"
    assert found["three workers"] == "None", "the head has two CPUs, every other node a GPU"
    assert found["with GPUs"] == found["in the driver"] == "None"
