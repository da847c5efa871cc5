"""A trainer over the artifacts of a run directory, in this process: what trials and comparisons train with."""

import functools
from collections.abc import Callable
from typing import Literal

import torch

from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.config import HnlmConfig, TrainConfig
from hnlm_ray.recommend.fitting import LlmNegatives, build_trainer
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import load_llm_negatives, load_text
from hnlm_ray.recommend.trainer import Trainer
from hnlm_ray.store import Folder


def trainer_on(
    artifacts: dict[str, str],
    config: TrainConfig,
    seed: int,
    checkpoint: Checkpoint,
    num_threads: int,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Trainer:
    """A trainer ready to `fit`. `artifacts`: name -> URI of what the stages before `train` wrote."""
    torch.set_num_threads(num_threads)
    interactions = interactions_of(artifacts["dataset"])
    llm = _llm_negatives(artifacts, config, seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    text = load_text(artifacts, interactions)
    return build_trainer(interactions, config, seed, llm, text, device=device, checkpoint=checkpoint, on_epoch=on_epoch)


def _llm_negatives(artifacts: dict[str, str], config: TrainConfig, seed: int) -> LlmNegatives | None:
    """What the LLM stages made; pools, which take long and depend on no seed, once per process and size."""
    hnlm = config.hnlm
    if hnlm.variant in ("grounded", "hybrid"):
        return _pool(tuple(sorted(artifacts.items())), hnlm.pool_size, hnlm.pool_source)
    return load_llm_negatives(artifacts, interactions_of(artifacts["dataset"]), config, seed)


@functools.lru_cache(maxsize=2)
def _pool(
    artifacts: tuple[tuple[str, str], ...], size: int, source: Literal["embeddings", "negatives"]
) -> LlmNegatives:
    uris = dict(artifacts)
    config = TrainConfig(hnlm=HnlmConfig(variant="grounded", pool_size=size, pool_source=source))
    found = load_llm_negatives(uris, interactions_of(uris["dataset"]), config, seed=0)
    assert found is not None
    return found


@functools.lru_cache(maxsize=1)
def interactions_of(uri: str) -> Interactions:
    """The data set, once per process: one process trains many times."""
    return Interactions.load(Folder(uri))
