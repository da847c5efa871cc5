"""A compilation that goes on is waited for; one whose process was killed is not."""

import os
import threading
import time
from pathlib import Path

import pytest

from hnlm_ray.compiler_lock import wait_for_compilers


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    path = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_a_lock_that_was_left_behind_is_removed(lock: Path) -> None:
    an_hour_ago = time.time() - 3600
    os.utime(lock, (an_hour_ago, an_hour_ago))
    wait_for_compilers()
    assert not lock.exists()


def test_a_compiler_at_work_is_waited_for(lock: Path) -> None:
    ends = threading.Timer(1.0, lock.unlink)
    ends.start()
    started = time.monotonic()
    wait_for_compilers()
    assert time.monotonic() - started > 0.9
    assert not lock.exists()


def test_nothing_is_compiled_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "nowhere"))
    wait_for_compilers()
