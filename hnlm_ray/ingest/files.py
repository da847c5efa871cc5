"""Files of raw data on any filesystem: listing them, cutting them into parts, streaming their lines."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.schema import Part, SourceFile, TableName
from hnlm_ray.store import Folder

PART_BYTES = 64 << 20
PART_ROWS = 1 << 20
CHUNK_BYTES = 8 << 20
HEAD_BYTES = 1 << 16
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnreadableFile(UserError):
    """A file of the user's that is cut off, or not what its ending says."""


def list_files(path: str) -> list[SourceFile]:
    """All files at `path` (itself, or below it when it is a folder), sorted by name; hidden ones are left out.

    Raises:
        UserError: nothing is there, or an empty folder, or it cannot be looked at.
    """
    if not path:
        raise UserError("data.path is empty: give the file or folder of the raw data (or data.format=synthetic)")
    place = Folder(path)
    info = place.info()
    if info.type == pafs.FileType.NotFound:
        raise UserError(f"data.path {path!r} does not exist: give a file or folder, local, s3:// or gs://")
    if info.type == pafs.FileType.File:
        return [SourceFile(place.path, info.base_name, info.size, info.mtime_ns or 0)]
    found = place.fs.get_file_info(pafs.FileSelector(place.path, recursive=True))
    files = [
        SourceFile(entry.path, entry.path[len(place.path) + 1 :], entry.size, entry.mtime_ns or 0)
        for entry in found
        if entry.type == pafs.FileType.File
    ]
    visible = [file for file in files if not any(step[0] in "._" for step in file.name.split("/"))]
    if not visible:
        raise UserError(f"data.path {path!r} is an empty folder: put the raw files there")
    return sorted(visible, key=lambda file: file.name)


def compression_of(name: str) -> str | None:
    """Compression by the ending of a file name, None for a plain file."""
    return next((kind for ending, kind in _COMPRESSIONS.items() if name.endswith(ending)), None)


def bare_name(name: str) -> str:
    """The file's own name in lower case, without folders and compression ending."""
    base = name.rpartition("/")[2].lower()
    return next((base.removesuffix(ending) for ending in _COMPRESSIONS if base.endswith(ending)), base)


def line_parts(file: SourceFile, table: TableName) -> list[Part]:
    """Byte ranges of a plain text file; a compressed one cannot be cut."""
    if compression_of(file.name):
        return [Part(table, file.path, file.name)]
    starts = range(0, max(file.size, 1), PART_BYTES)
    return [Part(table, file.path, file.name, start, min(start + PART_BYTES, file.size)) for start in starts]


def row_group_parts(fs: pafs.FileSystem, file: SourceFile, table: TableName) -> list[Part]:
    """Runs of row groups of a Parquet file, about `PART_ROWS` rows each."""
    metadata = open_parquet(fs, file.path, file.name).metadata
    parts, start, rows = [], 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= PART_ROWS:
            parts.append(Part(table, file.path, file.name, start, group + 1))
            start, rows = group + 1, 0
    if start < metadata.num_row_groups or not parts:
        parts.append(Part(table, file.path, file.name, start, metadata.num_row_groups))
    return parts


def open_parquet(fs: pafs.FileSystem, path: str, name: str) -> pq.ParquetFile:
    """Open a Parquet file of the user's. Raises `UnreadableFile` when it is none."""
    try:
        return pq.ParquetFile(fs.open_input_file(path))
    except pa.ArrowInvalid as error:
        raise UnreadableFile(f"{name!r} is no readable Parquet file ({' '.join(str(error).split())[:120]})") from None


def read_head(fs: pafs.FileSystem, path: str, name: str, num_bytes: int = HEAD_BYTES) -> bytes:
    """The first bytes of a file, decompressed. Raises `UnreadableFile` for one that is not compressed as its name."""
    with fs.open_input_stream(path, compression=compression_of(name)) as stream:
        return _read(stream, name, num_bytes)


def stream_lines(fs: pafs.FileSystem, part: Part) -> Iterator[tuple[int, list[bytes]]]:
    """Lines of a part in batches of about `CHUNK_BYTES`, without line ends: (number of the first one, lines).

    A line belongs to the part in which it starts. Raises `UnreadableFile` for a compressed file that is cut off.
    """
    number, rest = 0, b""
    position = part.start
    stop = part.stop if part.stop >= 0 else None
    with _open_at(fs, part) as stream:
        if part.start > 0:
            skipped = _skip_to_line_start(stream)
            if skipped is None:
                return
            position += skipped - 1  # the stream stood one byte before `start`
        if stop is not None and position >= stop:
            return
        while True:
            block = _read(stream, part.name, CHUNK_BYTES)
            text, last = rest + block, not block
            cut = len(text) if last else text.rfind(b"\n") + 1
            if stop is not None and position + len(text) >= stop:  # the part's last line holds byte stop - 1
                end = text.find(b"\n", max(stop - position - 1, 0)) + 1
                if end > 0:
                    cut, last = end, True
            lines = text[:cut].split(b"\n")
            if not lines[-1]:
                lines.pop()
            if lines:
                if number == 0 and part.start == 0:
                    lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
                yield number, [line.removesuffix(b"\r") for line in lines]
            number += len(lines)
            position, rest = position + cut, text[cut:]
            if last:
                return


def _open_at(fs: pafs.FileSystem, part: Part) -> pa.NativeFile:
    if part.start == 0:
        return fs.open_input_stream(part.path, compression=compression_of(part.name))
    stream = fs.open_input_file(part.path)
    stream.seek(part.start - 1)
    return stream


def _skip_to_line_start(stream: pa.NativeFile) -> int | None:
    """Read past the next newline and stay right behind it: bytes passed, or None at the end of the file."""
    passed = 0
    while block := stream.read(1 << 16):
        at = block.find(b"\n")
        if at >= 0:
            stream.seek(stream.tell() - len(block) + at + 1)
            return passed + at + 1
        passed += len(block)
    return None


def _read(stream: pa.NativeFile, name: str, num_bytes: int) -> bytes:
    try:
        return bytes(stream.read(num_bytes))
    except OSError as error:
        raise UnreadableFile(
            f"{name!r} cannot be read to its end ({error}): fetch it again, or correct the ending of its name"
        ) from None
