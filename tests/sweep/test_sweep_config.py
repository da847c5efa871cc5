"""A sweep's file: what it accepts, what it refuses and in which words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hnlm_ray.compare.runs import upstream_key
from hnlm_ray.config import load_config
from hnlm_ray.errors import UserError
from hnlm_ray.sweep.config import load_sweep, most_epochs, with_point

ROOT = Path(__file__).parents[2]


def write(folder: Path, **sweep: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"train": {"epochs": 7}, "sweep": sweep}))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_the_files_that_come_along_are_accepted(path: Path) -> None:
    config, sweep = load_sweep(path, ["data.path=somewhere"])
    assert sweep.trials >= 1
    point = {key: dimension.examples()[0] for key, dimension in sweep.space.items()}
    for key, dimension in sweep.space.items():
        for value in dimension.examples():
            with_point(config, point | {key: value})


def test_overrides_reach_the_run_and_the_sweep(tmp_path: Path) -> None:
    path = write(tmp_path, space={"train.lr": {"loguniform": [0.001, 0.01]}})
    config, sweep = load_sweep(path, ["train.epochs=3", "sweep.trials=5"])
    assert (config.name, config.train.epochs, sweep.trials) == ("mine", 3, 5)


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"space": {"train.lrr": {"uniform": [0, 1]}}}, "did you mean 'train.lr'"),
        ({"space": {"train.hnlm.alfa": {"uniform": [0, 1]}}}, "did you mean 'train.hnlm.alpha'"),
        ({"space": {"profile.prompt": {"choice": [1, 2]}}}, "all trials share the stages before `train`"),
        ({"space": {"train.lr": {"uniform": [1, 0]}}}, "low < high"),
        ({"space": {"train.lr": {"loguniform": [0, 1]}}}, "bounds above 0"),
        ({"space": {"train.lr": {"uniform": [0, 1], "choice": [1, 2]}}}, "there are 2"),
        ({"space": {"train.lr": {}}}, "there are 0"),
        ({"space": {}}, "sweep.space"),
        ({"space": {"train.monitor": {"choice": ["ndcg@20", "hr@20"]}}}, "it is the metric that ranks all trials"),
        ({"space": {"train.epochs": {"choice": [5, "many"]}}}, "train.epochs='many' is not accepted"),
        ({"space": {"train.lr": {"uniform": [0, 1]}}, "trial": 3}, "sweep.trial"),
        ({"space": {"train.lr": {"uniform": [0, 1]}}, "search": "grid"}, "sweep.search"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, sweep: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_sweep(write(tmp_path, **sweep))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("space", "most"),
    [
        ({"train.lr": {"choice": [0.1, 0.2]}}, 7),
        ({"train.epochs": {"choice": [3, 50, 5]}}, 50),
        ({"train.epochs": {"randint": [3, 5]}}, 4),
    ],
)
def test_the_longest_trial_counts_where_epochs_are_searched(tmp_path: Path, space: dict[str, Any], most: int) -> None:
    assert most_epochs(*load_sweep(write(tmp_path, space=space))) == most


def test_a_file_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_sweep(tmp_path / "nothing.yaml")
    (tmp_path / "run.yaml").write_text("train: {epochs: 3}\n")
    with pytest.raises(UserError, match="no section `sweep`"):
        load_sweep(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text("sweep:\n")
    with pytest.raises(UserError, match="sweep=None is not accepted: it is a section of keys, see configs/sweeps"):
        load_sweep(tmp_path / "run.yaml")
    with pytest.raises(UserError, match="sweep=5 is not accepted"):
        load_sweep(tmp_path / "run.yaml", ["sweep=5"])


def test_trials_train_in_fp32(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.precision='bf16' is for `hnlm run`"):
        load_sweep(write(tmp_path, space={"train.lr": {"uniform": [0, 1]}}), ["train.precision=bf16"])


def test_a_point_changes_its_keys_and_nothing_else(tmp_path: Path) -> None:
    config, _ = load_sweep(write(tmp_path, space={"train.lr": {"uniform": [0, 1]}}))
    point = with_point(config, {"train.lr": 0.25, "train.hnlm.window": [0.1, 0.2]})
    assert (point.train.lr, point.train.hnlm.window) == (0.25, (0.1, 0.2))
    changed = point.train.model_copy(update={"lr": config.train.lr, "hnlm": config.train.hnlm})
    assert point.model_copy(update={"train": changed}) == config


def test_the_sweep_rests_on_the_artifacts_of_the_run_that_it_names() -> None:
    sweep, _ = load_sweep(ROOT / "configs" / "sweeps" / "alignment.yaml")
    assert upstream_key(sweep) == upstream_key(load_config(ROOT / "configs" / "xrec_amazon_small.yaml"))
