"""report.json -> report.html: the page shows what the JSON holds, nothing else. No script, no link, no other file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hnlm_ray.report import charts
from hnlm_ray.report.facts.texts import token_rates

_TEMPLATE = "report.html"
_SCORES = ("recall@", "ndcg@", "accuracy@")
"""Validation metrics whose curves are drawn."""


def render(report: Mapping[str, Any]) -> str:
    """The whole page. Every text is escaped by the template; only our own plots enter as markup."""
    drawn, tiles = plots(report), headline(report)
    return environment().get_template(_TEMPLATE).render(report=report, plots=drawn, headline=tiles)


def environment() -> Environment:
    """What every page is rendered with: text escaped, a missing name an error, numbers in words."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": number,
        "duration": duration,
        "percent": percent,
        "flat": flat,
        "words": words,
        "by_k": by_k,
    }
    return made


def headline(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers at the top: (value, what it is)."""
    tiles: list[tuple[str, str]] = []
    if evaluation := report.get("evaluation"):
        k = headline_k(evaluation["metrics"]["test"])
        for metric in ("recall", "ndcg"):
            value = evaluation["metrics"]["test"].get(f"{metric}@{k}")
            if value is not None:
                tiles.append((f"{value:.4f}", f"{metric.upper() if metric == 'ndcg' else metric.title()}@{k}, test"))
    if data := report.get("data"):
        tiles += [(number(data[name]), name) for name in ("users", "items", "interactions")]
    tiles.append((duration(report["timing"]["total_s"]), "all stages"))
    tiles.append((f"{report['memory']['peak_gb']:.1f} GB", "peak memory"))
    return tiles


def cut_offs(metrics: Mapping[str, float]) -> list[int]:
    """The k of metrics named `kind@k`, ascending."""
    return sorted({int(name.partition("@")[2]) for name in metrics})


def headline_k(metrics: Mapping[str, float]) -> int:
    """20, where the literature publishes, or the largest k there is."""
    ks = cut_offs(metrics)
    return 20 if 20 in ks else ks[-1]


def by_k(by_split: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Values named `kind@k` as a table: a row per kind, and per split a column for every k."""
    ks = sorted({k for values in by_split.values() for k in cut_offs(values)})
    kinds = dict.fromkeys(name.partition("@")[0] for values in by_split.values() for name in values)
    rows = {kind: [values.get(f"{kind}@{k}") for values in by_split.values() for k in ks] for kind in kinds}
    return {"splits": list(by_split), "ks": ks, "rows": rows}


def plots(report: Mapping[str, Any]) -> dict[str, Markup]:
    """Every plot that the report's facts allow, by name."""
    drawn: dict[str, str] = {}
    for part, draw in _PLOTTERS.items():
        if report.get(part):
            drawn |= draw(report[part], report)
    return {name: Markup(svg) for name, svg in drawn.items()}


def _data_plots(data: Mapping[str, Any], _report: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{side}_degrees": charts.histogram(
            {side: data[f"{side}_degree_histogram"]}, "training interactions", f"{side}s", log=True
        )
        for side in ("user", "item")
    }


def _llm_plots(llm: Mapping[str, Any], _report: Mapping[str, Any]) -> dict[str, str]:
    tasks = {words(name): task for name, task in llm["tasks"].items() if task["num_asked"]}
    axes = {"prompt_token": "prompt tokens", "completion_token": "tokens written", "word": "words of the text"}
    return {
        f"{kind}_lengths": charts.histogram(
            {name: task[f"{kind}_histogram"] for name, task in tasks.items()}, label, "share of rows", share=True
        )
        for kind, label in axes.items()
        if tasks
    } | _speed_plot(tasks)


def _speed_plot(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    rates = {name: token_rates(task["tokens_over_time"]) for name, task in tasks.items()}
    shown = {name: points for name, points in rates.items() if points}
    return {"token_rates": charts.lines(shown, "seconds of the task", "tokens/s", from_zero=True)} if shown else {}


def _grounding_plots(grounding: Mapping[str, Any], _report: Mapping[str, Any]) -> dict[str, str]:
    shown = {"all kept items": grounding["all_histogram"], "nearest item": grounding["nearest_histogram"]}
    return {"grounding": charts.histogram(shown, "cosine similarity to the text negative", "share", share=True)}


def _history_plots(history: Mapping[str, Any], _report: Mapping[str, Any]) -> dict[str, str]:
    drawn = {}
    for stage, curves in history.items():
        named = {words(name.removeprefix("valid.")): points for name, points in curves.items()}
        losses = {name: points for name, points in named.items() if "loss" in name}
        scores = {name: points for name, points in named.items() if name.startswith(_SCORES)}
        if losses:
            drawn[f"{stage}_loss"] = charts.lines(losses, "epoch", "loss")
        if scores:
            drawn[f"{stage}_scores"] = charts.lines(scores, "epoch", "validation", mark_best=True)
    return drawn


_ORIGINS = {"llm": "grounded text negatives", "semantic": "semantic neighbours"}


def _triplet_plots(triplets: Mapping[str, Any], _report: Mapping[str, Any]) -> dict[str, str]:
    percentiles, similarities = (
        {_ORIGINS.get(origin, origin): of for origin, of in triplets[f"{name}_histograms"].items()}
        for name in ("cf_percentile", "similarity")
    )
    return {
        "cf_percentile": charts.histogram(
            percentiles, "CF percentile for the user", "triplets", band=triplets["window"]
        ),
        "triplet_similarity": charts.histogram(similarities, "cosine similarity to the positive", "triplets"),
    }


def _tune_plots(tune: Mapping[str, Any], _report: Mapping[str, Any]) -> dict[str, str]:
    def histograms(find: Callable[[Mapping[str, Any]], list[int]], low: float) -> dict[str, Any]:
        counts = {name: find(tune[name]) for name in ("base", "tuned")}
        return {
            f"{name} encoder": {"edges": np.linspace(low, 1, len(of) + 1).tolist(), "counts": of}
            for name, of in counts.items()
        }

    retrieved = histograms(lambda of: of["retrieved_percentile_histogram"], 0)
    target = histograms(lambda of: of["cosine_histogram"]["target"], -1)
    return {
        "retrieved": charts.histogram(
            retrieved, "CF percentile for the user", "share of retrieved items", share=True, band=tune["window"]
        ),
        "target_cosine": charts.histogram(target, "cosine of z to its target p", "share of pairs", share=True),
    }


def _evaluation_plots(evaluation: Mapping[str, Any], _report: Mapping[str, Any]) -> dict[str, str]:
    test = evaluation["metrics"]["test"]
    k, ks = headline_k(test), cut_offs(test)
    kinds = [kind for kind in ("recall", "ndcg", "hr", "precision", "mrr", "map") if f"{kind}@{ks[0]}" in test]
    drawn = {
        "metrics_by_k": charts.bars(
            [f"@{cut}" for cut in ks], {kind: [test[f"{kind}@{cut}"] for cut in ks] for kind in kinds[:2]}, "k", "test"
        )
    }
    for side, groups in evaluation["groups"].items():
        metrics = [f"{kind}@{k}" for kind in ("recall", "ndcg") if groups and f"{kind}@{k}" in groups[0]["metrics"]]
        if metrics:
            series = {metric: [group["metrics"][metric] or 0.0 for group in groups] for metric in metrics}
            label = "training interactions of the user" if side == "users" else "training interactions of the item"
            labels = [f"{group['label']}\n{number(group[f'num_{side}'])} {side}" for group in groups]
            drawn[f"groups_{side}"] = charts.bars(labels, series, label, "test")
    return drawn


def _cost_plots(timing: Mapping[str, float], report: Mapping[str, Any]) -> dict[str, str]:
    stages = [stage for stage in timing if stage not in ("total_s", "run_s")]
    seconds = [timing[stage] for stage in stages]
    peaks = [report["memory"]["stages"][stage] for stage in stages]
    return {
        "timing": charts.horizontal_bars(stages, seconds, "seconds", "s"),
        "memory": charts.steps_over_time(stages, seconds, peaks, "peak memory, GB"),
    }


def _node_plots(nodes: Mapping[str, Sequence[Sequence[float]]], _report: Mapping[str, Any]) -> dict[str, str]:
    steps = {  # a count holds until the next change
        f"{kind} nodes": [
            corner
            for (at, count), (until, _) in zip(points, [*points[1:], points[-1]], strict=True)
            for corner in ((at, count), (until, count))
        ]
        for kind, points in nodes.items()
    }
    return {"nodes": charts.lines(steps, "seconds of the run", "nodes", from_zero=True)}


_PLOTTERS: dict[str, Callable[[Any, Mapping[str, Any]], dict[str, str]]] = {
    "data": _data_plots,
    "llm": _llm_plots,
    "grounding": _grounding_plots,
    "history": _history_plots,
    "triplets": _triplet_plots,
    "tune": _tune_plots,
    "evaluation": _evaluation_plots,
    "timing": _cost_plots,
    "nodes": _node_plots,
}


def number(value: Any) -> str:
    """A number for a table: thousands set apart, four significant digits of a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds in words: `8.2 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """A share as per cent."""
    return "" if share is None else f"{100 * share:.3g} %"


def words(name: str) -> str:
    """A key as words."""
    return name.replace("_", " ")


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A nested mapping as rows of (dotted key, value); lists of records, too large for a cell, are counted."""
    rows: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            rows += flat(inner, f"{prefix}{key}.")
        elif isinstance(inner, list) and any(isinstance(entry, Mapping | list) for entry in inner):
            rows.append((f"{prefix}{key}", f"{len(inner)} records, in report.json"))
        else:
            rows.append((f"{prefix}{key}", inner))
    return rows
