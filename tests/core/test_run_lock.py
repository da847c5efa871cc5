"""Two processes in one run directory: the second is told, and one that was killed holds nothing."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import run_pipeline
from hnlm_ray.run_lock import sole_writer
from hnlm_ray.store import RunDir

_HOLDS = """
import sys, time
from hnlm_ray.run_lock import sole_writer
from hnlm_ray.store import RunDir
with sole_writer(RunDir(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path / "run"`."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDS, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_writes_there(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(UserError, match=rf"run' is being written by process {other.pid}: wait .* --run-dir"):
        run_pipeline(parse_config({}), tmp_path / "run", until="ingest")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    with sole_writer(RunDir(tmp_path / "elsewhere")):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    with sole_writer(RunDir(tmp_path / "run")):
        pass


def test_a_comparison_holds_it_through_the_stages_that_it_runs(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    with sole_writer(run_dir):
        with sole_writer(run_dir):
            pass
        contender = subprocess.run(
            [sys.executable, "-c", _HOLDS, str(tmp_path / "run")], capture_output=True, text=True
        )
        assert "is being written by process" in contender.stderr
