"""A cluster of its own on this machine, beside any other Ray: own ports, session folder, token and processes.

With `worker_types` it scales: the real autoscaler starts and ends worker nodes, each a raylet that declares what it is
told to. That is what `ray.cluster_utils.AutoscalingCluster` makes; that class ends every Ray of the machine when it
starts and reads a file that Ray's wheel does not contain, so the same parts are put together here.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

_START_TIMEOUT_S = 120
_STARTS = 4
"""On a busy machine a head may miss Ray's fixed 15 s for its agent, and ends itself."""
_SCALING_HEAD_IP = "127.0.0.2"
"""A driver joins the head where both have one address. The nodes that scale are of this machine's first address: with
another one for the head a driver can join the node on which it runs, as it does where every node is a machine."""
_HEAD_NODE_ID = "f" * 51 + "00000"
"""What the node provider of `fake_multinode` calls its head."""


@dataclass(frozen=True)
class Head:
    """A running head: where its dashboard is and what its clients must have in their environment."""

    url: str
    gcs_address: str
    environment: dict[str, str]
    session_dir: Path


@contextmanager
def local_head(
    *,
    num_cpus: int,
    worker_types: Mapping[str, Any] | None = None,
    idle_timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Head]:
    """Start a head and end it with everything that it started.

    `worker_types` are node types as in `available_node_types` of cluster/aws.yaml; nodes inherit `environment`.

    Raises:
        RuntimeError: no head came up.
    """
    for _ in range(_STARTS):
        head, process = _start(num_cpus, worker_types, idle_timeout_s, environment or {})
        try:
            if _answers(head, process):
                yield head
                if process.poll() is not None:
                    raise RuntimeError(f"the head died while it was used: {_log(head)}")
                return
        finally:
            _end(head, process)
    raise RuntimeError(f"no head came up in {_STARTS} starts")


def _start(
    num_cpus: int,
    worker_types: Mapping[str, Any] | None,
    idle_timeout_s: float,
    environment: Mapping[str, str],
) -> tuple[Head, "subprocess.Popen[bytes]"]:
    scratch = Path(tempfile.mkdtemp(prefix="hh"))  # short: socket paths have a limit
    gcs, dashboard, client, agent, agent_grpc, metrics = _free_ports(6)
    address, own_ip = f"127.0.0.1:{gcs}", _SCALING_HEAD_IP if worker_types else "127.0.0.1"
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.uuid4().hex,
        "RAY_USAGE_STATS_ENABLED": "0",
        # A busy machine is not a dead node.
        "RAY_agent_register_timeout_ms": "180000",
        "RAY_health_check_timeout_ms": "60000",
        "RAY_health_check_failure_threshold": "20",
        **environment,
    }
    command = [
        "ray", "start", "--head", "--block", f"--num-cpus={num_cpus}", "--num-gpus=0", "--include-dashboard=true",
        f"--node-ip-address={own_ip}", "--dashboard-host=127.0.0.1", f"--object-store-memory={200 * 2**20}",
        f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--metrics-export-port={metrics}", f"--temp-dir={scratch}",
    ]  # fmt: skip
    if worker_types is not None:
        config = scratch / "autoscaling.json"
        config.write_text(json.dumps(_autoscaling(worker_types, num_cpus, idle_timeout_s, address)))
        command.append(f"--autoscaling-config={config}")
        variables |= {
            "RAY_enable_autoscaler_v2": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_CLOUD_INSTANCE_ID": _HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": "ray.head.default",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
    with (scratch / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=variables, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    return Head(f"http://127.0.0.1:{dashboard}", address, variables, scratch), process


def _autoscaling(worker_types: Mapping[str, Any], num_cpus: int, idle_timeout_s: float, address: str) -> dict[str, Any]:
    head = {"resources": {"CPU": num_cpus}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    return {
        "cluster_name": "local",
        "max_workers": sum(kind["max_workers"] for kind in worker_types.values()),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_timeout_s / 60,
        "provider": {
            "type": "external",  # by its own name it would look for that missing file
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,  # the nodes share one address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": _HEAD_NODE_ID,
            "gcs_address": address,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, **worker_types},
    }


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
        for each in left:  # worker nodes belong to the autoscaler, which is gone
            each.kill()
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
