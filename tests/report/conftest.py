"""One finished run for all tests of the report."""

import pytest
from made_up_run import write_finished_run

from hnlm_ray.store import RunDir


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run directory of a finished run on made-up data; read only."""
    return write_finished_run(tmp_path_factory.mktemp("finished"))
