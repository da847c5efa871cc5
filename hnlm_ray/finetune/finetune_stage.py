"""Stage `finetune`: triplets by Ray Data, training by Ray Train and DeepSpeed, adapter and merged model."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hnlm_ray.distributed import run_training
from hnlm_ray.finetune.encoder import make_spec
from hnlm_ray.finetune.pairs import PairTexts, Sources
from hnlm_ray.finetune.taste_objective import split_users, told_items
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.trainer import TrainJob, finetune_loop
from hnlm_ray.finetune.triplet_dataset import write_candidates, write_triplets
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext

_NUM_EXAMPLES = 20


def run(ctx: "StageContext") -> dict[str, Any]:
    """Make triplets, train, keep the best adapter; a killed run goes on where it stood."""
    out, config = ctx.out("finetune"), ctx.config.finetune
    spec = make_spec(ctx.config.encoder, template_of(ctx))
    sources = sources_of(ctx)
    texts = PairTexts(sources, spec.template)
    held_out = split_users(told_items(texts), config, ctx.config.seed)[1] if config.loss == "taste" else None
    counts = write_triplets(sources, spec.template, config, ctx.config.seed, out, held_out)
    write_candidates(texts, config, ctx.config.seed, out)
    job = TrainJob(
        triplets=out.child("triplets").uri,
        candidates=out.uri,
        out=out.uri,
        sources=sources.as_json(),
        config=config.model_dump(mode="json"),
        spec=spec.as_json(),
        seed=ctx.config.seed,
    )
    run_training(finetune_loop, vars(job), runtime=ctx.config.runtime, out=out, name="finetune", progress=ctx.progress)
    history = out.read_json("history.json")
    before, best = history["epochs"][0], history["epochs"][history["best_epoch"]]
    learnt = f"{history['num_train']} users" if config.loss == "taste" else f"{counts['num_triplets']} triplets"
    return {
        "headline": f"{learnt}, {history['num_steps']} steps, "
        f"accuracy@10 {before['accuracy@10']:.3f} -> {best['accuracy@10']:.3f}",
        **counts,
        "training": history,
        "encoder": spec.as_json(),
        "examples": examples(out),
    }


def sources_of(ctx: "StageContext") -> Sources:
    """Where pair texts come from in this run."""
    return Sources(
        train=ctx.input("dataset").child("train").uri,
        profiles=ctx.input("profiles").uri,
        signal=ctx.input("signal").uri,
        negatives=ctx.input("negatives").uri,
    )


def template_of(ctx: "StageContext") -> TextTemplate:
    """The text template that the config describes."""
    config = ctx.config.finetune
    return TextTemplate(
        ctx.config.encoder.max_length,
        config.context,
        config.num_context_items,
        config.num_context_dims,
        whole_items=config.loss == "taste",
    )


def examples(out: Folder) -> list[dict[str, Any]]:
    """Triplets in words for the report, evenly over the users."""
    table = out.read_table("triplets").sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    rows = np.linspace(0, len(table) - 1, min(_NUM_EXAMPLES, len(table))).astype(int)
    found: list[dict[str, Any]] = table.take(pa.array(rows)).to_pylist()
    return found
