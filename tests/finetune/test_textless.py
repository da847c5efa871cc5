"""A catalogue of which only a part has text: the other items have no vector and are nobody's candidate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from finetune_world import NUM_ITEMS, World

from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.embed_plan import embed_items
from hnlm_ray.finetune.pair_embedder import EmbedTask, PairEmbedder, pair_units
from hnlm_ray.finetune.pairs import PairTexts, Sources
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.triplet_dataset import write_candidates
from hnlm_ray.finetune.triplets import TripletMaker
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.pair_vectors import load_pair_vectors
from hnlm_ray.recommend.pool import pool_from_vectors
from hnlm_ray.store import Folder

TEMPLATE = TextTemplate(96, "none", 3, 8)
TEXTLESS = np.arange(NUM_ITEMS) % 5 == 0


@pytest.fixture
def sources(world: World) -> Sources:
    """The world with every fifth item's text taken away, as `negative` writes it."""
    negatives = world.run_dir.artifact("negatives", "v")
    table = negatives.read_table("item_texts")
    for column in ("title", "text"):
        kept = ["" if empty else text for text, empty in zip(table[column].to_pylist(), TEXTLESS, strict=True)]
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(kept))
    negatives.child("item_texts").write_table("part-0.parquet", table)
    emb = negatives.read_tensors("item_text_emb.safetensors")["item_text_emb"].copy()
    emb[TEXTLESS] = 0
    negatives.write_tensors("item_text_emb.safetensors", {"item_text_emb": emb})

    def uri(name: str) -> str:
        return world.run_dir.artifact(name, "v").uri

    return Sources(uri("dataset") + "/train", uri("profiles"), uri("signal"), uri("negatives"))


class LengthEncoder:
    """A unit vector from a text's length: nothing that is embedded is zero."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder.embed`."""
        angle = np.array([len(text) for text in texts], np.float32)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_no_triplet_has_an_item_without_text(world: World, sources: Sources, tmp_path: Any) -> None:
    users, items = (np.array(column) for column in zip(*world.train, strict=True))
    config = FinetuneConfig(window=(0.0, 1.0), num_semantic_candidates=NUM_ITEMS)
    # without text negatives, as under llm.engine=none: neighbours alone, all of them
    world.run_dir.artifact("negatives", "v").delete("grounded")
    table = TripletMaker(sources, TEMPLATE, config, seed=0)(users, items)
    told = ~TEXTLESS[items]
    assert len(table) == told.sum()
    assert not TEXTLESS[table["item_id"].to_numpy()].any()
    assert not TEXTLESS[table["hard_item_id"].to_numpy()].any()
    assert set(table["origin"].to_pylist()) == {"semantic"}
    none = TripletMaker(sources, TEMPLATE, config, seed=0)(users[~told], items[~told])
    assert len(none) == 0
    assert none.schema == table.schema
    write_candidates(PairTexts(sources, TEMPLATE), config, 0, Folder(tmp_path / "out"))
    candidates = Folder(tmp_path / "out").read_table("candidates.parquet")["item_id"].to_numpy()
    assert sorted(candidates.tolist()) == np.flatnonzero(~TEXTLESS).tolist()


def test_vectors_pools_and_pairs_leave_them_out(world: World, sources: Sources, tmp_path: Any) -> None:
    texts = PairTexts(sources, TEMPLATE)
    item_text_emb = embed_items(texts, LengthEncoder(), np.arange(NUM_ITEMS), num_engines=1)
    assert (item_text_emb.any(axis=1) == ~TEXTLESS).all()

    out = Folder(tmp_path / "embeddings")
    task = EmbedTask(sources, TEMPLATE, out.child("pairs").uri, 2, None, "")
    embedder = PairEmbedder(task, LengthEncoder())
    reports = [embedder.run(unit) for unit in pair_units(Folder(sources.train), 7)]
    num_told = sum(not TEXTLESS[item] for _, item in world.train)
    assert sum(report.embedded for report in reports) == out.num_rows("pairs") == num_told
    assert sum(report.rows for report in reports) == len(world.train)

    users, items = (np.array(column) for column in zip(*sorted(world.train), strict=True))
    data = Interactions.from_arrays((users, items), int(users.max()) + 1, NUM_ITEMS)
    vectors = load_pair_vectors(out, data, "none", 0)
    assert vectors.num_missing == len(world.train) - num_told
    pool = pool_from_vectors(vectors, item_text_emb, data, NUM_ITEMS)
    assert pool.num_empty == vectors.num_missing
    shown = np.asarray(pool.item_ids)
    assert not TEXTLESS[shown[shown >= 0]].any()
    assert pool.counts.max() > 0
