"""An ingest that died goes on from its finished tasks and ends with the same files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_tables import Write, grid, interactions

from hnlm_ray.ingest.build import Build
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

_STEPS = {
    "index": "hnlm_ray.ingest.bucket.index_bucket",
    "encode": "hnlm_ray.ingest.bucket.encode_bucket",
    "k-core": "hnlm_ray.ingest.kcore._prune",
    "split": "hnlm_ray.ingest.bucket.split_bucket",
    "write": "hnlm_ray.ingest.bucket.write_bucket",
    "users": "hnlm_ray.ingest.build.write_users",
}


class _Died(Exception):
    pass


def _build(raw: Path, out: Path) -> Build:
    values = {"format": "tables", "path": str(raw), "filters": {"k_core": 3}, "split": {"kind": "time"}}
    folders = Folder(out / "dataset"), Folder(out / "quarantine")
    return Build(DataConfig.model_validate(values), 0, *folders, Progress("ingest"), num_buckets=4)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _dies_at(function: Callable[..., Any], bucket: int) -> Callable[..., Any]:
    def dying(*arguments: Any) -> Any:
        if arguments[-1] == bucket:
            raise _Died
        return function(*arguments)

    return dying


def _raw(write: Write) -> Path:
    spread = [(user, item, rating, 1_000_000 + time * 7919 % 100_000) for user, item, rating, time in grid(20, 9)]
    rows = [*spread, *[("short", "i0", 5.0, 1), (None, "i0", 5.0, 1)]]
    return write(interactions=interactions(rows))


@pytest.mark.parametrize("step", _STEPS)
def test_what_was_finished_is_not_done_again(step: str, write: Write, tmp_path: Path) -> None:
    raw = _raw(write)
    undisturbed = _build(raw, tmp_path / "straight").run()
    with pytest.MonkeyPatch.context() as patch:
        module, _, name = _STEPS[step].rpartition(".")
        function = getattr(__import__(module, fromlist=[name]), name)
        patch.setattr(_STEPS[step], _dies_at(function, bucket=2))
        with pytest.raises(_Died):
            _build(raw, tmp_path / "killed").run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hnlm_ray.ingest.build.read_rows", _dies_at(_build, bucket=0))  # reading is over, and stays so
        assert _build(raw, tmp_path / "killed").run() == undisturbed
    assert _files(tmp_path / "killed") == _files(tmp_path / "straight")


@pytest.mark.parametrize("gone", ["done/index rows/000000-0000.parquet", "done/index done/encode rows", "done"])
def test_a_death_while_the_working_files_are_deleted(gone: str, write: Write, tmp_path: Path) -> None:
    raw = _raw(write)
    undisturbed = _build(raw, tmp_path / "straight").run()
    delete = Folder.delete

    def half_done(folder: Folder, name: str = "") -> None:
        if name or not folder.path.endswith("/_work"):
            return delete(folder, name)
        for each in gone.split():
            delete(folder, each)
        raise _Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "delete", half_done)
        with pytest.raises(_Died):
            _build(raw, tmp_path / "killed").run()
    assert _build(raw, tmp_path / "killed").run() == undisturbed
    assert _files(tmp_path / "killed") == _files(tmp_path / "straight")
