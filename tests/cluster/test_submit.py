"""`hnlm submit` and `hnlm jobs` against a real head, from a folder that is not the repository."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hnlm_ray.cluster.local_head import Head
from hnlm_ray.cluster.package import Package
from hnlm_ray.cluster.submit import SubmitOptions, _notes, submit
from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.store import RunDir

CONFIG = {"data": {"format": "synthetic", "synthetic": {"num_users": 60, "num_items": 40}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's own folder with a config, a secret, and an ignore file that also fits the config which is sent along."""
    root = tmp_path / "mine"
    root.mkdir()
    (root / "shop.yaml").write_text(yaml.safe_dump(CONFIG))
    (root / "my_sampler.py").write_text("HARDNESS = 1\n")
    (root / ".env").write_text("PASSWORD=swordfish\n")
    (root / ".gitignore").write_text("scratch/\nhnlm_*\n")
    (root / "scratch").mkdir()
    (root / "scratch" / "draft.txt").write_text("not yet\n")
    return root


def hnlm(head: Head, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "hnlm_ray.cli", *arguments],
        env=head.environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process: "subprocess.Popen[str]", timeout_s: float = 180) -> tuple[int, str]:
    output, _ = process.communicate(timeout=timeout_s)
    return process.returncode, output


def read_until(process: "subprocess.Popen[str]", pattern: str) -> str:
    """Read the output up to a line that matches."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError(f"ended without {pattern!r}: {''.join(lines)}")


def wait_for_status(head: Head, folder: Path, job: str, status: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        _, table = finished(hnlm(head, folder, "jobs", "--address", head.url))
        if re.search(rf"{job}\s+{status}", table):
            return
        time.sleep(1)
    raise AssertionError(f"{job} did not reach {status}: {table}")


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "shared" / "run"
    shutil.rmtree(tmp_path / "shared", ignore_errors=True)


def test_a_run_from_another_folder(head: Head, folder: Path, run_dir: Path) -> None:
    code, output = finished(
        hnlm(head, folder, "submit", "shop.yaml", "--address", head.url, "--run-dir", str(run_dir), "--until", "ingest",
             "--set", "data.synthetic.num_users=50")
    )  # fmt: skip
    assert code == 0, output
    assert "package: 2 files" in output
    assert "left out as credentials: .env\n" in output
    assert "left out by .gitignore or .rayignore: scratch\n" in output
    assert re.search(r"\[1/1\] ingest: .* s, peak", output), "the log is followed to its end"
    assert output.count("[1/1] ingest: ") == 1, "and no line of it twice"
    assert RunDir(run_dir).current("ingest") is not None
    assert RunDir(run_dir).folder.read_bytes("config.yaml").decode().count("num_users: 50") == 1

    uploaded = head.session_dir / "session_latest" / "runtime_resources"
    names = {path.name for path in uploaded.rglob("*") if path.is_file()}
    assert {"shop.yaml", "my_sampler.py"} <= names
    assert not names & {".env", "draft.txt"}
    assert not [path for path in uploaded.rglob("*") if path.is_file() and b"swordfish" in path.read_bytes()]

    code, table = finished(hnlm(head, folder, "jobs", "--address", head.url))
    assert code == 0
    assert re.search(rf"raysubmit_\w+ +SUCCEEDED .* {run_dir}", table)


def test_the_exit_code_of_the_run_is_passed_on(head: Head, folder: Path, run_dir: Path) -> None:
    code, output = finished(
        hnlm(head, folder, "submit", "shop.yaml", "--address", head.url, "--run-dir", str(run_dir),
             "--set", "data.format=tables", "--set", "data.path=/nowhere")
    )  # fmt: skip
    assert code == 2, output
    assert "hnlm: " in output
    assert "/nowhere" in output


def test_a_stage_that_can_never_be_scheduled_is_refused_with_the_numbers(
    head: Head, folder: Path, run_dir: Path
) -> None:
    submit = ("submit", "shop.yaml", "--address", head.url, "--run-dir", str(run_dir), "--set", "signal.epochs=1")
    code, output = finished(hnlm(head, folder, *submit, "--until", "signal"))
    assert code == 0, output
    started = time.monotonic()
    code, output = finished(
        hnlm(head, folder, *submit, "--set", "llm.gpus_per_replica=2", "--set", "llm.tensor_parallel_size=2")
    )
    assert code == 2, output
    assert "the generator (1 x stand-in) can never be scheduled: it needs 1 x (0.5 CPUs and 2 GPUs)" in output
    assert time.monotonic() - started < 60


def test_ctrl_c_detaches_or_stops(head: Head, folder: Path, run_dir: Path) -> None:
    big = "data.synthetic.num_users=300000"
    process = hnlm(
        head, folder, "submit", "shop.yaml", "--address", head.url, "--run-dir", str(run_dir), "--set", big,
        "--until", "ingest",
    )  # fmt: skip
    output = read_until(process, r"\[1/1\] ingest")
    job = re.search(r"submitted (\S+);", output)[1]  # type: ignore[index]
    process.send_signal(signal.SIGINT)
    code, output = finished(process)
    assert code == 130, output
    assert f"hnlm jobs --address {head.url} --follow {job}" in output
    wait_for_status(head, folder, job, "RUNNING")

    process = hnlm(head, folder, "jobs", "--address", head.url, "--follow", job, "--on-interrupt", "stop")
    read_until(process, r"\[1/1\] ingest")
    process.send_signal(signal.SIGINT)
    code, output = finished(process)
    assert code == 130, output
    assert f"{job}: STOPPED" in output
    wait_for_status(head, folder, job, "STOPPED")


class TestMistakes:
    def test_a_run_directory_that_would_be_lost(self, head: Head, folder: Path) -> None:
        code, output = finished(hnlm(head, folder, "submit", "shop.yaml", "--address", head.url, "--run-dir", "runs/x"))
        assert code == 2
        assert "would lie in the job's own folder" in output

    def test_a_wrong_key_costs_no_job(self, head: Head, folder: Path, run_dir: Path) -> None:
        code, output = finished(
            hnlm(head, folder, "submit", "shop.yaml", "--address", head.url, "--run-dir", str(run_dir),
                 "--set", "train.epoch=1")
        )  # fmt: skip
        assert code == 2
        assert "did you mean 'train.epochs'?" in output

    def test_a_stage_that_does_not_exist_costs_no_job(self, folder: Path) -> None:
        options = SubmitOptions("http://127.0.0.1:9", "s3://bucket/run", until="nosuch")
        with pytest.raises(UserError, match="--until 'nosuch' is no stage: there are ingest, signal"):
            submit(str(folder / "shop.yaml"), [], options)

    def test_nobody_answers(self, head: Head, folder: Path, run_dir: Path) -> None:
        code, output = finished(
            hnlm(head, folder, "submit", "shop.yaml", "--address", "http://127.0.0.1:9", "--run-dir", str(run_dir))
        )
        assert code == 2
        assert "no Ray dashboard answers at http://127.0.0.1:9" in output

    def test_without_the_token(self, head: Head, folder: Path) -> None:
        stranger = Head(head.url, head.gcs_address, {**head.environment, "RAY_AUTH_TOKEN": "wrong"}, head.session_dir)
        code, output = finished(hnlm(stranger, folder, "jobs", "--address", head.url))
        assert code == 2, output
        assert "wants its token" in output

    def test_a_job_that_does_not_exist_is_not_stopped(self, head: Head, folder: Path) -> None:
        code, output = finished(hnlm(head, folder, "jobs", "--address", head.url, "--stop", "nosuch"))
        assert code == 2, output
        assert "hnlm: the cluster knows no job 'nosuch'" in output


def test_paths_that_the_nodes_must_have_are_named() -> None:
    paths = {"data": {"path": "/data/in"}, "llm": {"model": "/models/llm"}, "encoder": {"model": "/models/encoder"}}
    nothing = Package((), (), (), 0)
    lines = _notes(parse_config(paths), nothing, nothing, SubmitOptions("http://head:8265", "/shared/run"))
    for key, path in (("data.path", "/data/in"), ("llm.model", "/models/llm"), ("encoder.model", "/models/encoder")):
        assert f"note: {key} {path} must exist on the cluster's nodes" in lines
