"""Plots as inline SVG: drawn by matplotlib, coloured by the page's CSS variables, so that they follow light and dark.

Every function takes plain numbers and returns one `<svg>` element. Nothing of a data set's text enters a plot.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = ("#040401", "#040402", "#040403", "#040404", "#040405", "#040406")
_BAND = "#050505"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _BAND: "var(--band)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
}
"""Stand-in colours that matplotlib can draw -> what takes their place in the SVG."""

_STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.hashsalt": "hnlm",  # the same plot gives the same SVG
    "svg.fonttype": "none",  # text stays text: sharp, selectable, in the page's font
    "text.parse_math": False,
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": _INK,
}
_WIDTH, _HEIGHT = 4.8, 2.7
_CLEANING = (
    (re.compile(r'<g id="[^"]*"'), "<g"),
    (re.compile(r"<metadata>.*?</metadata>", re.DOTALL), ""),
    (re.compile(r"<style.*?</style>", re.DOTALL), ""),
    (re.compile(r"font-family: [^;\"]*;"), ""),
    (re.compile(r'(?<=<svg )([^>]*?)width="[^"]*" height="[^"]*" '), r"\1"),
    (re.compile(r' transform="rotate\(-0 [^"]*"'), ""),
    (re.compile(r"\n\s*"), "\n"),
)
_REFERENCE = re.compile(r'(?<= id=")|(?<=url\(#)|(?<=href="#)')

Curve = Sequence[Sequence[float]]


@mpl.rc_context(_STYLE)
def lines(
    curves: Mapping[str, Curve], xlabel: str, ylabel: str, *, mark_best: bool = False, from_zero: bool = False
) -> str:
    """Curves of [x, y] points; `mark_best` dots and names the highest of each, `from_zero` shows the whole y axis."""
    figure, axes = _figure()
    for colour, (name, points) in zip(_cycle(len(curves)), curves.items(), strict=True):
        x, y = [point[0] for point in points], [point[1] for point in points]
        axes.plot(x, y, color=colour, label=name, marker="o" if len(x) < 3 else None, markersize=4)
        if mark_best and y:
            best = max(range(len(y)), key=lambda index: y[index])
            axes.plot([x[best]], [y[best]], "o", color=colour, markersize=5)
            axes.annotate(
                f"{y[best]:.3f}", (x[best], y[best]), (0, 6), textcoords="offset points", ha="center", fontsize=8
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, (low + high) / 2 - 1), max(high, (low + high) / 2 + 1))  # one point is not the whole axis
    axes.margins(y=0.15)
    if from_zero:
        axes.set_ylim(bottom=0)
    return _finish(figure, axes, xlabel, ylabel, legend=len(curves) > 1)


@mpl.rc_context(_STYLE)
def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> str:
    """Groups of bars: one group per label, one colour per series."""
    figure, axes = _figure()
    width = 0.8 / max(1, len(series))
    for index, (colour, (name, values)) in enumerate(zip(_cycle(len(series)), series.items(), strict=True)):
        places = [place + (index - (len(series) - 1) / 2) * width for place in range(len(labels))]
        drawn = axes.bar(places, values, width * 0.92, color=colour, label=name)
        if len(labels) * len(series) <= 12:
            axes.bar_label(drawn, [f"{value:.3g}" for value in values], padding=2, fontsize=7.5)
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.08)
    return _finish(figure, axes, xlabel, ylabel, legend=len(series) > 1)


@mpl.rc_context(_STYLE)
def horizontal_bars(labels: Sequence[str], values: Sequence[float], xlabel: str, unit: str) -> str:
    """One bar per label from top to bottom, its value behind it."""
    figure, axes = _figure(width=2 * _WIDTH, height=max(1.2, 0.24 * len(labels) + 0.5))
    drawn = axes.barh(range(len(labels)), values, 0.66, color=_SERIES[0])
    axes.bar_label(drawn, [f"{value:,.1f} {unit}" for value in values], padding=4, fontsize=8)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(visible=False)
    return _finish(figure, axes, xlabel, "")


@mpl.rc_context(_STYLE)
def intervals(labels: Sequence[str], means: Sequence[float], spreads: Sequence[float], xlabel: str) -> str:
    """One mean per label from top to bottom, with its spread to both sides; the axis shows where they differ."""
    figure, axes = _figure(width=2 * _WIDTH, height=max(1.2, 0.24 * len(labels) + 0.5))
    places = range(len(labels))
    axes.errorbar(means, places, xerr=spreads, fmt="o", color=_SERIES[0], markersize=4, elinewidth=1.4, capsize=2)
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(visible=True, axis="x")
    return _finish(figure, axes, xlabel, "")


@mpl.rc_context(_STYLE)
def histogram(
    histograms: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    ylabel: str,
    *,
    log: bool = False,
    share: bool = False,
    band: Sequence[float] | None = None,
) -> str:
    """Histograms over the same axis, empty ends cut off.

    `share` draws each bin's share; `band` shades a range of [0, 1] and shows all of that axis.
    """
    figure, axes = _figure()
    if band:
        axes.axvspan(band[0], band[1], color=_BAND, linewidth=0)
    low, high = _occupied(histograms.values())
    for colour, (name, data) in zip(_cycle(len(histograms)), histograms.items(), strict=True):
        total = sum(data["counts"]) if share else 1
        heights = [count / max(1, total) for count in data["counts"]]
        axes.stairs(
            heights, data["edges"], color=colour, fill=True, alpha=0.3 if len(histograms) > 1 else 0.85, linewidth=0
        )
        axes.stairs(heights, data["edges"], color=colour, label=name, linewidth=1.2)
    if band:  # on an axis from 0 to 1: how much of it the range takes is part of the picture
        low, high = 0.0, 1.0
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, high)
    return _finish(figure, axes, xlabel, ylabel, legend=len(histograms) > 1)


@mpl.rc_context(_STYLE)
def steps_over_time(names: Sequence[str], seconds: Sequence[float], values: Sequence[float], ylabel: str) -> str:
    """One step per stage, as wide as the stage took: a value over the time of the run."""
    figure, axes = _figure(width=2 * _WIDTH)
    edges = [0.0]
    for width in seconds:
        edges.append(edges[-1] + width)
    axes.stairs(values, edges, color=_SERIES[0], fill=True, alpha=0.25, linewidth=0)
    axes.stairs(values, edges, color=_SERIES[0], linewidth=1.6)
    for name, left, right, value in zip(names, edges[:-1], edges[1:], values, strict=True):
        if right - left > 0.06 * edges[-1]:
            axes.annotate(
                name, ((left + right) / 2, value), (0, 4), textcoords="offset points", ha="center", fontsize=8
            )
    axes.set_xlim(0, max(edges[-1], 1e-9))
    axes.set_ylim(0, max(values, default=1) * 1.25)
    return _finish(figure, axes, "seconds of the run", ylabel)


def _figure(width: float = _WIDTH, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _cycle(num: int) -> list[str]:
    return [_SERIES[index % len(_SERIES)] for index in range(num)]


def _occupied(histograms: Iterable[Mapping[str, Sequence[float]]]) -> tuple[float, float]:
    lows, highs = [], []
    for data in histograms:
        filled = [index for index, count in enumerate(data["counts"]) if count]
        if filled:
            lows.append(data["edges"][filled[0]])
            highs.append(data["edges"][filled[-1] + 1])
    return (min(lows), max(highs)) if lows else (0.0, 1.0)


def _finish(figure: Figure, axes: Axes, xlabel: str, ylabel: str, legend: bool = False) -> str:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if legend:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0.2, columnspacing=1.4, handlelength=1.6
        )
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    for pattern, replacement in _CLEANING:
        svg = pattern.sub(replacement, svg)
    own = "c" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = _REFERENCE.sub(rf"\g<0>{own}-", svg)  # ids of two plots on one page must not meet
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
