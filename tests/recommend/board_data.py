"""A small data set whose right answer is known, and artifacts made from it, as the earlier stages write them."""

import numpy as np
import pyarrow as pa

from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.text_vectors import TextVectors
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


def board_item_text(data: Interactions, dim: int = 12) -> np.ndarray:
    """Item vectors that tell even from odd, half hidden in noise; every fifth item has no text."""
    rng = np.random.default_rng(11)
    items = rng.standard_normal((data.num_items, dim)).astype(np.float32)
    items[:, 0] += np.where(np.arange(data.num_items) % 2, 2, -2)
    items[::5] = 0
    return items


def board_text(data: Interactions) -> TextVectors:
    """Those, and users as the mean of their items."""
    return TextVectors.of(data.train, board_item_text(data))


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
