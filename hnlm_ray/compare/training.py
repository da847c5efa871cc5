"""One run of a comparison: train, judge on validation, and, for a seed, test once by the ordinary evaluation."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hnlm_ray.compare.negatives import chosen_negatives
from hnlm_ray.compare.runs import RESULT_FILE, RunSpec
from hnlm_ray.config import RunConfig, parse_config
from hnlm_ray.recommend.artifact import RecommenderArtifact
from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.closed_form import solve
from hnlm_ray.recommend.config import CLOSED_FORM_MODELS
from hnlm_ray.recommend.evaluate_stage import evaluate_and_write
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import load_text
from hnlm_ray.recommend.on_artifacts import interactions_of, trainer_on
from hnlm_ray.recommend.ranking import evaluate
from hnlm_ray.recommend.trainer import NonFiniteLossError, Trainer
from hnlm_ray.store import Folder

_REACHED = 0.95
"""A training counts as converged once validation reaches this share of its best."""
_USERS_PER_BLOCK = 256


@dataclass(frozen=True)
class _Trained:
    tensors: dict[str, np.ndarray]
    valid: float
    trainer: Trainer | None
    """None: solved in closed form"""
    solve_s: float = 0.0
    """Seconds that took; a trainer counts its own"""


def train_and_judge(job: dict[str, Any]) -> str:
    """Do the run `job` (a `RunSpec` as plain values), write its result last, and return its name.

    A killed run goes on from its checkpoint. A trial whose loss is not finite counts as 0 and says so.
    """
    run = RunSpec(**job)
    out, config = Folder(run.folder), parse_config(run.config)
    data = interactions_of(run.artifacts["dataset"])
    started = time.perf_counter()
    try:
        trained = _train(run, config, data, out)
    except NonFiniteLossError as error:
        if run.purpose == "seed":
            raise
        out.write_json(RESULT_FILE, {"valid": 0.0, "refused": str(error), "seconds": time.perf_counter() - started})
        return run.name
    elapsed_s, convergence = time.perf_counter() - started, _convergence(trained, config)
    result: dict[str, Any] = {
        "purpose": run.purpose,
        "seed": run.seed,
        "train": config.train.result_dict(),
        "valid": trained.valid,
        "seconds": max(elapsed_s, convergence["training_s"]),  # a killed process did epochs of its own
        **convergence,
    }
    if run.purpose == "seed":
        scorer = RecommenderArtifact(trained.tensors, {}, data.train).scorer()
        result["metrics"] = evaluate_and_write(scorer, data, config.evaluate, out)
        result["negatives"] = _write_negatives(run, trained, data, out)
    out.write_json(RESULT_FILE, result)
    Checkpoint(out).delete()
    return run.name


def _train(run: RunSpec, config: RunConfig, data: Interactions, out: Folder) -> _Trained:
    train = config.train
    if train.model in CLOSED_FORM_MODELS:
        torch.set_num_threads(run.num_threads)
        started = time.perf_counter()
        tensors = solve(train, data.train, load_text(run.artifacts, data))
        solve_s = time.perf_counter() - started
        scorer = RecommenderArtifact(tensors, {}, data.train).scorer()
        users = np.flatnonzero(data.valid.counts > 0)
        k = int(train.monitor.partition("@")[2])
        means = evaluate(scorer, data.train, data.valid, (k,), _USERS_PER_BLOCK, users).mean()
        return _Trained(tensors, means[train.monitor], None, solve_s)
    trainer = trainer_on(run.artifacts, train, run.seed, Checkpoint(out), run.num_threads)
    tensors = trainer.fit()
    return _Trained(tensors, max(0.0, trainer.state.best_metric), trainer)


def _convergence(trained: _Trained, config: RunConfig) -> dict[str, Any]:
    """Epochs, seconds of training without validation, and both up to 95 % of the best validation."""
    if trained.trainer is None:
        return {
            "epochs": 0,
            "training_s": trained.solve_s,
            "epochs_to_95": 0,
            "seconds_to_95": trained.solve_s,
            "curve": [],
        }
    history, monitor = trained.trainer.state.history, config.train.monitor
    seconds = np.cumsum([entry["seconds"] for entry in history])
    curve = [[entry["epoch"], entry["valid"][monitor]] for entry in history if "valid" in entry]
    reached = next((epoch for epoch, value in curve if value >= _REACHED * trained.valid), len(history))
    return {
        "epochs": len(history),
        "training_s": float(seconds[-1]) if len(history) else 0.0,
        "epochs_to_95": reached,
        "seconds_to_95": float(seconds[reached - 1]) if len(history) else 0.0,
        "curve": curve,
    }


def _write_negatives(run: RunSpec, trained: _Trained, data: Interactions, out: Folder) -> dict[str, Any]:
    """Which negatives the trained model's sampler chooses: CF percentile and whether it is a held-out positive."""
    if trained.trainer is None or trained.trainer.objective.shared is not None:
        return {}
    signal = Folder(run.artifacts["signal"]).read_tensors("embeddings.safetensors")
    found = chosen_negatives(trained.trainer, trained.tensors, signal, data, run.max_negatives, run.seed)
    out.write_table("negatives.parquet", pa.table({"hardness": found.hardness, "is_false": found.is_false}))
    return {
        "num": len(found.hardness),
        "false_rate": float(found.is_false.mean()),
        "mean_hardness": float(found.hardness.mean()),
    }
