"""The README's table of comparisons, generated from the `*.results.json` beside their configs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hnlm_ray.compare.outcome import METRICS
from hnlm_ray.compare.table import leads, p_text, verdict
from hnlm_ray.errors import UserError

RESULTS_SUFFIX = ".results.json"
BEGIN, END = "<!-- comparisons: written by `hnlm compare --readme`, not by hand -->", "<!-- end of comparisons -->"


def update_readme(readme: Path, configs: Path) -> None:
    """Write the tables of all results in the folder `configs` between the README's markers.

    Raises:
        UserError: the file has no markers.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{str(readme)!r} has no place for the tables: add the lines {BEGIN!r} and {END!r}")
    readme.write_text(f"{before}{BEGIN}\n\n{section(load_results(configs))}\n{END}{after}", encoding="utf-8")


def load_results(configs: Path) -> list[dict[str, Any]]:
    """The results of every full comparison, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(configs.glob(f"*{RESULTS_SUFFIX}"))]


def section(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of all comparisons."""
    return "\n".join(_table(results) for results in found)


def _table(results: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, results["seeds"]))
    lines = [
        f"`hnlm compare {results['config']}`: {verdict(results)}. Seeds {seeds}; {results['trials']} trials per tuned "
        f"row; generator {results['generator']}, encoder {results['encoder']}; data `{results['data_fingerprint']}`, "
        f"commit `{results['commit']}`. p: paired t-test over seeds against `{results['reference']}`, Holm-corrected.",
        "",
        "| method | kind | " + " | ".join(f"test {metric} | gain, p" for metric in METRICS) + " |",
        "| --- " * (2 + 2 * len(METRICS)) + "|",
    ]
    for row in results["rows"]:
        kind = f"control of `{row['of']}`" if row["of"] else row["kind"]
        lines.append(f"| `{row['method']}` | {kind} | " + " | ".join(_cells(row, results)) + " |")
    for lead in leads(results):
        lines += ["", f"{lead}."]
    return "\n".join([*lines, ""])


def _cells(row: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    found = []
    for metric in METRICS:
        sd = row["sd"][metric]
        found.append(f"{row['mean'][metric]:.4f}" + (f" ± {sd:.4f}" if sd is not None else ""))
        p = p_text(row["p"][metric])
        gain = f"{100 * row['relative_gain'][metric]:+.1f} %" + (f", {p}" if p else "")
        found.append("" if row["method"] == results["reference"] else gain)
    return found
