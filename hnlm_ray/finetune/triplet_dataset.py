"""Triplets by Ray Data. Light to import: its tasks need neither torch nor transformers."""

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from hnlm_ray.errors import UserError
from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.pairs import PairTexts, Sources
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.triplets import TripletMaker, pair_hash
from hnlm_ray.store import Folder

_BLOCK_ROWS = 4096


def write_triplets(
    sources: Sources,
    template: TextTemplate,
    config: FinetuneConfig,
    seed: int,
    out: Folder,
    user_ids: np.ndarray | None = None,
) -> dict[str, Any]:
    """Triplets of the drawn training pairs through Ray Data; the counts, written last, mark them complete.

    `user_ids`: of all training pairs of these users instead.
    """
    if not out.exists("triplets.json"):
        out.delete("triplets")  # what a killed run left
        train = Folder(sources.train)
        num_pairs = train.num_rows()
        share = min(1.0, config.max_triplets / num_pairs) if config.max_triplets else 1.0
        dataset = ray.data.read_parquet(train.parquet_files(), filesystem=train.fs, columns=["user_id", "item_id"])
        arguments = {"sources": sources, "template": template, "config": config, "seed": seed}
        arguments |= {"share": share, "only_users": user_ids}
        dataset = dataset.map_batches(
            _triplets_of, batch_size=_BLOCK_ROWS, batch_format="pyarrow", fn_kwargs=arguments, zero_copy_batch=True
        )
        dataset.write_parquet(f"{out.path}/triplets", filesystem=out.fs)
        out.write_json("triplets.json", _counts(out, num_pairs))
    counts: dict[str, Any] = out.read_json("triplets.json")
    if not counts["num_triplets"]:
        raise UserError(
            f"no training pair has a candidate inside finetune.window={list(config.window)}; widen it, "
            "or raise finetune.num_semantic_candidates"
        )
    return counts


@cache
def _maker(sources: Sources, template: TextTemplate, config_json: str, seed: int) -> TripletMaker:
    """One per worker process: item tables and embeddings are read once."""
    return TripletMaker(sources, template, FinetuneConfig.model_validate_json(config_json), seed)


def _triplets_of(
    pairs: pa.Table,
    sources: Sources,
    template: TextTemplate,
    config: FinetuneConfig,
    seed: int,
    share: float,
    only_users: np.ndarray | None,
) -> pa.Table:
    user_ids, item_ids = pairs["user_id"].to_numpy(), pairs["item_id"].to_numpy()
    chosen = pair_hash(user_ids, item_ids, seed) < share if only_users is None else np.isin(user_ids, only_users)
    maker = _maker(sources, template, config.model_dump_json(), seed)
    return maker(user_ids[chosen], item_ids[chosen])


def _counts(out: Folder, num_pairs: int) -> dict[str, Any]:
    table = out.read_table("triplets", columns=["cf_percentile", "similarity", "origin"])
    percentile, similarity = table["cf_percentile"].to_numpy(), table["similarity"].to_numpy()
    return {
        "num_pairs": num_pairs,
        "num_triplets": len(table),
        "num_from_llm": int(np.sum(table["origin"].to_numpy() == "llm")),
        "cf_percentile": np.histogram(percentile, bins=20, range=(0, 1))[0].tolist(),
        "mean_similarity": float(similarity.mean()) if len(table) else 0.0,
    }


def write_candidates(texts: PairTexts, config: FinetuneConfig, seed: int, out: Folder) -> None:
    """Random catalogue items that a validation query has to find its p among."""
    if not out.exists("candidates.parquet"):
        rng = np.random.default_rng(seed)
        item_ids = rng.permutation(np.flatnonzero(texts.has_text))[: config.num_retrieval_candidates].astype(np.int32)
        out.write_table("candidates.parquet", pa.table({"item_id": item_ids, "text": texts.items(item_ids)}))
