"""What the ingest counted: `dataset/stats.json`, and the part of it that the report shows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hnlm_ray.ingest.schema import SPLITS
from hnlm_ray.ingest.tasks import Result

if TYPE_CHECKING:
    from hnlm_ray.ingest.build import Build


def make_stats(build: "Build", items: list[Result], users: list[Result]) -> dict[str, Any]:
    """All counts of a finished build as plain JSON values."""
    written = build.written
    splits = {name: sum(result[name] for result in written) for name in SPLITS}
    num_users, num_items, num_rows = build.user_offsets[-1], build.num_items, sum(splits.values())
    item_degrees = np.zeros(num_items, dtype=np.int64)
    for number in range(build.num_buckets):
        found = build.work.read_tensors(f"item_degrees/{number:05d}")
        item_degrees[found["item_id"]] += found["degree"]
    user_degrees = {int(degree): count for degree, count in total(r["user_degrees"] for r in written).items()}
    values, counts = np.unique(item_degrees, return_counts=True)
    item_totals = total(items)
    published = build.config.published
    return {
        "users": num_users,
        "items": num_items,
        "interactions": num_rows,
        "density": num_rows / (num_users * num_items),
        **splits,
        "published": published.model_dump() if published else None,
        "steps": build.steps,
        "core_rounds": build.core_rounds,
        "quarantined": build.bad_rows,
        "quarantine_reasons": build.reasons,
        "held_out_unseen": sum(result["unseen"] for result in written),
        "rows_with": {name: sum(result[name] for result in written) for name in ("rated", "reviewed")},
        "first_timestamp": min(_known(written, "first_timestamp"), default=None),
        "last_timestamp": max(_known(written, "last_timestamp"), default=None),
        "items_with": {name: item_totals[name] for name in item_totals if name != "rows"},
        "users_with_text": sum(result["text"] for result in users),
        "per_user": degree_summary(user_degrees),
        "per_item": degree_summary(dict(zip(values.tolist(), counts.tolist(), strict=True))),
        "buckets": build.num_buckets,
        "on_ray": build.on_ray,
    }


def total(counters: Iterable[Mapping[str, int]]) -> Counter[str]:
    """The sum of several counters."""
    result: Counter[str] = Counter()
    for counter in counters:
        result.update(counter)
    return result


def _known(results: list[Result], name: str) -> list[int]:
    return [result[name] for result in results if result[name] is not None]


def degree_summary(histogram: dict[int, int]) -> dict[str, float]:
    """Minimum, median, mean and maximum of a histogram {degree: how many}."""
    degrees = np.array(sorted(histogram), dtype=np.int64)
    counts = np.array([histogram[int(degree)] for degree in degrees], dtype=np.int64)
    middle = (counts.sum() + 1) // 2
    return {
        "min": int(degrees[0]),
        "median": int(degrees[np.searchsorted(np.cumsum(counts), middle)]),
        "mean": round(float((degrees * counts).sum() / counts.sum()), 3),
        "max": int(degrees[-1]),
    }
