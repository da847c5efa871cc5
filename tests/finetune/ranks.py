"""Runs a function on one gloo rank in this process, or on several, each a spawned process on one thread."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

_TIMEOUT_S = 300


def _enter(rank: int, num_ranks: int, store: str, function: Callable[..., Any], arguments: Any, results: Any) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_ranks))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks)
    results.send(function(*arguments))
    dist.barrier()
    dist.destroy_process_group()


def run_ranks(num_ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` on every rank; returns what each returned, by rank. A failed rank fails the test."""
    context = multiprocessing.get_context("spawn")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        processes, ends = [], []
        for rank in range(num_ranks):
            ours, theirs = context.Pipe(duplex=False)
            arguments_of_rank = (rank, num_ranks, f"{folder}/store", function, arguments, theirs)
            processes.append(context.Process(target=_enter, args=arguments_of_rank, daemon=True))
            processes[-1].start()
            theirs.close()
            ends.append(ours)
        for end in ends:
            assert end.poll(_TIMEOUT_S), f"a rank did not answer within {_TIMEOUT_S} s"
            found.append(end.recv())  # EOFError: the rank failed; its trace stands above
        for process in processes:
            process.join(timeout=_TIMEOUT_S)
            assert process.exitcode == 0
    return found


@contextmanager
def one_rank() -> Iterator[None]:
    """A process group of one, for DeepSpeed too."""
    import deepspeed.comm

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed insists on it
    deepspeed.comm.init_distributed(dist_backend="gloo", dist_init_required=False, verbose=False)
    try:
        yield
    finally:  # through DeepSpeed, which keeps references to the group that would be stale next time
        deepspeed.comm.destroy_process_group()
