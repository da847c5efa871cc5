"""Stage `negative`: a text negative for every chosen pair, grounded in the catalogue (METHOD.md, section 2)."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.generate.build_inputs import build_pair_inputs, is_large, load_item_texts
from hnlm_ray.generate.composed import composed_summary
from hnlm_ray.generate.engines import EngineGroup
from hnlm_ray.generate.grounding import Positives, ground
from hnlm_ray.generate.nearest import NearestItems
from hnlm_ray.generate.profile_stage import generator_group, summary_of
from hnlm_ray.generate.prompting import load_template
from hnlm_ray.generate.unit_worker import OUTPUT_FIELDS, TextTask
from hnlm_ray.generate.units import check_failures, list_units, open_units, run_task
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from hnlm_ray.config import RunConfig
    from hnlm_ray.pipeline import StageContext

_TEXTS_PER_CALL = 256
_RECALL_SHARDS, _RECALL_TEXTS = 16, 16
"""Shards, and negatives of each, on which an approximate search is compared with the exact one."""


def negative_task(config: "RunConfig", inputs: Folder, outputs: Folder) -> TextTask:
    """What is asked about a user and an item that it chose."""
    negative = config.negative
    return TextTask(
        template=load_template(negative.prompt, "hard_negative"),
        id_columns=("user_id", "item_id"),
        inputs=inputs,
        outputs=outputs,
        max_words=negative.max_words,
        max_prompt_tokens=negative.max_prompt_tokens,
        max_new_tokens=negative.max_new_tokens,
        temperature=config.llm.temperature,
        seed=config.llm.seed,
    )


def run(ctx: "StageContext") -> dict[str, Any]:
    """Write `negatives/pairs`, `negatives/grounded`, and the texts and vectors of the catalogue that served for it."""
    llm, negative = ctx.config.llm, ctx.config.negative
    dataset, profiles, out = ctx.input("dataset"), ctx.input("profiles"), ctx.out("negatives")
    large = is_large(dataset)
    if llm.engine == "none":
        return _without_generator(ctx, dataset, profiles, out)
    inputs = out.child("inputs")
    build_pair_inputs(dataset, profiles, ctx.input("signal"), inputs, negative, llm, large)
    group = generator_group(ctx)
    started = time.monotonic()
    task = negative_task(ctx.config, inputs, out.child("pairs"))
    drop_outdated(task, out.child("grounded"))
    pairs = run_task(task, group, llm, ctx.progress, "pairs", ctx.run.say)
    check_failures(pairs, "hard negatives", negative.max_failed_fraction, "negative.max_failed_fraction")
    generated_s = time.monotonic() - started
    summary = summary_of({"pairs": pairs}, generated_s)
    return summary | {
        "grounding": _ground_all(ctx, dataset, profiles, out),
        "none_answers": pairs.failures.get("none", 0),
    }


def drop_outdated(task: TextTask, grounded: Folder) -> None:
    """Remove what a run that was cut has grounded of the units that are asked again: their answers will be others."""
    for shard in {unit.shard for unit in open_units(task, list_units(task.inputs))} & set(grounded.names()):
        grounded.delete(shard)


def _without_generator(ctx: "StageContext", dataset: Folder, profiles: Folder, out: Folder) -> dict[str, Any]:
    """No text negatives, so that triplets take their candidates from semantic neighbours alone; the catalogue's texts
    and vectors all the same."""
    ids = {name: pa.array([], pa.int32()) for name in ("user_id", "item_id")}
    empty = pa.table({**ids, **{name: pa.array([], kind) for name, kind in OUTPUT_FIELDS}})
    out.child("pairs").write_table("part-000000.parquet", empty)
    summary = summary_of({"pairs": composed_summary(out.child("pairs"), ctx.config.llm)}, 0.0)
    headline = "no generator: no text negatives, candidates are semantic neighbours"
    grounding = _ground_all(ctx, dataset, profiles, out)
    return summary | {"headline": headline, "grounding": grounding, "none_answers": 0}


def _ground_all(ctx: "StageContext", dataset: Folder, profiles: Folder, out: Folder) -> dict[str, Any]:
    """Vectors of the catalogue and of the negatives by the untuned encoder, and the nearest items of each."""
    from hnlm_ray.finetune.encoder import encoder_source

    started = time.monotonic()
    encoder = ctx.engines.encoder(encoder_source(ctx.config.encoder.model))
    encoder.prepare()
    ready_s = time.monotonic() - started
    item_emb = _item_embeddings(encoder, dataset, profiles, out, ctx.progress)
    items = NearestItems(item_emb, ctx.config.negative.ann_above_items)
    positives = Positives.load(dataset)
    shards = out.child("pairs").names(".parquet")
    todo = sorted(set(shards) - set(out.child("grounded").names(".parquet")))
    ctx.progress.start(len(shards), "units", "ground")
    ctx.progress.update(len(shards) - len(todo))
    for shard in todo:
        answers = out.child("pairs").read_table(shard)
        vectors = embed_texts(encoder, _usable_texts(answers))
        grounded = ground(answers, vectors, items, positives, ctx.config.negative.num_grounded)
        out.child("grounded").write_table(shard, grounded)
        ctx.progress.update(1)
    nearest = out.read_table("grounded", columns=["rank", "similarity"])
    nearest = nearest.filter(pc.equal(nearest["rank"], 0))["similarity"]
    return {
        "encoder_ready_s": round(ready_s, 2),
        "seconds": round(time.monotonic() - started, 2),
        "grounded_pairs": len(nearest),
        "search": "exact" if items.is_exact else "approximate",
        "recall_of_search": _recall(encoder, items, out, ctx.config.negative.num_grounded),
        "mean_similarity_of_nearest": round(pc.mean(nearest).as_py() or 0.0, 4) if len(nearest) else 0.0,
    }


def _usable_texts(answers: pa.Table) -> list[str]:
    texts: list[str] = answers.filter(pc.equal(answers["status"], "ok"))["text"].to_pylist()
    return texts


def _recall(encoder: EngineGroup, items: NearestItems, out: Folder, num_grounded: int) -> float:
    """Recall of the search against the exact one, on a sample of the negatives from several shards."""
    if items.is_exact:
        return 1.0
    shards = sorted(out.child("pairs").names(".parquet"))
    sampled = shards[:: -(-len(shards) // _RECALL_SHARDS)]
    texts = [text for shard in sampled for text in _usable_texts(out.child("pairs").read_table(shard))[:_RECALL_TEXTS]]
    return round(items.recall(embed_texts(encoder, texts), num_grounded), 4) if texts else 1.0


def _item_embeddings(
    encoder: EngineGroup, dataset: Folder, profiles: Folder, out: Folder, progress: Progress
) -> np.ndarray:
    """item_text_emb [I, d]: title and P_i of every item; an item without a profile is told by its title alone, one
    without either has the zero vector."""
    name = "item_text_emb.safetensors"
    if out.exists(name):
        return out.read_tensors(name)["item_text_emb"]
    texts = load_item_texts(dataset, profiles)
    profile = pc.fill_null(texts.profiles, "")
    table = pa.table({"item_id": np.arange(len(profile), dtype=np.int32), "title": texts.titles, "text": profile})
    out.child("item_texts").write_table("part-000000.parquet", table)
    has_text = pc.or_(pc.not_equal(texts.titles, ""), pc.not_equal(profile, ""))
    joined = pc.utf8_trim_whitespace(pc.binary_join_element_wise(texts.titles, profile, ". ")).filter(has_text)
    progress.start(len(joined), "items", "embed")
    vectors = embed_texts(encoder, joined.to_pylist(), progress)
    item_emb = np.zeros((len(profile), vectors.shape[1]), np.float32)
    item_emb[has_text.to_numpy(zero_copy_only=False)] = vectors
    out.write_tensors(name, {"item_text_emb": item_emb})
    return item_emb


def embed_texts(encoder: EngineGroup, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
    """Unit vectors [len(texts), d], in calls that several engines can share."""
    chunks = [texts[start : start + _TEXTS_PER_CALL] for start in range(0, len(texts), _TEXTS_PER_CALL)]
    vectors = []
    with ThreadPoolExecutor(2 * encoder.plan.replicas[1]) as pool:
        for part in pool.map(encoder.embed, chunks):
            vectors.append(part)
            if progress:
                progress.update(len(part))
    return np.concatenate(vectors) if vectors else np.zeros((0, 1), np.float32)
