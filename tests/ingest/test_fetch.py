"""Downloads from a server on this machine: checked, unpacked, or refused. No other network is touched."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hnlm_ray.errors import UserError
from hnlm_ray.ingest import fetch as fetching
from hnlm_ray.ingest.fetch import DATASETS, Download, Elsewhere, fetch
from hnlm_ray.ingest.readers import READERS


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("ml/ratings.dat", "1::2::5::978300760\n")
        packed.writestr("ml/../../escaped.txt", "out")
    return buffer.getvalue()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Download]:
    """A data set `tiny` whose archive a server on this machine hands out."""
    content = _archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/tiny.zip" else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/tiny.zip"
    source = Download(address, hashlib.md5(content, usedforsecurity=False).hexdigest(), "movielens", "none")
    monkeypatch.setitem(DATASETS, "tiny", source)
    yield source
    server.shutdown()


@pytest.mark.usefixtures("served")
def test_download_check_and_unpack(tmp_path: Path) -> None:
    said = fetch("tiny", tmp_path / "data")
    target = tmp_path / "data" / "tiny"
    assert f"data: {{format: movielens, path: {target}}}" in said
    assert (target / "ratings.dat").read_text() == "1::2::5::978300760\n"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["tiny"]
    assert (target / "escaped.txt").exists()  # an archive writes into its own folder only
    assert not (tmp_path / "escaped.txt").exists()
    assert "is there already" in fetch("tiny", tmp_path / "data")


def test_a_wrong_checksum_leaves_nothing(served: Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "tiny", Download(served.url, "0" * 32, "movielens", "none"))
    with pytest.raises(UserError, match="not the published 0000"):
        fetch("tiny", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_answer(served: Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "tiny", Download(f"{served.url}x", served.md5, "movielens", "none"))
    with pytest.raises(UserError, match=r"cannot be fetched .HTTP Error 404"):
        fetch("tiny", tmp_path)
    with pytest.raises(UserError, match="did you mean 'ml-1m'"):
        fetch("ml-1M", tmp_path)


def test_what_cannot_be_downloaded_says_where_it_is(tmp_path: Path) -> None:
    for name, source in DATASETS.items():
        assert source.format in READERS
        if isinstance(source, Elsewhere):
            assert "Get it from\n  https://" in fetch(name, tmp_path)
        else:
            assert source.url.startswith("https://")
            assert len(source.md5) == 32
    assert not list(tmp_path.iterdir())
    assert fetching.DATASETS["yelp"].format == "yelp"
