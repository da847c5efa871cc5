"""What a comparison's file may say, and what is refused in words."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from compare_world import CONFIG

from hnlm_ray.compare.config import K, RowConfig, load_compare, reduced, settings_of
from hnlm_ray.compare.driver import compare, distinct_upstream
from hnlm_ray.compare.outcome import METRICS
from hnlm_ray.compare.runs import shared_stages
from hnlm_ray.errors import UserError
from hnlm_ray.sweep.config import SweepConfig
from hnlm_ray.sweep.space import decode, draws

DNS = {"name": "dns", "kind": "classical", "set": {"train.sampler.kind": "dns"}}
CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "compare").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_of_the_project_is_accepted(path: Path) -> None:
    _, wanted = load_compare(path)
    kinds = {row.kind for row in wanted.rows}
    assert {"classical", "hnlm", "control", "outsider"} <= kinds


def dns_mn(num_candidates: list[int], top_m: list[int]) -> dict[str, Any]:
    space = {"train.sampler.num_candidates": {"choice": num_candidates}, "train.sampler.top_m": {"choice": top_m}}
    return {"name": "dns_mn", "kind": "classical", "set": {"train.sampler.kind": "dns_mn"}, "space": space}


def changed(folder: Path, **values: Any) -> Path:
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "compare": {**CONFIG["compare"], **values}}))
    return path


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rows": [{"name": "a", "kind": "control", "of": "b"}]}, "'a' is a control of 'b'; accepted: hnlm rows"),
        ({"rows": [{"name": "a", "kind": "control"}]}, "a control names its hnlm row"),
        ({"rows": [{"name": "a", "kind": "classical"}] * 2}, "'a' is named twice"),
        ({"rows": [{"name": "a", "kind": "classical", "set": {"data.path": "x"}}]}, "set: 'data.path' is not accepted"),
        ({"rows": [{"name": "a", "kind": "classical", "set": {"train.sampel": 1}}]}, "did you mean 'train.sampler'"),
        ({"rows": [{"name": "a", "kind": "classical", "space": {"seed": {"choice": [1, 2]}}}]}, "cannot be tuned"),
        ({"rows": [{**DNS, "set": {"train.monitor": "hr@20"}}]}, "it is the metric that ranks settings and rows"),
        (
            {"rows": [{**DNS, "space": {"train.monitor": {"choice": ["hr@20", "mrr@20"]}}}]},
            "'train.monitor' cannot differ",
        ),
        ({"rows": [{**DNS, "space": {"train.lr": {"choice": [0.1, 0.2, "much"]}}}]}, "'dns' at {'train.lr': 'much'}"),
        ({"rows": [{**DNS, "space": {"train.hnlm.alpha": {"uniform": [2, 3]}}}]}, "'dns' at {'train.hnlm.alpha': 2."),
        ({"rows": [{**DNS, "space": {"train.hnlm.alfa": {"uniform": [0, 1]}}}]}, "did you mean 'train.hnlm.alpha'"),
        ({"trials": 6, "rows": [dns_mn([16, 4], [4, 8])]}, "'train.sampler.top_m': 8}: config: train.sampler: top_m=8"),
        ({"tune_seed": 1}, "tune_seed=1 is one of seeds"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"seeds": [0, -1]}, "compare.seeds.1: Input should be greater than or equal to 0"),
        ({"trails": 3}, "compare.trails"),
        ({"rows": "nowhere.yaml"}, "compare.rows='nowhere.yaml' is no YAML list of rows beside the config"),
    ],
)
def test_refused_in_words(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        load_compare(changed(tmp_path, **values))
    assert "\n" not in str(caught.value)


def test_a_section_without_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("compare:\n")
    with pytest.raises(UserError, match="compare=None is not accepted: it is a section of keys, see configs/compare"):
        load_compare(path)


def test_the_cut_off_of_the_table_must_be_evaluated(tmp_path: Path) -> None:
    assert {metric.partition("@")[2] for metric in METRICS} == {str(K)}
    with pytest.raises(UserError, match=r"evaluate\.ks=\[5, 10\] lacks 20"):
        load_compare(changed(tmp_path), ["evaluate.ks=[5, 10]"])


def test_a_value_counts_beside_those_of_the_other_keys(tmp_path: Path) -> None:
    """Two candidates are fewer than the default top_m, which no draw has."""
    _, wanted = load_compare(changed(tmp_path, rows=[dns_mn([2, 64], [2, 1])], trials=4))
    assert len(settings_of(wanted, wanted.rows[0])) == 4


def by_the_published_rule(row: RowConfig, tune_seed: int) -> list[dict[str, Any]]:
    """Sixty draws, the three of them whose last time comes first."""
    space = SweepConfig(space=row.space, seed=tune_seed)
    drawn = [decode(space, point) for point in islice(draws(space), 60)]
    return [setting for at, setting in enumerate(drawn) if setting not in drawn[at + 1 :]][:3]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_published_settings_stand_and_begin_those_of_more_trials(path: Path) -> None:
    _, wanted = load_compare(path)
    assert wanted.trials == 3
    for row in wanted.rows:
        if not row.space:
            continue
        assert settings_of(wanted, row) == by_the_published_rule(row, wanted.tune_seed)
        most = settings_of(wanted.model_copy(update={"trials": 8}), row)
        assert len({json.dumps(setting) for setting in most}) == len(most)
        for trials in (1, 2, 4):
            assert settings_of(wanted.model_copy(update={"trials": trials}), row) == most[:trials]


@pytest.mark.parametrize(
    ("key", "choice", "stages"),
    [
        ("train.hnlm.variant", ["none", "graded"], [("embed",), ("signal",)]),
        ("train.model", ["lightgcn", "rlmrec_con"], [("signal",), ("signal", "text")]),
    ],
)
def test_what_a_tuned_key_rests_on_is_there_before_it_is_trained(
    tmp_path: Path, key: str, choice: list[str], stages: list[tuple[str, ...]]
) -> None:
    row = {**DNS, "space": {key: {"choice": choice}}}
    config, wanted = load_compare(changed(tmp_path, rows=[row]))
    assert sorted(map(shared_stages, distinct_upstream(config, wanted))) == stages


def test_rows_from_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(CONFIG["compare"]["rows"]))
    assert load_compare(changed(tmp_path, rows="rows.yaml")) == load_compare(changed(tmp_path))
    (tmp_path / "rows.yaml").write_text("just: this\n")
    with pytest.raises(UserError, match=r"compare\.rows"):
        load_compare(changed(tmp_path, rows="rows.yaml"))


def test_reducing(tmp_path: Path) -> None:
    _, wanted = load_compare(changed(tmp_path))
    assert [row.name for row in reduced(wanted, ["hybrid", "window-only"], [], 0).rows] == ["hybrid", "window-only"]
    assert reduced(wanted, [], [], 0) == wanted
    with pytest.raises(UserError, match="name that row as well"):
        reduced(wanted, ["window-only"], [], 0)
    with pytest.raises(UserError, match="'nobody' is none of the 8 rows"):
        reduced(wanted, ["nobody"], [], 0)


@pytest.mark.parametrize(
    ("seeds", "trials", "words"),
    [
        ([1000], 0, "--seeds 1000 is not accepted: tune_seed=1000 is one of seeds"),
        ([1, 1], 0, "--seeds 1,1 is not accepted: seeds=[1, 1] names one twice"),
        ([-1], 0, "--seeds -1 is not accepted: Input should be greater than or equal to 0"),
        ([], -1, "--trials -1 is not accepted: Input should be greater than or equal to 1"),
    ],
)
def test_what_reduces_it_is_refused_by_its_option(tmp_path: Path, seeds: list[int], trials: int, words: str) -> None:
    _, wanted = load_compare(changed(tmp_path))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        reduced(wanted, [], seeds, trials)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    rows = [*CONFIG["compare"]["rows"], {"name": "elsewhere", "kind": "classical", "set": {"encoder.model": "./gone"}}]
    with pytest.raises(UserError, match=r"encoder\.model '\./gone' is no model folder"):
        compare(str(changed(tmp_path, rows=rows)), run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
