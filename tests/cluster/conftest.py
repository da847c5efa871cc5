"""A real head of its own, which the tests of this folder share."""

from collections.abc import Iterator

import pytest

from hnlm_ray.cluster.local_head import Head, local_head

GPU_NODES = {
    "resources": {"CPU": 1, "GPU": 1},
    "labels": {"ray.io/accelerator-type": "A10G"},
    "min_workers": 0,
    "max_workers": 4,
    "node_config": {},
}


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """Two CPUs, and an autoscaler that may start nodes of one GPU."""
    with local_head(num_cpus=2, worker_types={"gpu": GPU_NODES}) as found:
        yield found
