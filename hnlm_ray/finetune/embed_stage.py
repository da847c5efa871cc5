"""Stage `embed`: z of training pairs and item vectors by the tuned encoder through vLLM, after a proof of parity."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from hnlm_ray.finetune.diagnostics import diagnose
from hnlm_ray.finetune.embed_plan import embed_items, embed_pairs
from hnlm_ray.finetune.finetune_stage import sources_of
from hnlm_ray.finetune.pair_embedder import EmbedTask, UnitReport, read_projection, write_projection
from hnlm_ray.finetune.pairs import PairTexts
from hnlm_ray.finetune.parity import check_parity
from hnlm_ray.finetune.projection import Projection
from hnlm_ray.finetune.spec import EncoderSpec
from hnlm_ray.finetune.taste import fit_taste
from hnlm_ray.finetune.triplets import pair_hash
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext


def run(ctx: "StageContext") -> dict[str, Any]:
    """Check parity, then embed what has no shard yet; projection and item vectors are made once and kept."""
    config, out, tuned = ctx.config.embed, ctx.out("embeddings"), ctx.input("finetune")
    spec = EncoderSpec.from_json(tuned.read_json("encoder.json"))
    dtype = engine_dtype(ctx)
    num_engines = ctx.config.llm.replicas[1]
    merged = tuned.child("merged").uri  # not a copy of the driver's: engines may run on other machines
    encoder = ctx.engines.encoder(merged, pooling=spec.pooling, max_length=spec.max_length, dtype=dtype)
    parity = prove_parity(encoder, tuned.child("parity"), dtype)
    sources = sources_of(ctx)
    texts = PairTexts(sources, spec.template)
    width = parity["dim"]
    reduces = config.r is not None and config.r < width
    if reduces and not out.exists("projection.safetensors"):
        sample = sample_vectors(texts, encoder, config.num_pca_rows, ctx.config.seed, num_engines)
        write_projection(out, Projection.fit(sample, config.r or width))
    projection = read_projection(out) if reduces else None
    dim = config.r if reduces and config.r else width
    if not out.exists("items.safetensors"):
        vectors = embed_items(texts, encoder, np.arange(texts.num_items), num_engines)
        vectors = projection(vectors) if projection else vectors
        out.write_tensors("items.safetensors", {"item_text_emb": vectors.astype(np.float32)})
    if not out.exists("taste.safetensors"):
        item_text_emb = out.read_tensors("items.safetensors")["item_text_emb"]
        train = Interactions.load(ctx.input("dataset")).train
        out.write_tensors(
            "taste.safetensors", {"item_taste_emb": fit_taste(item_text_emb, train, config.taste, ctx.config.seed)}
        )
    task = EmbedTask(
        sources=sources,
        template=spec.template,
        shards=out.child("pairs").uri,
        dim=dim,
        max_pairs_per_user=config.max_pairs_per_user,
        projection=out.uri if reduces else "",
    )
    started, tokens = time.monotonic(), encoder.counters().prompt_tokens
    wants_pairs = config.max_pairs_per_user != 0
    reports = embed_pairs(task, encoder, config.unit_rows, num_engines, ctx.progress) if wants_pairs else []
    speed = _speed(reports, time.monotonic() - started, encoder.counters().prompt_tokens - tokens)
    explained = float(projection.explained_variance.sum()) if projection else 1.0
    meta = {"d": width, "r": dim, "explained_variance": explained, "parity": parity, "encoder": spec.as_json()}
    tune = diagnose(ctx, texts, encoder, dtype, num_engines)
    out.write_json("meta.json", meta)
    num_pairs = out.num_rows("pairs")
    return {
        "headline": f"{num_pairs} vectors of {dim}, {speed['tokens_per_s']:.0f} tok/s",
        "num_pairs": num_pairs,
        "num_items": texts.num_items,
        **meta,
        **speed,
        "tune": tune,
    }


def engine_dtype(ctx: "StageContext") -> str:
    """Arithmetic of the engine: as configured, or the fast one of the hardware that runs engines."""
    if ctx.config.embed.dtype != "auto":
        return ctx.config.embed.dtype
    if ctx.config.llm.gpus_per_replica:
        return "bfloat16"
    from hnlm_ray.finetune.encoder import fast_dtype  # imports torch

    return str(fast_dtype("cpu")).removeprefix("torch.")


def prove_parity(encoder: Any, folder: Folder, dtype: str) -> dict[str, Any]:
    """Let the engine embed what the trained encoder embedded; raises `ParityError` where the vectors differ."""
    trained = folder.read_tensors("vectors.safetensors")["vectors"]
    found = check_parity(trained, encoder.embed(folder.read_table("texts.parquet")["text"].to_pylist()), dtype)
    return found | {"dim": trained.shape[1]}


def sample_vectors(texts: PairTexts, encoder: Any, num_rows: int, seed: int, num_engines: int) -> np.ndarray:
    """Vectors of training pairs drawn by the seed and of as many catalogue items: what a projection is fitted on."""
    train = Folder(texts.sources.train)
    share = num_rows / max(train.num_rows(), 1)
    users, items = [], []
    for file in train.names(".parquet"):
        table = train.read_table(file, columns=["user_id", "item_id"])
        user_ids, item_ids = table["user_id"].to_numpy(), table["item_id"].to_numpy()
        drawn = pair_hash(user_ids, item_ids, seed) < share
        drawn &= texts.has_text[item_ids]
        users.append(user_ids[drawn])
        items.append(item_ids[drawn])
    z_nd = encoder.embed(texts.queries(np.concatenate(users), np.concatenate(items)))
    some_items = np.random.default_rng(seed).permutation(np.flatnonzero(texts.has_text))[: len(z_nd)]
    return np.concatenate([z_nd, embed_items(texts, encoder, some_items, num_engines)])


def _speed(reports: list[UnitReport], seconds: float, num_tokens: int) -> dict[str, Any]:
    """Of this run alone; all zero where every shard stood already."""
    return {
        "embedded_pairs": sum(report.embedded for report in reports),
        "num_tokens": num_tokens,
        "embed_seconds": round(seconds, 3),
        "tokens_per_s": round(num_tokens / max(seconds, 1e-9), 1),
        "text_seconds": round(sum(report.text_s for report in reports), 3),
    }
