"""The user's mistake is one line, wherever it is noticed."""

import pytest
import ray

from hnlm_ray.errors import UserError, exit_code
from hnlm_ray.runtime import RuntimeConfig


def test_a_mistake_that_a_ray_task_notices_is_told_without_its_trace(
    ray_session: RuntimeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    @ray.remote(num_cpus=0)
    def notices() -> None:
        raise UserError("epochs=-1 is not accepted: give 1 or more")

    assert exit_code(lambda: ray.get(notices.remote())) == 2
    assert capsys.readouterr().err == "hnlm: epochs=-1 is not accepted: give 1 or more\n"


def test_any_other_error_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)
