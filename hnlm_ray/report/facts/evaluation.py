"""Facts about the result: metrics per split and k, groups of users and items, popularity bias."""

from typing import Any

from hnlm_ray.report.source import Source


def evaluation_facts(source: Source) -> dict[str, Any]:
    """`metrics`, `groups` and `popularity` as the stage `evaluate` wrote them."""
    folder = source.folders["evaluation"]
    return {name: folder.read_json(f"{name}.json") for name in ("metrics", "groups", "popularity")}
