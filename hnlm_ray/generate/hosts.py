"""Where engines run: host processes (Ray actors) and the dispatcher that starts, feeds and replaces them.

A host has imported vLLM once and holds the engines of any number of models; a second model on a CPU host costs a
second instead of twenty. The dispatcher is the one place that knows which hosts are alive: it hands every call to the
least busy one, starts more while work waits, and turns a death into `EngineDied` for exactly the calls that it cost.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from hnlm_ray.generate.protocol import Counters, Engine, EngineDied, EngineSpec, EngineUnavailable
from hnlm_ray.runtime import SPIN_COUNT
from hnlm_ray.store import Folder

_MAX_THREADS = 64  # Ray starts them all at once


@dataclass(frozen=True)
class HostPlan:
    """What hosts the dispatcher may start, and for how long it waits."""

    replicas: tuple[int, int]
    options: dict[str, Any]
    """Ray actor options: num_cpus, num_gpus, memory, accelerator_type."""
    imports_vllm: bool
    start_timeout_s: float
    unit_timeout_s: float
    max_deaths: int
    """Deaths without a finished call between them, after which no more hosts are started."""
    idle_timeout_s: float
    """Hosts that had nothing to do for so long end; the next call starts them again."""


def build_engine(spec: EngineSpec) -> Engine:
    """Load the model of `spec` in this process; one at a URI is copied to this machine first."""
    spec = replace(spec, model=_on_this_machine(spec.model), tokenizer=_on_this_machine(spec.tokenizer))
    if spec.role == "http":
        from hnlm_ray.generate.http_engine import HTTPEngine

        return HTTPEngine(spec)
    from hnlm_ray.generate.vllm_engine import VLLMEngine

    return VLLMEngine(spec)


def _on_this_machine(model: str) -> str:
    return str(Folder(model).local()) if "://" in model else model


class EngineHost:
    """One process with engines in it; an actor of the dispatcher."""

    def __init__(self, plan: HostPlan, build: Callable[[EngineSpec], Engine] = build_engine) -> None:
        self._build = build
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()
        # Ray has set OMP_NUM_THREADS to 1; each engine sets its own number.
        os.environ |= {"OMP_NUM_THREADS": str(os.cpu_count() or 1), "GOMP_SPINCOUNT": SPIN_COUNT}
        if plan.imports_vllm:
            if not plan.options.get("num_gpus"):
                os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # each process would import everything again
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
            from hnlm_ray.generate.vllm_engine import import_vllm

            import_vllm()

    def ready(self) -> str:
        """The node that the host runs on; returns when everything is imported."""
        return ray.get_runtime_context().get_node_id()

    def load(self, spec: EngineSpec) -> None:
        """Load a model unless it is here already."""
        with self._loading:
            if spec.key not in self._engines:
                self._engines[spec.key] = self._build(spec)

    @ray.method(num_returns=2)
    def call(self, key: str, method: str, argument: Any) -> tuple[None, Any]:
        """`generate` or `embed` on one engine. The first return value only says that the second is there."""
        try:
            return None, getattr(self._engines[key], method)(argument)
        except EngineDied:
            os._exit(1)  # nothing in this process can be trusted any more; the dispatcher sees a death

    def counters(self, key: str) -> Counters:
        """What the engine has done so far."""
        return self._engines[key].counters if key in self._engines else Counters()


@dataclass
class _Host:
    handle: Any
    starting: asyncio.Task[None] | None = None
    ready: bool = False
    reserved: bool = False
    """Kept for one caller that wants to be alone."""
    in_flight: int = 0
    models: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    counters: dict[str, Counters] = field(default_factory=dict)


class Dispatcher:
    """Hands calls to hosts. One asynchronous actor without CPUs, on the driver's node."""

    def __init__(self, plan: HostPlan, build: Callable[[EngineSpec], Engine] = build_engine) -> None:
        self._plan = plan
        self._build = build
        self._hosts: list[_Host] = []
        self._changed = asyncio.Condition()
        self._waiting = 0
        self._deaths = 0
        self._failure: str = ""
        self._last_used = time.monotonic()
        self._past: dict[str, Counters] = {}
        self._num_started = 0
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to start the hosts that are missing; returns at once.

        The fewest that the plan allows, and one for every waiting or running call that has none to itself.
        """
        self._last_used = time.monotonic()
        self._watch = self._watch or asyncio.create_task(self._end_idle_hosts())
        fewest, most = self._plan.replicas
        busy = self._waiting + sum(host.in_flight for host in self._hosts)
        while len(self._hosts) < max(fewest, min(most, busy)):
            self._add_host()

    async def call(self, spec: EngineSpec, method: str, argument: Any, alone: bool = False) -> list[Any]:
        """Run `method(argument)` on the engine of `spec`; returns [reference to the result].

        With `alone`, no other call shares the host, so that its death can be laid to this one.
        """
        host = await self._take(alone)
        try:
            await self._load(host, spec)
            done, result = host.handle.call.remote(spec.key, method, argument)
            await asyncio.wait_for(done, self._plan.unit_timeout_s)
        except (RayActorError, TimeoutError) as error:
            self._lose(host, error)
            raise EngineDied(_in_words(error, self._plan)) from None
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        finally:
            await self._give_back(host, alone)
        self._deaths = 0
        return [result]

    async def prepare(self, spec: EngineSpec) -> None:
        """Wait until one host holds the model."""
        host = await self._take(alone=False)
        try:
            await self._load(host, spec)
        except RayActorError as error:
            self._lose(host, error)
            raise EngineDied(_in_words(error, self._plan)) from None
        finally:
            await self._give_back(host, alone=False)

    async def counters(self, key: str) -> Counters:
        """Rows and tokens of all hosts, those that ended included."""
        total = self._past.get(key, Counters())
        for host in [host for host in self._hosts if key in host.models]:
            with suppress(RayActorError, TimeoutError):  # a death is noticed, and counted, by the calls in it
                host.counters[key] = await asyncio.wait_for(host.handle.counters.remote(key), 10)
            total += host.counters.get(key, Counters())
        return total

    async def state(self) -> dict[str, Any]:
        """For people and tests: hosts by state, how often one was started, how many calls each has in hand."""
        ready = [host for host in self._hosts if host.ready]
        in_flight = [host.in_flight for host in ready]
        return {"ready": len(ready), "hosts": len(self._hosts), "started": self._num_started, "in_flight": in_flight}

    async def close(self) -> None:
        """End all hosts."""
        for host in list(self._hosts):
            self._drop(host)

    async def _take(self, alone: bool) -> _Host:
        """A ready host: the least busy one; with `alone`, one that has nothing else to do until it is given back."""
        deadline = time.monotonic() + self._plan.start_timeout_s
        self._waiting += 1
        try:
            async with self._changed:
                while True:
                    if self._failure:
                        raise EngineUnavailable(self._failure)
                    await self.start()
                    free = [host for host in self._hosts if host.ready and not host.reserved]
                    if not free:
                        if any(host.ready for host in self._hosts):  # somebody is alone on it, for a limited time
                            deadline = time.monotonic() + self._plan.start_timeout_s
                        await self._wait_until(deadline)
                        continue
                    host = min(free, key=lambda candidate: candidate.in_flight)
                    host.in_flight += 1
                    host.reserved = alone
                    while alone and host.in_flight > 1:
                        await self._changed.wait()  # running calls end by themselves, by unit_timeout_s at the latest
                    if host in self._hosts:
                        return host
                    host.in_flight -= 1  # it died of what ran before
        finally:
            self._waiting -= 1

    async def _wait_until(self, deadline: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            self._failure = self._no_place()
            raise EngineUnavailable(self._failure) from None

    async def _give_back(self, host: _Host, alone: bool) -> None:
        self._last_used = time.monotonic()
        async with self._changed:
            host.in_flight -= 1
            if alone:
                host.reserved = False
            self._changed.notify_all()

    def _add_host(self) -> None:
        # `call` waits for its engine in a thread of its own, and the engine's rows limit themselves
        options = {**self._plan.options, "max_concurrency": _MAX_THREADS, "max_restarts": 0}
        host = _Host(ray.remote(EngineHost).options(**options).remote(self._plan, self._build))
        host.starting = asyncio.create_task(self._await_ready(host))
        self._num_started += 1
        self._hosts.append(host)

    async def _await_ready(self, host: _Host) -> None:
        try:
            await host.handle.ready.remote()
            host.ready = True
        except RayActorError as error:
            self._lose(host, error)
        async with self._changed:
            self._changed.notify_all()

    async def _load(self, host: _Host, spec: EngineSpec) -> None:
        if spec.key not in host.models:
            host.models[spec.key] = asyncio.ensure_future(_awaited(host.handle.load.remote(spec)))
        try:
            await asyncio.wait_for(asyncio.shield(host.models[spec.key]), self._plan.start_timeout_s)
        except TimeoutError:
            raise EngineUnavailable(
                f"{spec.model} was not loaded within {self._plan.start_timeout_s:g} s (llm.start_timeout_s)"
            ) from None

    def _lose(self, host: _Host, error: BaseException) -> None:
        """Take a dead (or hung) host off the list; the next call starts another."""
        if host not in self._hosts:
            return
        self._drop(host)
        self._deaths += 1
        if isinstance(error, RayActorError) and error.actor_init_failed:
            self._failure = f"an engine process cannot start: {str(error).strip().splitlines()[-1]}"
        elif self._deaths > self._plan.max_deaths:
            self._failure = (
                f"engines died {self._deaths} times without a finished unit of work between; "
                f"the last time: {_in_words(error, self._plan)}"
            )

    def _drop(self, host: _Host) -> None:
        self._hosts.remove(host)
        host.ready = False
        for key, counters in host.counters.items():
            self._past[key] = self._past.get(key, Counters()) + counters
        ray.kill(host.handle)

    async def _end_idle_hosts(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._plan.idle_timeout_s))
            busy = self._waiting or any(host.in_flight for host in self._hosts)
            if not busy and time.monotonic() - self._last_used > self._plan.idle_timeout_s:
                await self.close()

    def _no_place(self) -> str:
        asked = {name: value for name, value in self._plan.options.items() if value}
        total = {name: round(value, 2) for name, value in ray.cluster_resources().items() if ":" not in name}
        free = {name: round(value, 2) for name, value in ray.available_resources().items() if ":" not in name}
        return (
            f"no engine was ready within {self._plan.start_timeout_s:g} s (llm.start_timeout_s); each asks for "
            f"{asked}, the cluster has {total}, free now {free}; {len(self._hosts)} asked for"
        )


async def _awaited(reference: Any) -> None:
    await reference


def _in_words(error: BaseException, plan: HostPlan) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {plan.unit_timeout_s:g} s (llm.unit_timeout_s); the engine was ended"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
