"""Keep the terminal for the user: what Ray, vLLM and other libraries print goes to a log file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hnlm_ray.errors import UserError


@contextmanager
def quiet_libraries(log_file: Path) -> Iterator[TextIO]:
    """Send everything this process and its children print to `log_file`; yields a stream to the real terminal.

    File descriptors 1 and 2 are redirected, not only `sys.stdout`, since most of the chatter comes from C++ and from
    worker processes.

    Raises:
        UserError: no log can be written there.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise UserError(
            f"the log {str(log_file)!r} cannot be written ({error.strerror}): give another --run-dir or, where that is "
            "in a bucket, start in another folder"
        ) from None
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    terminal = os.fdopen(os.dup(saved_err), "w", buffering=1)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        for descriptor in (saved_out, saved_err, log):
            os.close(descriptor)
        terminal.close()
