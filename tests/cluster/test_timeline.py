"""Nodes over a run: what a stage had, and how the report shows it."""

from hnlm_ray.cluster.timeline import NodeTimeline, _kind
from hnlm_ray.report.config import ReportConfig
from hnlm_ray.report.facts.cost import node_facts
from hnlm_ray.report.page import plots
from hnlm_ray.report.source import Source
from hnlm_ray.store import ManifestEntry


def entry(stage: str, *nodes: tuple[float, dict[str, int]]) -> ManifestEntry:
    return ManifestEntry(stage, "f" * 16, {}, {}, 1.0, 1.0, "2026-01-01T00:00:00+00:00", list(nodes))


def source(*entries: ManifestEntry) -> Source:
    return Source({entry.stage: entry for entry in entries}, {}, {}, ReportConfig())


def test_kinds_of_nodes() -> None:
    assert _kind({"CPU": 0, "GPU": 1, "node:__internal_head__": 1.0}) == "head"
    assert _kind({"CPU": 8, "GPU": 1}) == "gpu"
    assert _kind({"CPU": 8, "GPU": 0}) == "cpu"


def test_a_stage_knows_what_stood_when_it_began_and_every_change_since() -> None:
    timeline = NodeTimeline()
    timeline._points = [(10.0, {"head": 1}), (12.0, {"head": 1, "cpu": 1}), (20.0, {"head": 1, "gpu": 2})]
    assert timeline.since(15.0) == [(15.0, {"head": 1, "cpu": 1}), (20.0, {"head": 1, "gpu": 2})]
    assert timeline.since(5.0)[0] == (5.0, {"head": 1})


def test_the_report_shows_the_nodes_of_a_cluster_and_is_silent_about_a_single_one() -> None:
    assert node_facts(source(entry("ingest", (100.0, {"head": 1})), entry("train", (110.0, {"head": 1})))) == {}
    found = node_facts(
        source(
            entry("profile", (100.0, {"head": 1}), (105.0, {"head": 1, "gpu": 2})),
            entry("train", (120.0, {"head": 1, "gpu": 2}), (130.0, {"head": 1, "cpu": 1})),
        )
    )
    assert found["gpu"] == [[0.0, 0], [5.0, 2], [20.0, 2], [30.0, 0]]
    assert found["cpu"] == [[0.0, 0], [5.0, 0], [20.0, 0], [30.0, 1]]
    assert "gpu nodes" in plots({"nodes": found})["nodes"]


def test_an_entry_without_nodes_is_read() -> None:
    assert node_facts(source(entry("ingest"))) == {}
