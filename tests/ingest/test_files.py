"""Lines of a file, whatever way it is cut; what is listed."""

import gzip
from itertools import pairwise
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnlm_ray.errors import UserError
from hnlm_ray.ingest import files
from hnlm_ray.ingest.files import list_files, stream_lines
from hnlm_ray.ingest.schema import Part

_FS = pafs.LocalFileSystem()


def _lines(path: Path, start: int = 0, stop: int = -1) -> list[bytes]:
    part = Part("interactions", str(path), path.name, start, stop)
    found = list(stream_lines(_FS, part))
    numbers = [number for number, _ in found]
    counted = [sum(len(lines) for _, lines in found[:at]) for at in range(len(found))]
    assert numbers == counted
    return [line for _, lines in found for line in lines]


@given(
    lines=st.lists(st.text("ab \u00e9", max_size=6).map(str.encode), max_size=12),
    ends_with_newline=st.booleans(),
    cuts=st.lists(st.integers(0, 80), max_size=4),
    chunk=st.integers(1, 9),
)
@settings(max_examples=200, deadline=None)
def test_parts_hold_every_line_once_wherever_the_file_is_cut(
    lines: list[bytes], ends_with_newline: bool, cuts: list[int], chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = b"\n".join(lines) + (b"\n" if ends_with_newline and lines else b"")
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(content)
    edges = sorted({0, len(content), *(min(cut, len(content)) for cut in cuts)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK_BYTES", chunk)
        found = [line for start, stop in pairwise(edges) for line in _lines(path, start, stop)]
        whole = _lines(path)
    expected = content.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert found == (expected if content else [])
    assert whole == (expected if content else [])


def test_compressed_files_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfone\r\n") + gzip.compress(b"two\r\n"))  # two members, as pigz writes
    assert _lines(path) == [b"one", b"two"]


def test_a_cut_off_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"x" * 100_000)[:-20])
    with pytest.raises(UserError, match=r"'a\.txt\.gz' cannot be read to its end"):
        _lines(path)


def test_listing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list_files(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="empty"):
        list_files("")
    with pytest.raises(UserError, match="empty folder"):
        list_files(str(tmp_path))
    (tmp_path / "b").mkdir()
    for name in ("z.csv", "b/a.csv", ".hidden", "_SUCCESS"):
        (tmp_path / name).write_text("x")
    assert [file.name for file in list_files(str(tmp_path))] == ["b/a.csv", "z.csv"]
    assert [file.name for file in list_files(str(tmp_path / "z.csv"))] == ["z.csv"]
