"""Each script in jobs/ reads a config with overrides, connects and calls one library function."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.store import RunDir

JOBS = Path(__file__).parents[2] / "jobs"


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str, code: int = 0) -> None:
    """As `python jobs/SCRIPT ARGUMENTS`, in this process; it must exit with `code`."""
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOBS / script), run_name="__main__")
    assert ended.value.code == code


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump({"data": {"format": "synthetic", "synthetic": {"num_users": 90, "num_items": 40}}}))
    return path


def test_run_pipeline(
    ray_session: RuntimeConfig, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "run_pipeline.py", str(config), "--run-dir", str(tmp_path / "run"), "--until", "ingest",
        "--set", "data.synthetic.num_users=50")  # fmt: skip
    entry = RunDir(tmp_path / "run").current("ingest")
    assert entry is not None
    assert RunDir(tmp_path / "run").folder.child(entry.artifacts["dataset"]).num_rows("users") <= 50


def with_section(config: Path, name: str, section: dict[str, object]) -> Path:
    """A file for a sweep or a comparison, over the smallest training without a language model."""
    values = yaml.safe_load(config.read_text())
    values["train"] = {"epochs": 2, "eval_every": 1, "dim": 8, "hnlm": {"variant": "none"}}
    path = config.with_name(f"{name}.yaml")
    path.write_text(yaml.safe_dump({**values, name: section}))
    return path


def test_tune(
    ray_session: RuntimeConfig,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = {"train.lr": {"loguniform": [0.001, 0.02]}}
    sweep = with_section(config, "sweep", {"trials": 3, "grace_epochs": 1, "max_concurrent": 1, "space": space})
    run(monkeypatch, "tune.py", str(sweep), "--run-dir", str(tmp_path / "run"), "--set", "sweep.trials=2")
    assert len(list((tmp_path / "run").glob("sweeps/*/trials/*/result.json"))) == 2
    winner = yaml.safe_load(next((tmp_path / "run").glob("sweeps/*/winner.yaml")).read_text())
    assert f"{winner['train']['lr']:.4g}"[:5] in capsys.readouterr().out, "the table is printed"


def test_compare(
    ray_session: RuntimeConfig,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        {"name": "rns", "kind": "classical"},
        {"name": "ease", "kind": "outsider", "set": {"train.model": "ease"}},
    ]
    comparison = with_section(config, "compare", {"trials": 1, "seeds": [0, 1, 2], "rows": rows})
    run(monkeypatch, "compare.py", str(comparison), "--run-dir", str(tmp_path / "run"),
        "--set", "compare.seeds=[0, 1]")  # fmt: skip
    results = RunDir(tmp_path / "run").folder.read_json("compare/results.json")
    assert [row["method"] for row in results["rows"]] == ["rns", "ease"]
    assert results["seeds"] == [0, 1]
    printed = capsys.readouterr().out
    assert "rns" in printed
    assert "ease" in printed


def test_benchmark(tmp_path: Path) -> None:
    """In a process of its own, since a benchmark sets the threads of the one that it runs in."""
    figures = tmp_path / "evaluate.json"
    options = ["--json", str(figures), "--quick", "--threads", "1", "--repeats", "1", "--seed", "3"]
    ended = subprocess.run(
        [sys.executable, str(JOBS / "benchmark.py"), "evaluate", *options], capture_output=True, text=True, timeout=300
    )
    result = json.loads(figures.read_text())
    assert result["options"] == {"quick": True, "threads": 1, "repeats": 1, "seed": 3}
    assert ended.returncode == int(not all(bar["ok"] for bar in result["bars"])), ended.stdout + ended.stderr
    assert "bench evaluate" in ended.stdout


def test_a_wrong_key_is_one_line_before_anything_starts(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "run_pipeline.py", str(config), "--set", "train.epoch=1", code=2)
    run(monkeypatch, "tune.py", str(config), code=2)
    first, second = capsys.readouterr().err.splitlines()
    assert "did you mean 'train.epochs'" in first
    assert "no section `sweep`" in second


@pytest.mark.parametrize("script", sorted(path.name for path in JOBS.glob("*.py")))
def test_every_script_explains_itself(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, script, "--help")
    assert f"python jobs/{script}" in capsys.readouterr().out
