"""Trials of a sweep where nodes come on demand: all at once if the autoscaler can place one, else refused."""

import os
import subprocess
import sys

from hnlm_ray.cluster.local_head import Head

_JOB = """
import sys
from hnlm_ray.errors import UserError
from hnlm_ray.runtime import RuntimeConfig, connected
from hnlm_ray.sweep.config import SweepConfig
from hnlm_ray.cluster.room import num_places
from hnlm_ray.sweep.driver import num_concurrent, trial_demand

SPACE = {"train.lr": {"uniform": [0.001, 0.01]}}
with connected(RuntimeConfig(address=sys.argv[1])):
    sweep = SweepConfig(space=SPACE, trials=5, cpus_per_trial=1, gpus_per_trial=1)
    print("trials:", num_concurrent(sweep, num_places(trial_demand(sweep))))
    try:
        num_places(trial_demand(SweepConfig(space=SPACE, cpus_per_trial=1, gpus_per_trial=2)))
    except UserError as error:
        print("refused:", error)
"""


def test_trials_that_no_node_has_room_for_are_refused_and_others_may_wait_for_theirs(head: Head) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _JOB, head.gcs_address],
        env={**os.environ, **head.environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert said.returncode == 0, said.stderr[-4000:]
    assert "trials: 5" in said.stdout, "more than the head's CPUs hold: nodes come for the others"
    words = (
        "refused: a trial (sweep.cpus_per_trial, sweep.gpus_per_trial) can never be scheduled: it needs 1 x (1 CPUs and"
    )
    assert words in said.stdout
