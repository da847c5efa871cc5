"""The engines of one run: asked for by the stages, kept alive across them, so that each model is started once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hnlm_ray.errors import UserError
from hnlm_ray.generate.chat import is_local_folder
from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.hosts import Dispatcher, HostPlan, build_engine
from hnlm_ray.generate.protocol import (
    Completion,
    Counters,
    Engine,
    EngineDied,
    EngineSpec,
    EngineUnavailable,
    GenerateRequest,
)

if TYPE_CHECKING:
    from hnlm_ray.config import RunConfig


@dataclass(frozen=True)
class EngineGroup:
    """One model on any number of engines. Travels to workers; calls block, and may come from many at once."""

    dispatcher: Any
    spec: EngineSpec
    plan: HostPlan

    def generate(self, request: GenerateRequest, *, alone: bool = False) -> list[Completion]:
        """Answer the prompts of one unit, in order, on the least busy engine.

        Raises `EngineDied` when the engine died with the unit in it (with `alone`, of it: nothing else ran there), and
        `EngineUnavailable` when there is no engine to be had.
        """
        completions: list[Completion] = self._call("generate", request, alone)
        return completions

    def embed(self, texts: Sequence[str], *, num_tries: int = 3) -> np.ndarray:
        """Unit vectors [len(texts), d] float32. A dead engine is tried again `num_tries` times in all."""
        for attempt in range(1, num_tries + 1):
            try:
                vectors: np.ndarray = self._call("embed", list(texts), alone=False)
                return vectors
            except EngineDied:
                if attempt == num_tries:
                    raise
        raise AssertionError

    def prepare(self) -> None:
        """Wait until the model is loaded on one engine; a model that cannot be loaded is a `UserError`."""
        with _loading(self.spec.model):
            self._get(self.dispatcher.prepare.remote(self.spec))

    def counters(self) -> Counters:
        """Rows and tokens since the engines of this model were started."""
        counters: Counters = self._get(self.dispatcher.counters.remote(self.spec.key))
        return counters

    def state(self) -> dict[str, Any]:
        """Hosts ready and asked for, and calls in hand."""
        state: dict[str, Any] = self._get(self.dispatcher.state.remote())
        return state

    def _call(self, method: str, argument: Any, alone: bool) -> Any:
        [result] = self._get(self.dispatcher.call.remote(self.spec, method, argument, alone))
        try:
            return ray.get(result, timeout=self.plan.unit_timeout_s)
        except (ray.exceptions.ObjectLostError, ray.exceptions.OwnerDiedError) as error:
            raise EngineDied(f"the node that held the result is gone: {error}") from None

    def _get(self, reference: Any) -> Any:
        # The dispatcher keeps its own, more telling, limits; this one only ends a wait for a dispatcher that is gone.
        limit_s = 2 * (self.plan.start_timeout_s + self.plan.unit_timeout_s)
        try:
            return ray.get(reference, timeout=limit_s)
        except RayTaskError as error:
            cause = error.cause
            raise cause from None
        except GetTimeoutError:
            raise EngineUnavailable(
                f"the dispatcher of {self.spec.model} did not answer within {limit_s:g} s"
            ) from None
        except RayActorError as error:
            raise EngineUnavailable(f"the dispatcher of {self.spec.model} is gone: {error}") from None


class EngineManager:
    """Starts engines on first use and ends them with the run."""

    def __init__(self, config: "RunConfig", build: Callable[[EngineSpec], Engine] = build_engine) -> None:
        self._build = build
        self._llm = config.llm
        self._encoder = config.encoder
        self._pools: dict[str, tuple[Any, HostPlan]] = {}

    def preload(self) -> None:
        """Start a CPU host in the background, so that importing vLLM runs beside stages that need no model."""
        if self._llm.engine != "http" and not self._llm.gpus_per_replica:
            dispatcher, _ = self._pool("cpu")
            dispatcher.start.remote()

    def generator(self, model: str) -> EngineGroup:
        """The chat model at `model` (a folder or a Hub name), as `llm` says."""
        llm = self._llm
        _check_model("llm.model", model)
        is_http = llm.engine == "http"
        spec = EngineSpec(
            role="http" if is_http else "generate",
            model=model,
            tokenizer=llm.tokenizer or model,
            chat_template_args=llm.chat_template_args,
            dtype=llm.dtype,
            max_model_len=llm.max_model_len,
            trust_remote_code=bool(llm.trust_remote_code),
            seed=llm.seed,
            gpus=llm.gpus_per_replica,
            num_threads=0 if llm.gpus_per_replica else llm.num_threads,
            tensor_parallel_size=llm.tensor_parallel_size,
            kv_cache_gb=llm.kv_cache_gb,
            gpu_memory_utilization=llm.gpu_memory_utilization,
            max_num_seqs=llm.max_num_seqs,
            max_num_batched_tokens=llm.max_num_batched_tokens,
            engine_args=llm.engine_args,
            endpoint=llm.endpoint,
            api_key_env=llm.api_key_env,
            max_concurrency=llm.max_concurrency,
            request_timeout_s=llm.request_timeout_s,
            max_attempts=llm.max_attempts,
        )
        return self._group("http" if is_http else self._place(spec), spec)

    def encoder(
        self,
        model: str,
        *,
        pooling: Literal["auto", "mean", "last", "cls"] | None = None,
        max_length: int | None = None,
        dtype: str = "auto",
    ) -> EngineGroup:
        """The encoder in the folder `model`; pooling and length as `encoder` says unless given."""
        from hnlm_ray.finetune.encoder import default_pooling  # imports torch

        _check_model("encoder.model", model)
        chosen = pooling or self._encoder.pooling
        if chosen == "auto":
            with _loading(model):
                chosen = default_pooling(model)
        spec = EngineSpec(
            role="embed",
            model=model,
            tokenizer=model,
            dtype=dtype,
            pooling=chosen,
            max_length=max_length or self._encoder.max_length,
            num_threads=self._llm.num_threads,
            gpus=min(1.0, self._llm.gpus_per_replica),
            kv_cache_gb=self._llm.kv_cache_gb,
            gpu_memory_utilization=self._llm.gpu_memory_utilization,
            max_num_seqs=max(self._llm.max_num_seqs, 256),
            engine_args=self._encoder.engine_args,
        )
        return self._group(self._place(spec), spec)

    def release_gpus(self) -> None:
        """End the engines that hold GPUs; the next stage that asks for one starts it again."""
        for place in [place for place in self._pools if place.startswith("gpu")]:
            self._end(place)

    def close(self) -> None:
        """End all engines."""
        for place in list(self._pools):
            self._end(place)

    def _place(self, spec: EngineSpec) -> str:
        """CPU hosts hold every model side by side; a GPU host holds one."""
        return f"gpu-{spec.key}" if spec.gpus else "cpu"

    def _group(self, place: str, spec: EngineSpec) -> EngineGroup:
        if place.startswith("gpu") and place not in self._pools:
            wanted = spec.gpus * self._llm.replicas[0]
            if ray.available_resources().get("GPU", 0.0) < wanted:
                self.release_gpus()
        dispatcher, plan = self._pool(place, spec)
        return EngineGroup(dispatcher, spec, plan)

    def _pool(self, place: str, spec: EngineSpec | None = None) -> tuple[Any, HostPlan]:
        if place not in self._pools:
            plan = host_plan(self._llm, gpus=spec.gpus if spec else 0.0, is_http=place == "http")
            plan = replace(plan, imports_vllm=plan.imports_vllm and self._build is build_engine)
            self._pools[place] = start_dispatcher(plan, self._build), plan
        return self._pools[place]

    def _end(self, place: str) -> None:
        dispatcher, _ = self._pools.pop(place)
        with suppress(RayActorError, GetTimeoutError):  # the hosts die with their dispatcher in any case
            ray.get(dispatcher.close.remote(), timeout=30)
        ray.kill(dispatcher)


def start_dispatcher(plan: HostPlan, build: Callable[[EngineSpec], Engine] = build_engine) -> Any:
    """A dispatcher on the driver's own node, which outlives all others; `build` makes the engines."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
    return ray.remote(Dispatcher).options(**options).remote(plan, build)


def host_plan(llm: LLMConfig, *, gpus: float, is_http: bool) -> HostPlan:
    """The resources of one host: the only place where those of engines are named."""
    options: dict[str, Any] = {"num_cpus": llm.cpus_per_replica}
    if gpus:
        options["num_gpus"] = gpus
        if llm.accelerator:
            options["accelerator_type"] = llm.accelerator
    if llm.memory_gb:
        options["memory"] = int(llm.memory_gb * 1e9)
    return HostPlan(
        replicas=(1, 1) if is_http else llm.replicas,
        options=options,
        imports_vllm=not is_http,
        start_timeout_s=llm.start_timeout_s,
        unit_timeout_s=llm.unit_timeout_s,
        max_deaths=llm.max_restarts + llm.unit_rows.bit_length() + 1,  # isolating one row of a unit costs that many
        idle_timeout_s=llm.idle_timeout_s,
    )


@contextmanager
def _loading(model: str) -> Iterator[None]:
    """A model that cannot be loaded is the user's mistake, in one line."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:
        cause = getattr(error, "cause", error)
        words = " ".join(str(cause).split())[:400]
        raise UserError(f"the model {model!r} cannot be loaded: {words}") from error


def _check_model(key: str, model: str) -> None:
    looks_like_path = model.startswith((".", "/", "~"))
    if looks_like_path and not is_local_folder(model):
        raise UserError(f"{key} {model!r} is no folder; give a Hugging Face model folder or a Hub name")
