"""What the fault bench compares by: a lost, a doubled and a changed row are seen, the order of shards is not."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from hnlm_ray.bench.same_tables import differences
from hnlm_ray.store import Folder

ROWS = [{"user_id": n, "text": f"row {n}", "z": [n / 10, 0.5]} for n in range(6)]


def folder(path: Path, *shards: list[dict[str, object]]) -> Path:
    for number, rows in enumerate(shards):
        Folder(path / "pairs").write_table(f"part-{number}.parquet", pa.Table.from_pylist(rows))
    Folder(path).write_tensors("model.safetensors", {"weight": np.arange(4.0)})
    return path


def test_other_shards_in_another_order_are_the_same(tmp_path: Path) -> None:
    found = differences(folder(tmp_path / "a", ROWS), folder(tmp_path / "b", ROWS[3:], ROWS[:3]))
    assert found == (6, 0, 0, 0.0)


def test_rows_lost_doubled_and_changed_are_counted(tmp_path: Path) -> None:
    expected = folder(tmp_path / "a", ROWS)
    assert differences(expected, folder(tmp_path / "b", ROWS[1:]))[1:3] == (1, 0)
    assert differences(expected, folder(tmp_path / "c", ROWS, ROWS[:2]))[1:3] == (0, 2)
    changed = [{**ROWS[0], "text": "another"}, *ROWS[1:]]
    assert differences(expected, folder(tmp_path / "d", changed))[1:3] == (1, 1)


def test_numbers_are_compared_row_by_row(tmp_path: Path) -> None:
    moved = [{**ROWS[0], "z": [0.25, 0.5]}, *ROWS[1:]]
    assert differences(folder(tmp_path / "a", ROWS), folder(tmp_path / "b", moved)).largest == 0.25
