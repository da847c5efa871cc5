"""Engines that the tests of this folder share."""

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from paced_tasks import MakeGroup, paced_group, paced_plan

from hnlm_ray.generate.engines import EngineGroup


@pytest.fixture
def make_group(ray_session: object) -> Iterator[MakeGroup]:
    """Paced engines that end with the test."""
    groups = []

    def make(row_s: float = 0.0, started: str = "", **changes: Any) -> EngineGroup:
        groups.append(paced_group(paced_plan(**changes), row_s, started))
        return groups[-1]

    yield make
    for group in groups:
        ray.get(group.dispatcher.close.remote(), timeout=30)
        ray.kill(group.dispatcher)
