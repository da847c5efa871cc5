"""What an LLM task will cost, from its first units; what it did cost, beside it. Pure arithmetic."""

from dataclasses import asdict, dataclass
from typing import Any

from hnlm_ray.generate.config import LLMConfig, PriceConfig


@dataclass(frozen=True)
class Usage:
    """What a part of a task took."""

    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_s: float = 0.0
    """Seconds x engines at work."""

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.rows + other.rows,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.engine_s + other.engine_s,
        )


@dataclass(frozen=True)
class Cost:
    """Tokens, engine-hours, GPU-hours and price of a task, estimated or measured."""

    rows: int
    prompt_tokens: int
    completion_tokens: int
    engine_hours: float
    gpu_hours: float
    price: float
    currency: str

    def as_json(self) -> dict[str, Any]:
        """The cost as plain values."""
        return asdict(self)

    def in_words(self) -> str:
        """One line for people."""
        hours = f"{self.gpu_hours:.3g} GPU-hours" if self.gpu_hours else f"{self.engine_hours:.3g} engine-hours"
        return (
            f"{self.rows:,} rows, {self.prompt_tokens:,} + {self.completion_tokens:,} tokens, {hours}, "
            f"{self.price:.2f} {self.currency}"
        )


def pilot_units(num_units: int, unit_rows: int, max_num_seqs: int) -> list[int]:
    """Numbers of the units that are done first, spread evenly over all: enough rows to fill an engine's batch.

    At most a quarter of the units, at least one.
    """
    wanted = -(-max_num_seqs // max(unit_rows, 1))
    count = max(1, min(wanted, num_units // 4))
    return [number * num_units // count for number in range(count)] if num_units else []


def estimate(pilot: Usage, num_rows: int, llm: LLMConfig) -> Cost:
    """The cost of `num_rows` rows that are as long as those of the pilot.

    Speed is `llm.price.tokens_per_s` where it is set, else the pilot's.
    """
    scale = num_rows / pilot.rows if pilot.rows else 0.0
    speed = llm.price.tokens_per_s
    engine_s = scale * (pilot.tokens / speed if speed else pilot.engine_s)
    return cost_of(
        Usage(num_rows, round(scale * pilot.prompt_tokens), round(scale * pilot.completion_tokens), engine_s), llm
    )


def cost_of(usage: Usage, llm: LLMConfig) -> Cost:
    """Price a usage by the table of the config."""
    engine_hours = usage.engine_s / 3600
    gpu_hours = engine_hours * llm.gpus_per_replica
    return Cost(
        rows=usage.rows,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        engine_hours=round(engine_hours, 6),
        gpu_hours=round(gpu_hours, 6),
        price=round(_price(usage, engine_hours, gpu_hours, llm), 4),
        currency=llm.price.currency,
    )


def deviation(estimated: Cost, measured: Cost) -> dict[str, float]:
    """(estimated - measured) / measured of tokens, engine-hours and price; GPU-hours deviate as engine-hours do."""

    def relative(expected: float, found: float) -> float:
        return round(expected / found - 1, 4) if found else 0.0

    return {
        "tokens": relative(
            estimated.prompt_tokens + estimated.completion_tokens, measured.prompt_tokens + measured.completion_tokens
        ),
        "engine_hours": relative(estimated.engine_hours, measured.engine_hours),
        "price": relative(estimated.price, measured.price),
    }


def _price(usage: Usage, engine_hours: float, gpu_hours: float, llm: LLMConfig) -> float:
    price: PriceConfig = llm.price
    if llm.engine == "http":
        return (
            usage.prompt_tokens * price.per_million_prompt_tokens
            + usage.completion_tokens * price.per_million_completion_tokens
        ) / 1e6
    if llm.gpus_per_replica:
        return gpu_hours * price.per_hour.get(llm.accelerator, 0.0)
    return engine_hours * price.per_hour.get("cpu", 0.0)
