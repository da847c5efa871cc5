"""Config of the LLM stages: which model, how it is served, what is asked of it."""

import hashlib
import re
from abc import ABC, abstractmethod
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hnlm_ray.demo.config import StandinConfig
from hnlm_ray.generate.engine_args import check_engine_args, decisive_args
from hnlm_ray.generate.prompting import load_template
from hnlm_ray.settings import Section, operational

_URL = re.compile(r"https?://[^/\s]")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")


class PriceConfig(Section):
    """Prices for the cost estimate; what is 0 costs nothing."""

    per_hour: dict[str, float] = operational(
        {"cpu": 0.0, "T4": 0.35, "L4": 0.75, "A10G": 1.1, "A100": 3.0, "H100": 4.5}
    )
    """Price of one accelerator for one hour, by its Ray name (`llm.accelerator`); `cpu` is a replica without GPU."""
    per_million_prompt_tokens: float = operational(0.0, ge=0)
    """Price of a remote endpoint, per million prompt tokens."""
    per_million_completion_tokens: float = operational(0.0, ge=0)
    """Price of a remote endpoint, per million tokens written."""
    tokens_per_s: float = operational(0.0, ge=0)
    """Tokens (prompt and completion) that one replica handles per second; 0 = measured on the run's first rows."""
    currency: str = operational("USD")
    """Printed behind every price."""


class LLMConfig(Section):
    """The generator: a chat model that writes JSON."""

    model: str = "stand-in"
    """`stand-in` (small model made on the spot), a local Hugging Face folder, or a Hub name such as `Qwen/Qwen3-8B`."""
    standin: StandinConfig = StandinConfig()
    """The small model that `stand-in` means."""
    engine: Literal["vllm", "http", "none"] = "vllm"
    """`vllm`: engines inside Ray actors. `http`: an OpenAI-compatible endpoint that somebody else serves. `none`: no
    generator; profiles are composed from the catalogue and there are no text negatives."""
    tokenizer: str = ""
    """Folder or Hub name of the tokenizer that counts the prompt's tokens; empty = the model's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` = the model's own on GPUs, float32 on CPUs."""
    max_model_len: int = Field(default=0, ge=0)
    """Longest prompt and answer together, in tokens; 0 = what the model was made for."""
    temperature: float = Field(default=0.0, ge=0)
    """0 = greedy: the same prompt gives the same answer."""
    chat_template_args: dict[str, Any] = Field(default={})
    """Arguments of the model's chat template, such as `enable_thinking: false` for Qwen3."""
    seed: int = Field(default=0, ge=0)
    """Seed of sampling; a row's own seed follows from it, the row's id and the attempt."""
    trust_remote_code: str = ""
    """Name of the one model whose own Python code may be executed; must equal `model`, and `tokenizer` may then name no
    other. Empty = none."""

    replicas: tuple[int, int] = operational((1, 1))
    """Fewest and most engines at work."""
    cpus_per_replica: float = operational(0.5, ge=0)
    """CPUs that Ray reserves per engine: less than it uses, so that reading and training still find a place."""
    gpus_per_replica: float = operational(0.0, ge=0)
    """GPUs per engine: 0 = CPU engine; a fraction lets small models share one; else the tensor parallel size."""
    accelerator: str = operational("")
    """Accelerator type as Ray names it (`A10G`, `H100`); empty = any."""
    tensor_parallel_size: int = operational(1, ge=1)
    """GPUs over which one engine splits its weights."""
    memory_gb: float = operational(0.0, ge=0)
    """Main memory that Ray reserves per engine; 0 = not counted."""
    kv_cache_gb: float = operational(1.0, gt=0)
    """Key-value cache of a CPU engine."""
    gpu_memory_utilization: float = operational(0.9, gt=0, le=1)
    """Share of a GPU's memory that one engine takes; lower it where engines share a GPU."""
    num_threads: int = operational(0, ge=0)
    """Threads of a CPU engine; 0 = the cores of its machine."""
    max_num_seqs: int = operational(128, ge=1)
    """Rows that one engine decodes at a time."""
    max_num_batched_tokens: int = operational(4096, ge=64)
    """Tokens that one engine handles per step."""
    engine_args: dict[str, Any] = operational({})
    """More arguments of `vllm.EngineArgs`, passed on as they are (quantization, revision, `enforce_eager` ...). Those
    that may change answers are part of the result all the same."""
    unit_rows: int = operational(256, ge=1)
    """Rows per unit of work: one output shard, and the most that a crash costs."""
    start_timeout_s: float = operational(900.0, gt=0)
    """Longest wait for an engine to start, its place in the cluster included."""
    unit_timeout_s: float = operational(1800.0, gt=0)
    """Longest wait for one unit of work."""
    idle_timeout_s: float = operational(900.0, gt=0)
    """Engines without work end after so long, and give their nodes back; the next call starts them again."""
    max_restarts: int = operational(3, ge=0)
    """Deaths of engines, without a finished unit between them and beyond those that isolating a row costs, after
    which the run stops."""

    endpoint: str = operational("")
    """Base URL of the OpenAI-compatible server (`http://host:8000/v1`), for `engine: http`."""
    api_key_env: str = operational("OPENAI_API_KEY")
    """Name of the environment variable that holds the endpoint's key; unset = no key is sent."""
    max_concurrency: int = operational(64, ge=1)
    """Requests open at a time at the endpoint, over the whole run."""
    request_timeout_s: float = operational(120.0, gt=0)
    """Longest wait for one answer of the endpoint."""
    max_attempts: int = operational(6, ge=1)
    """Tries per request on 429, 5xx and lost connections, with growing pauses between them."""

    price: PriceConfig = operational(PriceConfig())
    """What the run may cost."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.replicas
        if not 1 <= low <= high:
            raise ValueError(f"llm.replicas is [{low}, {high}]; accepted: [min, max] with 1 <= min <= max")
        own = {name: f"llm.{name}" for name in type(self).model_fields}
        check_engine_args("llm", self.engine_args, own | {"hf_token": "the environment variable HF_TOKEN"})
        if self.trust_remote_code not in ("", self.model):
            raise ValueError(
                f"llm.trust_remote_code is {self.trust_remote_code!r}; accepted: empty, or llm.model ({self.model!r})"
            )
        if self.trust_remote_code and self.tokenizer not in ("", self.model):
            raise ValueError(
                f"llm.trust_remote_code trusts {self.trust_remote_code!r} alone, and code of llm.tokenizer "
                f"({self.tokenizer!r}) would run as well; leave one of the two empty"
            )
        if self.engine == "http" and not _URL.match(self.endpoint):
            raise ValueError(
                f"llm.engine is 'http' and llm.endpoint is {self.endpoint!r}; give a base URL such as "
                "http://host:8000/v1"
            )
        if self.api_key_env and not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError(
                "llm.api_key_env is no name of an environment variable (its value is not shown: it may be the key); "
                "export the key, for example as OPENAI_API_KEY, and give that name"
            )
        if self.gpus_per_replica >= 1 and self.gpus_per_replica != self.tensor_parallel_size:
            raise ValueError(
                f"llm.gpus_per_replica is {self.gpus_per_replica}; accepted: a fraction below 1, "
                f"or llm.tensor_parallel_size ({self.tensor_parallel_size})"
            )
        return self

    def result_dict(self) -> dict[str, Any]:
        """The fields that decide the result, with those of `engine_args` that do."""
        return super().result_dict() | decisive_args(self.engine_args)


class _PromptedSection(Section, ABC):
    @abstractmethod
    def _prompts(self) -> dict[str, str]:
        """Field that names a prompt -> kind of prompt."""

    def result_dict(self) -> dict[str, Any]:
        """The fields that decide the result, with the prompts' text: an edited prompt file is another result."""
        values = super().result_dict()
        for field, kind in self._prompts().items():
            text = load_template(getattr(self, field), kind).source
            values[field] = hashlib.sha256(text.encode()).hexdigest()
        return values


class ProfileConfig(_PromptedSection):
    """Profiles of items and users (METHOD.md, section 1)."""

    item_prompt: str = "products"
    """`products`, `books`, `businesses`, or a path to a prompt file."""
    user_prompt: str = "products"
    """`products`, `books`, `businesses`, or a path to a prompt file."""
    use_supplied: bool = False
    """Take an item's ready-made text, where the data has one, as its profile; such items cost no LLM call."""
    max_reviews_per_item: int = Field(default=3, ge=0)
    """Newest training reviews in an item's prompt."""
    max_items_per_user: int = Field(default=12, ge=1)
    """Newest training interactions in a user's prompt; fewer where the tokens do not suffice."""
    max_entry_words: int = Field(default=24, ge=1)
    """Words of each item's profile, and of each review, in a user's prompt."""
    max_prompt_tokens: int = Field(default=0, ge=0)
    """Longest prompt; 0 = what `llm.max_model_len` leaves beside the answer."""
    max_new_tokens: int = Field(default=256, ge=8)
    """Budget of an answer; a row whose answer was cut is asked once more with twice of it, or what is left."""
    max_words: int = Field(default=100, ge=1)
    """Longest summary."""
    max_failed_fraction: float = operational(0.2, ge=0, le=1)
    """The stage fails when a larger share of the rows has no usable answer."""

    def _prompts(self) -> dict[str, str]:
        return {"item_prompt": "item_profile", "user_prompt": "user_profile"}


class NegativeConfig(_PromptedSection):
    """Text negatives and their grounding in the catalogue (METHOD.md, section 2)."""

    prompt: str = "products"
    """`products`, `books`, `businesses`, or a path to a prompt file."""
    pairs: Literal["all", "capped", "hardest"] = "capped"
    """Training pairs to ask for: every one; the newest `max_pairs_per_user` of each user; or, of each user, those whose
    positive the warm-up model scores lowest."""
    max_pairs_per_user: int = Field(default=4, ge=1)
    """Pairs per user under `capped` and `hardest`."""
    max_pairs: int = Field(default=0, ge=0)
    """Most pairs over all; 0 = no limit. Users take turns, so that a limit shortens everybody's list."""
    num_grounded: int = Field(default=20, ge=1)
    """Catalogue items kept per negative, nearest first."""
    ann_above_items: int = Field(default=50_000, ge=1_000)
    """Catalogues of more items are searched by compressed codes (faiss) instead of item by item: faster from here on
    (`hnlm bench grounding`); its recall against the exact search is measured on a sample and stands in the summary."""
    max_prompt_tokens: int = Field(default=0, ge=0)
    """Longest prompt; 0 = what `llm.max_model_len` leaves beside the answer."""
    max_new_tokens: int = Field(default=128, ge=8)
    """Budget of an answer; a row whose answer was cut is asked once more with twice of it, or what is left."""
    max_words: int = Field(default=20, ge=1)
    """Longest name of a hard negative."""
    max_failed_fraction: float = operational(0.5, ge=0, le=1)
    """The stage fails when a larger share of the rows has no usable answer."""

    def _prompts(self) -> dict[str, str]:
        return {"prompt": "hard_negative"}
