"""A job on a cluster ends every actor that it made, so that its node can go; those of other jobs stay."""

import os
import subprocess
import sys

from hnlm_ray.cluster.local_head import Head

_JOBS = """
import sys
from hnlm_ray.runtime import RuntimeConfig, connected, set_environment
set_environment()
import ray, ray.data
from ray.util import list_named_actors

ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
@ray.remote(num_cpus=0)
class Other:
    pass
Other.options(name="other", namespace="other", lifetime="detached").remote()
ray.shutdown()

with connected(RuntimeConfig(address=sys.argv[1])):
    ray.data.range(4).map(lambda row: row).materialize()
    print("during:", sorted(actor["name"] for actor in list_named_actors(all_namespaces=True)))

with connected(RuntimeConfig(address=sys.argv[1])):
    print("after:", sorted(actor["name"] for actor in list_named_actors(all_namespaces=True)))
"""


def test_a_job_ends_what_ray_data_leaves_on_its_node(head: Head) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _JOBS, head.gcs_address],
        env={**os.environ, **head.environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert said.returncode == 0, said.stderr[-4000:]
    [during, after] = [line for line in said.stdout.splitlines() if line.startswith(("during:", "after:"))]
    assert "AutoscalingCoordinator" in during
    assert "'other'" in during
    assert after == "after: ['other']"
