"""Nothing of a held-out pair reaches a prompt: followed from raw data to the rows that prompts are filled with."""

from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest
from raw_tables import Ingest, Write, grid, interactions

from hnlm_ray.generate.build_inputs import build_item_inputs, build_pair_inputs, build_user_inputs
from hnlm_ray.generate.config import LLMConfig, NegativeConfig, ProfileConfig
from hnlm_ray.store import Folder


def _profiles(folder: Folder, num_users: int, num_items: int) -> Folder:
    for name, column, num in (("users", "user_id", num_users), ("items", "item_id", num_items)):
        ids = pa.array(range(num), pa.int32())
        table = pa.table({column: ids, "text": [f"{name} {i}" for i in range(num)], "status": ["ok"] * num})
        folder.write_table(f"{name}/part-0.parquet", table)
    return folder


@pytest.mark.parametrize("kind", ["random", "leave_last", "ratio"])
def test_prompts_hold_training_pairs_only(kind: str, write: Write, ingest: Ingest, tmp_path: Path) -> None:
    rows = [(u, i, r, t, f"review of {u} on {i}.") for u, i, r, t in grid(8, 12)]
    titles = interactions([(f"i{i}", f"title of i{i}") for i in range(12)], "item_id title")
    users = pa.table({"user_id": ["u0"], "profile": ["supplied profile"]})
    result = ingest(write(interactions=interactions(rows), items=titles, users=users), split={"kind": kind})
    inputs = Folder(tmp_path / "inputs")
    profiles = _profiles(Folder(tmp_path / "profiles"), result.stats["users"], result.stats["items"])
    profile, llm = ProfileConfig(max_reviews_per_item=99, max_items_per_user=99), LLMConfig()
    build_item_inputs(result.dataset, inputs.child("items"), profile, llm, large=False)
    build_user_inputs(result.dataset, profiles, inputs.child("users"), profile, llm, large=False)
    negative = NegativeConfig(pairs="all")
    build_pair_inputs(result.dataset, profiles, profiles, inputs.child("pairs"), negative, llm, large=False)

    everything = " ".join(str(inputs.read_table(name).to_pylist()) for name in ("items", "users", "pairs"))
    train, held_out = set(result.keyed("train")), {*result.keyed("valid"), *result.keyed("test")}
    assert held_out
    assert not train & held_out
    for user, item in product(range(8), range(12)):
        review = f"review of u{user} on i{item}."
        assert (review in everything) == ((f"u{user}", f"i{item}") in train)
    assert "supplied profile" not in everything
    keys = result.frame("users").user_key
    for row in inputs.read_table("users").to_pylist():
        own = {(keys[row["user_id"]], entry["title"].rpartition(" ")[2]) for entry in row["history"]}
        assert own <= train
    for row in inputs.read_table("pairs").to_pylist():
        assert (keys[row["user_id"]], row["title"].rpartition(" ")[2]) in train
