"""A comparison end to end without Ray: choice by validation alone, controls, resuming, the numbers of the results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compare_world as world
import numpy as np
import pytest
from scipy import stats

from hnlm_ray.compare import training
from hnlm_ray.compare.config import reduced, settings_of
from hnlm_ray.compare.outcome import best_on_validation, collect, results_of
from hnlm_ray.compare.page import render
from hnlm_ray.compare.readme import BEGIN, END, RESULTS_SUFFIX, load_results, section, update_readme
from hnlm_ray.compare.runs import RESULT_FILE, Runs, as_job
from hnlm_ray.compare.table import table
from hnlm_ray.compare.training import train_and_judge
from hnlm_ray.errors import UserError
from hnlm_ray.recommend.samplers.base import Batch
from hnlm_ray.recommend.trainer import Trainer
from hnlm_ray.store import Folder, RunDir

_LONG_EPOCH_S = 1000.0
"""What the process that dies took for an epoch"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A finished comparison, interrupted once on the way."""
    folder = tmp_path_factory.mktemp("compare")
    config, compare = world.load(folder)
    run_dir = RunDir(folder / "run")
    world.prepare(config, compare, run_dir)
    first = Runs(config, compare, run_dir)
    assert world.finish(first, most=5) == 5
    with pytest.raises(KeyboardInterrupt):
        _die_in_training(first)
    before = _written(run_dir)
    again = Runs(config, compare, run_dir)
    once_for_both_seeds = 2  # of `ease` and `text`, in which there is no chance
    assert world.finish(again) == again.num_total() - 5 - once_for_both_seeds
    assert {path: _written(run_dir)[path] for path in before} == before, "what had ended was done again"
    return again


def _die_in_training(runs: Runs) -> None:
    """Begin the next run and die after its first epochs, as a killed process does: its checkpoint stays, no result."""
    step = Trainer.step

    def dies(trainer: Trainer, batch: Batch) -> None:
        if trainer.state.epoch == 2:
            trainer.state.history[0]["seconds"] += _LONG_EPOCH_S
            trainer._save()
            raise KeyboardInterrupt
        step(trainer, batch)

    Trainer.step = dies  # type: ignore[method-assign]
    try:
        train_and_judge(as_job(runs.open()[0]))
    finally:
        Trainer.step = step  # type: ignore[method-assign]


def _written(run_dir: RunDir) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in Path(run_dir.folder.path).glob(f"compare/*/*/{RESULT_FILE}")}


@pytest.fixture(scope="module")
def results(runs: Runs) -> dict[str, Any]:
    """Through JSON, as a reader gets them."""
    found: dict[str, Any] = json.loads(json.dumps(results_of(runs, collect(runs), "tiny.yaml"), allow_nan=False))
    return found


def row(results: dict[str, Any], method: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in results["rows"] if row["method"] == method)
    return found


def test_every_row_has_its_runs(runs: Runs, results: dict[str, Any]) -> None:
    assert runs.num_done() == runs.num_total() == 8 * 2 + 2 * 2
    assert [found["method"] for found in results["rows"]] == [
        "rns",
        "dns",
        "hybrid",
        "window-only",
        "base-llm",
        "kar",
        "ease",
        "text",
    ]
    for found in results["rows"]:
        assert found["seeds"] == [0, 1]
        assert 0 < found["mean"]["recall@20"] <= 1
        assert found["cost"]["shared_s"] > 0
        assert found["cost"]["training_s"] > 0, "one that is solved in closed form takes its time too"
    assert results["data_fingerprint"] == runs.shared(runs.config)["ingest"]


def test_a_run_that_was_killed_costs_what_both_processes_took(runs: Runs) -> None:
    written = [Folder(path.parent).read_json(RESULT_FILE) for path in _written(runs.run_dir)]
    (resumed,) = [result for result in written if result["training_s"] >= _LONG_EPOCH_S]
    assert resumed["seconds"] >= resumed["training_s"]


def test_a_setting_is_chosen_by_validation_alone(runs: Runs) -> None:
    dns = runs.compare.row("dns")
    by_setting = [(Folder(run.folder).read_json(RESULT_FILE)["valid"], setting)
                  for run, setting in zip(runs.trials(dns), settings_of(runs.compare, dns), strict=True)]  # fmt: skip
    assert runs.tuned(dns) == max(by_setting, key=lambda pair: pair[0])[1]
    for run in runs.trials(dns):
        written = Folder(run.folder).names()
        assert written == [RESULT_FILE], "a trial has looked at more than validation"
        assert "metrics" not in Folder(run.folder).read_json(RESULT_FILE)


def test_the_best_methods_are_chosen_on_validation(runs: Runs, results: dict[str, Any]) -> None:
    classical = [found for found in results["rows"] if found["kind"] == "classical"]
    assert results["best_classical"] == max(classical, key=lambda found: found["valid"])["method"]
    assert results["best_hnlm"] == "hybrid"
    findings = collect(runs)
    best = best_on_validation(findings, "classical")
    for finding in findings:  # whatever the test says, the choice stays
        finding.test["recall@20"][:] = np.random.default_rng(0).random(2)
    assert best_on_validation(findings, "classical") is best


def test_a_control_inherits_the_tuned_setting_and_changes_one_switch(runs: Runs) -> None:
    hybrid, tuned = runs.compare.row("hybrid"), runs.tuned(runs.compare.row("hybrid"))
    for name, switch in (("window-only", ("train", "hnlm", "control")), ("base-llm", ("finetune", "epochs"))):
        control = runs.compare.row(name)
        assert runs.tuned(control) == tuned
        assert runs.trials(control) == []
        ours, theirs = runs.seeds(control)[0].config, runs.seeds(hybrid)[0].config
        assert _differences(ours, theirs) == [switch]
    own, other = runs.seeds(runs.compare.row("base-llm"))[0], runs.seeds(hybrid)[0]
    assert own.artifacts["embeddings"] != other.artifacts["embeddings"]
    assert own.artifacts["dataset"] == other.artifacts["dataset"]


def _differences(one: Any, other: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(one, dict):
        return [path for key in one for path in _differences(one[key], other[key], (*at, key))]
    return [] if one == other else [at]


def _paired_p(first: list[float], second: list[float]) -> float:
    """By scipy, which knows no answer where all pairs are equal: nothing speaks for a difference then."""
    return 1.0 if first == second else float(stats.ttest_rel(first, second).pvalue)


def test_numbers_by_hand(results: dict[str, Any]) -> None:
    reference = row(results, results["best_classical"])
    others = [found for found in results["rows"] if found is not reference]
    for metric in ("recall@20", "ndcg@20"):
        raw = [stats.ttest_rel(found["per_seed"][metric], reference["per_seed"][metric]).pvalue for found in others]
        held = 0.0
        for rank, index in enumerate(np.argsort(raw)):  # Holm: the smallest times n, the next times n - 1, ...
            held = max(held, min(1.0, raw[index] * (len(raw) - rank)))
            assert others[index]["p"][metric] == pytest.approx(held, abs=1e-6)
        for found in others:
            first, second = found["per_seed"][metric]
            mean = (first + second) / 2
            assert found["mean"][metric] == pytest.approx(mean)
            assert found["sd"][metric] == pytest.approx(abs(first - second) / np.sqrt(2))
            assert found["relative_gain"][metric] == pytest.approx(mean / reference["mean"][metric] - 1)
    best = row(results, results["best_hnlm"])
    assert results["relative_gain"] == best["relative_gain"]
    assert results["p_value"] == best["p"]


@pytest.mark.parametrize(
    ("family", "words", "named"),
    [
        ("over_controls", "its controls", ["window-only", "base-llm"]),
        ("over_rivals", "rivals and outsiders", ["kar", "ease", "text"]),
    ],
)
def test_leads_of_the_best_variant_by_hand(results: dict[str, Any], family: str, words: str, named: list[str]) -> None:
    best, others = row(results, results["best_hnlm"]), [row(results, name) for name in named]
    assert list(results[family]) == named
    for metric in ("recall@20", "ndcg@20"):
        raw = [_paired_p(other["per_seed"][metric], best["per_seed"][metric]) for other in others]
        for other, found, own in zip(others, results[family].values(), raw, strict=True):
            smaller = [p * (len(raw) - rank) for rank, p in enumerate(sorted(raw)) if p <= own]
            assert found["p"][metric] == pytest.approx(min(1.0, max(smaller)), abs=1e-6)
            assert found["relative_gain"][metric] == pytest.approx(best["mean"][metric] / other["mean"][metric] - 1)
    (sentence,) = [line for line in table(results).splitlines() if f"hybrid over {words}" in line]
    for name in named:
        assert f"{name} {100 * results[family][name]['relative_gain']['recall@20']:+.1f} %" in sentence
    assert sentence in render(results)


def test_the_test_set_is_read_once_per_seed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate: Callable[..., Any] = training.evaluate_and_write
    read = []
    monkeypatch.setattr(training, "evaluate_and_write", lambda *given: read.append(1) or evaluate(*given))
    more = runs.compare.model_copy(update={"seeds": [0, 1, 2]})
    longer = Runs(runs.config, more, runs.run_dir)
    assert world.finish(longer) == 6  # a third seed of each row in which there is chance; what stood is not repeated
    assert len(read) == 6
    assert world.finish(longer) == 0


def test_a_reduced_comparison_shares_the_runs(runs: Runs) -> None:
    part = Runs(runs.config, reduced(runs.compare, ["rns", "dns"], [1], 0), runs.run_dir)
    assert part.open() == []
    found = results_of(part, collect(part), "tiny.yaml")
    assert found["best_hnlm"] is None
    assert row(found, "rns")["sd"]["recall@20"] is None
    assert "rns" in table(found)


def test_the_page_shows_the_results_and_nothing_foreign(results: dict[str, Any]) -> None:
    named = results | {"name": "<script>alert(1)</script>"}
    page = render(named)
    assert "<script" not in page
    for found in results["rows"]:
        assert f"{found['mean']['ndcg@20']:.4f}" in page
        assert found["method"] in page
    assert page.count("<svg") == 4


def test_the_readme_gets_what_the_results_give(results: dict[str, Any], tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    Folder(tmp_path).write_json("tiny" + RESULTS_SUFFIX, results)
    update_readme(readme, tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    for found in results["rows"]:
        assert f"| {found['mean']['recall@20']:.4f} ± {found['sd']['recall@20']:.4f} |" in text
    update_readme(readme, tmp_path)
    assert readme.read_text() == text
    readme.write_text("no place")
    with pytest.raises(UserError, match="has no place"):
        update_readme(readme, tmp_path)


def test_the_project_s_readme_is_generated() -> None:
    root = Path(__file__).parents[2]
    text = (root / "README.md").read_text()
    written = text.partition(BEGIN)[2].partition(END)[0]
    assert written.strip() == section(load_results(root / "configs" / "compare")).strip()
