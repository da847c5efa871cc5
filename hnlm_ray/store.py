"""Folders and the run directory: any `pyarrow.fs` filesystem, atomic writes, a manifest of what stands complete."""

import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from hnlm_ray.errors import UserError

_TEMPORARY = ".tmp-"
_PASSWORD = re.compile(r"(?<=s3|gs)://[^/@?]*:.*@|://[^/@?]*:[^/@]*@")
"""A bucket has no port, and a secret may hold slashes; elsewhere a colon may come before a port."""


def refuse_password(uri: str) -> None:
    """Raise `UserError` for a URI with a password in it: run directories, reports and logs name their folders."""
    if _PASSWORD.search(uri):
        raise UserError(
            f"the URI of {_PASSWORD.sub('://', uri)!r} was given with a password: leave it out; credentials come from "
            "the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or from the machine's own role"
        )


class Folder:
    """A folder on a local path or an s3:// / gs:// URI. Cheap to make; travels between processes as its URI.

    A URI may end in options of its filesystem, such as `?endpoint_override=host:9000&scheme=http`; folders below it
    have the same.

    Every write goes to a temporary name first and is moved into place, so that a reader, or a run that
    resumes, sees either the whole file or none.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        refuse_password(text)
        try:
            if "://" in text:
                self.fs, self.path = pafs.FileSystem.from_uri(text)
                place, mark, options = text.partition("?")
                self._place, self._options = place.rstrip("/"), mark + options
            else:
                self.fs, self.path = pafs.LocalFileSystem(), str(Path(text).expanduser().absolute())
                self._place, self._options = self.path, ""
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"{text!r} is no usable folder: {error}; give a local path or an s3:// or gs:// URI"
            ) from None
        self.path = self.path.rstrip("/")
        self.uri = self._place + self._options

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.uri,)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on this machine's own filesystem."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    def child(self, *parts: str) -> "Folder":
        """The folder `parts` below this one; nothing is created."""
        return Folder("/".join([self._place, *parts]) + self._options)

    def info(self) -> pafs.FileInfo:
        """What is at this path, if anything. Raises `UserError` where the user cannot look."""
        try:
            return self.fs.get_file_info(self.path)
        except OSError as error:
            raise UserError(
                f"{self.uri!r} cannot be looked at ({' '.join(str(error).split())}): see to its name, the rights to it "
                "and, for a bucket, the credentials in the environment"
            ) from None

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def exists(self, name: str = "") -> bool:
        """Whether the file or folder `name` (the folder itself when empty) is there."""
        return bool(self.fs.get_file_info(self._at(name)).type != pafs.FileType.NotFound)

    def names(self, suffix: str = "") -> list[str]:
        """Names of the direct children that end in `suffix`, sorted; unfinished writes are not listed."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        names = (info.base_name for info in infos)
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith(_TEMPORARY))

    def delete(self, name: str = "") -> None:
        """Remove the file or folder `name` (the whole folder when empty); nothing happens where there is none."""
        kind = self.fs.get_file_info(self._at(name)).type
        if kind == pafs.FileType.Directory:
            self.fs.delete_dir(self._at(name))
        elif kind == pafs.FileType.File:
            self.fs.delete_file(self._at(name))

    def size_bytes(self) -> int:
        """Bytes of all files below this folder."""
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        return sum(info.size or 0 for info in self.fs.get_file_info(selector))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        parent, _, base = self._at(name).rpartition("/")
        self.fs.create_dir(parent, recursive=True)
        temporary = f"{parent}/{_TEMPORARY}{uuid.uuid4().hex}-{base}"
        with self.fs.open_output_stream(temporary) as stream:
            stream.write(data)
        self.fs.move(temporary, self._at(name))

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file."""
        with self.fs.open_input_stream(self._at(name)) as stream:
            return bytes(stream.read())

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as indented JSON; NaN is refused, since JSON has none."""
        self.write_bytes(name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file."""
        return json.loads(self.read_bytes(name))

    def write_table(self, name: str, table: pa.Table, row_group_size: int | None = None) -> None:
        """Write one Parquet file (zstd) atomically."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
        self.write_bytes(name, sink.getvalue())

    def read_table(self, name: str = "", columns: list[str] | None = None) -> pa.Table:
        """Read one Parquet file, or all shards of a folder in the order of their names."""
        path = self._at(name)
        if self.fs.get_file_info(path).type == pafs.FileType.File:
            return pq.read_table(path, columns=columns, filesystem=self.fs)
        shards = self.parquet_files(name)
        if not shards:
            raise FileNotFoundError(f"no Parquet file in {path}")
        return pads.dataset(shards, filesystem=self.fs, format="parquet").to_table(columns=columns)

    def parquet_files(self, name: str = "") -> list[str]:
        """Filesystem paths of the Parquet shards directly in the folder `name`, sorted."""
        folder = self.child(name) if name else self
        return [f"{folder.path}/{shard}" for shard in folder.names(".parquet")]

    def num_rows(self, name: str = "") -> int:
        """Rows of all Parquet shards in the folder `name`, read from their footers."""
        return sum(pq.read_metadata(path, filesystem=self.fs).num_rows for path in self.parquet_files(name))

    def write_tensors(self, name: str, tensors: Mapping[str, np.ndarray]) -> None:
        """Write arrays as one safetensors file."""
        self.write_bytes(name, save_tensors({key: np.ascontiguousarray(value) for key, value in tensors.items()}))

    def read_tensors(self, name: str) -> dict[str, np.ndarray]:
        """Read all arrays of a safetensors file."""
        return dict(load_tensors(self.read_bytes(name)))

    def upload(self, local_dir: str | Path) -> None:
        """Copy the content of a local directory into this folder."""
        self.fs.create_dir(self.path, recursive=True)
        pafs.copy_files(str(local_dir), self.path, pafs.LocalFileSystem(), self.fs)

    def download(self, local_dir: str | Path) -> None:
        """Copy the content of this folder into a local directory."""
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        pafs.copy_files(self.path, str(local_dir), self.fs, pafs.LocalFileSystem())

    def local(self) -> Path:
        """This folder as a local directory: itself when it is local, else a copy that stays for this machine.

        Only for folders whose content is final: the copy is made once per URI and reused.
        """
        if self.is_local:
            return Path(self.path)
        name = hashlib.sha256(self.uri.encode()).hexdigest()[:20]
        target = Path(tempfile.gettempdir()) / "hnlm_ray_cache" / name
        if not target.exists():
            staging = target.with_name(f"{name}-{uuid.uuid4().hex}")
            self.download(staging)
            try:
                staging.rename(target)
            except OSError:  # another process of this machine was first; its copy is the same
                shutil.rmtree(staging)
        return target


@dataclass(frozen=True)
class ManifestEntry:
    """One completed version of a stage: what it was made from, where it lies, what it counted."""

    stage: str
    fingerprint: str
    artifacts: dict[str, str]
    """Artifact name -> path below the run directory."""
    summary: dict[str, Any]
    seconds: float
    peak_memory_gb: float
    completed_at: str
    nodes: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """(Unix time, living nodes by kind) when the stage began, and at every change while it ran."""


class RunDir:
    """A run directory: artifacts at `<artifact>/<fingerprint>/`, `manifest.json` naming those that are complete.

    The data is written first and the manifest entry last, so that a killed run leaves either a complete stage or
    one that goes on. Several versions of a stage may stand side by side; a changed prompt never mixes with old rows.
    """

    def __init__(self, uri: str | Path) -> None:
        """Raises `UserError` for a file, and where the user cannot look."""
        self.folder = Folder(uri)
        if self.folder.info().type == pafs.FileType.File:
            raise UserError(f"{self.folder.uri!r} is a file, and a run directory is a folder: give another")

    def artifact(self, name: str, fingerprint: str) -> Folder:
        """Where the version `fingerprint` of an artifact lies, complete or not."""
        return self.folder.child(name, fingerprint)

    def entries(self) -> dict[str, list[ManifestEntry]]:
        """Completed versions per stage, oldest first."""
        if not self.folder.exists("manifest.json"):
            return {}
        stages: dict[str, list[dict[str, Any]]] = self.folder.read_json("manifest.json")["stages"]
        return {stage: [ManifestEntry(**entry) for entry in versions] for stage, versions in stages.items()}

    def entry(self, stage: str, fingerprint: str) -> ManifestEntry | None:
        """The completed version of a stage, or None where it is not (yet) complete."""
        versions = self.entries().get(stage, [])
        return next((entry for entry in versions if entry.fingerprint == fingerprint), None)

    def current(self, stage: str) -> ManifestEntry | None:
        """The version that was completed or used last."""
        versions = self.entries().get(stage, [])
        return versions[-1] if versions else None

    def commit(self, entry: ManifestEntry) -> None:
        """Add a completed version, or make an earlier one the current one again."""
        entries = self.entries()
        others = [known for known in entries.get(entry.stage, []) if known.fingerprint != entry.fingerprint]
        entries[entry.stage] = [*others, entry]
        stages = {stage: [vars(version) for version in versions] for stage, versions in entries.items()}
        self.folder.write_json("manifest.json", {"schema": 1, "stages": stages})
