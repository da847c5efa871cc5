"""The training loop that Ray Train runs on every rank, for the stages `signal` and `train`."""

import functools
from typing import Any

import numpy as np
import torch

from hnlm_ray.distributed import rank, report, world_size
from hnlm_ray.recommend.artifact import HISTORY_FILE, RecommenderArtifact
from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.config import FitConfig, HnlmConfig, SignalConfig, TrainConfig
from hnlm_ray.recommend.ease import LinearScorer, solve_ease
from hnlm_ray.recommend.engine import DeepSpeedEngine
from hnlm_ray.recommend.fitting import LlmNegatives, build_trainer, summary_of
from hnlm_ray.recommend.graded import FalseNegatives, SumOfScores
from hnlm_ray.recommend.guard import Guard, guard_by_behaviour, guard_by_text
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.pair_vectors import load_pair_vectors
from hnlm_ray.recommend.pool import pool_from_negatives, pool_from_vectors
from hnlm_ray.recommend.ranking import EmbeddingScorer, Scorer
from hnlm_ray.recommend.text_match import text_match
from hnlm_ray.recommend.text_sides import text_of_items
from hnlm_ray.recommend.text_vectors import TextVectors
from hnlm_ray.store import Folder

SUMMARY_FILE = "summary.json"


def signal_loop(loop_config: dict[str, Any]) -> None:
    """Train the warm-up model. Keys: config, seed, dataset, out (URIs)."""
    out, config = Folder(loop_config["out"]), SignalConfig.model_validate(loop_config["config"])
    interactions = Interactions.load(Folder(loop_config["dataset"]))
    tensors = _fit(interactions, config, loop_config["seed"], out)
    if rank() == 0:
        out.write_tensors("embeddings.safetensors", {name: tensors[name] for name in ("user_emb", "item_emb")})


def train_loop(loop_config: dict[str, Any]) -> None:
    """Train the recommender. Keys: config, seed, dataset, out (URIs), for LLM negatives signal, negatives,
    embeddings, and for a model that reads text `text`."""
    out, config = Folder(loop_config["out"]), TrainConfig.model_validate(loop_config["config"])
    interactions = Interactions.load(Folder(loop_config["dataset"]))
    llm = load_llm_negatives(loop_config, interactions, config, loop_config["seed"])
    text = load_text(loop_config, interactions)
    tensors = _fit(interactions, config, loop_config["seed"], out, llm, text)
    if rank() == 0:
        RecommenderArtifact(tensors, config.result_dict(), interactions.train).save(out)


def load_llm_negatives(
    uris: dict[str, Any], interactions: Interactions, config: TrainConfig, seed: int
) -> LlmNegatives | None:
    """What `config.hnlm` needs of the artifacts `signal`, `negatives` and `embeddings`."""
    hnlm = config.hnlm
    if hnlm.variant == "none":
        return None
    embeddings = Folder(uris["embeddings"])
    if hnlm.variant == "aligned":
        return LlmNegatives(vectors=load_pair_vectors(embeddings, interactions, hnlm.control, seed))
    signal = Folder(uris["signal"]).read_tensors("embeddings.safetensors")
    if hnlm.variant in ("guarded", "graded"):
        text = None if hnlm.control == "window-only" else _taste(hnlm, embeddings, interactions, seed)
        if hnlm.variant == "guarded":
            return LlmNegatives(guard=_guard(hnlm, text, interactions, signal))
        found = FalseNegatives(
            interactions,
            None if text is None else text_match(hnlm.text_match, text, interactions.train),
            text_weight=hnlm.text_weight,
            popularity_discount=hnlm.popularity_discount,
            num_per_user=hnlm.num_false_negatives,
            tau=hnlm.grade_tau,
            weight=hnlm.grade,
            seed=seed,
        )
        found.choose(_behaviour(uris, config, interactions, signal))
        return LlmNegatives(false_negatives=found)
    if hnlm.pool_source == "negatives":
        pool = pool_from_negatives(Folder(uris["negatives"]), interactions, hnlm.pool_size)
    else:
        vectors = load_pair_vectors(embeddings, interactions, hnlm.control, seed)
        item_text_emb = embeddings.read_tensors("items.safetensors")["item_text_emb"]
        pool = pool_from_vectors(vectors, item_text_emb, interactions, hnlm.pool_size)
    return LlmNegatives(pool=pool, user_emb=signal["user_emb"], item_emb=signal["item_emb"])


def load_text(uris: dict[str, Any], interactions: Interactions) -> TextVectors | None:
    """The artifact `text`, where it is among the inputs."""
    return TextVectors.load(Folder(uris["text"]), interactions.train) if "text" in uris else None


def _taste(hnlm: HnlmConfig, embeddings: Folder, interactions: Interactions, seed: int) -> np.ndarray:
    item_taste_emb = embeddings.read_tensors("taste.safetensors")["item_taste_emb"]
    return text_of_items(item_taste_emb, interactions, hnlm.control, seed)


def _guard(
    hnlm: HnlmConfig, text: np.ndarray | None, interactions: Interactions, signal: dict[str, np.ndarray]
) -> Guard:
    if text is None:
        return guard_by_behaviour(signal["user_emb"], signal["item_emb"], hnlm.guard)
    return guard_by_text(text, interactions.train, hnlm.guard)


def _behaviour(
    uris: dict[str, Any], config: TrainConfig, interactions: Interactions, signal: dict[str, np.ndarray]
) -> Scorer:
    of_signal = EmbeddingScorer(torch.from_numpy(signal["user_emb"]), torch.from_numpy(signal["item_emb"]))
    if config.hnlm.behaviour == "signal":
        return of_signal
    ease = LinearScorer(interactions.train, _ease_weights(uris["dataset"], config.ease_reg))
    return ease if config.hnlm.behaviour == "ease" else SumOfScores(of_signal, ease)


@functools.lru_cache(maxsize=1)
def _ease_weights(dataset: str, ridge: float) -> np.ndarray:
    """Once per process: a comparison trains many times on one data set, and this takes I^3."""
    return solve_ease(Interactions.load(Folder(dataset)).train, ridge)


def _fit(
    interactions: Interactions,
    config: FitConfig,
    seed: int,
    out: Folder,
    llm: LlmNegatives | None = None,
    text: TextVectors | None = None,
) -> dict[str, Any]:
    """Train under DeepSpeed on this rank; rank 0 writes the history and the summary."""
    trainer = build_trainer(
        interactions,
        config,
        seed,
        llm,
        text,
        engine=lambda objective: DeepSpeedEngine(objective, config, world_size()),
        device=torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu",
        world_size=world_size(),
        checkpoint=Checkpoint(out),
        on_epoch=lambda epoch, metrics: report(out, metrics, done=epoch, total=config.epochs),
    )
    tensors = trainer.fit()
    if rank() == 0:
        out.write_json(HISTORY_FILE, trainer.state.history)
        out.write_json(SUMMARY_FILE, summary_of(trainer))
    return tensors
