"""The estimate and what it is held against."""

import pytest

from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.cost import Usage, cost_of, deviation, estimate, pilot_units


def test_gpu_hours_are_priced_by_accelerator() -> None:
    llm = LLMConfig.model_validate(
        {"gpus_per_replica": 2, "tensor_parallel_size": 2, "accelerator": "H100", "price": {"per_hour": {"H100": 4.5}}}
    )
    cost = cost_of(Usage(10, 1000, 500, engine_s=1800), llm)
    assert (cost.engine_hours, cost.gpu_hours, cost.price) == (0.5, 1.0, 4.5)


def test_endpoints_are_priced_by_token() -> None:
    price = {"per_million_prompt_tokens": 2.0, "per_million_completion_tokens": 10.0}
    llm = LLMConfig.model_validate({"engine": "http", "endpoint": "http://x/v1", "price": price})
    assert cost_of(Usage(1, 3_000_000, 500_000, engine_s=99), llm).price == 11.0


def test_estimates_scale_the_pilot() -> None:
    pilot = Usage(rows=10, prompt_tokens=1000, completion_tokens=200, engine_s=36)
    cost = estimate(pilot, 100, LLMConfig())
    assert (cost.rows, cost.prompt_tokens, cost.completion_tokens, cost.engine_hours) == (100, 10_000, 2000, 0.1)
    known = LLMConfig.model_validate({"price": {"tokens_per_s": 100.0}})
    assert estimate(pilot, 100, known).engine_hours == pytest.approx(12_000 / 100 / 3600, abs=1e-6)
    assert deviation(cost, cost_of(Usage(100, 9000, 1000, 450), LLMConfig())) == {
        "tokens": 0.2,
        "engine_hours": -0.2,
        "price": 0.0,
    }


@pytest.mark.parametrize(
    ("num_units", "unit_rows", "expected"),
    [(8, 121, [0, 4]), (8, 38, [0, 4]), (1, 16, [0]), (100, 64, [0, 50]), (0, 1, [])],
)
def test_pilots_are_spread_and_small(num_units: int, unit_rows: int, expected: list[int]) -> None:
    assert pilot_units(num_units, unit_rows, 128) == expected
