"""Time and price of a run for 10^6, 10^8 and 10^9 users, derived from measured costs per row. Pure arithmetic.

What was measured on CPUs is measured (`PerRow`, with the command that gives it); the speed of a GPU is an assumption
(`Assumed`), since no GPU was at hand; prices are those of `llm.price` and of the table in cluster/README.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hnlm_ray.generate.config import PriceConfig

USERS = (10**6, 10**8, 10**9)


@dataclass(frozen=True)
class PerRow:
    """Processor time of everything around the models, microseconds of one core per row."""

    interaction_us: float
    """`hnlm bench scale`: ingest."""
    prompt_us: float
    """`hnlm bench scale`: profile and negative with engines that cost nothing, grounding included."""
    pair_us: float
    """`hnlm bench scale`: embed, likewise."""
    train_pair_us: float = 250.0
    """`hnlm bench train`: one pair in one epoch of LightGCN at 10^7 pairs, one thread."""


@dataclass(frozen=True)
class Shop:
    """What one user brings, as `configs/xrec_amazon_small.yaml` has it or its defaults ask for it."""

    interactions: int = 50
    items: float = 0.05
    negatives: int = 4
    """`negative.max_pairs_per_user`"""
    embedded_pairs: int = 20
    """`embed.max_pairs_per_user`"""
    epochs: int = 20
    tokens_per_item_profile: int = 140
    """Prompt and answer; these four as measured by `hnlm run configs/xrec_amazon_small.yaml`."""
    tokens_per_user_profile: int = 472
    tokens_per_negative: int = 164
    tokens_per_pair: int = 76
    dim: int = 64


@dataclass(frozen=True)
class Assumed:
    """Not measured: put your own here, or `llm.price.tokens_per_s` into the config."""

    generator_tokens_per_s: float = 2_500.0
    """An 8B model on one A10G, prompts and answers together."""
    encoder_tokens_per_s: float = 200_000.0
    """MiniLM on one A10G."""
    gpus: int = 64
    cores: int = 256
    cpu_hour: float = 0.81 / 16
    """One core of an m7i.4xlarge."""


class Estimate(NamedTuple):
    """One line of the table."""

    users: int
    core_hours: float
    """Ingest, LLM stages and embed, without the training."""
    gpu_hours: float
    hours: float
    """On `Assumed.gpus` and `Assumed.cores`: the slower of the two, since they work at the same time."""
    price: float
    epoch_hours: float
    """One epoch of the recommender on one core for all pairs."""
    trainer_gb: float
    """Memory of one training worker: pairs twice (graph and sampler), tables with gradient and both moments."""


def estimate(users: int, costs: PerRow, shop: Shop | None = None, assumed: Assumed | None = None) -> Estimate:
    """What `users` users cost."""
    shop, assumed = shop or Shop(), assumed or Assumed()
    pairs, items = users * shop.interactions, users * shop.items
    prompts = users + items + users * shop.negatives
    core_us = pairs * costs.interaction_us + prompts * costs.prompt_us + users * shop.embedded_pairs * costs.pair_us
    generated: float = users * (shop.tokens_per_user_profile + shop.negatives * shop.tokens_per_negative)
    generated += items * shop.tokens_per_item_profile
    embedded = users * shop.embedded_pairs * shop.tokens_per_pair
    core_hours = core_us / 3.6e9
    gpu_hours = (generated / assumed.generator_tokens_per_s + embedded / assumed.encoder_tokens_per_s) / 3600
    return Estimate(
        users=users,
        core_hours=core_hours,
        gpu_hours=gpu_hours,
        hours=max(core_hours / assumed.cores, gpu_hours / assumed.gpus),
        price=core_hours * assumed.cpu_hour + gpu_hours * PriceConfig().per_hour["A10G"],
        epoch_hours=pairs * costs.train_pair_us / 3.6e9,
        trainer_gb=(2 * pairs * 8 + (users + items) * shop.dim * 4 * 4) / 1e9,
    )


def table(costs: PerRow) -> list[str]:
    """The estimates as a Markdown table."""
    assumed = Assumed()
    heads = (
        "users",
        "core-hours around the models",
        "GPU-hours (A10G)",
        f"hours on {assumed.gpus} GPUs and {assumed.cores} cores",
        "US dollars",
        "hours of one epoch on one core",
        "GB of a training worker",
    )
    lines = ["| " + " | ".join(heads) + " |", "|" + " ---: |" * len(heads)]
    return lines + [_line(estimate(users, costs)) for users in USERS]


def _line(row: Estimate) -> str:
    numbers: Sequence[float] = row[1:]
    return f"| 10^{len(str(row.users)) - 1} | " + " | ".join(_short(value) for value in numbers) + " |"


def _short(value: float) -> str:
    """Two digits: more would claim more than is known."""
    return f"{float(f'{value:.2g}'):,.{0 if value >= 10 else 1}f}"
