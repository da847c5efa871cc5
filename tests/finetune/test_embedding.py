"""Units, shards, caps, projection and parity, without an engine."""

import hashlib
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import ray
from finetune_world import World
from hypothesis import given
from hypothesis import strategies as st

from hnlm_ray.finetune.embed_plan import embed_pairs
from hnlm_ray.finetune.pair_embedder import EmbedTask, PairEmbedder, pair_units, read_projection, write_projection
from hnlm_ray.finetune.pairs import Sources
from hnlm_ray.finetune.parity import ParityError, check_parity
from hnlm_ray.finetune.projection import Projection
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.tune_figures import TuneSample, measure
from hnlm_ray.generate import feeding
from hnlm_ray.generate.protocol import Counters
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see the folders of tests
DIM = 16


class HashEncoder:
    """A unit vector that depends on nothing but the text."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
        vectors = np.stack([np.random.default_rng(seed).normal(size=DIM) for seed in seeds]).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def counters(self) -> Counters:
        return Counters()


def make_task(world: World, cap: int | None = None, projection: str = "", dim: int = DIM) -> EmbedTask:
    folders = [world.run_dir.artifact(name, "v") for name in ("dataset", "profiles", "signal", "negatives")]
    sources = Sources(folders[0].child("train").uri, *(folder.uri for folder in folders[1:]))
    shards = world.run_dir.artifact("embeddings", "v").child("pairs").uri
    return EmbedTask(sources, TextTemplate(96, "neighbors", 3, 8), shards, dim, cap, projection)


def embed_all(task: EmbedTask, unit_rows: int) -> pa.Table:
    embedder = PairEmbedder(task, HashEncoder())
    for unit in pair_units(Folder(task.sources.train), unit_rows):
        embedder.run(unit)
    return Folder(task.shards).read_table()


def pairs_in(table: pa.Table) -> list[tuple[int, int]]:
    return list(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("unit_rows", [7, 40, 1000])
def test_every_training_pair_once_whatever_the_unit(world: World, unit_rows: int) -> None:
    table = embed_all(make_task(world), unit_rows)
    assert pairs_in(table) == sorted(world.train)
    assert table["z"].type == pa.list_(pa.float16(), DIM)
    z = np.stack(table["z"].to_pylist()).astype(np.float32)
    assert np.abs(np.linalg.norm(z, axis=1) - 1).max() < 1e-2


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("rows_fed_from_here", [0, 10_000], ids=["by-ray-data", "from-here"])
def test_both_ways_do_the_units_that_are_missing(
    world: World, monkeypatch: pytest.MonkeyPatch, rows_fed_from_here: int
) -> None:
    monkeypatch.setattr(feeding, "ROWS_FED_FROM_HERE", rows_fed_from_here)
    task = make_task(world)
    expected = embed_all(task, 40)
    shards = Folder(task.shards)
    lost = shards.names(".parquet")[1:]
    for shard in lost:
        shards.delete(shard)
    reports = embed_pairs(task, HashEncoder(), unit_rows=40, num_engines=1, progress=Progress("test"))
    assert len(reports) == len(lost) > 1
    assert sum(report.embedded for report in reports) == len(world.train) - 40
    assert shards.read_table() == expected
    assert embed_pairs(task, HashEncoder(), unit_rows=40, num_engines=1, progress=Progress("test")) == []


def test_units_cover_row_groups_and_name_their_shards(world: World) -> None:
    units = pair_units(Folder(make_task(world).sources.train), 16)
    assert sum(unit.num_rows for unit in units) == len(world.train)
    assert max(unit.num_rows for unit in units) == 16
    assert [unit.shard for unit in units[:2]] == ["part-000000.parquet", "part-000001.parquet"]


@pytest.mark.parametrize("unit_rows", [4, 40, 1000])
def test_cap_keeps_the_newest_pairs_of_a_user(world: World, unit_rows: int) -> None:
    task = make_task(world, cap=2)
    train = Folder(task.sources.train)
    rows = train.read_table()
    expected = []
    for user in range(24):
        own = rows.filter(pa.compute.equal(rows["user_id"], user))
        expected += [(user, item) for item in own["item_id"].to_pylist()[-2:]]
    assert pairs_in(embed_all(task, unit_rows)) == expected


def test_a_projection_reduces_every_vector(world: World) -> None:
    folder = world.run_dir.artifact("embeddings", "v")
    write_projection(folder, Projection.fit(np.random.default_rng(0).normal(size=(200, DIM)), 4))
    table = embed_all(make_task(world, projection=folder.uri, dim=4), 1000)
    assert table["z"].type == pa.list_(pa.float16(), 4)
    assert read_projection(folder).components_dr.shape == (DIM, 4)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_projection_keeps_cosines_of_vectors_in_its_span(r: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(12, r)))[0]
    vectors = rng.normal(size=(50, r)) @ basis.T
    projection = Projection.fit(vectors, r)
    assert projection.explained_variance.sum() == pytest.approx(1, abs=1e-5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(projection(vectors) @ projection(vectors).T, unit @ unit.T, atol=1e-4)


def test_explained_variance_by_hand() -> None:
    sample = np.array([[3.0, 0.0], [0.0, 1.0]])
    projection = Projection.fit(sample, 1)
    assert projection.explained_variance.tolist() == pytest.approx([0.9])
    assert projection.components_dr.ravel().tolist() == pytest.approx([1.0, 0.0])


def test_parity_limits() -> None:
    vectors = HashEncoder().embed([f"text {number}" for number in range(8)])
    assert check_parity(vectors, vectors, "float32")["max_difference"] == 0
    slightly = vectors + 2e-4
    with pytest.raises(ParityError, match=r"largest difference 2\.00e-04.*nothing was embedded"):
        check_parity(vectors, slightly, "float32")
    assert check_parity(vectors, slightly, "bfloat16")["min_cosine"] > 0.999
    with pytest.raises(ParityError, match="smallest cosine"):
        check_parity(vectors, vectors + 0.1, "bfloat16")
    with pytest.raises(ParityError):
        check_parity(vectors, vectors * np.nan, "bfloat16")
    with pytest.raises(ParityError, match="shape"):
        check_parity(vectors, vectors[:, :4], "float32")


def test_figures_of_a_tune_by_hand() -> None:
    items = np.eye(4, dtype=np.float32)
    scores = np.array([[0.9, 0.5, 0.4, 0.1]])
    sample = TuneSample(np.array([7]), np.array([0]), np.array([1]), np.array([2]))
    z = np.array([[0.0, 0.8, 0.6, 0.0]], dtype=np.float32)
    figures = measure(z, items, np.arange(4), sample, scores, {7: np.array([0])}, (0.6, 1.0))
    assert figures["mean_cosine"] == {"target": 0.8, "positive": 0.0, "held_out_positive": 0.6, "random": 0.35}
    # item 0 is a training positive; of the unseen 1, 2, 3 only item 1 lies above the window's lower end
    assert figures["retrieved_in_window"] == pytest.approx(1 / 3, abs=1e-5)
    assert figures["target_in_top_10"] == 1.0
    assert sum(figures["retrieved_percentile_histogram"]) == 3
