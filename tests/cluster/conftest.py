"""A real head of its own: `ray start --head` with its own ports, session folder and token."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

_START_TIMEOUT_S = 120
_STARTS = 4
"""On a busy machine a head may miss Ray's fixed 15 s for its agent, and ends itself."""


@dataclass(frozen=True)
class Head:
    """A running head: where its dashboard is and what its clients must have in their environment."""

    url: str
    gcs_address: str
    environment: dict[str, str]
    session_dir: Path


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """Two CPUs; ended by its own process group, so that no other Ray of this machine is touched."""
    for _ in range(_STARTS):
        found, process = _start()
        try:
            if _answers(found, process):
                yield found
                assert process.poll() is None, f"the head died during the tests: {_log(found)}"
                return
        finally:
            _end(found, process)
    raise RuntimeError(f"no head came up in {_STARTS} starts")


def _start() -> tuple[Head, "subprocess.Popen[bytes]"]:
    scratch = Path(tempfile.mkdtemp(prefix="hh"))  # short: socket paths have a limit
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.uuid4().hex,
        "RAY_USAGE_STATS_ENABLED": "0",
        # A busy machine is not a dead node.
        "RAY_agent_register_timeout_ms": "180000",
        "RAY_health_check_timeout_ms": "60000",
        "RAY_health_check_failure_threshold": "20",
    }
    gcs, dashboard, client, agent, agent_grpc, metrics = _free_ports(6)
    command = [
        "ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", "--include-dashboard=true",
        "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--object-store-memory={200 * 2**20}",
        f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--metrics-export-port={metrics}", f"--temp-dir={scratch}",
    ]  # fmt: skip
    found = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment, scratch)
    with (scratch / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    return found, process


def _answers(head: Head, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until dashboard and agent are there; False where the head ended itself."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    headers = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        time.sleep(0.3)
        if not any(head.session_dir.glob("session_2*/dashboard_agent_listen_port_*")):
            continue
        try:
            if requests.get(f"{head.url}/api/jobs/", headers=headers, timeout=5).ok:
                return True
        except requests.RequestException:
            continue
    raise TimeoutError(f"no answer from {head.url} in {_START_TIMEOUT_S} s: {_log(head)}")


def _end(head: Head, process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # what left the group is ended by the reaper that `--block` starts
        process.wait(10)
    deadline = time.monotonic() + 20
    while left := _processes_of(head):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still running: {left}")
        time.sleep(0.2)
    shutil.rmtree(head.session_dir, ignore_errors=True)


def _processes_of(head: Head) -> list[psutil.Process]:
    """Every process of a head names its session folder."""
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if str(head.session_dir) in str(process.info["cmdline"])]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _log(head: Head) -> str:
    return (head.session_dir / "head.log").read_text()
