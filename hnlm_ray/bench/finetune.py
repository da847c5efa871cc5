"""Benchmark `finetune`: the DeepSpeed trainer against a plain PyTorch loop over the same batches, MiniLM with LoRA.

`ratio_to_plain_loop` compares tokens/s after start-up; `time_to_first_step_s` is that of a fresh process on a warm
machine: imports, model, tokenisation, DeepSpeed and one step (Ray's own start is not in it);
`time_to_first_step_ever_s` is that of the process before it, which may find cold caches. `step_memory_gb` is what
that step adds to the memory of the process, `chunked_step_memory_gb` the same with GradCache, an eighth of the batch
at a time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement, paired_values
from hnlm_ray.bench.pair_data import write_pair_data
from hnlm_ray.memory import own_peak_gb
from hnlm_ray.runtime import GB

_MAX_LENGTH = 96
_SETTINGS: dict[str, Any] = {"batch_size": 32, "lr": 5e-4, "zero_stage": 2}


def measure(options: BenchOptions) -> Measurement:
    """Steps of ours and of the plain loop in turn."""
    import torch

    torch.set_num_threads(options.threads)
    steps = 1 if options.quick else 3
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder), 200 if options.quick else 1500, options.seed)
        cold = _first_step(job, options.threads)
        warm = _first_step(job, options.threads)
        chunked = _first_step(_in_chunks(job), options.threads)
        with process_group():
            ours, plain = OurLoop(job), PlainLoop(job)
            tokens = paired_values(lambda: ours.tokens_per_s(steps), lambda: plain.tokens_per_s(steps), options.repeats)
            first_loss, plain_loss = ours.losses[0], plain.losses[0]
    figures = {
        "tokens_per_s": tokens.ours,
        "plain_loop_tokens_per_s": tokens.baseline,
        "first_loss": first_loss,
        "plain_loop_first_loss": plain_loss,
        "step_memory_gb": warm["step_memory_gb"],
        "time_to_first_step_ever_s": cold["seconds"],
        "chunked_step_memory_gb": chunked["step_memory_gb"],
    }
    bars = [
        Bar("ratio_to_plain_loop", tokens.ratio, 0.9),
        Bar("time_to_first_step_s", warm["seconds"], 40.0, better="lower"),
    ]
    return Measurement(figures, bars, [f"precision {str(ours.trainer.dtype).removeprefix('torch.')}; one rank"])


def make_job(folder: Path, num_pairs: int, seed: int) -> Any:
    """A training job over made-up triplets."""
    from hnlm_ray.finetune.config import EncoderConfig, FinetuneConfig
    from hnlm_ray.finetune.encoder import make_spec
    from hnlm_ray.finetune.pairs import PairTexts
    from hnlm_ray.finetune.texts import TextTemplate
    from hnlm_ray.finetune.trainer import TrainJob
    from hnlm_ray.finetune.triplet_dataset import write_candidates
    from hnlm_ray.finetune.triplets import TripletMaker
    from hnlm_ray.store import Folder

    config = FinetuneConfig(**_SETTINGS)
    sources = write_pair_data(folder / "data", num_pairs // 10, 300, 10, seed)
    spec = make_spec(EncoderConfig(max_length=_MAX_LENGTH), TextTemplate(_MAX_LENGTH, "neighbors", 3, 8))
    pairs = Folder(sources.train).read_table()
    maker = TripletMaker(sources, spec.template, config, seed)
    out = Folder(folder / "out")
    triplets = maker(pairs["user_id"].to_numpy(), pairs["item_id"].to_numpy())
    out.write_table("triplets/part-00000.parquet", triplets)
    write_candidates(PairTexts(sources, spec.template), config, seed, out)
    values = config.model_dump(mode="json")
    return TrainJob(out.child("triplets").uri, out.uri, out.uri, sources.as_json(), values, spec.as_json(), seed)


@contextmanager
def process_group() -> Iterator[None]:
    """A group of one rank, as the training under Ray Train finds it in the driver."""
    import deepspeed.comm
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed insists on it
    deepspeed.comm.init_distributed(dist_backend="gloo", dist_init_required=False, verbose=False)
    try:
        yield
    finally:
        deepspeed.comm.destroy_process_group()


class OurLoop:
    """The stage's trainer."""

    def __init__(self, job: Any) -> None:
        from hnlm_ray.finetune.batches import epoch_batches
        from hnlm_ray.finetune.trainer import Trainer

        self.trainer = Trainer(job)
        self.objective: Any = self.trainer.objective
        size = self.trainer.config.batch_size
        self.batches = epoch_batches(self.objective.train_rows, self.objective.lengths, size, job.seed, 0)
        self._next = cycle(self.batches)
        self.losses: list[float] = []

    def tokens_per_s(self, num_steps: int) -> float:
        """Tokens per second of the next steps."""
        batches = [next(self._next) for _ in range(num_steps)]
        started = time.perf_counter()
        for batch in batches:
            self.losses.append(self.step(batch))
        seconds = time.perf_counter() - started
        return sum(self.objective.triplets.num_tokens(batch) for batch in batches) / seconds

    def step(self, batch: np.ndarray) -> float:
        """One optimizer step."""
        loss, _ = self.trainer.train_step(batch)
        self.trainer.state.num_steps = 0  # the learning rate is not what is measured
        return loss


class PlainLoop(OurLoop):
    """What one would write without any framework: model, loss, backward, clip, AdamW, in the same precision."""

    def __init__(self, job: Any) -> None:
        import torch

        from hnlm_ray.finetune.encoder import make_encoder

        super().__init__(job)
        trainer = self.trainer
        self.model = make_encoder(trainer.spec, trainer.config, torch.float32, job.seed).to(trainer.dtype).train()
        trained = [value for value in self.model.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=trainer.config.lr, weight_decay=trainer.config.weight_decay)
        self.trained = trained

    def step(self, batch: np.ndarray) -> float:
        """One optimizer step."""
        import torch

        from hnlm_ray.finetune.loss import pairwise_loss

        query, items = self.objective.chunk(batch)
        q_bd, pn_bd = self.model(query, items)
        loss = pairwise_loss(q_bd, pn_bd[: len(batch)], pn_bd[len(batch) :], self.trainer.config.tau)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.trainer.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def _in_chunks(job: Any) -> Any:
    return replace(job, config=job.config | {"chunk_size": _SETTINGS["batch_size"] // 8})


def _first_step(job: Any, threads: int) -> dict[str, float]:
    """Seconds from the start of a Python process to the end of its first step, and the memory that the step added."""
    started = time.time()
    command = [sys.executable, "-m", "hnlm_ray.bench.finetune", json.dumps(vars(job)), str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": found["done_at"] - started, "step_memory_gb": found["step_memory_gb"]}


def _in_fresh_process(job_json: str, threads: str) -> None:
    import psutil
    import torch

    from hnlm_ray.finetune.trainer import TrainJob

    torch.set_num_threads(int(threads))
    with process_group():
        loop = OurLoop(TrainJob(**json.loads(job_json)))
        before_gb = psutil.Process().memory_info().rss / GB
        loop.step(loop.batches[0])
        done_at = time.time()
    print(json.dumps({"done_at": done_at, "step_memory_gb": own_peak_gb() - before_gb}))


if __name__ == "__main__":
    _in_fresh_process(*sys.argv[1:])
