"""`encoder.model` as a run directory: what its fine-tune left counts, and nothing else that lies there. And as a name
that no model has."""

from dataclasses import replace
from pathlib import Path

import pytest

from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.generate.engines import EngineManager
from hnlm_ray.pipeline import plan
from hnlm_ray.plan import check_encoder
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


def test_a_name_that_the_hub_does_not_give_is_told_before_the_stages_that_lead_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = parse_config({"data": {"format": "synthetic"}, "encoder": {"model": "mini-lm"}})
    planned = plan(config, RunDir(tmp_path))
    with pytest.raises(UserError, match=r"encoder\.model 'mini-lm' is no folder, and the Hub does not give") as caught:
        check_encoder(config, planned)
    assert "\n" not in str(caught.value)
    check_encoder(config, plan(config, RunDir(tmp_path), until="profile"))
    check_encoder(config, [replace(item, state="done") for item in planned])
    with pytest.raises(UserError, match="the model 'mini-lm' cannot be loaded"):
        EngineManager(config).encoder("mini-lm")
