"""Facts about what the generator wrote: rows, failures, tokens, samples in words, grounding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from hnlm_ray.report.source import Source, column, count_histogram, histogram, rows_of, spread_rows
from hnlm_ray.store import Folder

_TASKS = {
    "item_profiles": ("profile", "profiles", "items"),
    "user_profiles": ("profile", "profiles", "users"),
    "negatives": ("negative", "negatives", "pairs"),
}
"""Name in the report -> (stage, artifact, table)."""
_USABLE = pc.field("status") == "ok"
_SHORTEST_TASK_S = 5.0
_SIMILARITY_EDGES = np.linspace(-1, 1, 81)


def llm_facts(source: Source) -> dict[str, Any]:
    """Per task what its stage counted, with retries, lengths and the speed over time; per stage its own speed.

    `costs`: of the tasks whose cost was estimated, the estimate beside what was measured.
    """
    tasks: dict[str, dict[str, Any]] = {}
    stages: dict[str, dict[str, Any]] = {}
    for name, (stage, artifact, table) in _TASKS.items():
        if source.has(artifact):
            summary = source.entries[stage].summary
            tasks[name] = {"stage": stage, **summary["tasks"][table], **_task(source.folders[artifact], table)}
            stages[stage] = {key: summary[key] for key in ("engine_ready_s", "generation_s")}
    for stage, facts in stages.items():
        made = [task["tokens_over_time"] for task in tasks.values() if task["stage"] == stage]
        tokens = sum(points[-1][1] for points in made if points)
        facts["tokens_per_s"] = tokens / facts["generation_s"] if tokens and facts["generation_s"] else None
    llm = source.config["llm"]
    costs = {name: task["cost"] for name, task in tasks.items() if "estimated" in task["cost"]}
    return {"model": llm["model"], "engine": llm["engine"], "stages": stages, "tasks": tasks, "costs": costs}


def _task(folder: Folder, name: str) -> dict[str, Any]:
    table = folder.read_table(name, columns=["status", "text", "prompt_tokens", "completion_tokens", "attempt"])
    asked = table.filter(pc.greater(table["attempt"], 0))
    answered = table.filter(pc.equal(table["status"], "ok"))
    words = pc.list_value_length(pc.utf8_split_whitespace(answered["text"]))
    return {
        "num_asked": asked.num_rows,
        "num_retried": pc.sum(pc.greater(table["attempt"], 1)).as_py() or 0,
        "prompt_token_histogram": count_histogram(np.asarray(asked["prompt_tokens"])),
        "completion_token_histogram": count_histogram(np.asarray(asked["completion_tokens"])),
        "word_histogram": count_histogram(np.asarray(words)),
    }


def token_rates(points: Sequence[tuple[float, int]], num_bins: int = 24) -> list[tuple[float, float]]:
    """(seconds since the first unit ended, tokens/s) from (time, tokens so far) at the end of each unit.

    Units end in bursts, so that a speed needs several of them: three per bin, and nothing below a few seconds.
    """
    num_bins = min(num_bins, (len(points) - 1) // 3)
    if num_bins < 2 or points[-1][0] - points[0][0] < _SHORTEST_TASK_S:
        return []
    times, tokens = np.array(points, dtype=np.float64).T
    edges = np.linspace(times[0], times[-1], num_bins + 1)
    rates = np.diff(np.interp(edges, times, tokens)) / np.diff(edges)
    middles = (edges[:-1] + edges[1:]) / 2 - times[0]
    return [(float(middle), float(rate)) for middle, rate in zip(middles, rates, strict=True)]


def sample_facts(source: Source) -> dict[str, Any]:
    """Usable profiles of items and users, and text negatives with the items they are grounded in, in words."""
    samples: dict[str, Any] = {}
    if source.has("profiles"):
        samples["item_profiles"] = _item_profiles(source)
        samples["user_profiles"] = _user_profiles(source)
    if source.has("negatives"):
        samples["negatives"] = _negatives(source)
    return samples


def _item_profiles(source: Source) -> list[dict[str, Any]]:
    columns = ["item_id", "text", "reasoning", "source"]
    rows = spread_rows(source.folders["profiles"], "items", source.settings.num_samples, columns, _USABLE)
    titles = source.item_titles([row["item_id"] for row in rows])
    return [{"title": titles[row["item_id"]], **row} for row in rows]


def _user_profiles(source: Source) -> list[dict[str, Any]]:
    columns = ["user_id", "text", "reasoning"]
    rows = spread_rows(source.folders["profiles"], "users", source.settings.num_samples, columns, _USABLE)
    keys = _user_keys(source, [row["user_id"] for row in rows])
    return [{"user_key": keys[row["user_id"]], **row} for row in rows]


def _user_keys(source: Source, user_ids: list[int]) -> dict[int, str]:
    found = rows_of(source.folders["dataset"], "users", "user_id", user_ids, ["user_id", "user_key"])
    return {row["user_id"]: row["user_key"] for row in found}


def _negatives(source: Source) -> list[dict[str, Any]]:
    folder = source.folders["negatives"]
    columns = ["user_id", "item_id", "text", "reasoning"]
    rows = spread_rows(folder, "pairs", source.settings.num_samples, columns, _USABLE)
    user_ids = [row["user_id"] for row in rows]
    keys = _user_keys(source, user_ids)
    wanted = ["user_id", "item_id", "rank", "negative_item_id", "similarity"]
    grounded: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows_of(folder, "grounded", "user_id", user_ids, wanted) if folder.num_rows("grounded") else []:
        grounded.setdefault((row["user_id"], row["item_id"]), []).append(row)
    negative_ids = [row["negative_item_id"] for near in grounded.values() for row in near]
    titles = source.item_titles([*negative_ids, *(row["item_id"] for row in rows)])
    return [
        {
            "user_key": keys[row["user_id"]],
            "title": titles[row["item_id"]],
            **row,
            "grounded": [
                {"title": titles[near["negative_item_id"]], "similarity": near["similarity"]}
                for near in sorted(grounded.get((row["user_id"], row["item_id"]), []), key=lambda near: near["rank"])[
                    :5
                ]
            ],
        }
        for row in rows
    ]


def grounding_facts(source: Source) -> dict[str, Any] | None:
    """How near the catalogue comes to what the generator named: similarity of the nearest and of all kept items.

    None where no text negative was usable, so that nothing could be grounded.
    """
    if source.folders["negatives"].num_rows("grounded") == 0:
        return None
    table = source.folders["negatives"].read_table("grounded", columns=["rank", "similarity"])
    rank, similarity = np.asarray(table["rank"]), np.asarray(table["similarity"])
    nearest = similarity[rank == rank.min()]
    return {
        "num_grounded": len(nearest),
        "num_kept": len(similarity),
        "num_none": source.entries["negative"].summary["none_answers"],
        "mean_similarity_nearest": float(nearest.mean()),
        "nearest_histogram": histogram(nearest, _SIMILARITY_EDGES),
        "all_histogram": histogram(similarity, _SIMILARITY_EDGES),
        "popularity_of_nearest": _popularity_of_nearest(source),
    }


def _popularity_of_nearest(source: Source) -> dict[str, float]:
    """Mean training interactions of the nearest grounded items, beside the catalogue's and the interactions' mean."""
    folder = source.folders["negatives"]
    table = folder.read_table("grounded", columns=["rank", "negative_item_id"])
    nearest = np.asarray(table.filter(pc.equal(table["rank"], pc.min(table["rank"])))["negative_item_id"])
    dataset = source.folders["dataset"]
    popularity = np.bincount(column(dataset, "train", "item_id"), minlength=dataset.num_rows("items"))
    return {
        "nearest": float(popularity[nearest].mean()),
        "catalogue": float(popularity.mean()),
        "interactions": float((popularity**2).sum() / max(1, popularity.sum())),
    }
