"""From config and data to a trained recommender: puts backbone, sampler, pool, alignment and trainer together."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.alignment import build_alignment
from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.config import FitConfig, HnlmConfig, TrainConfig
from hnlm_ray.recommend.engine import BareEngine, Engine
from hnlm_ray.recommend.graded import FalseNegatives
from hnlm_ray.recommend.guard import Guard
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.models import ModelArgs, build_model
from hnlm_ray.recommend.objective import AlignedMix, Objective
from hnlm_ray.recommend.pair_vectors import PairVectors
from hnlm_ray.recommend.pool import (
    GroundedSampler,
    HybridProposal,
    Pool,
    PoolDraw,
    in_window,
    popularity_matched_pool,
    random_pool,
)
from hnlm_ray.recommend.samplers import Sampler, build_sampler
from hnlm_ray.recommend.samplers.base import NegativeSampler
from hnlm_ray.recommend.text_vectors import TextVectors
from hnlm_ray.recommend.trainer import Refresh, Trainer


@dataclass(frozen=True)
class LlmNegatives:
    """What the LLM stages made, as the trainer takes it."""

    vectors: PairVectors | None = None
    """For `aligned`"""
    pool: Pool | None = None
    """For `grounded` and `hybrid`, before windows and controls"""
    guard: Guard | None = None
    """For `guarded`"""
    false_negatives: FalseNegatives | None = None
    """For `graded`, chosen already"""
    user_emb: np.ndarray | None = None
    """float32 [U, D'] of the warm-up signal: whose scores make the windows"""
    item_emb: np.ndarray | None = None
    """float32 [I, D']"""


def build_trainer(
    interactions: Interactions,
    config: FitConfig,
    seed: int,
    llm: LlmNegatives | None = None,
    text: TextVectors | None = None,
    engine: Callable[[Objective], Engine] | None = None,
    device: torch.device | str = "cpu",
    world_size: int = 1,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Trainer:
    """A trainer ready to `fit`. `engine` wraps the objective (default: bare torch); `llm` serves `config.hnlm`,
    `text` the models that read it.

    Raises:
        UserError: the config asks for a combination that does not exist.
    """
    hnlm = config.hnlm if isinstance(config, TrainConfig) and config.hnlm.variant != "none" else None
    user_items = interactions.train
    options = config.ssl.model_dump() | (config.rival.model_dump() if isinstance(config, TrainConfig) else {})
    backbone = build_model(config.model, ModelArgs(user_items, config.dim, config.num_layers, seed, options, text))
    mixes_layers = config.sampler.kind == "mixgcf"
    if mixes_layers and not backbone.has_layers:
        raise UserError(f"sampler.kind='mixgcf' mixes graph layers, which model={config.model!r} has not: use lightgcn")
    base = build_sampler(config.sampler, user_items, seed)
    sampler: NegativeSampler = base
    aligned = alignment = pool_draw = false_negatives = None
    refresh: Refresh | None = None
    if hnlm is not None:
        if llm is None:
            raise UserError(
                f"hnlm.variant={hnlm.variant!r} needs negatives of the LLM stages: give `llm`, or set hnlm.variant=none"
            )
        if hnlm.variant == "aligned":
            assert llm.vectors is not None
            aligned = AlignedMix(llm.vectors, hnlm)
            alignment = build_alignment(hnlm, llm.vectors.dim, backbone.final_dim, seed)
        elif hnlm.variant == "guarded":
            sampler = replace(base, guard=llm.guard)
        elif hnlm.variant == "graded":
            assert llm.false_negatives is not None
            false_negatives, refresh = llm.false_negatives, llm.false_negatives.choose_by_model
        else:
            sampler, pool_draw, refresh = _with_pool(base, hnlm, llm, interactions, seed)
    objective = Objective(
        backbone,
        sampler,
        config.loss,
        config.reg,
        user_items,
        seed,
        aligned,
        alignment,
        mixes_layers,
        world_size,
        false_negatives,
    )
    objective.to(device)
    if engine is None and config.precision != "fp32":
        raise UserError(
            f"precision={config.precision!r} is DeepSpeed's, and this training runs without: set precision=fp32"
        )
    wrapped = engine(objective) if engine else BareEngine(objective, config.lr)
    trainer = Trainer(objective, wrapped, interactions, config, seed, checkpoint)
    trainer.pool_draw = pool_draw
    trainer.refresh, trainer.refresh_every = refresh, hnlm.refresh_every if hnlm else 0
    trainer.on_epoch = on_epoch or trainer.on_epoch
    return trainer


def _with_pool(
    base: Sampler, hnlm: HnlmConfig, llm: LlmNegatives, interactions: Interactions, seed: int
) -> tuple[NegativeSampler, PoolDraw, Refresh]:
    """The sampler over base candidates and the pool, the pool's draw, and what re-scores its windows."""
    assert llm.pool is not None
    assert llm.user_emb is not None
    assert llm.item_emb is not None
    raw = random_pool(interactions, llm.pool, seed) if hnlm.control == "window-only" else llm.pool

    def windowed(user_emb: np.ndarray, item_emb: np.ndarray) -> Pool:
        pool = in_window(raw, interactions, user_emb, item_emb, hnlm.window)
        return popularity_matched_pool(interactions, pool, seed) if hnlm.control == "popularity-matched" else pool

    draw = PoolDraw(windowed(llm.user_emb, llm.item_emb), hnlm.pool_share, seed)

    def refresh(user_emb: np.ndarray, item_emb: np.ndarray) -> None:
        draw.pool = windowed(user_emb, item_emb)

    if hnlm.variant == "grounded":
        return GroundedSampler(base, draw), draw, refresh
    return replace(base, proposal=HybridProposal(base.proposal, draw)), draw, refresh


def summary_of(trainer: Trainer) -> dict[str, Any]:
    """Counts and metrics of a finished training, for the manifest and the report."""
    state = trainer.state
    aligned = trainer.objective.aligned
    seconds = sum(entry["seconds"] for entry in state.history)
    missing = aligned.vectors.num_missing if aligned else 0
    missing = trainer.pool_draw.pool.num_empty if trainer.pool_draw else missing
    epochs, best = state.epoch, state.best_epoch or state.epoch
    monitored = f"{trainer.config.monitor} {max(0.0, state.best_metric):.4f} on validation"
    return {
        "headline": f"{trainer.interactions.num_pairs} pairs, {epochs} epochs, best {best}: {monitored}",
        "train_pairs": trainer.interactions.num_pairs,
        "pairs_without_any_negative": trainer.interactions.num_pairs - len(trainer.pair_ids),
        "num_missing_negatives": missing,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch or state.epoch,
        "best_valid": max(0.0, state.best_metric),
        "monitor": trainer.config.monitor,
        "final_loss": state.history[-1]["loss"] if state.history else None,
        "seconds_per_epoch": seconds / max(1, len(state.history)),
        "sampling_share": sum(entry["sampling_s"] for entry in state.history) / max(seconds, 1e-9),
    }
