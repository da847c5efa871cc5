"""A finished run on made-up data: every artifact with the columns of its stage, hostile text included."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from hnlm_ray.config import parse_config
from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.cost import Usage, cost_of, deviation, estimate
from hnlm_ray.store import Folder, ManifestEntry, RunDir

NUM_USERS, NUM_ITEMS = 300, 200
HOSTILE_TITLE = "<script>alert('title')</script> & <img src=x onerror=alert(1)>"
HOSTILE_TEXT = "</article></main><script>alert('text')</script>{{ 7 * 7 }}"
_GENRES = ("harbour mystery", "slow romance", "space opera", "alpine cookbook", "court history")
_SECONDS = {
    "ingest": 3.2, "signal": 9.1, "profile": 41.5, "negative": 38.0,
    "finetune": 61.2, "embed": 12.4, "train": 20.9, "evaluate": 1.8,
}  # fmt: skip
_ARTIFACTS = {
    "ingest": ("dataset", "quarantine"), "signal": ("signal",), "profile": ("profiles",), "negative": ("negatives",),
    "finetune": ("finetune",), "embed": ("embeddings",), "train": ("recommender",), "evaluate": ("evaluation",),
}  # fmt: skip


def write_finished_run(path: Path, until: str = "evaluate") -> RunDir:
    """Write the artifacts and the manifest of all stages up to `until`."""
    run_dir, rng = RunDir(path), np.random.default_rng(0)
    config = parse_config({}).model_dump(mode="json") | {"name": "quickstart"}
    run_dir.folder.write_bytes("config.yaml", yaml.safe_dump(config).encode())
    for number, (stage, artifacts) in enumerate(_ARTIFACTS.items()):
        fingerprint = f"{stage}-fingerprint"
        summary = _WRITERS[stage](*(run_dir.artifact(artifact, fingerprint) for artifact in artifacts), rng)
        run_dir.commit(
            ManifestEntry(
                stage=stage,
                fingerprint=fingerprint,
                artifacts={artifact: f"{artifact}/{fingerprint}" for artifact in artifacts},
                summary=summary,
                seconds=_SECONDS[stage],
                peak_memory_gb=1.5 + 0.4 * number,
                completed_at="2026-01-01T00:00:00+00:00",
            )
        )
        if stage == until:
            break
    return run_dir


def _ingest(dataset: Folder, quarantine: Folder, rng: np.random.Generator) -> dict[str, Any]:
    titles = [f"The {_GENRES[item % 5].title()} No. {item}" for item in range(NUM_ITEMS)]
    titles[0] = HOSTILE_TITLE
    items = pa.table(
        {
            "item_id": pa.array(range(NUM_ITEMS), pa.int32()),
            "item_key": [f"B{item:05d}" for item in range(NUM_ITEMS)],
            "title": titles,
            "brand": ["Somebody"] * NUM_ITEMS,
            "categories": [[_GENRES[item % 5]] for item in range(NUM_ITEMS)],
            "description": ["A book."] * (NUM_ITEMS // 2) + [None] * (NUM_ITEMS // 2),
            "text": pa.nulls(NUM_ITEMS, pa.string()),
        }
    )
    dataset.write_table("items/part-00000.parquet", items)
    users = {
        "user_id": pa.array(range(NUM_USERS), pa.int32()),
        "user_key": [f"reader<{user}>" for user in range(NUM_USERS)],
    }
    dataset.write_table("users/part-00000.parquet", pa.table({**users, "text": pa.nulls(NUM_USERS, pa.string())}))
    for split, per_user in (("train", 14), ("valid", 2), ("test", 2)):
        degrees = 1 + rng.poisson(per_user, NUM_USERS) if split == "train" else np.full(NUM_USERS, per_user)
        user_ids = np.repeat(np.arange(NUM_USERS), degrees).astype(np.int32)
        item_ids = (NUM_ITEMS * rng.random(len(user_ids)) ** 1.7).astype(np.int32)
        dataset.write_table(f"{split}/part-00000.parquet", pa.table({"user_id": user_ids, "item_id": item_ids}))
    statistics = _statistics(len(dataset.read_table("train")))
    dataset.write_json("stats.json", statistics)
    bad = {"file": ["reviews.json"] * 3, "row": [7, 9, 12], "reason": ["no item id", "no item id", "rating is text"]}
    quarantine.write_table("part-00000.parquet", pa.table({**bad, "value": ["{}", "{}", "five"]}))
    return statistics


def _statistics(num_train: int) -> dict[str, Any]:
    held_out = 2 * NUM_USERS
    num_rows = num_train + 2 * held_out
    after = {
        "read": num_rows + 410,
        "rating": num_rows + 80,
        "newest of duplicate pairs": num_rows + 60,
        "k-core": num_rows,
    }
    return {
        "users": NUM_USERS,
        "items": NUM_ITEMS,
        "interactions": num_rows,
        "density": num_rows / (NUM_USERS * NUM_ITEMS),
        "train": num_train,
        "valid": held_out,
        "test": held_out,
        "published": {"users": 310, "items": 190, "interactions": 6000},
        "steps": [
            {"step": step, "interactions": rows, "users": NUM_USERS if step == "k-core" else None, "items": None}
            for step, rows in after.items()
        ],
        "core_rounds": [2, 1],
        "quarantined": {"interactions": 3, "items": 0, "users": 0},
        "quarantine_reasons": {"no item id": 2, "rating is <b>text</b>": 1},
        "held_out_unseen": 0,
        "rows_with": {"rated": num_rows, "reviewed": num_rows // 2},
        "first_timestamp": 1420365477,
        "last_timestamp": None,
        "items_with": {
            "with_metadata": 200,
            "title": 200,
            "brand": 200,
            "categories": 200,
            "description": 100,
            "text": 0,
        },
        "users_with_text": 0,
        "per_user": {"min": 10, "median": 18, "mean": 18.6, "max": 32},
        "per_item": {"min": 10, "median": 20, "mean": 28.1, "max": 230},
        "buckets": 1,
        "on_ray": False,
    }


def _answers(num_rows: int, rng: np.random.Generator, texts: list[str]) -> dict[str, Any]:
    failed = np.arange(num_rows) % 40 == 3
    return {
        "text": ["" if bad else text for bad, text in zip(failed, texts, strict=True)],
        "reasoning": ["The reviews praise it."] * num_rows,
        "status": ["failed" if bad else "ok" for bad in failed],
        "error": ["truncated: the answer did not end within its token budget" if bad else "" for bad in failed],
        "prompt_tokens": rng.integers(80, 420, num_rows).astype(np.int32),
        "completion_tokens": rng.integers(30, 110, num_rows).astype(np.int32),
        "attempt": (1 + failed).astype(np.int16),
        "seed": np.arange(num_rows),
    }


def _profile(profiles: Folder, rng: np.random.Generator) -> dict[str, Any]:
    for kind, num_rows in (("item", NUM_ITEMS), ("user", NUM_USERS)):
        texts = [
            f"Loves {_GENRES[row % 5]} told with patience, and a plot that turns twice." for row in range(num_rows)
        ]
        texts[0] = HOSTILE_TEXT
        answers = _answers(num_rows, rng, texts)
        ids = pa.array(range(num_rows), pa.int32())
        profile = pa.table(
            {f"{kind}_id": ids, **answers, "source": ["title"] * num_rows, "truncated": [False] * num_rows}
        )
        for start in range(0, num_rows, 128):
            profiles.write_table(f"{kind}s/part-{start:05d}.parquet", profile.slice(start, 128))
    tasks = {name: _task_summary(profiles.read_table(name)) for name in ("items", "users")}
    return {"headline": "500 profiles", "engine_ready_s": 18.5, "generation_s": 20.0, "tasks": tasks}


def _task_summary(table: pa.Table) -> dict[str, Any]:
    """What the LLM stages say of a task."""
    tokens = [table[f"{kind}_tokens"].to_numpy() for kind in ("prompt", "completion")]
    failed = table["status"].to_pylist().count("failed")
    llm = LLMConfig.model_validate({"price": {"per_hour": {"cpu": 360.0}}})
    used = Usage(table.num_rows, int(tokens[0].sum()), int(tokens[1].sum()), engine_s=20.0)
    expected, measured = estimate(Usage(20, 5000, 1400, engine_s=2.2), table.num_rows, llm), cost_of(used, llm)
    return {
        "rows": table.num_rows,
        "failed": failed,
        "failures": {"truncated": failed},
        "prompt_tokens": int(tokens[0].sum()),
        "completion_tokens": int(tokens[1].sum()),
        "cut_prompts": 2,
        "asked_rows": table.num_rows,
        "prefix_hit_rate": 0.41,
        "seconds_per_row": {"read": 1e-5, "render": 2e-4, "engine": 0.03, "parse": 1e-4, "write": 5e-5},
        "cost": {
            "estimated": expected.as_json(),
            "measured": measured.as_json(),
            "deviation": deviation(expected, measured),
        },
        "tokens_over_time": [
            (1e9 + 2.0 * step, int((tokens[0] + tokens[1]).sum() * step / 10)) for step in range(1, 11)
        ],
    }


def _signal(signal: Folder, rng: np.random.Generator) -> dict[str, Any]:
    signal.write_json("history.json", _history(60))
    return {"best_epoch": 45, "seconds_per_epoch": 0.15}


def _history(num_epochs: int) -> list[dict[str, Any]]:
    epochs = []
    for epoch in range(1, num_epochs + 1):
        record: dict[str, Any] = {"epoch": epoch, "loss": 0.25 + 0.45 / epoch, "seconds": 0.15}
        if epoch % 5 == 0:
            reached = 0.3 * (1 - np.exp(-epoch / 15)) - 0.0005 * epoch
            record["valid"] = {"recall@20": reached, "ndcg@20": 0.6 * reached}
        epochs.append(record)
    return epochs


def _negative(negatives: Folder, rng: np.random.Generator) -> dict[str, Any]:
    user_ids = np.repeat(np.arange(NUM_USERS), 3).astype(np.int32)
    item_ids = rng.integers(0, NUM_ITEMS, len(user_ids)).astype(np.int32)
    names = [
        f"A {_GENRES[(item + 1) % 5]} for {HOSTILE_TEXT if row == 0 else 'patient readers'}"
        for row, item in enumerate(item_ids)
    ]
    pairs = pa.table({"user_id": user_ids, "item_id": item_ids, **_answers(len(user_ids), rng, names)})
    negatives.write_table("pairs/part-00000.parquet", pairs)
    rank = np.tile(np.arange(20), len(user_ids)).astype(np.int32)
    grounded = {
        "user_id": np.repeat(user_ids, 20),
        "item_id": np.repeat(item_ids, 20),
        "rank": rank,
        "negative_item_id": rng.integers(0, NUM_ITEMS, len(rank)).astype(np.int32),
        "similarity": (0.75 - 0.015 * rank + 0.06 * rng.standard_normal(len(rank))).astype(np.float32),
    }
    negatives.write_table("grounded/part-00000.parquet", pa.table(grounded))
    tasks = {"pairs": _task_summary(pairs)}
    return {"headline": "900 pairs", "engine_ready_s": 0.1, "generation_s": 30.0, "tasks": tasks, "none_answers": 4}


def _finetune(finetune: Folder, rng: np.random.Generator) -> dict[str, Any]:
    num = 800
    triplets = {
        "user_id": rng.integers(0, NUM_USERS, num).astype(np.int32),
        "item_id": rng.integers(0, NUM_ITEMS, num).astype(np.int32),
        "hard_item_id": rng.integers(0, NUM_ITEMS, num).astype(np.int32),
        "q": [HOSTILE_TEXT] + ["A reader of slow romance chose The Harbour; near it: The Lamp, The Tide."] * (num - 1),
        "p": ["The Quiet Shore: a romance that never ends."] * num,
        "n": ["The Harbour: a mystery by the sea."] * num,
        "cf_percentile": rng.uniform(0.5, 0.95, num).astype(np.float32),
        "similarity": rng.normal(0.55, 0.1, num).clip(-1, 1).astype(np.float32),
        "origin": ["llm" if row % 4 else "semantic" for row in range(num)],
    }
    finetune.write_table("triplets/part-00000.parquet", pa.table(triplets))
    finetune.write_json(
        "encoder.json", {"base_model": "minilm", "pooling": "mean", "template": "{text}", "max_length": 128}
    )
    epochs = [
        {"epoch": epoch, "loss": 0.7 / epoch, "valid": {"loss": 0.8 / epoch, "accuracy": 0.2 * epoch}}
        for epoch in (1, 2, 3)
    ]
    finetune.write_json("history.json", {"epochs": epochs})
    return {"num_triplets": num, "tokens_per_s": 5200.0}


def _embed(embeddings: Folder, rng: np.random.Generator) -> dict[str, Any]:
    num = 4000
    embeddings.write_table(
        "pairs/part-00000.parquet", pa.table({"user_id": np.zeros(num, np.int32), "item_id": np.zeros(num, np.int32)})
    )
    embeddings.write_json(
        "meta.json", {"d": 384, "r": 64, "explained_variance": 0.87, "parity": {"max_abs": 3e-7, "num_rows": 256}}
    )
    return {"headline": "4000 vectors of 64", "tokens_per_s": 5100.0, "tune": _tune()}


def _tune() -> dict[str, Any]:
    def figures(target: float, inside: float) -> dict[str, Any]:
        bins = np.linspace(-1, 1, 21)[:-1]
        return {
            "mean_cosine": {"target": target, "positive": 0.52, "held_out_positive": 0.41, "random": 0.22},
            "cosine_histogram": {"target": (1000 * np.exp(-((bins - target) ** 2) / 0.02)).astype(int).tolist()},
            "retrieved_in_window": inside,
            "retrieved_above_window": 0.2,
            "retrieved_percentile_histogram": [10 + int(40 * inside) * (10 <= place < 19) for place in range(20)],
            "target_in_top_10": 0.1 + target / 2,
        }

    base, tuned = figures(0.45, 0.4), figures(0.68, 0.7)
    return {"num_pairs": 500, "num_items": 200, "window": [0.5, 0.95], "base": base, "tuned": tuned}


def _train(recommender: Folder, rng: np.random.Generator) -> dict[str, Any]:
    recommender.write_json("history.json", _history(100))
    return {"best_epoch": 70, "num_missing_negatives": 12}


def _evaluate(evaluation: Folder, rng: np.random.Generator) -> dict[str, Any]:
    def metrics(scale: float) -> dict[str, float]:
        values = {}
        for k in (5, 10, 20, 50):
            for kind, share in (
                ("recall", 0.1),
                ("ndcg", 0.06),
                ("hr", 0.2),
                ("precision", 0.03),
                ("mrr", 0.05),
                ("map", 0.04),
            ):
                values[f"{kind}@{k}"] = scale * share * np.log(1 + k)
        return values

    def groups(side: str, labels: list[str]) -> list[dict[str, Any]]:
        return [
            {"label": label, f"num_{side}": 50 + place, "metrics": metrics(0.6 + 0.2 * place)}
            for place, label in enumerate(labels)
        ]

    evaluation.write_json("metrics.json", {"valid": metrics(1.05), "test": metrics(1.0)})
    evaluation.write_json(
        "groups.json",
        {
            "users": groups("users", ["1-10", "11-14", "15-18", "19-31"]),
            "items": groups("items", ["1-4", "5-15", "16-40", "41-200"]),
        },
    )
    evaluation.write_json("popularity.json", {"average_popularity@20": 61.2, "gini@20": 0.71, "tail_coverage@20": 0.34})
    return {"num_users": NUM_USERS}


_WRITERS: dict[str, Callable[..., dict[str, Any]]] = {
    "ingest": _ingest, "signal": _signal, "profile": _profile, "negative": _negative,
    "finetune": _finetune, "embed": _embed, "train": _train, "evaluate": _evaluate,
}  # fmt: skip
