"""Which column of a user's table is which: by `data.columns`, else by a usual name."""

import difflib
from collections.abc import Sequence

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.config import ColumnsConfig
from hnlm_ray.ingest.schema import Part, TableName

# Canonical column -> (key in data.columns, usual names). The first name that is present counts.
_ID = {
    "user_key": ("user_id", ("user_id", "user", "userId", "reviewerID")),
    "item_key": ("item_id", ("item_id", "item", "itemId", "parent_asin", "asin", "business_id", "movieId")),
}
_READY_TEXT = ("text", "profile", "id_text")
USUAL_NAMES: dict[TableName, dict[str, tuple[str, tuple[str, ...]]]] = {
    "interactions": {
        **_ID,
        "rating": ("rating", ("rating", "stars", "overall")),
        "timestamp": ("timestamp", ("timestamp", "time", "date", "unixReviewTime")),
        "order": ("order", ("seq_pos", "order")),
        "review": ("review", ("review", "review_text", "reviewText")),
        "split": ("split", ("split",)),
    },
    "items": {
        "item_key": _ID["item_key"],
        "title": ("title", ("title", "name", "movie_title")),
        "brand": ("brand", ("brand", "author", "store")),
        "categories": ("categories", ("categories", "category", "genres", "genre", "class")),
        "description": ("description", ("description",)),
        "text": ("item_text", _READY_TEXT),
    },
    "users": {"user_key": _ID["user_key"], "text": ("user_text", _READY_TEXT)},
}
_REQUIRED = ("user_key", "item_key")


def resolve_columns(config: ColumnsConfig, part: Part, present: Sequence[str]) -> dict[str, str]:
    """Canonical column -> the file's own name. Raises `UserError` when a named or required one is not there."""
    names: dict[str, str] = {}
    for canonical, (key, usual) in USUAL_NAMES[part.table].items():
        wished = getattr(config, key)
        if canonical in _REQUIRED and part.table != "interactions" and wished not in present:
            wished = ""  # the name is that of the interactions; metadata may have another
        name = wished or next((name for name in usual if name in present), "")
        if name and name in present:
            names[canonical] = name
        elif wished:
            nearest = difflib.get_close_matches(wished, present, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise UserError(
                f"data.columns.{key}={wished!r} is not in {part.name!r}, which has: {', '.join(present)}{hint}"
            )
        elif canonical in _REQUIRED:
            raise UserError(
                f"{part.name!r} has no column for data.columns.{key} (tried {', '.join(usual)}); "
                f"it has: {', '.join(present) or 'none'}; name the right one in data.columns.{key}"
            )
    return names
