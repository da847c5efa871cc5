"""Processes killed for real: every row once, and the table of an undisturbed run."""

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import psutil
import pyarrow as pa
import pytest
import ray
from paced_tasks import MakeGroup, title_task

from hnlm_ray.generate import feeding
from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.engines import EngineGroup
from hnlm_ray.generate.protocol import EngineUnavailable
from hnlm_ray.generate.units import TaskSummary, run_task
from hnlm_ray.progress import Progress

LLM = LLMConfig(max_num_seqs=10)


def run(
    root: Path, titles: list[str], group: EngineGroup, rows_per_unit: int = 10, llm: LLMConfig = LLM
) -> tuple[TaskSummary, pa.Table]:
    task = title_task(root, titles, rows_per_unit)
    summary = run_task(task, group, llm, Progress("test"), "rows")
    return summary, task.outputs.read_table()


@pytest.mark.parametrize("rows_fed_from_here", [0, 95], ids=["by-ray-data", "from-here"])
def test_rows_come_out_once_and_in_order(
    make_group: MakeGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_fed_from_here: int
) -> None:
    monkeypatch.setattr(feeding, "ROWS_FED_FROM_HERE", rows_fed_from_here)
    titles = [f"title {n}" + " more" * (n % 13) for n in range(95)]
    group = make_group()
    summary, table = run(tmp_path, titles, group)
    assert table["item_id"].to_pylist() == list(range(95))
    assert (summary.rows, summary.failed, summary.asked_rows) == (95, 0, 95)
    assert group.counters().rows == 95
    again, _ = run(tmp_path, titles, group)
    assert (again.rows, again.asked_rows) == (95, 0), "what stands is not asked again"
    assert group.counters().rows == 95


def test_the_first_units_tell_what_the_rest_will_cost(make_group: MakeGroup, tmp_path: Path) -> None:
    titles = [f"title {n}" + " more" * (n % 13) for n in range(160)]
    llm = LLMConfig.model_validate({"max_num_seqs": 10, "price": {"per_hour": {"cpu": 3600.0}}})  # 1 per second
    summary, _ = run(tmp_path, titles, make_group(row_s=0.02), llm=llm)
    estimated, measured = (summary.cost[name] for name in ("estimated", "measured"))
    assert measured["price"] == pytest.approx(3600 * measured["engine_hours"], rel=0.01)
    assert measured["price"] >= 160 * 0.02
    for name in ("engine_hours", "price", "rows", "prompt_tokens", "completion_tokens"):
        assert estimated[name] == pytest.approx(measured[name], rel=0.2), name
    assert all(abs(by) <= 0.2 for by in summary.cost["deviation"].values())


def test_one_start_serves_every_task_of_a_model(make_group: MakeGroup, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    group = make_group(started=str(starts))
    for task in ("items", "users", "pairs"):
        run(tmp_path / task, ["a", "b"], group)
    assert len(list(starts.iterdir())) == 1


def test_a_poisonous_row_fails_alone(make_group: MakeGroup, tmp_path: Path) -> None:
    titles = [f"title {n}" for n in range(40)]
    titles[17] = "poison"
    summary, table = run(tmp_path, titles, make_group(), rows_per_unit=4)
    assert summary.failures == {"the engine dies of this row": 1}
    assert [row["item_id"] for row in table.to_pylist() if row["status"] == "failed"] == [17]


def test_engines_that_only_die_end_the_run_with_numbers(make_group: MakeGroup, tmp_path: Path) -> None:
    group = make_group(max_deaths=2)
    with pytest.raises(EngineUnavailable, match="engines died 3 times"):
        run(tmp_path, ["poison"] * 40, group)


def test_no_place_for_an_engine_says_what_was_asked_for(make_group: MakeGroup) -> None:
    group = make_group(options={"num_cpus": 64}, start_timeout_s=1.0)
    with pytest.raises(EngineUnavailable, match=r"num_cpus.*64.*the cluster has.*CPU.*2"):
        group.prepare()


def test_idle_engines_end_and_come_back(make_group: MakeGroup, tmp_path: Path) -> None:
    group = make_group(idle_timeout_s=1.0)
    group.prepare()
    deadline = time.monotonic() + 30
    while group.state()["hosts"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert group.state()["hosts"] == 0
    _, table = run(tmp_path, ["a", "b"], group)
    assert table.num_rows == 2
    assert group.state()["started"] == 2


@pytest.mark.timeout(400)
def test_twenty_kills_change_nothing(
    make_group: MakeGroup, ray_processes: Callable[[str], list[psutil.Process]], tmp_path: Path
) -> None:
    """Engines, workers and drivers die at twenty seeded points of the work; the table equals that of a quiet run.

    The task begins with engines fed by Ray Data's workers, goes on from the driver, and ends by Ray Data again.
    """
    num_rows, randomness = 600, random.Random(4)
    _, expected = run(tmp_path / "quiet", [f"title {n}" for n in range(num_rows)], make_group())
    victims = []
    for kinds in (["EngineHost", "MapWorker"] * 5, ["EngineHost"] * 8):
        randomness.shuffle(kinds)
        victims += [*kinds, "driver"]
    points = sorted(randomness.sample(range(1, 54), len(victims)))
    root = tmp_path / "chaos"
    root.mkdir()
    ways = itertools.cycle([0, num_rows])
    driver = start_driver(root, num_rows, next(ways))
    try:
        for kind, point in zip(victims, points, strict=True):
            wait_for(lambda point=point: len(list((root / "outputs").glob("part-*"))) >= point, driver, root)
            time.sleep(randomness.uniform(0.0, 0.2))
            if kind == "driver":
                driver.kill()
                driver.wait(timeout=30)
                driver = start_driver(root, num_rows, next(ways))
            else:
                wait_for(lambda kind=kind: kill_one(ray_processes(kind), randomness), driver, root)
            assert len(list((root / "outputs").glob("part-*"))) < 60, f"{kind} was killed when the work was over"
        assert driver.wait(timeout=120) == 0, (root / "log").read_text()[-3000:]
    finally:
        driver.kill()
    assert title_task(root, [], 10).outputs.read_table() == expected


Driver: TypeAlias = "subprocess.Popen[bytes]"


def start_driver(root: Path, num_rows: int, rows_fed_from_here: int) -> Driver:
    """A driver on this session's Ray; returns when it has begun to work."""
    (root / "begun").unlink(missing_ok=True)
    arguments = [str(root), ray.get_runtime_context().gcs_address, str(num_rows), str(rows_fed_from_here)]
    script = Path(__file__).with_name("chaos_driver.py")
    with (root / "log").open("ab") as log:
        driver = subprocess.Popen([sys.executable, str(script), *arguments], stdout=log, stderr=log)
    wait_for((root / "begun").exists, driver, root)
    return driver


def wait_for(reached: Callable[[], bool], driver: Driver, root: Path) -> None:
    """Wait while the driver lives, for at most 90 s."""
    deadline = time.monotonic() + 90
    while not reached():
        assert driver.poll() is None, (root / "log").read_text()[-3000:]
        assert time.monotonic() < deadline, (root / "log").read_text()[-3000:]
        time.sleep(0.02)


def kill_one(processes: list[psutil.Process], randomness: random.Random) -> bool:
    """SIGKILL one of them; False where there is none just now."""
    if processes:
        randomness.choice(processes).kill()
    return bool(processes)
