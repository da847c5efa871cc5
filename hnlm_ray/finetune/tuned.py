"""A run directory as an encoder: what its fine-tune left, applied unchanged elsewhere. No torch, no vLLM."""

from pathlib import Path

from hnlm_ray.errors import UserError
from hnlm_ray.store import RunDir


def encoder_folder(model: str) -> Path:
    """The folder that `encoder.model` names: of a run directory, the merged encoder that was tuned there last.

    Raises `UserError` for a run directory without a finished fine-tune.
    """
    folder = Path(model).expanduser()
    if not (folder / "manifest.json").is_file():
        return folder
    tuned = RunDir(folder).current("finetune")
    if tuned is None:
        raise UserError(
            f"encoder.model {model!r} is a run directory in which no fine-tune is finished: "
            "run its config with --until finetune first"
        )
    return folder / tuned.artifacts["finetune"] / "merged"
