"""Concurrency, points and outcome of a sweep, with known answers."""

import io
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hnlm_ray.cluster.room import num_places, places_on
from hnlm_ray.errors import UserError
from hnlm_ray.progress import Progress
from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.store import Folder
from hnlm_ray.sweep.config import SweepConfig
from hnlm_ray.sweep.driver import num_concurrent, trial_demand
from hnlm_ray.sweep.outcome import TrialRow, importance, write_outcome
from hnlm_ray.sweep.record import Recorder, recorded
from hnlm_ray.sweep.space import decode, is_searched, name_of, num_points, random_points

SPACE = {
    "train.hnlm.window": {"choice": [[0.1, 0.5], [0.5, 0.9]]},
    "train.lr": {"loguniform": [1e-4, 1e-1]},
    "train.hnlm.tau": {"uniform": [0.1, 0.5]},
    "train.dim": {"randint": [8, 12]},
}


def sweep(**changes: object) -> SweepConfig:
    return SweepConfig.model_validate({"space": SPACE, **changes})


@pytest.mark.parametrize(
    ("changes", "nodes", "expected"),
    [
        ({}, [{"CPU": 2}], 2),
        ({}, [{"CPU": 64}], 16),
        ({"cpus_per_trial": 0.5}, [{"CPU": 2}], 4),
        ({"cpus_per_trial": 0.1}, [{"CPU": 0.3}], 3),
        ({"cpus_per_trial": 3}, [{"CPU": 8}], 2),
        ({"cpus_per_trial": 3}, [{"CPU": 2}, {"CPU": 2}, {"CPU": 4}], 1),
        ({"gpus_per_trial": 0.25}, [{"CPU": 64, "GPU": 1}, {"CPU": 64}], 4),
        ({"gpus_per_trial": 2}, [{"CPU": 64, "GPU": 5}], 2),
        ({"max_concurrent": 3}, [{"CPU": 8}], 3),
        ({"max_concurrent": 99}, [{"CPU": 8}], 8),
    ],
)
def test_as_many_trials_as_there_is_room_for_node_by_node(
    changes: dict[str, object], nodes: list[dict[str, float]], expected: int
) -> None:
    settings = sweep(**changes)
    assert num_concurrent(settings, places_on(nodes, trial_demand(settings))) == expected


@pytest.mark.parametrize(("search", "expected"), [("random", 16), ("optuna", 4)])
def test_where_nodes_come_on_demand_as_many_as_are_useful(search: str, expected: int) -> None:
    assert num_concurrent(sweep(search=search), None) == expected
    assert num_concurrent(sweep(search=search, max_concurrent=2), None) == 2


def test_no_room_is_refused_with_the_numbers(ray_session: RuntimeConfig) -> None:
    words = r"a trial \(sweep.cpus_per_trial.*needs 4 CPUs on one node, and the most that a node has is 2 CPUs"
    with pytest.raises(UserError, match=words):
        num_places(trial_demand(sweep(cpus_per_trial=4, max_concurrent=1)))


def test_random_points_are_those_of_the_seed_and_lie_in_their_bounds() -> None:
    points = random_points(sweep(trials=50))
    assert points == random_points(sweep(trials=50))
    assert points != random_points(sweep(trials=50, seed=1))
    assert len({name_of(point) for point in points}) == 50
    for point in points:
        values = decode(sweep(), point)
        assert values["train.hnlm.window"] in [[0.1, 0.5], [0.5, 0.9]]
        assert 1e-4 <= values["train.lr"] <= 1e-1
        assert 0.1 <= values["train.hnlm.tau"] <= 0.5
        assert values["train.dim"] in range(8, 12)
    assert np.median([point["train.lr"] for point in points]) < 1e-2, "spread over the logarithm"


def test_no_random_point_comes_twice_and_none_where_the_space_holds_no_more() -> None:
    space = {"train.sampler.kind": {"choice": ["rns", "dns"]}, "train.dim": {"randint": [8, 10]}}
    four = random_points(sweep(space=space, trials=4))
    assert len({name_of(point) for point in four}) == 4
    assert random_points(sweep(space=space, trials=9)) == four
    assert random_points(sweep(space=space, trials=2)) == four[:2]
    assert (num_points(sweep(space=space, trials=9)), num_points(sweep(trials=9))) == (4, 9)


def test_a_space_that_the_trials_cover_is_tried_whole_and_not_searched() -> None:
    space = {"train.model": {"choice": ["mf", "lightgcn"]}, "train.dim": {"randint": [4, 6]}}
    assert not is_searched(sweep(space=space, trials=4, search="optuna"))
    assert is_searched(sweep(space=space, trials=3, search="optuna"))
    assert is_searched(sweep(trials=9, search="optuna"))
    assert not is_searched(sweep(trials=9, search="random"))


def rows(settings: SweepConfig) -> list[TrialRow]:
    """Validation depends on the window and on chance, on nothing else."""
    made, chance = [], np.random.default_rng(0)
    for point in random_points(settings):
        values = decode(settings, point)
        valid = 0.3 if values["train.hnlm.window"] == [0.5, 0.9] else 0.1
        made.append(TrialRow(values, valid + 0.05 * chance.random(), 10, "finished", "", 2.0, 1.5))
    return made


def test_importance_finds_the_key_that_matters() -> None:
    found = importance(sweep(trials=40), rows(sweep(trials=40)))
    assert next(iter(found)) == "train.hnlm.window"
    assert sum(found.values()) == pytest.approx(1.0)
    assert importance(sweep(trials=3), rows(sweep(trials=3))) == {}, "three trials say nothing"


def test_the_outcome_is_written_best_first(tmp_path: Path) -> None:
    settings, folder = sweep(trials=12), Folder(tmp_path)
    made = [*rows(settings), TrialRow(decode(settings, random_points(settings)[0]), 0.0, 0, "refused", "why", 0.1, 0.0)]
    outcome = write_outcome(folder, settings, made, "ndcg@20", 30.0)
    assert outcome.winner.valid == max(row.valid for row in made)
    table = folder.read_table("trials.parquet").to_pylist()
    assert [row["valid"] for row in table] == sorted((row.valid for row in made), reverse=True)
    assert table[-1]["note"] == "why"
    assert folder.read_json("sweep.json")["winner"]["values"] == outcome.winner.values
    for name in ("parallel.svg", "importance.svg"):
        assert b"<svg" in folder.read_bytes(name)
    assert len(outcome.table().splitlines()) == 1 + len(made)


def test_a_sweep_without_a_single_trained_trial_says_why(tmp_path: Path) -> None:
    refused = TrialRow(decode(sweep(), random_points(sweep())[0]), 0.0, 0, "refused", "hybrid needs dns", 0.1, 0.0)
    with pytest.raises(UserError, match="none of 1 trials could be trained: hybrid needs dns"):
        write_outcome(Folder(tmp_path), sweep(), [refused], "ndcg@20", 1.0)


def test_a_trial_answers_for_the_wait_before_it(tmp_path: Path) -> None:
    """Two trials on one place, the second after a pause: the pause is in its seconds."""
    recorder = Recorder(Folder(tmp_path), Progress("tune", io.StringIO()))
    metrics = {"best_valid": 0.5, "epoch": 3, "training_s": 0.0, "refused": "", "finished": True}
    for number in (1, 2):
        trial = SimpleNamespace(trial_id=str(number), config={"train.lr": number / 100}, last_result=metrics)
        time.sleep(0.1)
        recorder.on_trial_start(0, [], trial)
        recorder.on_trial_complete(0, [], trial)
    first, second = (result["seconds"] for result in sorted(recorded(Folder(tmp_path)), key=lambda r: r["seconds"]))
    assert first < 0.1 <= second
