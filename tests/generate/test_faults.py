"""Processes killed for real: every row once, and the table of an undisturbed run."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import ray
from paced_tasks import MakeGroup, title_task

from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.protocol import EngineUnavailable
from hnlm_ray.generate.units import TaskSummary, run_task
from hnlm_ray.progress import Progress

LLM = LLMConfig(max_num_seqs=10)


def run(root: Path, titles: list[str], group: object, rows_per_unit: int = 10) -> tuple[TaskSummary, pa.Table]:
    task = title_task(root, titles, rows_per_unit)
    summary = run_task(task, group, LLM, Progress("test"), "rows")  # type: ignore[arg-type]
    return summary, task.outputs.read_table()


def test_rows_come_out_once_and_in_order(make_group: MakeGroup, tmp_path: Path) -> None:
    titles = [f"title {n}" + " more" * (n % 13) for n in range(95)]
    group = make_group()
    summary, table = run(tmp_path, titles, group)
    assert table["item_id"].to_pylist() == list(range(95))
    assert (summary.rows, summary.failed, summary.asked_rows) == (95, 0, 95)
    assert group.counters().rows == 95
    assert abs(summary.cost["token_deviation"]) <= 0.2, "the first units tell what the rest will cost"
    again, _ = run(tmp_path, titles, group)
    assert (again.rows, again.asked_rows) == (95, 0), "what stands is not asked again"
    assert group.counters().rows == 95


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
    summary, table = run(tmp_path, titles, make_group())
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
def test_twenty_kills_change_nothing(make_group: MakeGroup, tmp_path: Path) -> None:
    """Engines, workers and drivers die at seeded random moments; the table equals that of a quiet run."""
    num_rows, kills = 600, {"EngineHost": 12, "MapWorker": 5, "driver": 3}
    _, expected = run(tmp_path / "quiet", [f"title {n}" for n in range(num_rows)], make_group())
    randomness = random.Random(4)
    victims = [kind for kind, count in kills.items() for _ in range(count)]
    randomness.shuffle(victims)
    root = tmp_path / "chaos"
    root.mkdir()
    driver = start_driver(root, num_rows)
    struck = 0
    try:
        for kind in victims:
            struck += not (root / "done").exists()
            if driver.poll() is not None:
                assert driver.returncode == 0, (root / "log").read_text()[-3000:]
                driver = start_driver(root, num_rows)  # it was done: the rest falls on a run with nothing to do
            time.sleep(randomness.uniform(0.1, 0.8))
            if kind == "driver":
                driver.kill()
                driver.wait(timeout=30)
                driver = start_driver(root, num_rows)
            else:
                kill_one(kind, randomness)
        assert driver.wait(timeout=120) == 0, (root / "log").read_text()[-3000:]
    finally:
        driver.kill()
    table = title_task(root, [], 10).outputs.read_table()
    assert table == expected
    assert struck >= 12, f"only {struck} kills fell while there was work"


def start_driver(root: Path, num_rows: int) -> "subprocess.Popen[bytes]":
    """A driver on this session's Ray; returns when it has begun to work."""
    (root / "begun").unlink(missing_ok=True)
    address = ray.get_runtime_context().gcs_address
    script = Path(__file__).with_name("chaos_driver.py")
    with (root / "log").open("ab") as log:
        driver = subprocess.Popen(
            [sys.executable, str(script), str(root), address, str(num_rows)], stdout=log, stderr=log
        )
    deadline = time.monotonic() + 90
    while not (root / "begun").exists():
        assert driver.poll() is None, (root / "log").read_text()[-3000:]
        assert time.monotonic() < deadline, "the driver did not begin within 90 s"
        time.sleep(0.05)
    return driver


def kill_one(kind: str, randomness: random.Random) -> None:
    """SIGKILL one actor process of our own Ray whose title names `kind`; nothing where there is none just now."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        try:
            if f"ray::{kind}" in " ".join(process.cmdline()):
                processes.append(process)
        except psutil.NoSuchProcess:
            continue
    if processes:
        randomness.choice(processes).send_signal(signal.SIGKILL)
