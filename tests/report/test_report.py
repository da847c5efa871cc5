"""The report of a finished run: complete, safe against the text it shows, valid JSON, right numbers."""

import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_up_run import HOSTILE_TEXT, HOSTILE_TITLE, NUM_ITEMS, write_finished_run

from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import Run, StageContext
from hnlm_ray.progress import Progress
from hnlm_ray.report import charts, page, stage
from hnlm_ray.report.facts.cost import config_facts
from hnlm_ray.report.facts.texts import token_rates
from hnlm_ray.report.facts.training import curves
from hnlm_ray.report.source import Source, count_histogram, degree_histogram, histogram, spread_rows
from hnlm_ray.report.stage import build_report, collect, plain
from hnlm_ray.store import Folder, RunDir

_SECTIONS = {
    "result", "data", "generation", "negatives", "signal",
    "finetune", "embeddings", "recommender", "cost", "provenance",
}  # fmt: skip


class _Page(HTMLParser):
    """Elements, attributes and text of a page, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value or "" for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def html(finished_run: RunDir) -> str:
    build_report(finished_run)
    return finished_run.folder.read_bytes("report.html").decode()


@pytest.fixture(scope="module")
def report(finished_run: RunDir, html: str) -> dict[str, Any]:
    text = finished_run.folder.read_bytes("report.json")
    result: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return result


def test_every_section_is_there_and_linked(html: str) -> None:
    found = _Page(html)
    assert set(found.values("id")) >= _SECTIONS
    links = [link for link in found.values("href") if link.startswith("#")]
    assert {link[1:] for link in links} >= _SECTIONS
    assert found.tags.count("svg") >= 20


def test_text_of_a_data_set_stays_text(html: str) -> None:
    found = _Page(html)
    assert not {"script", "img", "iframe", "object", "link", "form"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert HOSTILE_TITLE in found.text
    assert found.text.count(HOSTILE_TEXT) >= 3  # a profile, a negative, a triplet
    assert found.tags.count("main") == html.count("</main>") == 1


def test_the_page_needs_nothing_but_itself(html: str) -> None:
    found = _Page(html)
    assert all(link.startswith("#") for link in found.values("href") + found.values("xlink:href"))
    assert not found.values("src")
    assert re.findall(r"url\((?!#)", html) == []
    assert "default-src 'none'" in html


def test_ids_are_unique(html: str) -> None:
    ids = _Page(html).values("id")
    assert len(ids) == len(set(ids))


def test_json_holds_what_the_run_is_measured_by(report: dict[str, Any]) -> None:
    assert report["timing"]["profile"] == 41.5
    assert report["timing"]["total_s"] == pytest.approx(188.1)
    assert report["memory"]["peak_gb"] == pytest.approx(1.5 + 0.4 * 7)
    assert report["counts"]["ingest"]["items"] == NUM_ITEMS
    assert report["counts"]["ingest"]["quarantine"] == 3
    assert report["counts"]["negative"] == {"pairs": 900, "grounded": 18000}
    assert report["stages"]["train"]["fingerprint"] == "train-fingerprint"
    assert report["metrics"]["test"]["recall@20"] == pytest.approx(0.1 * np.log(21))
    assert report["config"]["train"]["hnlm"]["variant"] == "aligned"
    assert report["versions"]["ray"]
    assert any("stand-in" in note and "llm.model=" in note for note in report["notes"])


def test_llm_statistics_by_hand(report: dict[str, Any]) -> None:
    task = report["llm"]["tasks"]["item_profiles"]
    assert (task["rows"], task["num_asked"], task["failed"], task["num_retried"]) == (200, 200, 5, 5)
    assert task["failures"] == {"truncated": 5}
    both = [report["llm"]["tasks"][name] for name in ("item_profiles", "user_profiles")]
    tokens = sum(of["prompt_tokens"] + of["completion_tokens"] for of in both)
    assert report["llm"]["stages"]["profile"]["tokens_per_s"] == pytest.approx(tokens / 20.0)
    assert sum(task["word_histogram"]["counts"]) == 195


def test_the_estimate_stands_beside_what_was_measured(html: str, report: dict[str, Any]) -> None:
    cost = report["llm"]["costs"]["item_profiles"]
    assert (cost["estimated"]["price"], cost["measured"]["price"]) == (2.2, 2.0)  # 10 x 2.2 s, 20 s; 360 per hour
    assert cost["deviation"]["price"] == pytest.approx(0.1)
    assert "2.20 USD" in html
    assert "2.00 USD" in html


def test_token_rates_by_hand() -> None:
    # a unit every 2 s: 100 tokens/s for the first 10 s, then 300 tokens/s
    tokens = [50 + 200 * unit if unit <= 5 else 1050 + 600 * (unit - 5) for unit in range(11)]
    points = [(1000.0 + 2 * unit, of) for unit, of in enumerate(tokens)]
    assert token_rates(points, num_bins=2) == [(5.0, 100.0), (15.0, 300.0)]
    assert token_rates(points[:6]) == []  # too few units
    assert token_rates([(time / 100, of) for time, of in points]) == []  # too short


def test_degree_histograms_by_hand(report: dict[str, Any], finished_run: RunDir) -> None:
    train = finished_run.folder.child("dataset", "ingest-fingerprint").read_table("train").to_pydict()
    for side, ids in (("user", train["user_id"]), ("item", train["item_id"])):
        degrees, found = np.bincount(ids), report["data"][f"{side}_degree_histogram"]
        for low, high, count in zip(found["edges"][:-1], found["edges"][1:], found["counts"], strict=True):
            assert count == np.sum((degrees >= low) & (degrees < high))


def test_filters_and_quarantine_are_shown_beside_what_was_published(html: str, report: dict[str, Any]) -> None:
    text = _Page(html).text
    assert "newest of duplicate pairs" in text
    assert "as published" in text
    assert "rating is <b>text</b>" in text
    assert any("3 input rows were set aside" in note for note in report["notes"])


def test_samples_are_joined_with_their_own_rows(report: dict[str, Any], finished_run: RunDir) -> None:
    negatives = finished_run.folder.child("negatives", "negative-fingerprint")
    grounded = negatives.read_table("grounded").to_pylist()
    titles = finished_run.folder.child("dataset", "ingest-fingerprint").read_table("items").to_pydict()["title"]
    for sample in report["samples"]["negatives"]:
        near = [row for row in grounded if (row["user_id"], row["item_id"]) == (sample["user_id"], sample["item_id"])]
        nearest = [titles[row["negative_item_id"]] for row in near if row["rank"] == 0]
        assert sample["grounded"][0]["title"] in nearest
        assert sample["text"]
        assert sample["title"] == titles[sample["item_id"]]
        assert sample["user_key"] == f"reader<{sample['user_id']}>"
    assert len(report["triplets"]["samples"]) == 20


@pytest.mark.parametrize("until", ["ingest", "profile", "finetune", "train"])
def test_a_run_that_stopped_early_has_the_report_of_its_stages(tmp_path: Path, until: str) -> None:
    run_dir = write_finished_run(tmp_path, until)
    build_report(run_dir)
    ids = set(_Page(run_dir.folder.read_bytes("report.html").decode()).values("id"))
    after = {"ingest": "generation", "profile": "negatives", "finetune": "embeddings", "train": "result"}
    assert after[until] not in ids
    assert {"data", "cost", "provenance"} <= ids


def test_the_stage_writes_page_and_json_of_the_runs_own_versions(tmp_path: Path) -> None:
    run_dir = write_finished_run(tmp_path)
    other = replace(run_dir.entries()["train"][-1], fingerprint="of another config", seconds=1e6)
    run_dir.commit(other)  # a later run in the same directory: none of this report's business
    config = parse_config({"name": "quickstart"})
    stages = [*run_dir.entries(), "report"]
    fingerprints = {stage: f"{stage}-fingerprint" for stage in stages}
    ctx = StageContext(config, run_dir, fingerprints, Progress("report", io.StringIO()), Run(config))
    summary = stage.run(ctx)
    out = ctx.out("report")
    assert out.names() == ["report.html", "report.json"]
    assert summary["html_bytes"] == len(out.read_bytes("report.html"))
    assert out.read_json("report.json")["timing"]["train"] == 20.9


def test_a_complete_stage_without_its_artifact_is_an_error(tmp_path: Path) -> None:
    run_dir = write_finished_run(tmp_path)
    shutil.rmtree(tmp_path / "finetune" / "finetune-fingerprint" / "triplets")
    with pytest.raises(FileNotFoundError, match="triplets"):
        build_report(run_dir)


def test_a_directory_without_a_run_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete stage"):
        build_report(RunDir(tmp_path))


def test_the_same_run_gives_the_same_page(finished_run: RunDir, html: str) -> None:
    again = page.render(collect(Source.of_run_dir(finished_run)))
    assert again == html
    assert " at 0x" not in html  # no object in place of a value


def test_plain_values_have_no_nan() -> None:
    assert plain({"a": [float("nan"), 1.5], "b": {"c": float("inf")}, "d": (1, None)}) == {
        "a": [None, 1.5],
        "b": {"c": None},
        "d": [1, None],
    }


def test_credentials_in_a_uri_do_not_reach_the_report() -> None:
    config = {"data": {"path": "s3://key:secret@bucket/reviews"}, "other": ["gs://bucket/a", 3]}
    shown = config_facts(config)
    assert shown == {"data": {"path": "s3://***@bucket/reviews"}, "other": ["gs://bucket/a", 3]}


def test_curves_take_every_number_and_keep_the_epoch() -> None:
    history = {
        "epochs": [{"epoch": 5, "loss": 0.5, "valid": {"ndcg@20": 0.1}, "best": True}, {"epoch": 10, "loss": 0.4}]
    }
    assert curves(history) == {"loss": [[5, 0.5], [10, 0.4]], "valid.ndcg@20": [[5, 0.1]]}


def test_histograms_by_hand() -> None:
    assert histogram(np.array([-2.0, 0.1, 0.9, 5.0]), np.array([0.0, 0.5, 1.0]))["counts"] == [2, 2]
    tokens = count_histogram(np.array([0, 1, 5, 47]), num_bins=24)
    assert sum(tokens["counts"]) == 4
    assert tokens["edges"][:3] == [0, 2, 4]
    degrees = degree_histogram(np.array([1, 1, 2, 3, 100]))
    assert degrees["counts"][:3] == [2, 1, 1]
    assert degrees["counts"][-1] == 1
    assert sum(degrees["counts"]) == 5
    assert sum(degree_histogram(np.array([0, 0, 4]))["counts"]) == 3


def test_spread_rows_takes_from_all_shards(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for shard in range(4):
        folder.write_table(f"t/part-{shard}.parquet", pa.table({"x": list(range(10 * shard, 10 * shard + 10))}))

    def taken(num_rows: int, where: pc.Expression | None = None) -> list[int]:
        return [row["x"] for row in spread_rows(folder, "t", num_rows, ["x"], where)]

    assert taken(4) == [0, 10, 20, 30]
    assert taken(2) == [0, 30]
    assert taken(6)[:2] == [0, 9]
    assert len(taken(1000)) == 40
    assert taken(3, pc.field("x").isin([25, 39])) == [39, 25]  # shards without such rows do not shorten the sample
    assert spread_rows(folder, "absent", 3, ["x"]) == []


@pytest.mark.parametrize(
    "svg",
    [
        charts.lines({"loss": [[1, 0.5]]}, "epoch", "loss"),
        charts.bars(["<a>", "$b$"], {"x & y": [1.0, 2.0]}, "k", "v"),
        charts.horizontal_bars(["ingest"], [0.0], "seconds", "s"),
        charts.histogram({"none": {"edges": [0, 1, 2], "counts": [0, 0]}}, "x", "y", share=True),
        charts.histogram({"d": {"edges": [1, 2, 9], "counts": [5, 1]}}, "x", "y", log=True),
        charts.steps_over_time([], [], [], "GB"),
    ],
    ids=["one point", "marked-up labels", "zero", "empty", "log", "no stage"],
)
def test_plots_are_well_formed_and_take_the_pages_colours(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "width" not in root.attrib
    assert "var(--" in svg
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]", svg)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234567, "1,234,567"), (0.12345678, "0.1235"), (61.0, "61"), (12345.6, "12,345.6"), (None, "")],
)
def test_numbers_in_tables(value: Any, shown: str) -> None:
    assert page.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(8.24, "8.2 s"), (185, "3 min 5 s"), (59.99, "60.0 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert page.duration(seconds) == shown


def test_a_run_whose_text_negatives_all_failed_says_so(tmp_path: Path) -> None:
    run_dir = write_finished_run(tmp_path)
    shutil.rmtree(tmp_path / "negatives" / "negative-fingerprint" / "grounded")
    build_report(run_dir)
    assert run_dir.folder.read_json("report.json")["grounding"] is None
    assert "nothing could be grounded" in _Page(run_dir.folder.read_bytes("report.html").decode()).text
