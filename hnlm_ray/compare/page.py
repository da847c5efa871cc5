"""results.json -> report.html of a comparison: the page shows what the JSON holds, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hnlm_ray.compare.table import cells, head, leads, verdict
from hnlm_ray.report import charts
from hnlm_ray.report.page import environment

_MAX_LINES = 6
_POPULARITY = ("average_popularity@20", "gini@20", "tail_coverage@20")


@dataclass(frozen=True)
class Section:
    """A table of the page."""

    title: str
    text: str
    head: list[str]
    rows: list[list[Any]]


def render(results: Mapping[str, Any]) -> str:
    """The whole page; every text is escaped by the template."""
    template = environment().get_template("compare.html")
    plots = {name: Markup(svg) for name, svg in _plots(results).items()}
    return template.render(
        results=results,
        plots=plots,
        verdict=verdict(results),
        leads=leads(results),
        sections=_sections(results),
    )


def shown_in_plots(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows that fit into one plot: the best on validation of each kind, then the others by validation."""
    by_valid = sorted(results["rows"], key=lambda row: -row["valid"])
    firsts = {row["kind"]: row for row in reversed(by_valid)}
    others = [row for row in by_valid if row not in firsts.values()]
    return [*firsts.values(), *others][:_MAX_LINES]


def _plots(results: Mapping[str, Any]) -> dict[str, str]:
    rows, shown = results["rows"], shown_in_plots(results)
    names = [row["method"] for row in rows]
    drawn = {}
    for plot, metric in (("recall", "recall@20"), ("ndcg", "ndcg@20")):
        spreads = [row["sd"][metric] or 0.0 for row in rows]
        drawn[plot] = charts.intervals(names, [row["mean"][metric] for row in rows], spreads, f"test {metric}")
    groups = rows[0]["groups"]["users"]
    labels = [f"{group['label']}\n{group['num_users']} users" for group in groups]
    series = {row["method"]: [group["metrics"]["ndcg@20"] for group in row["groups"]["users"]] for row in shown}
    drawn["groups"] = charts.bars(labels, series, "training interactions of the user", "test ndcg@20")
    curves = {row["method"]: row["curve"] for row in shown if row["curve"]}
    if curves:
        drawn["curves"] = charts.lines(curves, "epoch", f"validation {results['monitor']}")
    return drawn


def _sections(results: Mapping[str, Any]) -> list[Section]:
    rows = results["rows"]
    return [
        Section("Result", "", list(head()), [list(cells(row, results)) for row in rows]),
        _groups(results, "users", "ndcg@20"),
        _groups(results, "items", "recall@20"),
        _negatives(results),
        Section(
            "Popularity bias",
            "Of what is recommended on the test set, first 20.",
            ["method", "average popularity", "Gini", "tail coverage"],
            [
                [row["method"], *(row["popularity"][name] for name in _POPULARITY)]
                for row in rows
                if _POPULARITY[0] in row["popularity"]
            ],
        ),
        Section(
            "Convergence and cost",
            "Epochs and seconds of training until validation reaches 95 % of its best, means over seeds. "
            "Before: the stages before the training, which rows share.",
            ["method", "epochs", "epochs to 95 %", "s to 95 %", "s per training", "s of tuning", "trials", "s before"],
            [
                [
                    row["method"],
                    *(row["convergence"][name] for name in ("epochs", "epochs_to_95", "seconds_to_95")),
                    *(row["cost"][name] for name in ("training_s", "tuning_s", "num_trials", "shared_s")),
                ]
                for row in rows
            ],
        ),
        Section(
            "Settings",
            "What each row sets and what it was tuned to.",
            ["method", "setting"],
            [[row["method"], ", ".join(f"{key}={value}" for key, value in row["setting"].items())] for row in rows],
        ),
    ]


def _groups(results: Mapping[str, Any], side: str, metric: str) -> Section:
    rows = results["rows"]
    labels = [f"{group['label']} ({group[f'num_{side}']})" for group in rows[0]["groups"][side]]
    return Section(
        f"By {side}",
        f"Test {metric} of {side} grouped by their number of training interactions.",
        ["method", *labels],
        [[row["method"], *(group["metrics"].get(metric) for group in row["groups"][side])] for row in rows],
    )


def _negatives(results: Mapping[str, Any]) -> Section:
    return Section(
        "False hard negatives",
        "Share of the chosen negatives that are held-out positives. Hardness: percentile among the user's unseen items "
        f"by the warm-up signal. The last two columns compare with {results['reference']} at the same hardness.",
        ["method", "false", "hardness", "false, compared", f"{results['reference']} at equal hardness"],
        [
            [
                row["method"],
                *(row["negatives"].get(name) for name in ("false_rate", "mean_hardness")),
                *(row["negatives"].get(name) for name in ("false_rate_compared", "reference_at_equal_hardness")),
            ]
            for row in results["rows"]
            if row["negatives"]
        ],
    )
