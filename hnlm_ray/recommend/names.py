"""Names in the config -> classes: a visible dictionary, or the dotted path of the user's own class."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from hnlm_ray.errors import UserError


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
