"""Peak memory of a training on many LLM vectors, from the artifacts to the last step, each in a process of its own."""

import multiprocessing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hnlm_ray.bench.frame import BenchOptions
from hnlm_ray.bench.graphs import GraphSize, power_law_graph
from hnlm_ray.memory import own_peak_gb
from hnlm_ray.recommend.config import TrainConfig
from hnlm_ray.recommend.fitting import build_trainer
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import load_llm_negatives
from hnlm_ray.store import Folder

_SIZE = GraphSize(num_users=25_000, num_items=20_000, num_pairs=500_000)
_VECTOR_DIM = 384
_SHARD_ROWS = 65_536
_STEPS = 20


def peak_memory(options: BenchOptions) -> dict[str, float]:
    """GB of a process that trains with `aligned` and of one with `grounded` negatives; mapped file pages count."""
    size = _SIZE.shrunk(50 if options.quick else 1)
    with TemporaryDirectory(prefix="hnlm_bench_") as scratch:
        _write_artifacts(Folder(Path(scratch)), power_law_graph(size, options.seed), options.seed)
        peaks = {}
        for variant in ("aligned", "grounded"):
            # A fresh process: the peak of this one tells of the benchmarks before.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peaks[f"{variant}_peak_gb"] = pool.apply(_train, (scratch, variant, options.threads, options.seed))
    return peaks


def _train(scratch: str, variant: str, threads: int, seed: int) -> float:
    torch.set_num_threads(threads)
    root = Folder(scratch)
    config = TrainConfig.model_validate({"hnlm": {"variant": variant}})
    interactions = Interactions.load(root.child("dataset"))
    uris: dict[str, Any] = {name: root.child(name).uri for name in ("signal", "negatives", "embeddings")}
    trainer = build_trainer(interactions, config, seed, load_llm_negatives(uris, interactions, config, seed))
    for _, batch in zip(range(_STEPS), trainer.batches(), strict=False):
        trainer.step(batch)
    return own_peak_gb()


def _write_artifacts(root: Folder, data: Interactions, seed: int) -> None:
    """What the stages before `train` leave, with random vectors."""
    rng = np.random.default_rng(seed)
    pairs = pa.table({"user_id": data.user_ids, "item_id": data.item_ids})
    for split, table in {"train": pairs, "valid": pairs.slice(0, 0), "test": pairs.slice(0, 0)}.items():
        root.child("dataset").write_table(f"{split}/part-00000.parquet", table)
    for kind, count in (("user", data.num_users), ("item", data.num_items)):
        ids = pa.table({f"{kind}_id": np.arange(count, dtype=np.int32)})
        root.child("dataset").write_table(f"{kind}s/part-00000.parquet", ids)
    for shard, start in enumerate(range(0, data.num_pairs, _SHARD_ROWS)):
        rows = pairs.slice(start, _SHARD_ROWS)
        vectors = _unit(rng, rows.num_rows).astype(np.float16)
        z = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), _VECTOR_DIM)
        root.child("embeddings").write_table(f"pairs/part-{shard:05d}.parquet", rows.append_column("z", z))
    root.child("embeddings").write_tensors("items.safetensors", {"item_text_emb": _unit(rng, data.num_items)})
    counts = {"user_emb": data.num_users, "item_emb": data.num_items}
    signal = {name: rng.standard_normal((count, 64), np.float32) for name, count in counts.items()}
    root.child("signal").write_tensors("embeddings.safetensors", signal)


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, _VECTOR_DIM), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
