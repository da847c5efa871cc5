"""The fault bench strikes every stage, at the moment it says, and notices where the moment never came."""

import time

from hnlm_ray.bench.faults import _begun, _during, _program, _Watch
from hnlm_ray.pipeline import STAGE_NAMES


def test_two_turns_kill_a_node_in_every_stage_that_a_default_run_has() -> None:
    killed = {stage for turn in (0, 1) for fault, stage in _program(turn, quick=False) if fault == "node killed"}
    assert killed == set(STAGE_NAMES) - {"text", "report"}


def test_a_stage_begins_with_its_own_line_only() -> None:
    lines = (
        "[2/9] signal",
        "[3/9] profile: goes on",
        "[1/9] ingest: done before",
        "[2/9] signal: 3 epochs; 1.0 s, peak",
    )
    assert [_begun(line) for line in lines] == ["signal", "profile", "", ""]


def test_the_deed_waits_for_its_stage_and_for_something_to_do() -> None:
    watch, asked, began = _Watch(), [], []

    def deed() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 1

    def work() -> None:
        print("[2/9] signal", file=watch)
        time.sleep(0.2)
        assert not asked
        began.append(time.monotonic())
        print("[3/9] profile", file=watch)
        time.sleep(0.6)

    assert _during(work, watch, "profile", 0.1, deed) == [True]
    assert asked[0] - began[0] >= 0.1


def test_a_stage_that_is_over_before_the_moment_is_not_struck() -> None:
    watch = _Watch()
    assert _during(lambda: print("[1/9] ingest", file=watch), watch, "ingest", 30.0, lambda: True) == []
