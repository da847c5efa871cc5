"""What a run asks of a cluster at one time, stage by stage, and in which pieces."""

import pytest

from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import PlannedStage, plan
from hnlm_ray.plan import demands
from hnlm_ray.runtime import Demand, Resources, preflight
from hnlm_ray.store import RunDir

CONFIG = {
    "data": {"format": "synthetic"},
    "llm": {
        "replicas": [2, 8],
        "gpus_per_replica": 2,
        "tensor_parallel_size": 2,
        "cpus_per_replica": 4,
        "accelerator": "A10G",
    },
    "finetune": {"batch_size": 60},
    "runtime": {"address": "auto", "train_workers": 3, "cpus_per_train_worker": 2},
}


@pytest.fixture
def stages(tmp_path: object) -> dict[str, PlannedStage]:
    return {item.stage.name: item for item in plan(parse_config(CONFIG), RunDir(str(tmp_path)))}


def pieces(stages: dict[str, PlannedStage], stage: str) -> list[tuple[int, dict[str, float]]]:
    found = demands(parse_config(CONFIG), [stages[stage]])
    return [(demand.pieces, demand.piece()) for demand in found if demand.pieces]


def test_an_llm_stage_asks_for_its_fewest_engines_and_no_more(stages: dict[str, PlannedStage]) -> None:
    assert pieces(stages, "profile") == [(2, {"CPU": 4, "GPU": 2, "accelerator_type:A10G": 0.001})]
    assert pieces(stages, "embed") == [(2, {"CPU": 4, "GPU": 1, "accelerator_type:A10G": 0.001})]


def test_a_training_asks_for_its_workers_and_reading_for_nothing(stages: dict[str, PlannedStage]) -> None:
    assert pieces(stages, "finetune") == [(3, {"CPU": 2})]
    assert pieces(stages, "ingest") == pieces(stages, "report") == []


def test_an_elastic_training_asks_for_its_fewest_workers(stages: dict[str, PlannedStage]) -> None:
    elastic = CONFIG | {"runtime": {"address": "auto", "train_workers": [2, 6]}}
    [training] = [demand for demand in demands(parse_config(elastic), [stages["finetune"]]) if demand.pieces]
    assert (training.pieces, training.piece()) == (2, {"CPU": 1})
    with pytest.raises(UserError, match=r"finetune.batch_size=60 cannot be shared equally by 7 workers"):
        demands(parse_config(CONFIG | {"runtime": {"train_workers": [2, 7]}}), [stages["finetune"]])


@pytest.mark.parametrize("workers", [-1, [0, 2], [3, 2]])
def test_a_group_that_cannot_be_is_refused(workers: object) -> None:
    with pytest.raises(UserError, match="with 1 <= min <= max"):
        parse_config({"runtime": {"train_workers": workers}})


def test_a_plan_that_is_too_large_is_refused_with_the_numbers() -> None:
    demand = Demand("the generator", Resources(cpus=1, gpus=4, memory_gb=1, disk_gb=0), pieces=2)
    with pytest.raises(UserError, match="the generator needs 4 GPUs, and there are 2"):
        preflight([demand], Resources(cpus=8, gpus=2, memory_gb=64, disk_gb=100))
