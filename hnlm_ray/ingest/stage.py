"""Stage `ingest`: raw data in, data set and quarantine out."""

from typing import TYPE_CHECKING, Any

from hnlm_ray.ingest.build import Build

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext


def run(ctx: "StageContext") -> dict[str, Any]:
    """Read, clean, filter and split `config.data`.

    Writes the artifacts `dataset` and `quarantine`; returns the counts of `dataset/stats.json`. An interrupted ingest
    starts again: its steps are passes over files, and half of one is worth little.

    Raises:
        UserError: nothing to read, nothing left after a filter, or more bad rows than the config allows.
    """
    build = Build(ctx.config.data, ctx.config.seed, ctx.out("dataset"), ctx.out("quarantine"), ctx.progress)
    return build.run()
