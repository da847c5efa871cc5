"""A trainer over the artifacts of a run directory, in this process: what trials and comparisons train with."""

import functools
from collections.abc import Callable

import torch

from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.config import TrainConfig
from hnlm_ray.recommend.fitting import build_trainer
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import load_llm_negatives
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
    llm = load_llm_negatives(artifacts, interactions, config, seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return build_trainer(interactions, config, seed, llm, device=device, checkpoint=checkpoint, on_epoch=on_epoch)


@functools.lru_cache(maxsize=1)
def interactions_of(uri: str) -> Interactions:
    """The data set, once per process: one process trains many times."""
    return Interactions.load(Folder(uri))
