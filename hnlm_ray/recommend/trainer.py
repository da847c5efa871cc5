"""The training loop: the same for every model, bare or under DeepSpeed, on one rank or several.

Legend: P training pairs, B pairs of a step over all ranks.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from hnlm_ray.memory import keep_freed_memory
from hnlm_ray.recommend.checkpoint import Checkpoint, Saved, TrainState
from hnlm_ray.recommend.compiled import use_torch_threads
from hnlm_ray.recommend.config import FitConfig
from hnlm_ray.recommend.engine import Engine
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.metrics import metric_names
from hnlm_ray.recommend.objective import Objective
from hnlm_ray.recommend.pool import PoolDraw
from hnlm_ray.recommend.ranking import EmbeddingScorer, evaluate
from hnlm_ray.recommend.samplers.base import Batch

_STEPS_BETWEEN_CLOCKS = 50
"""Ranks agree on the clock this often; in between a checkpoint cannot be due."""
_USERS_PER_BLOCK = 256


class Refresh(Protocol):
    """Chooses negatives anew by a model's embeddings, [U, D] and [I, D]."""

    def __call__(self, user_emb: np.ndarray, item_emb: np.ndarray) -> None: ...


class NonFiniteLossError(ArithmeticError):
    """The loss is NaN or infinite; the last checkpoint stands."""


@dataclass
class Trainer:
    """Trains one objective until the epochs are over or validation stops gaining."""

    objective: Objective
    engine: Engine
    interactions: Interactions
    config: FitConfig
    seed: int
    checkpoint: Checkpoint | None = None
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, metrics: None
    """Called on every rank after each epoch"""
    refresh: Refresh | None = None
    """Called every `refresh_every` epochs"""
    refresh_every: int = 0
    pool_draw: PoolDraw | None = None
    """The pool of `grounded` and `hybrid`, where there is one"""
    state: TrainState = field(default_factory=TrainState)
    best: dict[str, np.ndarray] = field(default_factory=dict)
    """Tensors of the best validation"""
    refreshed: dict[str, np.ndarray] = field(default_factory=dict)
    """What `refresh` was last called with: a resumed run calls it again"""

    def __post_init__(self) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        counts = self.interactions.train.counts[self.interactions.user_ids]
        self.pair_ids = np.flatnonzero(counts < self.interactions.num_items)
        """Pairs that can be trained: a user who has every item has no negative."""
        self.validates = bool(self.interactions.valid.counts.any())
        self._epoch_began = time.perf_counter()
        use_torch_threads()
        keep_freed_memory()

    def fit(self) -> dict[str, np.ndarray]:
        """Train from where the checkpoint stands; returns the tensors of the best epoch (see `tensors`).

        Raises:
            NonFiniteLossError: a loss is not finite; nothing of that step was applied.
        """
        self._resume()
        saved_at = time.monotonic()
        while self.state.epoch < self.config.epochs and not self._stopped():
            self._epoch_began = time.perf_counter() - self.state.epoch_s
            self.objective.sampling_s = self.state.sampling_s
            self._refresh_if_due()
            for batch in self.batches():
                self.step(batch)
                if self.state.step % _STEPS_BETWEEN_CLOCKS == 0:
                    saved_at = self._save_if_due(saved_at)
            metrics = self._finish_epoch()
            saved_at = self._save_if_due(saved_at)
            self.on_epoch(self.state.epoch, metrics)
        self._save()
        return self.best or self.tensors()

    def tensors(self) -> dict[str, np.ndarray]:
        """Final embeddings `user_emb`, `item_emb`, and the alignment's weights."""
        emb = self.objective.backbone.all().float().cpu().numpy()
        num_users = self.interactions.num_users
        tensors = {"user_emb": emb[:num_users].copy(), "item_emb": emb[num_users:].copy()}
        if self.objective.alignment is not None:
            weights = self.objective.alignment.state_dict().items()
            tensors |= {f"alignment.{name}": weight.float().cpu().numpy().copy() for name, weight in weights}
        return tensors

    def batches(self) -> Iterator[Batch]:
        """This rank's part of every step of the epoch that is not done yet, in an order given by (seed, epoch)."""
        epoch = self.state.epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(self.pair_ids)
        size = self.config.batch_size
        for step in range(self.state.step, math.ceil(len(order) / size)):
            whole = order[step * size : (step + 1) * size]
            own = np.array_split(whole, self.world_size)[self.rank]
            yield Batch(own, self.interactions.user_ids[own], self.interactions.item_ids[own], epoch, step, len(whole))

    def step(self, batch: Batch) -> None:
        """One optimizer step."""
        loss = self.engine(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"loss is {value} at epoch {batch.epoch + 1}, step {batch.step + 1}: the checkpoint before it is kept; "
                f"lower lr={self.config.lr:g} or check the embeddings"
            )
        self.engine.backward(loss)
        self.engine.step()
        self.state.step += 1
        self.state.num_steps += 1
        self.state.loss_sum += value * batch.global_size / self.world_size

    def _finish_epoch(self) -> dict[str, float]:
        state, seconds = self.state, time.perf_counter() - self._epoch_began
        loss = float(self._sum_over_ranks(np.array([state.loss_sum]))[0]) / max(1, len(self.pair_ids))
        entry: dict[str, Any] = {"epoch": state.epoch + 1, "loss": loss, "seconds": seconds}
        entry["sampling_s"] = self.objective.sampling_s
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        state.epoch_s = state.sampling_s = 0.0
        shown = {"loss": loss}
        if self.validates and (state.epoch % self.config.eval_every == 0 or state.epoch == self.config.epochs):
            entry["valid"] = self._validate()
            metric = entry["valid"][self.config.monitor]
            shown[self.config.monitor] = metric
            if metric > state.best_metric:
                state.best_metric, state.best_epoch, state.validations_without_gain = metric, state.epoch, 0
                self.best = self.tensors()
            else:
                state.validations_without_gain += 1
        state.history.append(entry)
        return shown

    def _validate(self) -> dict[str, float]:
        """Metrics at the k of `monitor`, training items masked; ranks share the users."""
        ks = (int(self.config.monitor.partition("@")[2]),)
        emb = self.objective.backbone.all()
        num_users = self.interactions.num_users
        users = np.arange(num_users)[self.rank :: self.world_size]
        result = evaluate(
            EmbeddingScorer(emb[:num_users], emb[num_users:]),
            self.interactions.train,
            self.interactions.valid,
            ks,
            _USERS_PER_BLOCK,
            users,
        )
        sums = self._sum_over_ranks(np.append(result.values.sum(0), len(result.values)))
        return dict(zip(metric_names(ks), (sums[:-1] / sums[-1]).tolist(), strict=True))

    def _stopped(self) -> bool:
        return self.state.validations_without_gain >= self.config.patience

    def _refresh_if_due(self) -> None:
        """Before the first step of every `refresh_every`-th epoch; within one it has been done."""
        state, every = self.state, self.refresh_every
        if self.refresh and every and state.epoch and state.epoch % every == 0 and state.step == 0:
            tensors = self.tensors()
            self.refreshed = {name: tensors[name] for name in ("user_emb", "item_emb")}
            self.refresh(**self.refreshed)

    def _sum_over_ranks(self, values: np.ndarray) -> np.ndarray:
        if self.world_size == 1:
            return values
        tensor = torch.from_numpy(values.astype(np.float64)).to(self.objective.backbone.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def _save_if_due(self, saved_at: float) -> float:
        """Rank 0's clock decides for all, since gathering the state is collective."""
        if self.checkpoint is None:
            return saved_at
        due = np.array([self.rank == 0 and time.monotonic() - saved_at >= self.config.checkpoint_every_s], float)
        if not self._sum_over_ranks(due)[0]:
            return saved_at
        self._save()
        return time.monotonic()

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        tensors = self.engine.state()
        if self.state.step:
            self.state.epoch_s = time.perf_counter() - self._epoch_began
            self.state.sampling_s = self.objective.sampling_s
        loss_sum = float(self._sum_over_ranks(np.array([self.state.loss_sum]))[0])
        if self.rank == 0:
            self.checkpoint.save(Saved(replace(self.state, loss_sum=loss_sum), tensors, self.best, self.refreshed))

    def _resume(self) -> None:
        if self.checkpoint is None or (saved := self.checkpoint.load()) is None:
            return
        self.state, self.best, self.refreshed = saved.state, saved.best, saved.refreshed
        self.engine.load_state(saved.engine, self.state.num_steps)
        if self.refresh and self.refreshed:
            self.refresh(**self.refreshed)
        if self.rank > 0:
            self.state.loss_sum = 0.0  # rank 0 carries what all ranks had summed
