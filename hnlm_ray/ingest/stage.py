"""Stage `ingest`: raw data in, data set and quarantine out."""

from typing import TYPE_CHECKING, Any

from hnlm_ray.ingest.build import Build

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext


def run(ctx: "StageContext") -> dict[str, Any]:
    """Read, clean, filter and split `config.data`.

    Writes the artifacts `dataset` and `quarantine`; returns the counts of `dataset/stats.json`. After a kill, tasks
    that were finished are not run again.

    Raises:
        UserError: nothing to read, nothing left after a filter, or more bad rows than the config allows.
    """
    build = Build(ctx.config.data, ctx.config.seed, ctx.out("dataset"), ctx.out("quarantine"), ctx.progress)
    stats = build.run()
    return {**stats, "headline": headline(stats)}


def headline(stats: dict[str, Any]) -> str:
    """One line of counts, those that a paper prints beside them where the config knows them."""
    names = ("users", "items", "interactions")
    ours = ", ".join(f"{stats[name]:,} {name}" for name in names)
    published = stats["published"]
    theirs = f" (published: {', '.join(f'{published[name]:,}' for name in names)})" if published else ""
    bad = sum(stats["quarantined"].values())
    return ours + theirs + (f", {bad:,} bad rows in quarantine" if bad else "")
