"""Waits for the one compiler that torch lets work on an extension at a time, and for no compiler that is gone.

torch marks a compilation by a lock file and waits for its end without one: where the compiling process was killed, the
file stays and every later training would wait for ever, without a word.
"""

import os
import time
from pathlib import Path

_LONGEST_COMPILATION_S = 600.0
"""DeepSpeed's one operation for CPUs takes half a minute, a few on a busy machine."""


def wait_for_compilers(longest_s: float = _LONGEST_COMPILATION_S) -> None:
    """Return when no extension is being compiled; a lock that is older than `longest_s` is removed."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in root.rglob("lock"):
        while (age_s := _age_s(lock)) is not None:
            if age_s > longest_s:
                lock.unlink(missing_ok=True)
            else:
                time.sleep(min(0.5, longest_s))


def _age_s(lock: Path) -> float | None:
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None
