"""What a comparison's file may say, and what is refused in words."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from compare_world import CONFIG

from hnlm_ray.compare.config import K, load_compare, reduced
from hnlm_ray.compare.driver import compare
from hnlm_ray.compare.outcome import METRICS
from hnlm_ray.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "compare").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_of_the_project_is_accepted(path: Path) -> None:
    _, wanted = load_compare(path)
    kinds = {row.kind for row in wanted.rows}
    assert {"classical", "hnlm", "control", "outsider"} <= kinds


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
        ({"tune_seed": 1}, "tune_seed=1 is one of seeds"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"trails": 3}, "compare.trails"),
        ({"rows": "nowhere.yaml"}, "compare.rows='nowhere.yaml' is no YAML list of rows beside the config"),
    ],
)
def test_refused_in_words(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        load_compare(changed(tmp_path, **values))


def test_a_section_without_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("compare:\n")
    with pytest.raises(UserError, match="compare=None is not accepted: it is a section of keys, see configs/compare"):
        load_compare(path)


def test_the_cut_off_of_the_table_must_be_evaluated(tmp_path: Path) -> None:
    assert {metric.partition("@")[2] for metric in METRICS} == {str(K)}
    with pytest.raises(UserError, match=r"evaluate\.ks=\[5, 10\] lacks 20"):
        load_compare(changed(tmp_path), ["evaluate.ks=[5, 10]"])


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


def test_a_model_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    rows = [*CONFIG["compare"]["rows"], {"name": "elsewhere", "kind": "classical", "set": {"encoder.model": "./gone"}}]
    with pytest.raises(UserError, match=r"encoder\.model '\./gone' is no model folder"):
        compare(str(changed(tmp_path, rows=rows)), run_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
