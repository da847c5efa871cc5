"""One process at a time writes a run directory: two would write the same shards and lose manifest entries."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hnlm_ray.errors import UserError
from hnlm_ray.store import RunDir

_FILE = ".lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[str] = set()
"""Run directories of this process, whose comparison or sweep calls the pipeline within."""


@contextmanager
def sole_writer(run_dir: RunDir) -> Iterator[None]:
    """Hold the run directory. The lock is the kernel's, so that a process that was killed holds nothing.

    A bucket has no locks, nor have some network filesystems: there nobody is refused.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    path = run_dir.folder.path
    if not run_dir.folder.is_local or path in _held:
        yield
        return
    with _opened(Path(path)) as file:
        _lock(file, path)
        _held.add(path)
        try:
            yield
        finally:
            _held.remove(path)


def _opened(path: Path) -> TextIO:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return (path / _FILE).open("a+")
    except OSError as error:
        raise UserError(
            f"the run directory {str(path)!r} cannot be written ({error.strerror}): give another --run-dir"
        ) from None


def _lock(file: TextIO, path: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"{path!r} is being written by process {file.read().strip() or '(just begun)'}: wait until it ends, "
            "or give another --run-dir"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        return
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
