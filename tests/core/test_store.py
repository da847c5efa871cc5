import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.errors import UserError
from hnlm_ray.store import Folder, ManifestEntry, RunDir


def entry(stage: str, fingerprint: str) -> ManifestEntry:
    return ManifestEntry(stage, fingerprint, {"dataset": f"dataset/{fingerprint}"}, {"rows": 3}, 1.5, 0.2, "2026-01-01")


def test_tables_of_a_folder_come_back_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = Folder(tmp_path).child("rows")
    folder.write_table("part-00001.parquet", pa.table({"id": [3, 4]}))
    folder.write_table("part-00000.parquet", pa.table({"id": [1, 2]}))
    assert folder.read_table()["id"].to_pylist() == [1, 2, 3, 4]
    assert folder.num_rows() == 4


def test_a_write_that_fails_leaves_nothing_and_keeps_what_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    folder.write_json("state.json", {"step": 1})
    with pytest.raises(ValueError, match="Out of range"):
        folder.write_json("state.json", {"loss": float("nan")})
    assert folder.read_json("state.json") == {"step": 1}
    (tmp_path / ".tmp-killed-state.json").write_bytes(b"{half")
    assert folder.names() == ["state.json"]


def test_tensors_bytes_and_deletion(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "b")
    vectors = np.arange(6, dtype=np.float16).reshape(2, 3)
    folder.write_tensors("z.safetensors", {"z": vectors.T})
    np.testing.assert_array_equal(folder.read_tensors("z.safetensors")["z"], vectors.T)
    assert folder.size_bytes() > 0
    folder.delete("z.safetensors")
    folder.delete("never there")
    assert not folder.exists("z.safetensors")


def test_a_folder_travels_as_its_uri(tmp_path: Path) -> None:
    folder = copy.copy(Folder(tmp_path))  # by way of __reduce__, as between processes
    assert folder.path == str(tmp_path)
    assert folder.local() == tmp_path


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(UserError, match="nosuch://bucket"):
        Folder("nosuch://bucket/x")


def test_versions_stand_side_by_side_and_the_last_used_is_current(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    for fingerprint in ("aaa", "bbb"):
        run_dir.commit(entry("ingest", fingerprint))
    assert run_dir.current("ingest") == entry("ingest", "bbb")
    run_dir.commit(entry("ingest", "aaa"))
    assert run_dir.current("ingest") == entry("ingest", "aaa")
    assert run_dir.entry("ingest", "bbb") == entry("ingest", "bbb")
    assert run_dir.entry("ingest", "ccc") is None
    assert len(run_dir.entries()["ingest"]) == 2
