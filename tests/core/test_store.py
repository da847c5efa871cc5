import copy
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.cluster.submit import SubmitOptions, submit
from hnlm_ray.console import quiet_libraries
from hnlm_ray.errors import UserError
from hnlm_ray.ingest.files import list_files
from hnlm_ray.run_lock import sole_writer
from hnlm_ray.store import Folder, ManifestEntry, RunDir, refuse_password


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


_MINIO = "?scheme=http&endpoint_override=minio:9000"


@pytest.mark.parametrize("root", ["s3://bucket/runs/x", "s3://bucket/runs/x/"])
def test_folders_below_a_uri_keep_its_options(root: str) -> None:
    folder = copy.copy(Folder(root + _MINIO))
    below = copy.copy(folder.child("dataset", "_work").child("rows"))
    assert (folder.uri, folder.path) == (f"s3://bucket/runs/x{_MINIO}", "bucket/runs/x")
    assert (below.uri, below.path) == (
        f"s3://bucket/runs/x/dataset/_work/rows{_MINIO}",
        f"{folder.path}/dataset/_work/rows",
    )
    assert below.fs == folder.fs


def test_a_local_path_may_hold_a_question_mark(tmp_path: Path) -> None:
    Folder(tmp_path / "why?").child("not").write_bytes("a", b"b")
    assert (tmp_path / "why?" / "not" / "a").read_bytes() == b"b"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:se/cr+et@bucket/p",
        "s3://AKIA:secret@bucket/p?region=x",
        "s3://bucket/p?endpoint_override=http://u:secret@h",
    ],
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match=r"given with a password: .* AWS_SECRET_ACCESS_KEY") as refused:
        Folder(uri)
    assert not [part for part in ("AKIA", "secret", "cr+et") if part in str(refused.value)]


@pytest.mark.parametrize(
    ("run_dir", "data"),
    [("s3://AKIA:se/cret@bucket/p", "s3://bucket/raw"), ("s3://bucket/p", "s3://AKIA:se/cret@bucket")],
)
def test_a_password_is_refused_before_a_job_carries_it_away(run_dir: str, data: str, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(f"data: {{format: tables, path: '{data}'}}")
    with pytest.raises(UserError, match="given with a password"):
        submit(str(tmp_path / "shop.yaml"), [], SubmitOptions("http://127.0.0.1:9", run_dir, str(tmp_path)))


@pytest.mark.parametrize("uri", ["gs://anonymous@bucket/p", f"s3://bucket/a:b@c{_MINIO}"])
def test_an_at_sign_is_no_password(uri: str) -> None:
    assert Folder(uri).uri == uri


@pytest.mark.parametrize("uri", ["hdfs://host:8020/user/a@b", "s3://bucket?endpoint_override=host:9000&role=a@b"])
def test_a_port_before_an_at_sign_is_no_password(uri: str) -> None:
    refuse_password(uri)


class _Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a bucket whose server lets nobody in."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "only-on-loopback")
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:{server.server_port}&region=us-east-1"
    server.shutdown()
    server.server_close()


def test_a_bucket_that_lets_nobody_in(refusing_bucket: str) -> None:
    with pytest.raises(
        UserError, match=r"^'s3://bucket/x\?.*' cannot be looked at .*ACCESS_DENIED.*: see to .*credentials"
    ):
        RunDir(refusing_bucket)
    with pytest.raises(UserError, match="cannot be looked at"):
        list_files(refusing_bucket)


def test_a_run_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file' is a file, and a run directory is a folder: give another"):
        RunDir(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot be looked at .*File name too long"):
        RunDir(tmp_path / ("x" * 300))
    with (
        pytest.raises(UserError, match=r"run directory '.*file/run' cannot be written .Not a directory.: give another"),
        sole_writer(RunDir(tmp_path / "file" / "run")),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"log '.*run\.log' cannot be written .Not a directory.: give another --run-dir"),
        quiet_libraries(tmp_path / "file" / "logs" / "run.log"),
    ):
        pass


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
