"""Facts about what the generator wrote: rows, failures, tokens, samples in words, grounding."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc

from hnlm_ray.report.source import Source, column, count_histogram, histogram, rows_of, spread_rows
from hnlm_ray.store import Folder

_NUM_REASONS = 10
_SIMILARITY_EDGES = np.linspace(-1, 1, 81)


def llm_facts(source: Source) -> dict[str, Any]:
    """Per task: rows, failures with their reasons, retries, tokens, tokens per second of the stage, lengths."""
    tasks = {}
    if source.has("profiles"):
        folder, entry = source.folders["profiles"], source.entries["profile"]
        tasks["item_profiles"] = _task(folder, "items")
        tasks["user_profiles"] = _task(folder, "users")
        _add_speed(tasks, ("item_profiles", "user_profiles"), entry.seconds)
    if source.has("negatives"):
        tasks["negatives"] = _task(source.folders["negatives"], "pairs")
        _add_speed(tasks, ("negatives",), source.entries["negative"].seconds)
    return {"model": source.config["llm"]["model"], "engine": source.config["llm"]["engine"], "tasks": tasks}


def _task(folder: Folder, name: str) -> dict[str, Any]:
    columns = ["status", "error", "text", "prompt_tokens", "completion_tokens", "attempt"]
    table = folder.read_table(name, columns=columns)
    failed = table.filter(pc.not_equal(table["status"], "ok"))
    reasons = Counter((reason or "unknown").partition(":")[0] for reason in failed["error"].to_pylist())
    answered = table.filter(pc.equal(table["status"], "ok"))
    words = pc.list_value_length(pc.utf8_split_whitespace(answered["text"].cast("string")))
    asked = table.filter(pc.greater(table["prompt_tokens"], 0))
    return {
        "num_rows": table.num_rows,
        "num_ok": answered.num_rows,
        "num_failed": failed.num_rows,
        "num_asked": asked.num_rows,
        "num_retried": int(pc.sum(pc.greater(table["attempt"], 1)).as_py() or 0),
        "failure_reasons": dict(reasons.most_common(_NUM_REASONS)),
        "prompt_tokens": int(pc.sum(table["prompt_tokens"]).as_py() or 0),
        "completion_tokens": int(pc.sum(table["completion_tokens"]).as_py() or 0),
        "prompt_token_histogram": count_histogram(_known(asked["prompt_tokens"])),
        "completion_token_histogram": count_histogram(_known(asked["completion_tokens"])),
        "word_histogram": count_histogram(_known(words)),
    }


def _known(values: Any) -> np.ndarray:
    return np.asarray(values.drop_null())


def _add_speed(tasks: dict[str, dict[str, Any]], names: tuple[str, ...], seconds: float) -> None:
    """Tokens per second of the whole stage, start-up and writing included: what the user waited for."""
    tokens = sum(tasks[name]["prompt_tokens"] + tasks[name]["completion_tokens"] for name in names)
    for name in names:
        tasks[name]["stage_tokens_per_s"] = tokens / seconds if seconds > 0 else None


def sample_facts(source: Source) -> dict[str, Any]:
    """Profiles of items and users, and text negatives with the catalogue items they are grounded in, in words."""
    samples: dict[str, Any] = {}
    if source.has("profiles"):
        samples["item_profiles"] = _item_profiles(source)
        samples["user_profiles"] = _user_profiles(source)
    if source.has("negatives"):
        samples["negatives"] = _negatives(source)
    return samples


def _item_profiles(source: Source) -> list[dict[str, Any]]:
    columns = ["item_id", "text", "reasoning", "status", "error", "source"]
    rows = spread_rows(source.folders["profiles"], "items", source.settings.num_samples, columns)
    titles = source.item_titles([row["item_id"] for row in rows])
    return [{"title": titles[row["item_id"]], **row} for row in rows]


def _user_profiles(source: Source) -> list[dict[str, Any]]:
    columns = ["user_id", "text", "reasoning", "status", "error"]
    rows = spread_rows(source.folders["profiles"], "users", source.settings.num_samples, columns)
    keys = _user_keys(source, [row["user_id"] for row in rows])
    return [{"user_key": keys[row["user_id"]], **row} for row in rows]


def _user_keys(source: Source, user_ids: list[int]) -> dict[int, str]:
    found = rows_of(source.folders["dataset"], "users", "user_id", user_ids, ["user_id", "user_key"])
    return {row["user_id"]: row["user_key"] for row in found}


def _negatives(source: Source) -> list[dict[str, Any]]:
    folder = source.folders["negatives"]
    columns = ["user_id", "item_id", "text", "reasoning", "status", "error"]
    rows = spread_rows(folder, "pairs", source.settings.num_samples, columns)
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
