"""Facts about the data set: counts, degrees, what was quarantined."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from hnlm_ray.report.source import Source, column, degree_histogram

_NUM_REASONS = 10


def data_facts(source: Source) -> dict[str, Any]:
    """Users, items, interactions per split, density, degree histograms, text coverage, quarantined rows."""
    dataset = source.folders["dataset"]
    num_users, num_items = dataset.num_rows("users"), dataset.num_rows("items")
    splits = {split: dataset.num_rows(split) for split in ("train", "valid", "test")}
    num_interactions = sum(splits.values())
    user_degrees = np.bincount(column(dataset, "train", "user_id"), minlength=num_users)
    item_degrees = np.bincount(column(dataset, "train", "item_id"), minlength=num_items)
    return {
        "num_users": num_users,
        "num_items": num_items,
        "num_interactions": num_interactions,
        "splits": splits,
        "density": num_interactions / max(1, num_users * num_items),
        "per_user": _spread_of(user_degrees),
        "per_item": _spread_of(item_degrees),
        "user_degree_histogram": degree_histogram(user_degrees),
        "item_degree_histogram": degree_histogram(item_degrees),
        "text_coverage": _text_coverage(source, num_items),
        "statistics": dataset.read_json("stats.json"),
        "quarantine": _quarantine(source),
    }


def _spread_of(degrees: np.ndarray) -> dict[str, float]:
    if len(degrees) == 0:
        return {"min": 0, "median": 0.0, "mean": 0.0, "max": 0}
    return {
        "min": int(degrees.min()),
        "median": float(np.median(degrees)),
        "mean": float(degrees.mean()),
        "max": int(degrees.max()),
    }


def _text_coverage(source: Source, num_items: int) -> dict[str, float]:
    """Share of items that have each kind of text."""
    columns = ["title", "brand", "categories", "description", "text"]
    table = source.folders["dataset"].read_table("items", columns=columns)
    return {name: (num_items - table[name].null_count) / max(1, num_items) for name in columns}


def _quarantine(source: Source) -> dict[str, Any]:
    folder = source.folders["quarantine"]
    reasons: Counter[str] = Counter()
    if folder.parquet_files():
        counted = pc.value_counts(folder.read_table(columns=["reason"])["reason"]).to_pylist()
        reasons.update({row["values"]: row["counts"] for row in counted})
    return {"num_rows": sum(reasons.values()), "reasons": dict(reasons.most_common(_NUM_REASONS))}
