"""What a replica reserves in the cluster, as the config says."""

from typing import Any

import pytest

from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.engines import host_plan


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {"num_cpus": 0.5}),
        ({"cpus_per_replica": 4, "memory_gb": 12.5}, {"num_cpus": 4.0, "memory": 12_500_000_000}),
        ({"gpus_per_replica": 0.4}, {"num_cpus": 0.5, "num_gpus": 0.4}),
        (
            {"gpus_per_replica": 2, "tensor_parallel_size": 2, "accelerator": "H100"},
            {"num_cpus": 0.5, "num_gpus": 2.0, "accelerator_type": "H100"},
        ),
    ],
    ids=["cpu", "memory", "shared-gpu", "tensor-parallel"],
)
def test_replicas_reserve_what_the_config_says(settings: dict[str, Any], options: dict[str, Any]) -> None:
    llm = LLMConfig.model_validate({**settings, "replicas": (2, 8)})
    plan = host_plan(llm, gpus=llm.gpus_per_replica, is_http=False)
    assert plan.options == options
    assert plan.replicas == (2, 8)


def test_an_endpoint_needs_one_caller_and_no_gpu() -> None:
    llm = LLMConfig.model_validate({"engine": "http", "endpoint": "http://127.0.0.1/v1", "replicas": (2, 8)})
    plan = host_plan(llm, gpus=0.0, is_http=True)
    assert (plan.replicas, plan.options, plan.imports_vllm) == ((1, 1), {"num_cpus": 0.5}, False)
