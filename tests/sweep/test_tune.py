"""`hnlm tune` end to end: killed in the middle, gone on with; the shared stages untouched, the test set read once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_artifacts import prepare

from hnlm_ray.config import load_config
from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.store import Folder, RunDir
from hnlm_ray.sweep.config import load_sweep

TRIALS = 8
CONFIG = {
    "data": {"format": "synthetic", "synthetic": {"num_users": 80, "num_items": 60}},
    "signal": {"epochs": 2},
    "train": {"epochs": 12, "eval_every": 2, "patience": 100, "sampler": {"kind": "dns", "num_candidates": 4}},
    "runtime": {"address": "local", "num_cpus": 2, "object_store_gb": 0.2},
    "sweep": {
        "trials": TRIALS,
        "grace_epochs": 4,
        "space": {
            "train.hnlm.variant": {"choice": ["none", "aligned", "grounded", "hybrid"]},
            "train.hnlm.alpha": {"loguniform": [0.001, 0.3]},
            "train.hnlm.window": {"choice": [[0.3, 0.9], [0.5, 0.98]]},
            "train.lr": {"loguniform": [0.001, 0.02]},
        },
    },
}


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def run_dir(ray_session: RuntimeConfig, sweep_file: Path) -> Path:
    """A run directory in which everything before `train` stands."""
    config, _ = load_sweep(sweep_file)
    prepare(config, RunDir(sweep_file.parent / "run"))
    return sweep_file.parent / "run"


def results(run_dir: Path) -> dict[Path, float]:
    """Results that stand, and when each was written."""
    return {path: path.stat().st_mtime for path in run_dir.glob("sweeps/*/trials/*/result.json")}


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_killed_sweep_goes_on(sweep_file: Path, run_dir: Path, search: str) -> None:
    command = [sys.executable, "-m", "hnlm_ray.cli", "tune", str(sweep_file), "--run-dir", str(run_dir)]
    command += ["--set", f"sweep.search={search}"]
    entries, before = RunDir(run_dir).entries(), results(run_dir)
    _kill_after(command, run_dir, len(before) + 3)
    survived = results(run_dir)

    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    after = results(run_dir)
    assert len(after) == len(before) + TRIALS
    assert {path: after[path] for path in survived} == survived, "what had ended was done again"

    (folder,) = {path.parents[2] for path in after.keys() - before.keys()}
    summary = Folder(folder).read_json("sweep.json")
    valid = [trial["valid"] for trial in summary["trials"]]
    assert valid == sorted(valid, reverse=True)
    assert valid[0] > 0.1
    states = {trial["state"] for trial in summary["trials"]}
    assert states == {"finished", "stopped early"}, "the worse trials end before the last epoch"
    assert not list(folder.rglob("*.pkl"))
    _check_winner(folder, summary["winner"])
    _check_stages(entries, RunDir(run_dir), valid[0])


def _kill_after(command: list[str], run_dir: Path, num_results: int) -> None:
    """Start the sweep and kill -9 its driver as soon as so many results stand."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while len(results(run_dir)) < num_results:
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline, "no result in 240 s"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)


def _check_winner(folder: Path, winner: dict[str, Any]) -> None:
    """The winner's file is a config that holds the winner's values."""
    config = load_config(folder / "winner.yaml").model_dump(mode="json")
    for key, value in winner["values"].items():
        node = config
        for part in key.split("."):
            node = node[part]
        assert node == value


def _check_stages(before: dict[str, list[Any]], run_dir: RunDir, best_valid: float) -> None:
    """The shared stages were not repeated; one model was trained and tested, and it is the trial's."""
    after = run_dir.entries()
    for stage in ("ingest", "signal", "profile", "negative", "finetune", "embed"):
        assert after[stage] == before[stage]
    for stage in ("train", "evaluate"):
        assert len(after[stage]) == len(before.get(stage, [])) + 1
    tested = after["evaluate"][-1].summary["metrics"]["valid"]["ndcg@20"]
    assert tested == pytest.approx(best_valid, rel=1e-3)
