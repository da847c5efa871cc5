"""The user's mistake is one line, wherever it is noticed."""

import pytest
import ray

from hnlm_ray.errors import UserError, in_one_line
from hnlm_ray.runtime import RuntimeConfig


def test_a_mistake_that_a_ray_task_notices_is_told_without_its_trace(ray_session: RuntimeConfig) -> None:
    @ray.remote(num_cpus=0)
    def notices() -> None:
        raise UserError("epochs=-1 is not accepted: give 1 or more")

    with pytest.raises(UserError) as caught:
        ray.get(notices.remote())
    assert in_one_line(caught.value) == "epochs=-1 is not accepted: give 1 or more"
    assert in_one_line(UserError("seed=x")) == "seed=x"
