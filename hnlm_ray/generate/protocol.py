"""What travels between the stages and the engines, and what every engine can do. Plain values: no Ray, no vLLM."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from hnlm_ray.generate.prompting import Draft


@dataclass(frozen=True)
class EngineSpec:
    """Which model an engine loads, and how."""

    role: Literal["generate", "embed", "http"]
    model: str
    """Local folder, URI of a folder (copied to the engine's machine), or Hub name."""
    tokenizer: str
    chat_template_args: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    max_model_len: int = 0
    trust_remote_code: bool = False
    seed: int = 0
    pooling: Literal["mean", "last", "cls"] = "mean"
    """Role `embed`: how token states become one vector."""
    max_length: int = 512
    """Role `embed`: tokens per text; the rest is cut."""
    gpus: float = 0.0
    num_threads: int = 0
    """Compute threads on a CPU; 0 = as the process has them."""
    tensor_parallel_size: int = 1
    kv_cache_gb: float = 1.0
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 4096
    engine_args: dict[str, Any] = field(default_factory=dict)
    endpoint: str = ""
    api_key_env: str = ""
    max_concurrency: int = 1
    request_timeout_s: float = 120.0
    max_attempts: int = 6

    @property
    def key(self) -> str:
        """A name for this very engine."""
        values = json.dumps(asdict(self), sort_keys=True)
        return f"{self.role}-{hashlib.sha256(values.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class GenerateRequest:
    """Prompts to answer: one row each, in order."""

    drafts: Sequence[Draft]
    max_prompt_tokens: int
    """Budget of each prompt; 0 = what the model's length leaves beside `reserved_tokens`."""
    max_new_tokens: int
    """Budget of each answer, as far as the model's length leaves it beside the prompt."""
    schema: dict[str, Any]
    """JSON schema that binds the answers."""
    temperature: float = 0.0
    seeds: Sequence[int] = ()
    """One per row; they matter above temperature 0."""
    reserved_tokens: int = 0
    """What every prompt is cut to leave to its answer; 0 = `max_new_tokens`."""

    def prompt_budget(self, max_model_len: int) -> int:
        """Most tokens of a prompt to a model of this length; 0 where answers take all of it."""
        room = max(0, max_model_len - (self.reserved_tokens or self.max_new_tokens))
        return min(room, self.max_prompt_tokens or room)

    def answer_budget(self, max_model_len: int, prompt_tokens: int) -> int:
        """Most tokens of the answer to a prompt that keeps to its own budget; 1 or more."""
        return min(self.max_new_tokens, max_model_len - prompt_tokens)


class Completion(NamedTuple):
    """The answer to one prompt, or why there is none."""

    text: str
    finished: bool
    """Whether the answer came to its own end; False: the token budget cut it."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the prefix cache held already."""
    completion_tokens: int
    truncated: bool
    """Whether the prompt was cut to its budget."""
    error: str = ""


@dataclass
class Counters:
    """What an engine has done since it started."""

    rows: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


class Engine(Protocol):
    """A loaded model. Calls may come from several threads at once; their rows share batches."""

    counters: Counters

    def generate(self, request: GenerateRequest) -> list[Completion]:
        """Answer every prompt; a row that the model refuses has its `error` set."""


class EmbeddingEngine(Engine, Protocol):
    """What role `embed` asks for; an endpoint is none: the encoder is tuned here, so it runs here."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [len(texts), d] float32."""


class EngineDied(RuntimeError):
    """An engine process ended, or hung past its time, with work in it: asking again may well succeed."""


class EngineUnavailable(RuntimeError):
    """Engines cannot be had: they do not start, find no place, or die again and again."""
