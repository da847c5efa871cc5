"""Room for the stages of a run: what has no place is refused, what a stage does not need is given back before it."""

from dataclasses import replace
from pathlib import Path

import pytest

from hnlm_ray.cluster.room import autoscales, check_fixed
from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.generate.engines import EngineManager
from hnlm_ray.generate.protocol import EngineSpec
from hnlm_ray.pipeline import Run, plan
from hnlm_ray.plan import demands
from hnlm_ray.runtime import Demand, Resources, RuntimeConfig
from hnlm_ray.store import RunDir


def test_engines_with_gpus_end_before_a_stage_that_needs_none(ray_session: RuntimeConfig, tmp_path: Path) -> None:
    config = parse_config({"data": {"format": "synthetic"}, "llm": {"gpus_per_replica": 0.5}})
    stages = {item.stage.name: item for item in plan(config, RunDir(tmp_path))}
    run = Run(config)
    assert isinstance(run.engines, EngineManager)
    run.engines._pool("gpu-encoder", EngineSpec("embed", "minilm", "minilm", gpus=0.5))
    run.engines._pool("cpu")
    run.make_room(stages["negative"])
    assert set(run.engines._pools) == {"gpu-encoder", "cpu"}
    run.make_room(stages["finetune"])
    assert set(run.engines._pools) == {"cpu"}, "CPU engines hold no node that costs much, and a start costs a minute"
    run.close()


def test_a_cluster_of_fixed_size_refuses_what_it_does_not_have(ray_session: RuntimeConfig) -> None:
    assert not autoscales()
    with pytest.raises(UserError, match="the generator needs 1 GPUs, and there are 0"):
        check_fixed([Demand("the generator", Resources(1, 1, 1, 0), pieces=1)])


def test_memory_that_engines_reserve_must_be_on_one_node(ray_session: RuntimeConfig) -> None:
    """Otherwise the engine waits for it until its start times out."""
    config = parse_config({"data": {"format": "synthetic"}, "llm": {"memory_gb": 9000}})
    [engine] = demands(config, plan(config, RunDir("nowhere"), "profile"))[:1]
    assert engine.piece()["memory"] == 9e12
    with pytest.raises(UserError, match=r"needs 0\.5 CPUs and 9000 GB of memory on one node"):
        check_fixed([replace(engine, resources=Resources(0.5, 0, 0, 0))])
