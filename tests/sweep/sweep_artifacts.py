"""A run directory in which all stages before `train` stand, the LLM's part made up: vectors without meaning."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from hnlm_ray.config import RunConfig
from hnlm_ray.pipeline import plan, run_pipeline
from hnlm_ray.store import ManifestEntry, RunDir

_MADE_UP = ("profile", "negative", "finetune", "embed")


def prepare(config: RunConfig, run_dir: RunDir, dim: int = 16, seed: int = 0) -> None:
    """Ingest and signal for real; one random unit vector per training pair and per item. Needs Ray."""
    run_pipeline(config, run_dir.folder.uri, until="signal")
    planned = {item.stage.name: item for item in plan(config, run_dir, until="embed")}
    dataset = run_dir.artifact("dataset", planned["ingest"].fingerprint)
    embeddings = run_dir.artifact("embeddings", planned["embed"].fingerprint)
    pairs = dataset.read_table("train", columns=["user_id", "item_id"])
    rng = np.random.default_rng(seed)
    z = _unit(rng.standard_normal((len(pairs), dim)))
    z_column = pa.FixedSizeListArray.from_arrays(pa.array(z.astype(np.float16).ravel()), dim)
    embeddings.write_table("pairs/part-0.parquet", pairs.append_column("z", z_column))
    items = _unit(rng.standard_normal((dataset.num_rows("items"), dim))).astype(np.float32)
    embeddings.write_tensors("items.safetensors", {"item_text_emb": items})
    for name in _MADE_UP:
        item = planned[name]
        run_dir.commit(
            ManifestEntry(
                stage=name,
                fingerprint=item.fingerprint,
                artifacts={artifact: f"{artifact}/{item.fingerprint}" for artifact in item.stage.artifacts},
                summary={},
                seconds=0.0,
                peak_memory_gb=0.0,
                completed_at=datetime.now(UTC).isoformat(),
            )
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
