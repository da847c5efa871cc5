"""The results of a comparison as text: for the terminal, and for a README between its markers."""

from collections.abc import Mapping, Sequence
from typing import Any

from hnlm_ray.compare.outcome import METRICS


def table(results: Mapping[str, Any]) -> str:
    """The rows as aligned text, best on validation first within the order of the file."""
    lines = [list(head()), *(list(cells(row, results)) for row in results["rows"])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*shown, "", verdict(results), *leads(results)])


def head() -> Sequence[str]:
    """Names of the columns."""
    names = [name for metric in METRICS for name in (f"test {metric}", "gain", "p (seeds)", "p (users)")]
    return ["method", "kind", "valid", *names, "s per training"]


def cells(row: Mapping[str, Any], results: Mapping[str, Any]) -> Sequence[str]:
    """One row of the table."""
    found = [row["method"], f"control of {row['of']}" if row["of"] else row["kind"], f"{row['valid']:.4f}"]
    for metric in METRICS:
        sd = row["sd"][metric]
        found.append(f"{row['mean'][metric]:.4f}" + (f" ± {sd:.4f}" if sd is not None else ""))
        if row["method"] == results["reference"]:
            found += ["", "", ""]
        else:
            found += [
                f"{100 * row['relative_gain'][metric]:+.1f} %",
                p_text(row["p"][metric]),
                p_text(row["p_users"][metric]),
            ]
    return [*found, f"{row['cost']['training_s']:.0f}"]


def p_text(p: float | None) -> str:
    """A p-value in three places; empty where there is none."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(results: Mapping[str, Any]) -> str:
    """The comparison that counts, in one sentence."""
    if not results["relative_gain"]:
        return "no hnlm row or no classical row: nothing is compared"
    gains = ", ".join(
        f"{metric} {100 * results['relative_gain'][metric]:+.1f} % (p {p_text(results['p_value'][metric]) or 'n/a'})"
        for metric in METRICS
    )
    return f"chosen on validation: {results['best_hnlm']} against {results['best_classical']}: {gains}"


def leads(results: Mapping[str, Any]) -> list[str]:
    """What the best variant has over its controls and over the rivals and outsiders: a sentence each, where any are."""
    return [
        f"{results['best_hnlm']} over {them} ({' / '.join(METRICS)}): "
        + "; ".join(_lead(other, found) for other, found in over.items())
        for them, over in (
            ("its controls", results["over_controls"]),
            ("rivals and outsiders", results.get("over_rivals")),  # results of older versions have none
        )
        if over
    ]


def _lead(other: str, found: Mapping[str, Any]) -> str:
    gains = (
        f"{100 * found['relative_gain'][metric]:+.1f} % (p {p_text(found['p'][metric]) or 'n/a'})" for metric in METRICS
    )
    return f"{other} {' / '.join(gains)}"
