"""Facts about the data set: what the ingest counted, and how interactions spread over users and items."""

from typing import Any

import numpy as np

from hnlm_ray.report.source import Source, column, degree_histogram


def data_facts(source: Source) -> dict[str, Any]:
    """`dataset/stats.json`, and histograms of training interactions per user and per item."""
    dataset = source.folders["dataset"]
    statistics: dict[str, Any] = dataset.read_json("stats.json")
    degrees = {
        side: np.bincount(column(dataset, "train", f"{side}_id"), minlength=statistics[f"{side}s"])
        for side in ("user", "item")
    }
    return {**statistics, **{f"{side}_degree_histogram": degree_histogram(of) for side, of in degrees.items()}}
