"""What of a folder travels to a cluster: its files, never its secrets, nothing ignored, nothing made again easily."""

import fnmatch
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
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

_NOT_FOR_A_JOB = (".git", ".gitignore", ".rayignore")
"""Files left out without a word: `.git` of a worktree, and ignore files, which have had their say here. Ray would apply
them a second time, and to the config that `hnlm submit` lays beside the files."""

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
    ignored: tuple[Path, ...]
    """What `.gitignore` and `.rayignore` leave out; a folder of which nothing is left stands for all that is in it."""
    num_bytes: int


def look_through(working_dir: str | Path) -> Package:
    """List what of `working_dir` would be packaged.

    A link is followed only where it stays inside the folder, so that none reaches out to a home directory. Ignore files
    count as they do for Ray; RAY_RUNTIME_ENV_IGNORE_GITIGNORE=1 takes along what `.gitignore` names.

    Raises:
        UserError: no such folder, or too large to upload.
    """
    root = Path(working_dir).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"--working-dir {str(working_dir)!r} is no folder: give the one that holds what the job reads")
    files, secrets, ignored, sizes = [], [], [], {}
    for path, is_ignored in _walk(root):
        name = path.relative_to(root)
        target = path.resolve()
        if is_ignored:
            ignored.append(name)
            continue
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
    return Package(tuple(files), tuple(secrets), _outermost(ignored, [*files, *secrets]), total)


def copy_package(package: Package, working_dir: str | Path, target: Path) -> None:
    """Copy the files of `package` to the folder `target`."""
    root = Path(working_dir).expanduser().resolve()
    for name in package.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target / name)


def _walk(folder: Path, rules: Sequence[Callable[[Path], bool]] = ()) -> Iterator[tuple[Path, bool]]:
    """Files below `folder`, and whether they are ignored by `rules` or an ignore file; an ignored folder as a whole."""
    rules = [*rules, *_ignore_rules(folder)]
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        if _matches(path.name, _MADE_AGAIN) if is_folder else path.name in _NOT_FOR_A_JOB:
            continue
        if any(rule(path) for rule in rules):
            yield path, True
        elif is_folder:
            yield from _walk(path, rules)
        else:
            yield path, False


def _ignore_rules(folder: Path) -> list[Callable[[Path], bool]]:
    """The rules of the folder's own ignore files, as Ray reads them when it packages a folder."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    with_git = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE) != "1"
    quiet = logging.getLogger(__name__)  # Ray's own logger would name every ignore file on the terminal
    rules: list[Callable[[Path], bool]] = get_excludes_from_ignore_files(folder, with_git, quiet)
    return rules


def _outermost(ignored: Sequence[Path], others: Sequence[Path]) -> tuple[Path, ...]:
    """Each ignored path, or the outermost folder around it that holds none of the others."""
    shared = {folder for path in others for folder in path.parents}
    around = (next((folder for folder in reversed(path.parents) if folder not in shared), path) for path in ignored)
    return tuple(dict.fromkeys(around))


def _is_secret_name(name: Path) -> bool:
    return _matches(name.name, _SECRET_FILES) or any(_matches(part, _SECRET_FOLDERS) for part in name.parts[:-1])


def _holds_secret(path: Path) -> bool:
    return path.stat().st_size <= _LARGEST_TEXT_BYTES and _SECRET_TEXT.search(path.read_bytes()) is not None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in patterns)


def _largest(sizes: dict[Path, int]) -> list[tuple[Path, int]]:
    return sorted(sizes.items(), key=lambda item: -item[1])[:3]
