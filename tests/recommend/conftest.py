"""What the recommender's tests share: a small data set whose right answer is known, and artifacts made from it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.store import Folder


def checkerboard(num_users: int = 24, num_items: int = 20, held_out: int = 1) -> Interactions:
    """Even users like even items and odd users odd ones; per user `held_out` liked items each for valid and test."""
    rng = np.random.default_rng(7)
    splits: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user in range(num_users):
        liked = rng.permutation(np.arange(user % 2, num_items, 2))
        splits["valid"] += [(user, item) for item in liked[:held_out]]
        splits["test"] += [(user, item) for item in liked[held_out : 2 * held_out]]
        splits["train"] += [(user, item) for item in liked[2 * held_out :]]
    arrays = {name: tuple(np.array(pairs, np.int32).T) for name, pairs in splits.items()}
    return Interactions.from_arrays(arrays["train"], num_users, num_items, arrays["valid"], arrays["test"])


@pytest.fixture(scope="session")
def board() -> Interactions:
    return checkerboard()


def write_dataset(folder: Folder, data: Interactions) -> Folder:
    """The artifact `dataset` of these interactions."""
    for split, (users, items) in {
        "train": (data.user_ids, data.item_ids),
        "valid": (data.valid.user_ids, data.valid.item_ids),
        "test": (data.test.user_ids, data.test.item_ids),
    }.items():
        folder.write_table(f"{split}/part-0.parquet", pa.table({"user_id": users, "item_id": items}))
    for kind, count in (("user", data.num_users), ("item", data.num_items)):
        ids = np.arange(count, dtype=np.int32)
        keys = [f"{kind}-{index}" for index in ids]
        folder.write_table(f"{kind}s/part-0.parquet", pa.table({f"{kind}_id": ids, f"{kind}_key": keys}))
    return folder


def write_embeddings(folder: Folder, data: Interactions, dim: int = 12, share: float = 1.0) -> Folder:
    """The artifact `embeddings`: unit vectors for a share of the pairs, in two shards and another order."""
    rng = np.random.default_rng(3)
    chosen = rng.permutation(data.num_pairs)[: int(share * data.num_pairs)]
    for number, part in enumerate(np.array_split(chosen, 2)):
        z = rng.standard_normal((len(part), dim))
        z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float16)
        table = pa.table(
            {
                "user_id": data.user_ids[part],
                "item_id": data.item_ids[part],
                "z": pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), dim),
            }
        )
        folder.write_table(f"pairs/part-{number}.parquet", table)
    items = rng.standard_normal((data.num_items, dim)).astype(np.float32)
    folder.write_tensors("items.safetensors", {"item_text_emb": items / np.linalg.norm(items, axis=1, keepdims=True)})
    return folder


@pytest.fixture(scope="session")
def artifacts(board: Interactions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URIs of `dataset`, `embeddings`, `negatives` and `signal` for the checkerboard."""
    root = Folder(tmp_path_factory.mktemp("artifacts"))
    write_dataset(root.child("dataset"), board)
    write_embeddings(root.child("embeddings"), board, share=0.9)
    rng = np.random.default_rng(5)
    grounded = {
        "user_id": np.repeat(board.user_ids, 3),
        "item_id": np.repeat(board.item_ids, 3),
        "rank": np.tile(np.arange(3, dtype=np.int32), board.num_pairs),
        "negative_item_id": (
            np.repeat(1 - board.user_ids % 2, 3) + 2 * rng.integers(0, 10, 3 * board.num_pairs)
        ).astype(np.int32),
        "similarity": np.ones(3 * board.num_pairs, np.float32),
    }
    root.child("negatives").write_table("grounded/part-0.parquet", pa.table(grounded))
    emb = {
        "user_emb": rng.standard_normal((board.num_users, 4)).astype(np.float32),
        "item_emb": rng.standard_normal((board.num_items, 4)).astype(np.float32),
    }
    root.child("signal").write_tensors("embeddings.safetensors", emb)
    return {name: root.child(name).uri for name in ("dataset", "embeddings", "negatives", "signal")}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
