"""Following a job through a tunnel that is cut: a real head behind a proxy, and a client that answers as it is told."""

import io
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from hnlm_ray.cluster.local_head import Head
from hnlm_ray.cluster.submit import follow, stop
from hnlm_ray.errors import UserError


class Tunnel:
    """A port of loopback that leads to another one, until it is cut; it can be opened again."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._ends: list[socket.socket] = []
        self._entrance = socket.create_server(("127.0.0.1", 0))
        self.port = self._entrance.getsockname()[1]
        self._serve()

    def cut(self) -> None:
        """End every connection; new ones are refused."""
        for end in (self._entrance, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def open(self) -> None:
        """Take connections again."""
        self._entrance = socket.create_server(("127.0.0.1", self.port))
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._entrance,), daemon=True).start()

    def _accept(self, entrance: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = entrance.accept()
                far = socket.create_connection(("127.0.0.1", self._to_port))
                self._ends += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def tunnel_to(head: Head) -> Iterator[Tunnel]:
    tunnel = Tunnel(int(head.url.rpartition(":")[2]))
    try:
        yield tunnel
    finally:
        tunnel.cut()


def started(command: list[str], head: Head, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, env=head.environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_job_is_followed_through_a_tunnel_that_comes_back(head: Head, tmp_path: Path) -> None:
    """The job waits for a file between its two lines, so that the cut lies between them however slow the machine is."""
    gate = tmp_path / "gate"
    script = f"import os, time; print('first', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.2)"
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "script.py").write_text(f"{script}\nprint('last')\nraise SystemExit(3)\n")
    with tunnel_to(head) as tunnel:
        url = f"http://127.0.0.1:{tunnel.port}"
        submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", url, "--no-wait"]
        submit += ["--working-dir", ".", "--entrypoint-num-cpus", "1", "--", "python", "script.py"]
        submitted, _ = started(submit, head, tmp_path / "job").communicate(timeout=180)
        job = re.search(r"raysubmit_\w+", submitted)
        assert job, submitted
        process = started(
            [sys.executable, "-m", "hnlm_ray.cli", "jobs", "--address", url, "--follow", job[0]], head, tmp_path
        )
        assert process.stdout is not None
        assert any("first" in line for line in process.stdout)
        tunnel.cut()
        time.sleep(1.5)  # some of the attempts to reconnect are refused
        assert process.poll() is None, process.stdout.read()
        tunnel.open()
        gate.touch()
        rest, _ = process.communicate(timeout=120)
    lines = rest.splitlines()
    assert "first" not in lines, "what was printed is not printed again"
    assert lines.count("last") == 1
    assert f"{job[0]}: FAILED" in rest
    assert process.returncode == 3


class Client:
    """A job that waits for a node, runs and ends, over a line that drops so many answers to each question."""

    def __init__(self, drops: int) -> None:
        self._statuses = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
        self._drops = drops
        self._asked: Counter[tuple[str, str]] = Counter()

    def _ask(self, question: str) -> str:
        status = self._statuses[0]
        self._asked[question, status] += 1
        if self._asked[question, status] <= self._drops:
            raise requests.ConnectionError("connection\nrefused")
        return self._statuses.pop(0) if len(self._statuses) > 1 else status

    def get_job_status(self, job_id: str) -> Any:
        return SimpleNamespace(value=self._ask("status"))

    def get_job_info(self, job_id: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(value=self._ask("info")), submission_id=job_id)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "one line\n"

    def get_job_logs(self, job_id: str) -> str:
        self._ask("logs")
        return "one line\n"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None: ...

    monkeypatch.setattr("hnlm_ray.cluster.submit.asyncio.sleep", at_once)


def test_every_question_may_be_lost_once(no_waiting: None) -> None:
    out = io.StringIO()
    assert follow(Client(drops=1), "job", "http://here", "detach", out) == 0  # type: ignore[arg-type]
    assert out.getvalue() == "one line\n"


def test_a_line_that_stays_dead_is_one_line(no_waiting: None) -> None:
    with pytest.raises(
        UserError, match=r"lost 6 times in a row \(connection refused\).* --address http://here"
    ) as error:
        follow(Client(drops=100), "job", "http://here", "detach", io.StringIO())  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_job_that_the_cluster_does_not_know(no_waiting: None) -> None:
    class Unknown(Client):
        def get_job_status(self, job_id: str) -> Any:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")

        def stop_job(self, job_id: str) -> bool:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist")

    with pytest.raises(UserError, match="knows no job 'job'"):
        follow(Unknown(drops=0), "job", "http://here", "detach", io.StringIO())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="knows no job 'job'"):
        stop(Unknown(drops=0), "job")  # type: ignore[arg-type]
