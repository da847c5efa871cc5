"""Grounding as the stage does it: the search that the catalogue's size asks for, and what the summary says of it."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.bench.grounding import text_like_vectors
from hnlm_ray.config import parse_config
from hnlm_ray.generate.negative_stage import _ground_all, _without_generator, drop_outdated, negative_task
from hnlm_ray.generate.units import commit_inputs
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

NUM_ITEMS, NUM_USERS = 1_200, 40
VECTORS = text_like_vectors(NUM_ITEMS, np.random.default_rng(0))


class NumberEncoder:
    """Gives the text `item 17` the vector of item 17."""

    plan = SimpleNamespace(replicas=(1, 1))

    def prepare(self) -> None:
        pass

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return VECTORS[[int(text.removesuffix(".").split()[-1]) for text in texts]]


def items_table(titles: list[str], nameless: int = NUM_ITEMS + 1) -> pa.Table:
    """Items of which every `nameless`-th is called by its key alone."""
    sources = ["title" if number % nameless or nameless > NUM_ITEMS else "key" for number in range(NUM_ITEMS)]
    return pa.table({"item_id": np.arange(NUM_ITEMS, dtype=np.int32), "title": titles, "title_source": sources})


def context(root: Path, ann_above_items: int) -> Any:
    """A data set in which user u has bought item u, and for which the model names item u + 1 to every user."""
    numbers, users = np.arange(NUM_ITEMS, dtype=np.int32), np.arange(NUM_USERS, dtype=np.int32)
    dataset, profiles, out = (Folder(root / name) for name in ("dataset", "profiles", "negatives"))
    titles = [f"item {number}" for number in numbers]
    dataset.child("items").write_table("part-0.parquet", items_table(titles))
    dataset.child("users").write_table("part-0.parquet", pa.table({"user_id": users}))
    dataset.child("train").write_table("part-0.parquet", pa.table({"user_id": users, "item_id": users}))
    failed = ["failed"] * NUM_ITEMS
    told = pa.table({"item_id": numbers, "text": [""] * NUM_ITEMS, "status": failed})
    profiles.child("items").write_table("part-0.parquet", told)
    texts = [f"item {user + 1}" for user in users]
    pairs = pa.table({"user_id": users, "item_id": users, "text": texts, "status": ["ok"] * NUM_USERS})
    out.child("pairs").write_table("part-000000.parquet", pairs)
    config = parse_config({"negative": {"ann_above_items": ann_above_items}})
    engines = SimpleNamespace(encoder=lambda _: NumberEncoder())
    return SimpleNamespace(config=config, engines=engines, progress=Progress("test")), dataset, profiles, out


@pytest.mark.parametrize(("ann_above_items", "search"), [(1_200, "exact"), (1_199, "approximate")])
def test_large_catalogues_are_searched_by_codes_and_the_recall_is_told(
    tmp_path: Path, ann_above_items: int, search: str
) -> None:
    summary = _ground_all(*context(tmp_path, ann_above_items))
    assert summary["search"] == search
    assert summary["recall_of_search"] >= 0.99
    assert summary["grounded_pairs"] == NUM_USERS
    table = Folder(tmp_path / "negatives").read_table("grounded").to_pylist()
    assert len(table) == 20 * NUM_USERS
    assert all(row["negative_item_id"] != row["user_id"] for row in table), "a training positive is no negative"
    nearest = [row for row in table if row["rank"] == 0]
    assert [row["negative_item_id"] for row in nearest] == [row["user_id"] + 1 for row in nearest]
    assert all(row["similarity"] == pytest.approx(1.0, abs=1e-5) for row in nearest)


def test_pairs_that_are_asked_again_are_grounded_again(tmp_path: Path) -> None:
    ctx, dataset, profiles, out = context(tmp_path, 1_200)
    rows, pairs = out.child("pairs").read_table("part-000000.parquet").slice(0, 4), out.child("pairs")
    out.child("inputs").write_table("inputs-00000.parquet", rows, row_group_size=2)
    commit_inputs(out.child("inputs"))

    def answer(number: int, status: list[str]) -> None:
        told = rows.slice(2 * number, 2).drop_columns("status")
        table = told.append_column("status", [status]).append_column("attempt", [[1, 1]])
        pairs.write_table(f"part-{number:06d}.parquet", table)

    answer(0, ["ok", "ok"])
    answer(1, ["ok", "failed"])
    assert _ground_all(ctx, dataset, profiles, out)["grounded_pairs"] == 3
    untouched = out.child("grounded").read_bytes("part-000000.parquet")
    drop_outdated(negative_task(ctx.config, out.child("inputs"), pairs), out.child("grounded"))
    assert out.child("grounded").names() == ["part-000000.parquet"]
    answer(1, ["ok", "ok"])
    assert _ground_all(ctx, dataset, profiles, out)["grounded_pairs"] == 4
    assert out.child("grounded").read_bytes("part-000000.parquet") == untouched


def test_without_a_generator_there_are_no_text_negatives_and_items_without_text_have_no_vector(tmp_path: Path) -> None:
    ctx, dataset, profiles, out = context(tmp_path, 1_200)
    out.child("pairs").delete()
    dataset.child("items").write_table("part-0.parquet", items_table([f"item {n}" for n in range(NUM_ITEMS)], 3))
    summary = _without_generator(ctx, dataset, profiles, out)
    assert out.num_rows("pairs") == out.num_rows("grounded") == 0
    assert (summary["rows"], summary["failed"], summary["grounding"]["grounded_pairs"]) == (0, 0, 0)
    assert summary["headline"].startswith("no generator")
    item_text_emb = out.read_tensors("item_text_emb.safetensors")["item_text_emb"]
    textless = np.arange(NUM_ITEMS) % 3 == 0
    assert not item_text_emb[textless].any()
    np.testing.assert_allclose(item_text_emb[~textless], VECTORS[~textless], atol=1e-6)
