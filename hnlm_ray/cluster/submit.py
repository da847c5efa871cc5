"""`hnlm submit` and `hnlm jobs`: a run as a Ray job, followed from here, stopped or left alone on Ctrl-C."""

import asyncio
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import yaml

import hnlm_ray
from hnlm_ray.cluster.environment import extras_of, runtime_packages
from hnlm_ray.cluster.package import Package, copy_package, look_through
from hnlm_ray.config import RunConfig, load_config
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import check_until
from hnlm_ray.store import refuse_password
from hnlm_ray.tracking import check_trackers

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

OnInterrupt = Literal["detach", "stop"]
INTERRUPTED = 130
_CONFIG_NAME = "hnlm_submitted.yaml"
_OWN_CODE = Path(hnlm_ray.__file__).parent
"""The cluster runs the code that read the config."""
_COMMAND = ("python", "-m", "hnlm_ray.cli", "run", _CONFIG_NAME, "--run-dir")
_UNKNOWN = "status code 404"
"""How Ray's client says that there is no such job."""
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_RECONNECTS = 5
"""Lost connections in a row, without a line of the log between them, after which following gives up."""
_MOST_NAMED = 10
"""Ignored paths that are printed."""
_STOP_TIMEOUT_S = 60.0
_AGENT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class SubmitOptions:
    """How a job is submitted; `hnlm submit --help` explains each."""

    address: str
    run_dir: str
    working_dir: str = "."
    until: str = "report"
    environment: Literal["image", "packages"] = "image"
    entrypoint_cpus: float = 1.0
    """CPUs that the driver reserves. More than 0 keeps it off a head that has none."""
    on_interrupt: OnInterrupt = "detach"
    follow: bool = True


def submit(config_path: str, overrides: Sequence[str], options: SubmitOptions, terminal: TextIO | None = None) -> int:
    """Submit `hnlm run` as a Ray job and follow it; returns the exit code of the run.

    The config is read and resolved here, so that a mistake costs nothing, and travels with the working directory and
    with this installation's own code.

    Raises:
        UserError: the config, the folder, the run directory or the last stage is not usable, or no cluster answers.
    """
    config = load_config(config_path, overrides)
    check_until(options.until)
    _check_run_dir(options.run_dir)
    refuse_password(config.data.path)
    check_trackers(config.runtime, options.run_dir)
    package, own_code = look_through(options.working_dir), look_through(_OWN_CODE)
    client = connect(options.address)
    out = terminal or sys.stdout
    for line in _notes(config, package, own_code, options):
        print(line, file=out)
    with tempfile.TemporaryDirectory(prefix="hnlm-submit-") as folder:
        staged, staged_code = Path(folder) / "job", Path(folder) / _OWN_CODE.name
        staged.mkdir()
        copy_package(package, options.working_dir, staged)
        copy_package(own_code, _OWN_CODE, staged_code)
        (staged / _CONFIG_NAME).write_text(_resolved(config), encoding="utf-8")
        job_id = _submit_when_ready(
            client,
            entrypoint=shlex.join([*_COMMAND, options.run_dir, "--until", options.until]),
            runtime_env=_runtime_env(config, staged, staged_code, options),
            metadata={"name": config.name, "run_dir": options.run_dir},
            entrypoint_num_cpus=options.entrypoint_cpus,
        )
    print(f"submitted {job_id}; run directory {options.run_dir}", file=out, flush=True)
    if not options.follow:
        print(_how_to_follow(job_id, options.address), file=out)
        return 0
    return follow(client, job_id, options.address, options.on_interrupt, out)


def follow(
    client: "JobSubmissionClient", job_id: str, address: str, on_interrupt: OnInterrupt, terminal: TextIO | None = None
) -> int:
    """Print a job's log as it grows until the job ends; returns its exit code, or 130 after Ctrl-C.

    Raises:
        UserError: the cluster knows no such job, or is out of reach for longer than a tunnel takes to come back.
    """
    out = terminal or sys.stdout
    try:
        return _exit_code(asyncio.run(_print_log(client, job_id, out)), out)
    except KeyboardInterrupt:
        if on_interrupt == "detach":
            print(f"\ndetached; the job goes on. {_how_to_follow(job_id, address)}", file=out, flush=True)
        else:
            print(f"\nstopping {job_id}", file=out, flush=True)
            print(f"{job_id}: {stop(client, job_id)}; the same command goes on from here", file=out, flush=True)
        return INTERRUPTED
    except ConnectionError as error:
        raise UserError(
            f"{error}; where the cluster stands, the job goes on. {_how_to_follow(job_id, address)}"
        ) from None


def stop(client: "JobSubmissionClient", job_id: str) -> str:
    """Stop a job and wait until it has ended; returns its status.

    Raises:
        UserError: the cluster knows no such job.
    """
    try:
        client.stop_job(job_id)
    except RuntimeError as error:
        if _UNKNOWN in str(error):
            raise _unknown(job_id) from None
        raise
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while (status := client.get_job_status(job_id).value) not in _ENDED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{job_id} is still {status} {_STOP_TIMEOUT_S:g} s after it was told to stop")
        time.sleep(0.2)
    return str(status)


def jobs_table(client: "JobSubmissionClient") -> str:
    """All submitted jobs of a cluster, the newest first."""
    jobs = [job for job in client.list_jobs() if job.submission_id]
    if not jobs:
        return "no jobs"
    jobs.sort(key=lambda job: -(job.start_time or 0))
    lines = [f"{'job':<28} {'status':<10} {'started (UTC)':<17} {'took':>9}  {'run directory'}"]
    return "\n".join(lines + [_job_line(job) for job in jobs])


def connect(address: str) -> "JobSubmissionClient":
    """A client of the Ray dashboard at `address` (http://host:8265).

    Raises:
        UserError: nothing answers there, or it wants a token that this machine does not show.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address!r} is no dashboard URL: write http://HOST:8265 (see cluster/README.md)")
    try:
        client = JobSubmissionClient(address)
        client.list_jobs()
    except ConnectionError as error:
        raise UserError(f"no Ray dashboard answers at {address}: {_one_line(error)}") from None
    except AuthenticationError as error:
        raise UserError(
            f"the cluster at {address} wants its token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or write it to "
            f"~/.ray/auth_token ({_one_line(error)[:100]})"
        ) from None
    return client


def _submit_when_ready(client: "JobSubmissionClient", **job: Any) -> str:
    """Submit a job; a head that has just come up answers before its agent can take one."""
    deadline = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise UserError(
                    f"the cluster took no job in {_AGENT_TIMEOUT_S:g} s: see dashboard_agent.log on its head"
                ) from None
        time.sleep(1.0)


def _check_run_dir(run_dir: str) -> None:
    refuse_password(run_dir)
    if "://" not in run_dir and not Path(run_dir).is_absolute():
        raise UserError(
            f"--run-dir {run_dir!r} would lie in the job's own folder and be lost with it: give s3://..., gs://... or "
            "an absolute path that all nodes share"
        )


def _notes(config: RunConfig, package: Package, own_code: Package, options: SubmitOptions) -> list[str]:
    lines = [
        f"package: {len(package.files)} files, {package.num_bytes / 2**20:.1f} MB; "
        f"with {_OWN_CODE.name} itself: {len(own_code.files)} more"
    ]
    if secrets := [*package.secrets, *(_OWN_CODE.name / name for name in own_code.secrets)]:
        lines.append(f"left out as credentials: {', '.join(map(str, secrets))}")
    if package.ignored:
        more = f" and {len(package.ignored) - _MOST_NAMED} more" if len(package.ignored) > _MOST_NAMED else ""
        names = ", ".join(map(str, package.ignored[:_MOST_NAMED])) + more
        lines.append(f"left out by .gitignore or .rayignore: {names}")
    places = {"data.path": config.data.path, "llm.model": config.llm.model, "encoder.model": config.encoder.model}
    for key, path in places.items():
        if path and Path(path).is_absolute():
            lines.append(f"note: {key} {path} must exist on the cluster's nodes")
    if config.runtime.train_workers == 0:
        lines.append("note: runtime.train_workers=0 trains in the driver; set it to use the cluster")
    if options.environment == "packages":
        lines.append(f"packages: those of hnlm-ray[{','.join(extras_of(config))}], installed once per node")
    return lines


def _resolved(config: RunConfig) -> str:
    """The whole config as YAML; on the cluster it must join the cluster, not start a Ray of its own."""
    values = config.model_dump(mode="json")
    values["runtime"]["address"] = "auto"
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _runtime_env(config: RunConfig, staged: Path, staged_code: Path, options: SubmitOptions) -> dict[str, Any]:
    environment: dict[str, Any] = {"working_dir": str(staged), "py_modules": [str(staged_code)]}
    if options.environment == "packages":
        environment["uv"] = runtime_packages(config)
    return environment


async def _print_log(client: "JobSubmissionClient", job_id: str, out: TextIO) -> "JobDetails":
    """Follow the log through lost connections; each starts from the log's beginning, so what was printed is skipped.

    Returns the job as it ended.
    """
    import aiohttp

    printed, failures = 0, 0
    while True:
        received = 0
        try:
            while client.get_job_status(job_id).value == "PENDING":  # until a node has come up: no end to this wait
                failures = 0
                await asyncio.sleep(0.5)
            async for text in client.tail_job_logs(job_id):
                news = text[max(0, printed - received) :]
                received += len(text)
                if news:
                    failures = 0
                    printed = received
                    print(news, end="", file=out, flush=True)
            job = client.get_job_info(job_id)
            if job.status.value in _ENDED:
                rest = client.get_job_logs(job_id)[printed:]  # a stream that ends with the job may lack its last lines
                print(rest, end="", file=out, flush=True)
                return job
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            if _UNKNOWN in str(error):
                raise _unknown(job_id) from None
            failures += 1
            if failures > _RECONNECTS:
                words = f"the log of {job_id} was lost {failures} times in a row ({_one_line(error)[:200]})"
                raise ConnectionError(words) from None
        await asyncio.sleep(1.0)


def _unknown(job_id: str) -> UserError:
    return UserError(f"the cluster knows no job {job_id!r}: `hnlm jobs` lists those it has")


def _exit_code(job: "JobDetails", out: TextIO) -> int:
    status = job.status.value
    if status == "SUCCEEDED":
        return 0
    print(f"{job.submission_id}: {status}. {_one_line(job.message or '')[:300]}", file=out, flush=True)
    return job.driver_exit_code or 1


def _how_to_follow(job_id: str, address: str) -> str:
    return f"follow it with: hnlm jobs --address {address} --follow {job_id}"


def _job_line(job: "JobDetails") -> str:
    if job.start_time:
        started = datetime.fromtimestamp(job.start_time / 1000, UTC)
        ended = datetime.fromtimestamp(job.end_time / 1000, UTC) if job.end_time else datetime.now(UTC)
        when, took = f"{started:%Y-%m-%d %H:%M}", f"{(ended - started).total_seconds():.0f} s"
    else:
        when, took = "", ""
    run_dir = (job.metadata or {}).get("run_dir", job.entrypoint)
    return f"{job.submission_id:<28} {job.status.value:<10} {when:<17} {took:>9}  {run_dir}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
