"""A run directory in which everything before `train` stands without Ray: real data, made-up signal and vectors."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from hnlm_ray.compare.config import CompareConfig, load_compare
from hnlm_ray.compare.driver import distinct_upstream
from hnlm_ray.compare.runs import Runs, as_job, shared_stages
from hnlm_ray.compare.training import train_and_judge
from hnlm_ray.config import RunConfig
from hnlm_ray.pipeline import Run, plan, run_stages
from hnlm_ray.recommend.text_vectors import TEXT_FILE
from hnlm_ray.store import ManifestEntry, RunDir

CONFIG: dict[str, Any] = {
    "data": {"format": "synthetic", "synthetic": {"num_users": 60, "num_items": 40}},
    "llm": {"engine": "none"},
    "train": {"epochs": 4, "eval_every": 2, "dim": 8, "hnlm": {"variant": "none"}},
    "runtime": {"num_cpus": 1},
    "compare": {
        "trials": 2,
        "seeds": [0, 1],
        "rows": [
            {"name": "rns", "kind": "classical"},
            {
                "name": "dns",
                "kind": "classical",
                "set": {"train.sampler.kind": "dns"},
                "space": {"train.sampler.num_candidates": {"choice": [2, 4, 8]}},
            },
            {
                "name": "hybrid",
                "kind": "hnlm",
                "set": {"train.hnlm.variant": "hybrid", "train.sampler.kind": "dns"},
                "space": {"train.hnlm.pool_share": {"uniform": [0.1, 0.9]}},
            },
            {"name": "window-only", "kind": "control", "of": "hybrid", "set": {"train.hnlm.control": "window-only"}},
            {"name": "base-llm", "kind": "control", "of": "hybrid", "set": {"finetune.epochs": 0}},
            {"name": "kar", "kind": "rival", "set": {"train.model": "kar"}},
            {"name": "ease", "kind": "outsider", "set": {"train.model": "ease"}},
            {"name": "text", "kind": "outsider", "set": {"train.model": "text", "text.source": "taste"}},
        ],
    },
}


def load(folder: Path) -> tuple[RunConfig, CompareConfig]:
    """The comparison of `CONFIG`, from a file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return load_compare(path)


def prepare(config: RunConfig, compare: CompareConfig, run_dir: RunDir) -> None:
    """Ingest for real; signal and vectors made up, different for every set of stages that the rows have."""
    run_stages(config, run_dir, plan(config, run_dir, "ingest"), Run(config))
    for number, upstream in enumerate(distinct_upstream(config, compare)):
        planned = [item for until in shared_stages(upstream) for item in plan(upstream, run_dir, until)]
        fingerprints = {item.stage.name: item.fingerprint for item in planned}
        dataset = run_dir.artifact("dataset", fingerprints["ingest"])
        num_users, num_items = dataset.num_rows("users"), dataset.num_rows("items")
        signal = {"user_emb": _unit(num_users, 8, seed=1), "item_emb": _unit(num_items, 8, seed=2)}
        run_dir.artifact("signal", fingerprints["signal"]).write_tensors("embeddings.safetensors", signal)
        if "embed" in fingerprints:
            embeddings = run_dir.artifact("embeddings", fingerprints["embed"])
            pairs = dataset.read_table("train", columns=["user_id", "item_id"])
            z = pa.array(_unit(len(pairs), 8, seed=10 + number).astype(np.float16).ravel())
            z_column = pa.FixedSizeListArray.from_arrays(z, 8)
            embeddings.write_table("pairs/part-0.parquet", pairs.append_column("z", z_column))
            embeddings.write_tensors("items.safetensors", {"item_text_emb": _unit(num_items, 8, seed=20 + number)})
        if "text" in fingerprints:
            text = run_dir.artifact("text", fingerprints["text"])
            text.write_tensors(TEXT_FILE, {"item_text_emb": _unit(num_items, 8, seed=30 + number)})
        for item in planned:
            if run_dir.entry(item.stage.name, item.fingerprint) is None:
                artifacts = {name: f"{name}/{item.fingerprint}" for name in item.stage.artifacts}
                now = datetime.now(UTC).isoformat()
                run_dir.commit(ManifestEntry(item.stage.name, item.fingerprint, artifacts, {}, 0.0, 0.0, now))


def finish(runs: Runs, most: int = 10_000) -> int:
    """Do at most so many runs, in order, in this process; returns how many there were."""
    done = 0
    while done < most and (todo := runs.open()):
        train_and_judge(as_job(todo[0]))
        done += 1
    return done


def _unit(num_rows: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((num_rows, dim))
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
