"""The stage `embed` with Ray and vLLM, on a tiny decoder that the stage `finetune` has tuned."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from finetune_world import NUM_ITEMS, World, make_world
from test_finetune_stage import FINETUNE

from hnlm_ray.finetune import embed_stage, finetune_stage
from hnlm_ray.finetune.config import EmbedConfig
from hnlm_ray.finetune.parity import ParityError
from hnlm_ray.pipeline import StageContext
from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.store import Folder

WIDTH = 32

Embedded = tuple[World, StageContext, dict[str, Any]]


@pytest.fixture(scope="module")
def embedded(llama: str, ray_session: RuntimeConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A finished stage: its world, context and summary. The engine ends with the module."""
    world = make_world(tmp_path_factory.mktemp("embedded"))
    ctx = world.context(
        encoder={"model": llama, "max_length": 64},
        finetune=FINETUNE,
        embed={"dtype": "float32", "unit_rows": 50},
        runtime=ray_session.model_dump(),
    )
    finetune_stage.run(ctx)
    try:
        yield world, ctx, embed_stage.run(ctx)
    finally:
        ctx.run.close()


def shards(folder: Folder) -> dict[str, pa.Table]:
    return {name: folder.read_table(name) for name in folder.names(".parquet")}


def test_every_pair_gets_a_vector_of_the_encoder_that_was_trained(embedded: Embedded) -> None:
    world, ctx, summary = embedded
    out = ctx.out("embeddings")
    assert summary["parity"]["max_difference"] < 1e-4
    table = out.read_table("pairs")
    assert sorted(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)) == sorted(world.train)
    assert out.read_tensors("items.safetensors")["item_text_emb"].shape == (NUM_ITEMS, WIDTH)
    base, after = summary["tune"]["base"], summary["tune"]["tuned"]
    assert after["mean_cosine"]["target"] > base["mean_cosine"]["target"]
    assert base.keys() == after.keys() >= {"retrieved_in_window", "retrieved_percentile_histogram"}


def test_a_lost_shard_is_made_again_and_no_other(embedded: Embedded) -> None:
    _, ctx, _ = embedded
    folder = ctx.out("embeddings").child("pairs")
    before = shards(folder)
    lost = sorted(before)[1]
    folder.delete(lost)
    assert embed_stage.run(ctx)["embedded_pairs"] == before[lost].num_rows
    again = shards(folder)
    assert again.keys() == before.keys()
    for name, table in before.items():
        assert table.drop_columns("z").equals(again[name].drop_columns("z"))
        z, same = (np.stack(found["z"].to_pylist()) for found in (table, again[name]))
        np.testing.assert_allclose(z, same, atol=1e-3)  # a step of float16


def test_vectors_are_reduced_and_capped(embedded: Embedded) -> None:
    world, ctx, _ = embedded
    config = ctx.config.model_copy(
        update={"embed": EmbedConfig(dtype="float32", r=8, num_pca_rows=100, max_pairs_per_user=2)}
    )
    reduced = replace(ctx, config=config, fingerprints=ctx.fingerprints | {"embed": "reduced"})
    summary, out = embed_stage.run(reduced), reduced.out("embeddings")
    table = out.read_table("pairs")
    assert table["z"].type == pa.list_(pa.float16(), 8)
    users = table["user_id"].to_pylist()
    assert {user: users.count(user) for user in users} == {user: 2 for user, _ in world.train}
    assert out.read_tensors("items.safetensors")["item_text_emb"].shape == (NUM_ITEMS, 8)
    assert 0.5 < out.read_json("meta.json")["explained_variance"] < 1
    assert summary["explained_variance"] == out.read_json("meta.json")["explained_variance"]


def test_items_alone_are_embedded_where_no_pair_is_asked_for(embedded: Embedded) -> None:
    _, ctx, _ = embedded
    config = ctx.config.model_copy(update={"embed": EmbedConfig(dtype="float32", max_pairs_per_user=0)})
    items_only = replace(ctx, config=config, fingerprints=ctx.fingerprints | {"embed": "items-only"})
    summary, out = embed_stage.run(items_only), items_only.out("embeddings")
    assert summary["num_pairs"] == summary["embedded_pairs"] == 0
    assert not out.exists("pairs")
    for name in ("items", "taste"):
        found = out.read_tensors(f"{name}.safetensors")[f"item_{'text' if name == 'items' else name}_emb"]
        assert np.abs(found).sum(axis=1).all()


def test_an_encoder_that_differs_is_refused_before_anything_is_embedded(embedded: Embedded) -> None:
    _, ctx, _ = embedded
    folder = ctx.out("finetune").child("parity")
    vectors = folder.read_tensors("vectors.safetensors")["vectors"]
    refused = replace(ctx, fingerprints=ctx.fingerprints | {"embed": "refused"})
    folder.write_tensors("vectors.safetensors", {"vectors": np.roll(vectors, 1, axis=0)})
    try:
        with pytest.raises(ParityError, match="nothing was embedded"):
            embed_stage.run(refused)
    finally:
        folder.write_tensors("vectors.safetensors", {"vectors": vectors})
    assert not refused.out("embeddings").exists()
