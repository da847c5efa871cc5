"""What stands in a run directory, stage by stage."""

from pathlib import Path

import yaml

from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import PlannedStage, plan
from hnlm_ray.store import RunDir


def status(uri: str | Path) -> str:
    """A table of the stages of the run's last config: state, rows, failures, seconds, peak memory.

    Raises:
        UserError: the folder is no run directory.
    """
    run_dir = RunDir(uri)
    if not run_dir.folder.exists("config.yaml"):
        raise UserError(f"{str(uri)!r} is no run directory (no config.yaml in it): give the --run-dir of an hnlm run")
    config = parse_config(yaml.safe_load(run_dir.folder.read_bytes("config.yaml")))
    planned = plan(config, run_dir)
    lines = [f"{run_dir.folder.uri} ({config.name})", f"  {'stage':<10} {'state':<8} {'seconds':>8} {'GB':>6}  result"]
    lines += [f"  {_line(item)}" for item in planned]
    done = sum(item.state == "done" for item in planned)
    lines.append(f"{done} of {len(planned)} stages complete")
    return "\n".join(lines)


def _line(item: PlannedStage) -> str:
    if item.entry is None:
        return f"{item.stage.name:<10} {item.state}"
    entry = item.entry
    result = entry.summary.get("headline", "")
    return f"{entry.stage:<10} {item.state:<8} {entry.seconds:>8.1f} {entry.peak_memory_gb:>6.1f}  {result}"
