"""Made-up artifacts of the earlier stages, texts of realistic length: input of the benchmarks finetune and embed."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from hnlm_ray.finetune.pairs import Sources
from hnlm_ray.store import Folder

_CF_DIM = 32
_TEXT_DIM = 64
_TEXT = """
fans of dark romantic thrillers with strong characters would enjoy this story about a small town family secret
mystery readers who like historical fiction humour magic adventure crime war love and science will find a moving
novel of friendship courage betrayal and hope set in london paris or the american south during the last century
"""
_WORDS = _TEXT.split()


def write_pair_data(folder: Path, num_users: int, num_items: int, pairs_per_user: int, seed: int) -> Sources:
    """Train pairs, profiles, signal and negatives below `folder`."""
    rng = np.random.default_rng(seed)
    root = Folder(folder)
    user_ids = np.repeat(np.arange(num_users, dtype=np.int32), pairs_per_user)
    item_ids = np.concatenate([rng.permutation(num_items)[:pairs_per_user] for _ in range(num_users)]).astype(np.int32)
    root.child("train").write_table("part-00000.parquet", pa.table({"user_id": user_ids, "item_id": item_ids}))
    items = {
        "item_id": np.arange(num_items, dtype=np.int32),
        "title": [_text(rng, 3, 9) for _ in range(num_items)],
        "text": [_text(rng, 25, 70) for _ in range(num_items)],
    }
    root.child("negatives").write_table("item_texts/part-00000.parquet", pa.table(items))
    text_emb = rng.normal(size=(num_items, _TEXT_DIM)).astype(np.float32)
    text_emb /= np.linalg.norm(text_emb, axis=1, keepdims=True)
    root.child("negatives").write_tensors("item_text_emb.safetensors", {"item_text_emb": text_emb})
    profiles = {
        "user_id": np.arange(num_users, dtype=np.int32),
        "text": [_text(rng, 40, 100) for _ in range(num_users)],
        "status": ["ok"] * num_users,
    }
    root.child("profiles").write_table("users/part-00000.parquet", pa.table(profiles))
    signal = {
        "user_emb": rng.normal(size=(num_users, _CF_DIM)).astype(np.float32),
        "item_emb": rng.normal(size=(num_items, _CF_DIM)).astype(np.float32),
    }
    root.child("signal").write_tensors("embeddings.safetensors", signal)
    return Sources(*(root.child(name).uri for name in ("train", "profiles", "signal", "negatives")))


def _text(rng: np.random.Generator, shortest: int, longest: int) -> str:
    return " ".join(rng.choice(_WORDS, rng.integers(shortest, longest + 1)))
