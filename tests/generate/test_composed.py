"""Texts without a generator: only what the data say, one row per input row, nothing lost between two runs."""

from pathlib import Path

import pyarrow as pa

from hnlm_ray.config import parse_config
from hnlm_ray.generate.build_inputs import build_item_inputs, build_user_inputs
from hnlm_ray.generate.composed import compose_all, shard_of
from hnlm_ray.generate.config import LLMConfig, ProfileConfig
from hnlm_ray.generate.units import list_units
from hnlm_ray.pipeline import plan
from hnlm_ray.plan import describe
from hnlm_ray.progress import Progress
from hnlm_ray.report.facts.cost import notes
from hnlm_ray.report.source import Source
from hnlm_ray.runtime import Resources
from hnlm_ray.store import Folder, RunDir

LLM = LLMConfig(engine="none", unit_rows=16)


def write_dataset(root: Folder) -> Folder:
    """Three items (ready-made text; title and brand; nothing) and two users, one of them of the last item alone."""
    dataset = root.child("dataset")
    items = {
        "item_id": pa.array(range(3), pa.int32()),
        "title": ["Dune", "Emma", "item C"],
        "title_source": ["title", "title", "key"],
        "brand": [None, "Austen", None],
        "categories": pa.array([None, ["novel", "wit"], None], pa.list_(pa.string())),
        "description": pa.array([None, None, None], pa.string()),
        "text": ["sand and  power", None, None],
    }
    dataset.child("items").write_table("part-0.parquet", pa.table(items))
    dataset.child("users").write_table("part-0.parquet", pa.table({"user_id": pa.array(range(2), pa.int32())}))
    train = {
        "user_id": pa.array([0, 0, 1], pa.int32()),
        "item_id": pa.array([1, 0, 2], pa.int32()),
        "timestamp": pa.array([1, 2, 3], pa.int64()),
        "review": pa.array([None, None, None], pa.string()),
    }
    dataset.child("train").write_table("part-0.parquet", pa.table(train))
    return dataset


def test_profiles_hold_what_the_data_say(tmp_path: Path) -> None:
    root = Folder(tmp_path)
    dataset, profiles = write_dataset(root), root.child("profiles")
    profile, progress = ProfileConfig(use_supplied=True), Progress("test")
    build_item_inputs(dataset, profiles.child("inputs", "items"), profile, LLM, large=False)
    items = compose_all(
        profiles.child("inputs", "items"), profiles.child("items"), "item_id", 100, LLM, progress, "items"
    )
    build_user_inputs(dataset, profiles, profiles.child("inputs", "users"), profile, LLM, large=False)
    users = compose_all(
        profiles.child("inputs", "users"), profiles.child("users"), "user_id", 100, LLM, progress, "users"
    )
    progress.close()
    made = profiles.read_table("items").to_pylist()
    assert [row["text"] for row in made] == ["sand and power", "Emma. Austen. novel, wit", ""]
    assert [row["status"] for row in made] == ["ok", "ok", "failed"]
    assert [row["source"] for row in made] == ["composed:supplied", "composed:title+brand+categories", ""]
    made = profiles.read_table("users").to_pylist()
    assert [row["text"] for row in made] == ["Dune; Emma", ""]  # newest first; of user 1 nothing is known
    assert made[0]["source"] == "composed:interactions"
    for summary, rows in ((items, 3), (users, 2)):
        assert (summary.rows, summary.failed, summary.failures) == (rows, 1, {"no text": 1})
        assert (summary.prompt_tokens, summary.cost["measured"]["price"]) == (0, 0.0)


def test_a_cut_run_writes_what_is_missing(tmp_path: Path) -> None:
    root = Folder(tmp_path)
    dataset = write_dataset(root)
    inputs, out = root.child("inputs"), root.child("out")
    build_item_inputs(dataset, inputs, ProfileConfig(), LLM, large=False)
    progress = Progress("test")
    compose_all(inputs, out, "item_id", 2, LLM, progress, "items")
    before = out.read_table()
    assert max(len(text.split()) for text in before["text"].to_pylist()) == 2
    out.delete(list_units(inputs)[0].shard)
    compose_all(inputs, out, "item_id", 2, LLM, progress, "items")
    progress.close()
    assert out.read_table().equals(before)


def test_the_text_of_a_data_set_is_never_a_format() -> None:
    row = {"item_id": 0, "title": "{brand} %s {{ x }}", "brand": "", "categories": None, "description": ""}
    shard = shard_of([{**row, "given": None, "source": "title"}], "item_id", 100)
    assert shard["text"].to_pylist() == ["{brand} %s {{ x }}"]


def test_plan_and_report_say_it_plainly(tmp_path: Path) -> None:
    config = parse_config({"llm": {"engine": "none"}})
    words = describe(config, plan(config, RunDir(tmp_path)), Resources(2, 0, 8, 8))
    assert "generator none (texts are composed from the catalogue, no text negatives, no cost)" in words
    assert "stand-in" not in words
    assert "composed texts, no prompts" in words
    source = Source({}, {}, config.model_dump(mode="json"), config.report)
    found = notes(source, {"llm": {"engine": "none", "model": "stand-in", "tasks": {}}})
    assert found[0].startswith("No generator: profiles are composed")
    assert not any("stand-in" in note for note in found)
