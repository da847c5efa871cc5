"""Facts about what was trained: curves, triplets in words, the encoder's checks, embeddings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hnlm_ray.report.source import Source, histogram, spread_rows

_PERCENTILE_EDGES = np.linspace(0, 1, 51)
_SIMILARITY_EDGES = np.linspace(-1, 1, 81)


def history_facts(source: Source) -> dict[str, Any]:
    """Training curves of the stages that train: stage -> name of the curve -> [[epoch, value], ...]."""
    artifacts = {"signal": "signal", "finetune": "finetune", "train": "recommender"}
    return {
        stage: curves(source.folders[artifact].read_json("history.json"))
        for stage, artifact in artifacts.items()
        if source.has(artifact)
    }


def curves(history: Any) -> dict[str, list[list[float]]]:
    """Every number that a history records per epoch, as curves; nested records (`valid`) get dotted names.

    A history is a list of records, or a mapping that has them under `epochs`.
    """
    records = history["epochs"] if isinstance(history, Mapping) else history
    found: dict[str, list[list[float]]] = {}
    for number, record in enumerate(records, start=1):
        flat = _flat(record)
        epoch = flat.pop("epoch", number)
        for name, value in flat.items():
            found.setdefault(name, []).append([float(epoch), float(value)])
    return found


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    values: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            values[f"{prefix}{name}"] = value
    return values


def triplet_facts(source: Source) -> dict[str, Any]:
    """Number of triplets, where their hard negatives lie by CF percentile and similarity, and some of them in words.

    Histograms are kept apart by origin: `llm` (a grounded text negative) or `semantic` (a neighbour of the positive).
    """
    folder = source.folders["finetune"]
    table = folder.read_table("triplets", columns=["cf_percentile", "similarity", "origin"])
    origin = np.asarray(table["origin"])
    origins = sorted({str(name) for name in origin})
    columns = ["user_id", "item_id", "hard_item_id", "q", "p", "n", "cf_percentile", "similarity", "origin"]
    samples = spread_rows(folder, "triplets", source.settings.num_triplets, columns)
    titles = source.item_titles([row[key] for row in samples for key in ("item_id", "hard_item_id")])
    return {
        "num_triplets": table.num_rows,
        "num_by_origin": {name: int((origin == name).sum()) for name in origins},
        "window": source.config["finetune"]["window"],
        **{
            f"{name}_histograms": {of: histogram(np.asarray(table[name])[origin == of], edges) for of in origins}
            for name, edges in (("cf_percentile", _PERCENTILE_EDGES), ("similarity", _SIMILARITY_EDGES))
        },
        "samples": [
            {"title": titles[row["item_id"]], "hard_title": titles[row["hard_item_id"]], **row} for row in samples
        ],
    }


def encoder_facts(source: Source) -> dict[str, Any]:
    """How the tuned encoder turns text into vectors (`encoder.json`)."""
    facts: dict[str, Any] = source.folders["finetune"].read_json("encoder.json")
    return facts


def embedding_facts(source: Source) -> dict[str, Any]:
    """Rows and width of the hard-negative embeddings, explained variance, parity of the two encoders."""
    folder = source.folders["embeddings"]
    return {"num_pairs": folder.num_rows("pairs"), **folder.read_json("meta.json")}


def tune_facts(source: Source) -> dict[str, Any]:
    """Base against tuned encoder on pairs held out of the tune, as the stage `embed` measured them."""
    facts: dict[str, Any] = source.entries["embed"].summary["tune"]
    return facts
