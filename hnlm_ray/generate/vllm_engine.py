"""The vLLM engine inside this process: the only file that knows vLLM.

One thread owns the engine and steps it for as long as there is work; callers in other threads hand rows in and wait
for theirs. Rows of several calls share every step, so that the tail of one unit runs beside the head of the next.
"""

import itertools
import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hnlm_ray.generate.chat import ChatTokenizer
from hnlm_ray.generate.prompting import fit
from hnlm_ray.generate.protocol import Completion, Counters, EmbeddingEngine, EngineDied, EngineSpec, GenerateRequest

CPU_BLOCK_TOKENS = 32
"""Tokens per block of the cache on CPUs, the shortest that the kernels take: only whole blocks are shared between
prompts, and vLLM's own 128 are more than what ours share."""


@dataclass
class _Call:
    """One caller's rows on their way through the engine."""

    results: list[Any]
    left: int
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def put(self, row: int, result: Any) -> None:
        self.results[row] = result
        self.left -= 1
        if self.left == 0:
            self.done.set()


def import_vllm() -> None:
    """Pay the import (15-20 s of CPU) ahead of the first model."""
    import vllm.engine.arg_utils
    import vllm.v1.engine.llm_engine  # noqa: F401


class VLLMEngine(EmbeddingEngine):
    """A generator or a pooling encoder, by `spec.role`."""

    def __init__(self, spec: EngineSpec) -> None:
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        if spec.role == "generate":
            template_args, trusted = spec.chat_template_args, spec.trust_remote_code
            self._chat = ChatTokenizer(spec.tokenizer, trust_remote_code=trusted, template_args=template_args)
        self._spec = spec
        # as `vllm.LLM` does, for throughput: the default batch is half as large elsewhere
        self._engine = LLMEngine.from_engine_args(_engine_args(spec), usage_context=UsageContext.LLM_CLASS)
        self.max_model_len: int = self._engine.model_config.max_model_len
        self.counters = Counters()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._open: dict[str, tuple[_Call, int]] = {}
        self._request_ids = itertools.count()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="vllm-step", daemon=True)
        self._thread.start()

    def generate(self, request: GenerateRequest) -> list[Completion]:
        """Answer every prompt, cut to its budget first; blocks until the last answer is there."""
        from vllm.inputs import tokens_input

        fitted = fit(request.drafts, self._chat.encode, request.prompt_budget(self.max_model_len))
        prompts = [tokens_input(row.token_ids) for row in fitted]
        params = [self._sampling(request, row, len(fitted[row].token_ids)) for row in range(len(fitted))]
        outputs = self._submit(prompts, params)
        answers = [None if isinstance(output, str) else output.outputs[0] for output in outputs]
        texts = self._chat.decode([answer.token_ids if answer else () for answer in answers])
        completions = []
        for row, output, answer, text in zip(fitted, outputs, answers, texts, strict=True):
            num_prompt = len(row.token_ids)
            if answer is None:
                completions.append(Completion("", False, num_prompt, 0, 0, row.truncated, error=output))
            else:
                cached, written = output.num_cached_tokens or 0, len(answer.token_ids)
                finished = answer.finish_reason == "stop"
                completions.append(Completion(text, finished, num_prompt, cached, written, row.truncated))
        return completions

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [len(texts), d] float32; a text longer than `spec.max_length` tokens is cut at its end."""
        from vllm.inputs import tokens_input
        from vllm.pooling_params import PoolingParams

        tokenizer = self._engine.get_tokenizer()
        length = min(self._spec.max_length, self.max_model_len)
        ids = tokenizer(list(texts), truncation=True, max_length=length, return_attention_mask=False)["input_ids"]
        prompts = [tokens_input(row) for row in ids]
        outputs = self._submit(prompts, [PoolingParams(task="embed") for _ in prompts])
        for output in outputs:
            if isinstance(output, str):
                raise ValueError(f"the encoder refuses a text: {output}")
        return np.stack([output.outputs.data.float().cpu().numpy() for output in outputs])

    def _sampling(self, request: GenerateRequest, row: int, prompt_tokens: int) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        return SamplingParams(
            temperature=request.temperature,
            seed=request.seeds[row] if request.temperature > 0 else None,
            max_tokens=request.answer_budget(self.max_model_len, prompt_tokens),
            structured_outputs=StructuredOutputsParams(json=request.schema),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _submit(self, prompts: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        """Hand rows to the stepping thread and wait. A result is vLLM's output, or a str: why the row was refused."""
        if not prompts:
            return []
        call = _Call([None] * len(prompts), len(prompts))

        from vllm.exceptions import VLLMClientError

        def add() -> None:
            for row, (prompt, param) in enumerate(zip(prompts, params, strict=True)):
                request_id = str(next(self._request_ids))
                self._open[request_id] = (call, row)
                try:
                    self._engine.add_request(request_id, prompt, param)
                except (
                    ValueError,
                    VLLMClientError,
                ) as error:  # this row only: too long, a schema that cannot be compiled, ...
                    del self._open[request_id]
                    call.put(row, f"refused by the engine: {' '.join(str(error).split())[:300]}")

        self._inbox.put(add)
        while not call.done.wait(timeout=1.0):
            if not self._thread.is_alive():
                raise EngineDied(f"the engine of {self._spec.model} stopped: {self._failure!r}") from self._failure
        return call.results

    def _loop(self) -> None:
        import torch

        try:
            if self._spec.num_threads:
                # For this thread alone: engines side by side differ. vLLM replaces torch.set_num_threads by a warning.
                torch._C.set_num_threads(self._spec.num_threads)
            while True:
                self._take_work()
                for output in self._engine.step():
                    if output.finished:
                        call, row = self._open.pop(output.request_id)
                        self._count(output)
                        call.put(row, output)
        except BaseException as error:
            self._failure = error
            raise

    def _take_work(self) -> None:
        """Move what callers handed in into the engine; sleeps while there is nothing at all."""
        while True:
            idle = not self._open
            try:
                self._inbox.get(block=idle)()
            except queue.Empty:
                return

    def _count(self, output: Any) -> None:
        counters = self.counters
        counters.rows += 1
        counters.prompt_tokens += len(output.prompt_token_ids or ())
        counters.cached_tokens += getattr(output, "num_cached_tokens", 0) or 0
        if self._spec.role == "generate":
            counters.completion_tokens += len(output.outputs[0].token_ids)


def _engine_args(spec: EngineSpec) -> Any:
    """The engine's arguments; on a CPU everything runs in this process, since each process imports vLLM anew."""
    from vllm.config import PoolerConfig
    from vllm.engine.arg_utils import EngineArgs

    values: dict[str, Any] = {
        "model": spec.model,
        "tokenizer": spec.tokenizer,
        "trust_remote_code": spec.trust_remote_code,
        "dtype": "float32" if spec.dtype == "auto" and not spec.gpus else spec.dtype,
        "seed": spec.seed,
        "tensor_parallel_size": spec.tensor_parallel_size,
        "max_num_seqs": spec.max_num_seqs,
        "disable_log_stats": True,
    }
    if spec.max_model_len:
        values["max_model_len"] = spec.max_model_len
    if spec.gpus:
        values["gpu_memory_utilization"] = spec.gpu_memory_utilization
    else:
        cache_bytes = math.ceil(spec.kv_cache_gb * 2**30)  # else vLLM takes a share of all memory
        values |= {"enforce_eager": True, "distributed_executor_backend": "uni", "kv_cache_memory_bytes": cache_bytes}
        if spec.role == "generate":
            values["block_size"] = CPU_BLOCK_TOKENS
    if spec.role == "generate":
        # xgrammar writes `{"key": "value", ...}` with single blanks and nothing else between the tokens
        values["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
        values["enable_prefix_caching"] = True
        values["max_num_batched_tokens"] = spec.max_num_batched_tokens
    else:
        values["runner"] = "pooling"
        values["pooler_config"] = PoolerConfig(seq_pooling_type=spec.pooling.upper())
    return EngineArgs(**(values | spec.engine_args))
