"""Peak memory of a run, this process and everything it started; and what the C library does with freed memory."""

import ctypes
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pyarrow as pa

_GB = 1e9


def tree_memory_gb() -> float:
    """Proportional set size of this process and all its descendants, GB: shared pages count once."""
    own = psutil.Process()
    return sum(_pss_bytes(process) for process in [own, *own.children(recursive=True)]) / _GB


def own_peak_gb() -> float:
    """Peak resident memory of this process since it began, GB (Linux); `ru_maxrss` would tell of its parent, too."""
    status = Path("/proc/self/status").read_text()
    [peak_kb] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peak_kb) * 1024 / _GB


def _pss_bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0  # ended between listing and reading, or another user's
    return int(getattr(info, "pss", info.uss))


class MemoryMonitor:
    """Samples `tree_memory_gb` in the background; `peak_gb` is the highest value since the last `restart`."""

    def __init__(self, interval_s: float = 2.0) -> None:
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-monitor", daemon=True)
        self.peak_gb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()

    def restart(self) -> None:
        """Forget the peak so far, at the start of a stage."""
        self.peak_gb = tree_memory_gb()

    def _sample(self) -> None:
        while not self._stopped.is_set():
            self.peak_gb = max(self.peak_gb, tree_memory_gb())
            self._stopped.wait(self._interval_s)


def keep_freed_memory() -> None:
    """Let the C library keep large blocks instead of returning them to the system at every free.

    A step allocates the same large tensors as the one before; fetching them anew costs a page fault per 4 KiB,
    which was up to a third of a step's time. glibc only; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            m_trim_threshold, m_mmap_threshold = -1, -3
            libc.mallopt(m_mmap_threshold, 1 << 30)
            libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Give freed memory back to the system: what one stage used for a moment is not for the next one to pay.

    Arrow's pool anywhere, and the C library's heap where it is glibc.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
