"""Stage `evaluate`: full ranking on validation and test (METHOD.md section 7)."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from hnlm_ray.memory import keep_freed_memory
from hnlm_ray.recommend.artifact import RecommenderArtifact
from hnlm_ray.recommend.config import EvaluateConfig
from hnlm_ray.recommend.evaluation import evaluate_split, item_groups, popularity_bias, user_groups
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.ranking import Scorer
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext


def run(ctx: "StageContext") -> dict[str, Any]:
    """Write `metrics.json`, `groups.json`, `popularity.json` and `per_user.parquet` (test)."""
    config, out = ctx.config.evaluate, ctx.out("evaluation")
    keep_freed_memory()
    torch.set_num_threads(ctx.config.runtime.train_threads())
    data = Interactions.load(ctx.input("dataset"))
    scorer = RecommenderArtifact.load(ctx.input("recommender")).scorer()
    ctx.progress.start(1, unit="models")
    metrics = evaluate_and_write(scorer, data, config, out)
    ctx.progress.update(1)
    counts = {name: int((held_out.counts > 0).sum()) for name, held_out in (("valid", data.valid), ("test", data.test))}
    k = config.ks[-1] if 20 not in config.ks else 20
    headline = f"test recall@{k} {metrics['test'][f'recall@{k}']:.4f}, ndcg@{k} {metrics['test'][f'ndcg@{k}']:.4f}"
    return {"headline": f"{headline} over {counts['test']} users", **counts, "metrics": metrics}


def evaluate_and_write(
    scorer: Scorer, data: Interactions, config: EvaluateConfig, out: Folder
) -> dict[str, dict[str, float]]:
    """Rank once for validation (training items masked) and once for test (those of validation as well).

    Writes `groups.json`, `popularity.json`, `per_user.parquet` (test) and, last, `metrics.json`, which it returns.
    """
    splits = {"valid": (data.train, data.valid), "test": (data.train.union(data.valid), data.test)}
    evaluated = {name: evaluate_split(scorer, seen, held_out, config) for name, (seen, held_out) in splits.items()}
    metrics = {name: evaluation.per_user.mean() for name, evaluation in evaluated.items()}
    test = evaluated["test"]
    out.write_json(
        "groups.json",
        {
            "users": user_groups(test, data.train, config.num_user_groups),
            "items": item_groups(test, data.train, data.test, config.ks, config.num_item_groups),
        },
    )
    out.write_json("popularity.json", popularity_bias(test, data.train, config.ks))
    columns = dict(zip(test.per_user.names, test.per_user.values.T, strict=True))
    out.write_table("per_user.parquet", pa.table({"user_id": test.per_user.user_ids.astype("int32"), **columns}))
    out.write_json("metrics.json", metrics)
    return metrics
