"""What the recommender's tests share: the checkerboard and its artifacts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from board_data import board_item_text, checkerboard, write_dataset, write_embeddings

from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.text_vectors import TEXT_FILE
from hnlm_ray.store import Folder


@pytest.fixture(scope="session")
def board() -> Interactions:
    return checkerboard()


@pytest.fixture(scope="session")
def artifacts(board: Interactions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URIs of `dataset`, `embeddings`, `negatives`, `signal` and `text` for the checkerboard."""
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
    root.child("text").write_tensors(TEXT_FILE, {"item_text_emb": board_item_text(board)})
    return {name: root.child(name).uri for name in ("dataset", "embeddings", "negatives", "signal", "text")}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
