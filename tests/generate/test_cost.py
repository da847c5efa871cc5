"""The estimate and what it is held against."""

import time
from pathlib import Path
from typing import Any

import pytest
from paced_tasks import title_task

from hnlm_ray.errors import UserError
from hnlm_ray.generate import units
from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.cost import Usage, cost_of, deviation, estimate, pilot_units
from hnlm_ray.generate.protocol import Completion, Counters, GenerateRequest
from hnlm_ray.generate.schemas import write_answer
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder


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


class Engines:
    """Engines in this process. The row `last` ends the run, once all others are accounted for."""

    def __init__(self, accounted: Folder, rows_before_the_end: int) -> None:
        self._accounted, self._rows = accounted, rows_before_the_end

    def prepare(self) -> None: ...

    def counters(self) -> Counters:
        return Counters()

    def state(self) -> dict[str, Any]:
        return {"ready": 1}

    def generate(self, request: GenerateRequest, *, alone: bool = False) -> list[Completion]:
        if self._rows and any(draft.slots["title"] == "last" for draft in request.drafts):
            self._wait()
            raise UserError("the end")
        answer = write_answer("item_profile", "a saga", "so")
        return [Completion(answer, True, 10, 0, 3, False) for _ in request.drafts]

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        name = units.USAGE_FILE
        while not (self._accounted.exists(name) and self._accounted.read_json(name)["rows"] == self._rows):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_a_cut_run_has_used_counts_in_the_cost_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "_SAVE_USAGE_EVERY_S", 0.0)
    task = title_task(tmp_path, [*(f"title {n}" for n in range(23)), "last"], rows_per_unit=4)

    def run(rows_before_the_end: int) -> units.TaskSummary:
        engines: Any = Engines(task.inputs, rows_before_the_end)
        return units.run_task(task, engines, LLMConfig(), Progress("test"), "rows")

    with pytest.raises(UserError, match="the end"):
        run(rows_before_the_end=20)
    summary = run(rows_before_the_end=0)
    assert summary.asked_rows == 4
    measured = summary.cost["measured"]
    assert (measured["rows"], measured["prompt_tokens"], measured["completion_tokens"]) == (24, 240, 72)
    again = run(rows_before_the_end=0)
    assert again.cost == summary.cost
