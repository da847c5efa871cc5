"""The real engine, which also tells what it was started with."""

import queue
from typing import Any

from hnlm_ray.generate import vllm_engine
from hnlm_ray.generate.protocol import EngineSpec


class ProbedEngine(vllm_engine.VLLMEngine):
    """Calls of its probes come through the dispatcher, as all others do."""

    def probe_threads(self, _: None) -> int:
        """Compute threads of the thread that steps the engine."""
        import torch

        answer: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._inbox.put(lambda: answer.put(torch.get_num_threads()))
        return answer.get(timeout=30)

    def probe_arguments(self, spec: EngineSpec) -> dict[str, Any]:
        """Those arguments of vLLM's engine for `spec` that are plain values."""
        arguments = vars(vllm_engine._engine_args(spec))
        return {name: value for name, value in arguments.items() if isinstance(value, str | int | float | None)}


def make_probed_engine(spec: EngineSpec) -> ProbedEngine:
    return ProbedEngine(spec)
