"""What a comparison found: means, tests, groups, false negatives, convergence and cost of every row, as plain JSON."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hnlm_ray.compare.config import RowConfig, row_config
from hnlm_ray.compare.runs import Runs, RunSpec
from hnlm_ray.report.analysis import false_rate_at_equal_hardness, holm, paired_p_value
from hnlm_ray.store import Folder

METRICS = ("recall@20", "ndcg@20")
"""What the table shows and tests."""
SCHEMA = 1
_RIVALS = ("rival", "outsider")


@dataclass(frozen=True)
class Finding:
    """The finished runs of one row."""

    row: RowConfig
    setting: dict[str, Any]
    """Dotted key -> value: what the row sets, and what it was tuned to"""
    valid: np.ndarray
    """[S] the monitored metric on validation, per seed"""
    test: dict[str, np.ndarray]
    """metric -> [S], per seed"""
    per_user: dict[str, np.ndarray]
    """metric -> [U], mean over seeds; users in the same order for every row"""
    results: list[dict[str, Any]]
    """What each seed's run wrote"""
    folders: list[Folder]
    trial_results: list[dict[str, Any]]
    shared_s: float
    """Seconds of the stages before `train` that it rests on"""


def collect(runs: Runs) -> list[Finding]:
    """The findings of every row, in the order of the file."""
    return [_finding(runs, row) for row in runs.compare.rows]


def _finding(runs: Runs, row: RowConfig) -> Finding:
    seeds, tuned = runs.seeds(row), runs.tuned(row)
    assert tuned is not None
    results = [_done(runs, run) for run in seeds]
    folders = [Folder(run.folder) for run in seeds]
    tables = [folder.read_table("per_user.parquet", columns=["user_id", *METRICS]) for folder in folders]
    base = runs.compare.row(row.of).set if row.of else {}
    return Finding(
        row=row,
        setting={**base, **tuned, **row.set} if row.of else {**row.set, **tuned},
        valid=np.array([result["valid"] for result in results]),
        test={metric: np.array([result["metrics"]["test"][metric] for result in results]) for metric in METRICS},
        per_user={metric: np.mean([table[metric].to_numpy() for table in tables], axis=0) for metric in METRICS},
        results=results,
        folders=folders,
        trial_results=[_done(runs, run) for run in runs.trials(row)],
        shared_s=_shared_seconds(runs, row),
    )


def _shared_seconds(runs: Runs, row: RowConfig) -> float:
    fingerprints = runs.shared(row_config(runs.config, runs.compare, row))
    entries = [runs.run_dir.entry(stage, fingerprint) for stage, fingerprint in fingerprints.items()]
    return sum(entry.seconds for entry in entries if entry)


def _done(runs: Runs, run: RunSpec) -> dict[str, Any]:
    result = runs.result(run)
    assert result is not None
    return result


def best_on_validation(findings: Sequence[Finding], kind: str) -> Finding | None:
    """The row of `kind` whose seeds are best on validation, on average; the test set has no say."""
    of_kind = [finding for finding in findings if finding.row.kind == kind]
    return max(of_kind, key=lambda finding: float(finding.valid.mean())) if of_kind else None


def results_of(runs: Runs, findings: Sequence[Finding], config_path: str) -> dict[str, Any]:
    """The whole account as plain JSON values."""
    hnlm, classical = best_on_validation(findings, "hnlm"), best_on_validation(findings, "classical")
    reference = classical or findings[0]
    p_values = corrected_p_values(findings, reference)
    rows = [_row(finding, reference, p_values) | {"seeds": runs.compare.seeds} for finding in findings]
    best = next((row for row in rows if hnlm and row["method"] == hnlm.row.name), None)
    return {
        "schema": SCHEMA,
        "name": runs.config.name,
        "config": config_path,
        "commit": commit(),
        "data_fingerprint": runs.shared(runs.config)["ingest"],
        "generator": "none" if runs.config.llm.engine == "none" else runs.config.llm.model,
        "encoder": runs.config.encoder.model,
        "seeds": runs.compare.seeds,
        "trials": runs.compare.trials,
        "tune_seed": runs.compare.tune_seed,
        "monitor": runs.config.train.monitor,
        "reference": reference.row.name,
        "best_hnlm": hnlm.row.name if hnlm else None,
        "best_classical": classical.row.name if classical else None,
        "relative_gain": best["relative_gain"] if best and classical else {},
        "p_value": best["p"] if best and classical else {},
        "over_controls": leads_over(best, [row for row in rows if row["of"] == best["method"]]) if best else {},
        "over_rivals": leads_over(best, [row for row in rows if row["kind"] in _RIVALS]) if best else {},
        "num_comparisons": len(findings) - 1,
        "rows": rows,
    }


def leads_over(
    best: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Other row -> `relative_gain` | `p` -> metric: what the row `best` has over it; rows as the results hold them.

    p is that of the paired t-test over seeds, Holm-corrected over `others`; None with fewer than two seeds.
    """
    leads: dict[str, dict[str, dict[str, float | None]]] = {
        other["method"]: {"relative_gain": {}, "p": {}} for other in others
    }
    for metric in METRICS:
        ours = np.array(best["per_seed"][metric])
        theirs = [np.array(other["per_seed"][metric]) for other in others]
        raw = [paired_p_value(ours, values) for values in theirs] if len(ours) > 1 else []
        p_values = holm(raw) if raw else [None] * len(others)
        for lead, values, p in zip(leads.values(), theirs, p_values, strict=True):
            lead["relative_gain"][metric] = float(ours.mean() / values.mean() - 1)
            lead["p"][metric] = p
    return leads


def corrected_p_values(
    findings: Sequence[Finding], reference: Finding
) -> dict[str, dict[str, dict[str, float | None]]]:
    """`seeds` | `users` -> metric -> method -> p of the paired t-test against the reference, Holm-corrected.

    The family is all other rows of the table. Over seeds: None with fewer than two.
    """
    others = [finding for finding in findings if finding is not reference]
    found: dict[str, dict[str, dict[str, float | None]]] = {"seeds": {}, "users": {}}
    for metric in METRICS:
        pairs = {
            "seeds": lambda finding, m=metric: finding.test[m],
            "users": lambda finding, m=metric: finding.per_user[m],
        }
        for over, values in pairs.items():
            base = values(reference)
            raw = [paired_p_value(values(finding), base) for finding in others] if len(base) > 1 else []
            names = [finding.row.name for finding in others]
            found[over][metric] = dict(zip(names, holm(raw), strict=True)) if raw else dict.fromkeys(names)
    return found


def _row(
    finding: Finding, reference: Finding, p_values: Mapping[str, Mapping[str, Mapping[str, float | None]]]
) -> dict[str, Any]:
    name = finding.row.name
    return {
        "method": name,
        "kind": finding.row.kind,
        "of": finding.row.of,
        "setting": finding.setting,
        "valid": float(finding.valid.mean()),
        "mean": {metric: float(values.mean()) for metric, values in finding.test.items()},
        "sd": {metric: _sd(values) for metric, values in finding.test.items()},
        "per_seed": {metric: values.tolist() for metric, values in finding.test.items()},
        "relative_gain": {
            metric: float(values.mean() / reference.test[metric].mean() - 1) for metric, values in finding.test.items()
        },
        "p": {metric: p_values["seeds"][metric].get(name) for metric in METRICS},
        "p_users": {metric: p_values["users"][metric].get(name) for metric in METRICS},
        "groups": mean_groups([folder.read_json("groups.json") for folder in finding.folders]),
        "popularity": _mean_of([folder.read_json("popularity.json") for folder in finding.folders]),
        "negatives": negatives_of(finding, reference),
        "convergence": _mean_of(
            [_only(result, "epochs", "epochs_to_95", "seconds_to_95") for result in finding.results]
        ),
        "cost": {
            "shared_s": finding.shared_s,
            "training_s": float(np.mean([result["training_s"] for result in finding.results])),
            "tuning_s": float(sum(result["seconds"] for result in finding.trial_results)),
            "num_trials": len(finding.trial_results),
        },
        "curve": finding.results[0]["curve"],
    }


def negatives_of(finding: Finding, reference: Finding) -> dict[str, float] | None:
    """False-negative rate and hardness over all seeds, and the reference's rate at the same hardness."""
    ours, theirs = _negatives(finding), _negatives(reference)
    if ours is None:
        return None
    values = {"false_rate": float(ours[1].mean()), "mean_hardness": float(ours[0].mean())}
    if theirs is None:
        return values
    equal = false_rate_at_equal_hardness(*ours, *theirs)
    if not np.isfinite(equal.ours):
        return values
    return values | {
        "false_rate_compared": equal.ours,
        "reference_at_equal_hardness": equal.rival,
        "share_compared": equal.covered,
    }


def _negatives(finding: Finding) -> tuple[np.ndarray, np.ndarray] | None:
    tables = [
        folder.read_table("negatives.parquet") for folder in finding.folders if folder.exists("negatives.parquet")
    ]
    if not tables:
        return None
    hardness, is_false = (
        np.concatenate([table[name].to_numpy() for table in tables]) for name in ("hardness", "is_false")
    )
    return hardness, is_false


def mean_groups(per_seed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Groups of users and items with their metrics at the table's k, averaged over seeds."""
    means: dict[str, Any] = {}
    for side in ("users", "items"):
        means[side] = [
            {
                "label": same[0]["label"],
                f"num_{side}": same[0][f"num_{side}"],
                "metrics": {
                    metric: float(np.mean([group["metrics"][metric] for group in same]))
                    for metric in METRICS
                    if metric in same[0]["metrics"]
                },
            }
            for same in zip(*(groups[side] for groups in per_seed), strict=True)
        ]
    return means


def _mean_of(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([value[key] for value in values])) for key in values[0]}


def _only(values: Mapping[str, Any], *keys: str) -> dict[str, float]:
    return {key: values[key] for key in keys}


def _sd(values: np.ndarray) -> float | None:
    """Sample standard deviation; None of a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def commit() -> str:
    """The commit of this package's source, with `+` where files differ from it; `unknown` outside of a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if git("status", "--porcelain", "--untracked-files=no", ".") else "")
