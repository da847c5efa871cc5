"""Reading by ranges of users equals filtering everything, and opens no more than it must."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnlm_ray.finetune.user_rows import UserRows
from hnlm_ray.store import Folder

COLUMNS = ["user_id", "item_id"]


def write_shards(folder: Path, *, statistics: bool = True) -> pa.Table:
    """Five files of sixty users in row groups of 40, with a column nobody asks for; returned whole."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    shards = []
    for number in range(5):
        users = np.sort(rng.integers(60 * number, 60 * (number + 1), 200))
        items = rng.integers(0, 1000, 200)
        shards.append(pa.table({"user_id": pa.array(users, pa.int32()), "item_id": items, "other": ["text"] * 200}))
        pq.write_table(
            shards[-1], folder / f"part-{number:05d}.parquet", row_group_size=40, write_statistics=statistics
        )
    return pa.concat_tables(shards)


@pytest.mark.parametrize("statistics", [True, False])
def test_equals_a_filter_over_everything(tmp_path: Path, statistics: bool) -> None:
    everything = write_shards(tmp_path / "train", statistics=statistics)
    rows = UserRows(Folder(tmp_path / "train"), COLUMNS)
    users = everything["user_id"].to_numpy()
    for low, high in ((0, 3), (55, 65), (10, 290), (299, 299), (0, 10_000)):
        expected = everything.filter(pa.array((users >= low) & (users <= high))).select(COLUMNS)
        assert rows(np.array([high, low])).equals(expected)


def test_users_beyond_the_files_have_no_rows(tmp_path: Path) -> None:
    everything = write_shards(tmp_path / "train")
    found = UserRows(Folder(tmp_path / "train"), COLUMNS)(np.array([5000]))
    assert found.num_rows == 0
    assert found.schema.equals(everything.select(COLUMNS).schema)


def test_a_block_opens_only_the_row_groups_it_meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "train")
    opened = []
    read = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, number: int, columns: list[str]) -> pa.Table:
        opened.append(number)
        return read(self, number, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    rows = UserRows(Folder(tmp_path / "train"), COLUMNS)
    first = rows(np.array([130]))
    assert 1 <= len(opened) <= 2
    opened.clear()
    assert rows(np.array([130])).equals(first)
    assert opened == [], "a row group that was just read is read again"
    rows(np.array([0, 299]))
    assert len(opened) >= 23, "all 25 row groups but for the kept ones"
    assert len(rows._kept) <= 4


def test_a_folder_without_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="train"):
        UserRows(Folder(tmp_path / "train"), COLUMNS)(np.array([0]))
