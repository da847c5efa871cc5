"""Numba kernels in two versions: serial, and over threads.

One thread must not enter OpenMP at all: its idle threads spin, and on a machine whose cores are busy that slows
everything around the kernel many times over.
"""

import ctypes
import types
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import torch
from threadpoolctl import threadpool_info

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def kernel(**options: Any) -> Callable[[Kernel], Kernel]:
    """Compile a function whose outer loop is `numba.prange`: serial when numba has one thread, parallel otherwise."""

    def compile_both(function: Kernel) -> Kernel:
        serial = numba.njit(cache=True, boundscheck=False, **options)(function)
        twin = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
        twin.__module__ = function.__module__
        twin.__qualname__ = f"{function.__qualname__}_parallel"  # numba's cache tells versions apart by name only
        parallel = numba.njit(cache=True, boundscheck=False, parallel=True, **options)(twin)

        def call(*args: Any) -> Any:
            return (serial if numba.get_num_threads() == 1 else parallel)(*args)

        call.__doc__, call.__name__ = function.__doc__, function.__name__
        return call  # type: ignore[return-value]

    return compile_both


def use_torch_threads() -> None:
    """Give the kernels as many threads as torch has.

    Numba starts its pool at the first call. On OpenMP it thereby sets two things for torch as well, which are put
    back: the number of threads (to all cores), and nested teams (to allowed: from then on each matrix product starts
    threads within threads).
    """
    num_threads = torch.get_num_threads()
    numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(num_threads)
    for library in threadpool_info():
        if library["internal_api"] == "openmp":
            ctypes.CDLL(library["filepath"]).omp_set_max_active_levels(1)
