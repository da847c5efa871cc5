"""The fine-tune loop: runs on every Ray Train worker (or in the driver) with DeepSpeed around encoder and optimizer.

What is learnt, from which rows and by which loss, is the objective's.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hnlm_ray.distributed import rank, report, world_size
from hnlm_ray.finetune import checkpoint
from hnlm_ray.finetune.batches import epoch_batches
from hnlm_ray.finetune.checkpoint import TrainState
from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.encoder import (
    encoder_source,
    fast_dtype,
    load_tokenizer,
    make_encoder,
)
from hnlm_ray.finetune.export import NUM_PARITY_ROWS, write_models
from hnlm_ray.finetune.gradcache import cached_loss
from hnlm_ray.finetune.objective import Objective
from hnlm_ray.finetune.pairs import PairTexts, Sources
from hnlm_ray.finetune.spec import EncoderSpec
from hnlm_ray.finetune.taste_objective import TasteObjective
from hnlm_ray.finetune.triplet_objective import TripletObjective
from hnlm_ray.store import Folder


@dataclass(frozen=True)
class TrainJob:
    """What a worker needs, as plain values and URIs."""

    triplets: str
    out: str
    candidates: str
    """Folder with `candidates.parquet`: texts that a query has to find its item among."""
    sources: dict[str, str]
    """`Sources`: training pairs and item texts, for the loss `taste`."""
    config: dict[str, Any]
    spec: dict[str, Any]
    seed: int


def finetune_loop(job_values: dict[str, Any]) -> None:
    """Train, validate per epoch, write the best models and, last of all, the curve as `history.json`."""
    job = TrainJob(**job_values)
    out = Folder(job.out)
    if out.exists("history.json"):
        return
    trainer = Trainer(job)
    history = trainer.fit()
    if rank() == 0:
        texts = trainer.objective.parity_texts(NUM_PARITY_ROWS)
        proof = write_models(trainer.spec, trainer.config, job.seed, out, texts, trainer.device, trainer.dtype)
        out.write_json("history.json", history | {"adapter": proof})
    if world_size() > 1:
        torch.distributed.barrier()


def learning_rate(step: int, num_steps: int, warmup_fraction: float, peak: float) -> float:
    """Linear warm-up, then a cosine to zero; `step` counts from 0."""
    warmup = math.ceil(warmup_fraction * num_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def deepspeed_config(config: FinetuneConfig, num_ranks: int, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's own settings for a fine-tune.

    In bf16 stage 0 becomes stage 1: the same arithmetic, with fp32 weights that a checkpoint can reach.
    """
    return {
        "train_micro_batch_size_per_gpu": config.batch_size // num_ranks,
        "gradient_accumulation_steps": 1,  # chunks of a batch share one loss: the boundary is set by hand
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": bf16},
        "zero_optimization": {"stage": max(config.zero_stage, int(bf16))},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 30,
    }


class Trainer:
    """One rank of a fine-tune."""

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        self.config = FinetuneConfig.model_validate(job.config)
        self.spec = EncoderSpec.from_json(job.spec)
        self.out = Folder(job.out)
        self.config.check_shares(world_size())
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.dtype = fast_dtype(self.device.type) if self.config.precision == "auto" else _DTYPES[self.config.precision]
        self.objective = self._objective()
        model = make_encoder(self.spec, self.config, torch.float32, job.seed)
        if self.config.gradient_checkpointing:
            backbone: Any = model.backbone
            backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        resumed = checkpoint.read(self.out.child("checkpoint"))
        if resumed:
            checkpoint.set_parameters(model, checkpoint.parameters_in(resumed[1]))
        optimizer = torch.optim.AdamW(
            list(checkpoint.trainable(model).values()), lr=self.config.lr, weight_decay=self.config.weight_decay
        )
        bf16 = self.dtype == torch.bfloat16
        settings = deepspeed_config(self.config, world_size(), bf16)
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=settings, dist_init_required=False
        )
        checkpoint.start_moments(self.engine)
        self.state = resumed[0] if resumed else TrainState()
        if resumed:
            checkpoint.restore_optimizer(self.engine, resumed[1], self.state.num_steps)

    def _objective(self) -> Objective:
        job, config, spec = self.job, self.config, self.spec
        tokenizer = load_tokenizer(encoder_source(spec.base_model))
        triplets = Folder(job.triplets).read_table(columns=["user_id", "item_id", "hard_item_id", "q", "p", "n"])
        candidates = Folder(job.candidates).read_table("candidates.parquet")
        objective: TasteObjective | TripletObjective
        if config.loss == "taste":
            texts = PairTexts(Sources(**job.sources), spec.template)
            candidate_ids = candidates["item_id"].to_numpy()
            objective = TasteObjective(texts, candidate_ids, tokenizer, config, job.seed, self.device)
            held_out = triplets  # there are none but those of held-out users
        else:
            objective = TripletObjective(
                triplets, candidates, tokenizer, config, config.loss, spec.max_length, job.seed, self.device
            )
            held_out = objective.held_out_triplets()
        if rank() == 0:
            kept = held_out.select(["user_id", "item_id", "hard_item_id", "q"])
            self.out.write_table("validation.parquet", kept)
        return objective

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return max(1, len(self.objective.train_rows) // self.config.batch_size)

    def fit(self) -> dict[str, Any]:
        """Train until the last epoch or until validation no longer improves; returns the history."""
        if not self.state.history:
            self._end_epoch(train_loss=None)
        while self.state.epoch < self.config.epochs and not self._is_exhausted():
            self._train_epoch()
        return self._summary()

    def _train_epoch(self) -> None:
        state = self.state
        rows, lengths = self.objective.train_rows, self.objective.lengths
        batches = epoch_batches(rows, lengths, self.config.batch_size, self.job.seed, state.epoch)
        total = self.steps_per_epoch * self.config.epochs
        saved_at = time.monotonic()
        for rows in batches[state.step :]:
            started = time.monotonic()
            loss, num_tokens = self.train_step(rows)
            state.step += 1
            state.num_steps += 1
            state.num_tokens += num_tokens
            state.loss_sum += loss
            state.seconds += time.monotonic() - started
            report(self.out, {"loss": loss}, done=state.num_steps, total=total)
            if _any_rank(time.monotonic() - saved_at > self.config.checkpoint_interval_s, self.device):
                checkpoint.save(self.out.child("checkpoint"), self.engine, state)
                saved_at = time.monotonic()
        train_loss, state.loss_sum = state.loss_sum / len(batches), 0.0
        state.epoch, state.step = state.epoch + 1, 0
        self._end_epoch(train_loss)

    def train_step(self, rows: np.ndarray) -> tuple[float, int]:
        """One optimizer step on a global batch of rows: its loss and tokens. Non-finite: stop, the checkpoint stays."""
        state, config = self.state, self.config
        lr = learning_rate(state.num_steps, self.steps_per_epoch * config.epochs, config.warmup_fraction, config.lr)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        batch = self.objective.batch(rows, state.num_steps)
        self.engine.train()
        seed = int(np.random.SeedSequence([self.job.seed, state.num_steps, rank()]).generate_state(1)[0])
        with _attention(self.device):
            loss = cached_loss(self.engine, self._backward, batch.chunks, batch.loss, seed)
        value = float(_mean_over_ranks(loss))
        if not math.isfinite(value):
            raise FloatingPointError(
                f"loss {value} at step {state.num_steps} (lr {lr:.3g}, precision {config.precision}); "
                "the last checkpoint is kept: lower finetune.lr or set finetune.precision=fp32"
            )
        self.engine.step()
        return value, batch.num_tokens

    def _backward(self, loss: Tensor, is_last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(is_last)
        self.engine.backward(loss)

    def _end_epoch(self, train_loss: float | None) -> None:
        """Validate, keep the parameters if they are the best so far, write a checkpoint."""
        state = self.state
        metrics = self.objective.validate(self.engine)
        state.history.append(
            {"epoch": state.epoch, "step": state.num_steps}
            | ({} if train_loss is None else {"train_loss": train_loss})
            | metrics
        )
        counts = state.epoch > 0 or self.config.epochs == 0
        if counts and metrics["validation_loss"] < state.best_loss:
            state.best_loss, state.best_epoch = metrics["validation_loss"], state.epoch
            best = checkpoint.full_parameters(self.engine.module)
            if rank() == 0:
                tensors = {name: value.numpy() for name, value in best.items()}
                self.out.child("checkpoint").write_tensors("best.safetensors", tensors)
        checkpoint.save(self.out.child("checkpoint"), self.engine, state)

    def _is_exhausted(self) -> bool:
        patience = self.config.patience
        return (
            patience is not None and self.state.best_epoch >= 0 and self.state.epoch - self.state.best_epoch >= patience
        )

    def _summary(self) -> dict[str, Any]:
        state = self.state
        return {
            "epochs": state.history,
            "best_epoch": state.best_epoch,
            "num_steps": state.num_steps,
            "num_tokens": state.num_tokens,
            "seconds": round(state.seconds, 3),
            "tokens_per_s": round(state.num_tokens / max(state.seconds, 1e-9), 1),
            "num_train": len(self.objective.train_rows),
            "num_validation": self.objective.num_validation,
        }


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On CPUs the backward pass of the fused attention takes several times as long as that of plain products."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _mean_over_ranks(value: Tensor) -> Tensor:
    if world_size() > 1:
        value = value.clone()
        torch.distributed.all_reduce(value)
        value = value / world_size()
    return value


def _any_rank(here: bool, device: torch.device) -> bool:
    """Whether any rank says so: clocks differ, and saving takes all ranks."""
    if world_size() == 1:
        return here
    flag = torch.tensor(float(here), device=device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag)
