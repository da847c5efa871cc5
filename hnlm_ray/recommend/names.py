"""Names in the config -> classes: a visible dictionary, or the dotted path of the user's own class."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.config import TEXT_MODELS


def import_dotted(name: str, known: Mapping[str, str], key: str) -> Any:
    """The object behind `name`: an entry of `known`, or `package.module.Class`. `key` names the config key at fault."""
    path = known.get(name, name)
    module_name, dot, attribute = path.rpartition(".")
    if not dot:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(f"{key}={name!r} is unknown: give {', '.join(known)} or a dotted path pkg.module.Class{hint}")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}={name!r} cannot be imported ({error}): check the path and PYTHONPATH") from None


def reads_text(model: str) -> bool:
    """Whether `train.model` takes vectors of texts; a built-in name is told without importing anything."""
    if "." not in model:
        return model in (*TEXT_MODELS, "text")
    return bool(getattr(import_dotted(model, {}, "train.model"), "reads_text", False))
