"""`encoder.model` as a run directory: what its fine-tune left counts, and nothing else that lies there."""

from pathlib import Path

from hnlm_ray.config import parse_config
from hnlm_ray.pipeline import plan
from hnlm_ray.store import ManifestEntry, RunDir


def tuned_run(folder: Path) -> Path:
    """Stands in for the files of a finished fine-tune; returns its encoder's folder."""
    merged = folder / "finetune" / "aaa" / "merged"
    merged.mkdir(parents=True)
    (merged / "config.json").write_text("{}")
    RunDir(folder).commit(ManifestEntry("finetune", "aaa", {"finetune": "finetune/aaa"}, {}, 1.0, 0.1, "2026-01-01"))
    return merged


def fingerprints(tmp_path: Path) -> dict[str, str]:
    config = parse_config({"data": {"format": "synthetic"}, "encoder": {"model": str(tmp_path / "tuned")}})
    return {item.stage.name: item.fingerprint for item in plan(config, RunDir(tmp_path / "run"))}


def test_stages_are_made_anew_for_another_encoder_and_for_no_log(tmp_path: Path) -> None:
    merged = tuned_run(tmp_path / "tuned")
    first = fingerprints(tmp_path)
    (tmp_path / "tuned" / "logs").mkdir()
    (tmp_path / "tuned" / "logs" / "run.log").write_text("read once more\n")
    assert fingerprints(tmp_path) == first
    (merged / "config.json").write_text('{"other": 1}')
    assert fingerprints(tmp_path)["embed"] != first["embed"]
