"""What of a working directory travels to a cluster: its files, never its secrets, nothing that can be made again."""

import fnmatch
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hnlm_ray.errors import UserError

MAX_PACKAGE_MB = 400
"""Ray's own limit is 512 MB, after which an upload fails half-way."""

_MADE_AGAIN = (
    ".git", ".hg", ".svn", ".venv", "venv", "env", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".hypothesis", ".ipynb_checkpoints", ".tox", "*.egg-info", "build", "dist", "runs", "mlruns",
)  # fmt: skip
"""Folders left out without a word: history, environments, caches, results of earlier runs."""

_SECRET_FOLDERS = (
    ".aws", ".azure", ".config", ".docker", ".gcloud", ".gnupg", ".huggingface", ".kube", ".ray", ".ssh", "secrets",
)  # fmt: skip
_SECRET_FILES = (
    ".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc", ".git-credentials",
    ".htpasswd", ".s3cfg", ".boto", "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx",
    "*.gpg", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "kubeconfig*", "auth_token", "token", "*.token",
    "api_key*", "apikey*", "credentials", "credentials.*", "*credentials*.json", "*credentials*.y*ml",
    "client_secret*", "secret.*", "secrets.*", "*service-account*.json", "*service_account*.json",
)  # fmt: skip
_SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY"
    rb"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS access keys
    rb"|aws_secret_access_key\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}"
    rb"|\"private_key_id\"\s*:"  # Google service accounts
    rb"|\bhf_[A-Za-z0-9]{30,}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bsk-[A-Za-z0-9_-]{32,}\b",
    re.IGNORECASE,
)
_LARGEST_TEXT_BYTES = 2 * 2**20
"""Files above this are data, not credentials, and are not searched."""


@dataclass(frozen=True)
class Package:
    """What was found in a working directory; paths are relative to it."""

    files: tuple[Path, ...]
    secrets: tuple[Path, ...]
    """Files left out because their name or content is that of a credential."""
    num_bytes: int


def look_through(working_dir: str | Path) -> Package:
    """List what of `working_dir` would be packaged.

    A link is followed only where it stays inside the folder, so that none reaches out to a home directory.

    Raises:
        UserError: no such folder, or too large to upload.
    """
    root = Path(working_dir).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"--working-dir {str(working_dir)!r} is no folder: give the one that holds what the job reads")
    files, secrets, sizes = [], [], {}
    for path in _walk(root):
        name = path.relative_to(root)
        target = path.resolve()
        if not target.is_file() or not target.is_relative_to(root):
            continue
        if any(_is_secret_name(part) for part in (name, target.relative_to(root))) or _holds_secret(target):
            secrets.append(name)
        else:
            files.append(name)
            sizes[name] = target.stat().st_size
    total = sum(sizes.values())
    if total > MAX_PACKAGE_MB * 2**20:
        largest = ", ".join(f"{name} ({size / 2**20:.0f} MB)" for name, size in _largest(sizes))
        raise UserError(
            f"--working-dir {str(working_dir)!r} holds {total / 2**20:.0f} MB and {MAX_PACKAGE_MB} MB can be uploaded: "
            f"keep data in a bucket and name it by data.path=s3://...; largest files: {largest}"
        )
    return Package(tuple(files), tuple(secrets), total)


def copy_package(package: Package, working_dir: str | Path, target: Path) -> None:
    """Copy the files of `package` to the folder `target`."""
    root = Path(working_dir).expanduser().resolve()
    for name in package.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target / name)


def _walk(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not _matches(name, _MADE_AGAIN))
        yield from (Path(folder) / name for name in sorted(names))


def _is_secret_name(name: Path) -> bool:
    return _matches(name.name, _SECRET_FILES) or any(_matches(part, _SECRET_FOLDERS) for part in name.parts[:-1])


def _holds_secret(path: Path) -> bool:
    return path.stat().st_size <= _LARGEST_TEXT_BYTES and _SECRET_TEXT.search(path.read_bytes()) is not None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in patterns)


def _largest(sizes: dict[Path, int]) -> list[tuple[Path, int]]:
    return sorted(sizes.items(), key=lambda item: -item[1])[:3]
