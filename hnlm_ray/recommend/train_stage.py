"""Stage `train`: the recommender with LLM hard negatives, best epoch on validation."""

from typing import TYPE_CHECKING, Any

from hnlm_ray.distributed import run_training
from hnlm_ray.recommend.artifact import HISTORY_FILE, IDS_FILE, RecommenderArtifact, ids_table
from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.closed_form import solve
from hnlm_ray.recommend.config import CLOSED_FORM_MODELS, TrainConfig
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import SUMMARY_FILE, load_text, train_loop
from hnlm_ray.recommend.names import reads_text
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext


def run(ctx: "StageContext") -> dict[str, Any]:
    """Train `config.train`; writes `model.safetensors`, `config.json`, `ids.parquet`, `history.json`."""
    config, out, dataset = ctx.config.train, ctx.out("recommender"), ctx.input("dataset")
    read: tuple[str, ...] = (
        ("dataset",) if config.hnlm.variant == "none" else ("dataset", "signal", "negatives", "embeddings")
    )
    read += ("text",) if reads_text(config.model) else ()
    inputs = {name: ctx.input(name).uri for name in read}
    if config.model in CLOSED_FORM_MODELS:
        summary = _solve(config, inputs, out)
    else:
        loop_config = {"config": config.model_dump(mode="json"), "seed": ctx.config.seed, "out": out.uri, **inputs}
        run_training(train_loop, loop_config, runtime=ctx.config.runtime, out=out, name="train", progress=ctx.progress)
        summary = dict(out.read_json(SUMMARY_FILE))
    users, items = (
        dataset.read_table(kind, columns=[f"{kind[:-1]}_id", f"{kind[:-1]}_key"]) for kind in ("users", "items")
    )
    out.write_table(IDS_FILE, ids_table(users.sort_by("user_id")["user_key"], items.sort_by("item_id")["item_key"]))
    Checkpoint(out).delete()
    return {"model": config.model, "sampler": config.sampler.kind, "variant": config.hnlm.variant, **summary}


def _solve(config: TrainConfig, inputs: dict[str, str], out: Folder) -> dict[str, Any]:
    interactions = Interactions.load(Folder(inputs["dataset"]))
    tensors = solve(config, interactions.train, load_text(inputs, interactions))
    RecommenderArtifact(tensors, config.result_dict(), interactions.train).save(out)
    out.write_json(HISTORY_FILE, [])
    return {"train_pairs": interactions.num_pairs}
