"""What tests share: one Ray for the whole session, and where real data lies when it is there."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hnlm_ray.runtime import RuntimeConfig, connected, set_environment

set_environment()
SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def runtime() -> RuntimeConfig:
    """Two CPUs of a Ray of our own; training in this process."""
    return RuntimeConfig(address="local", num_cpus=2, object_store_gb=0.3)


@pytest.fixture(scope="session")
def ray_session(runtime: RuntimeConfig) -> Iterator[RuntimeConfig]:
    """One Ray for every test that needs one."""
    with connected(runtime):
        yield runtime


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; tests that need it say so by asking for it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no data sets in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def ray_processes() -> Callable[[str], list[psutil.Process]]:
    """Living processes of this process's own Ray whose title names a kind of actor, to be killed."""

    def find(kind: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # gone in the meantime, or a zombie
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and kind in title:
                    found.append(process)
        return found

    return find
