"""Each script in jobs/ reads a config with overrides, connects and calls one library function."""

import runpy
import sys
from pathlib import Path

import pytest
import yaml

from hnlm_ray.errors import UserError
from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.store import RunDir

JOBS = Path(__file__).parents[2] / "jobs"


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(JOBS / script), run_name="__main__")


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


def test_a_wrong_key_is_refused_before_anything_starts(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"did you mean 'train.epochs'"):
        run(monkeypatch, "run_pipeline.py", str(config), "--set", "train.epoch=1")
    with pytest.raises(UserError, match="no section `sweep`"):
        run(monkeypatch, "tune.py", str(config))


@pytest.mark.parametrize("script", sorted(path.name for path in JOBS.glob("*.py")))
def test_every_script_explains_itself(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, script, "--help")
    assert ended.value.code == 0
    assert f"python jobs/{script}" in capsys.readouterr().out
