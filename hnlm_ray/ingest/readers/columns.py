"""Which column of a user's table is which: by `data.columns`, else by a usual name."""

import difflib
from collections.abc import Collection, Mapping, Sequence

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


def resolve_columns(
    config: ColumnsConfig, part: Part, present: Sequence[str], *, is_all: bool = True
) -> dict[str, str]:
    """Canonical column -> the file's own name. Raises `UserError` when a named or required one is not there.

    `is_all`: whether the file has no other columns than `present`; else only the ids must be there.
    """
    names: dict[str, str] = {}
    for canonical, (key, usual) in USUAL_NAMES[part.table].items():
        wished = getattr(config, key)
        if canonical in _REQUIRED and part.table != "interactions" and wished not in present:
            wished = ""  # the name is that of the interactions; metadata may have another
        name = wished or next((name for name in usual if name in present), "")
        if name and name in present:
            names[canonical] = name
        elif wished and (is_all or canonical in _REQUIRED):
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


def columns_to_come(config: ColumnsConfig, part: Part, names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Columns that are not in a file's first records -> the names under which later records may bring them."""
    to_come: dict[str, tuple[str, ...]] = {}
    for canonical, (key, usual) in USUAL_NAMES[part.table].items():
        if canonical not in names:
            wished = getattr(config, key)
            to_come[canonical] = (wished,) if wished else usual
    return to_come


def refuse_unseen(config: ColumnsConfig, table: TableName, seen: Collection[str]) -> None:
    """Raise `UserError` when a column is named and no record of the whole table had it. The ids are not looked at."""
    for canonical, (key, _) in USUAL_NAMES[table].items():
        wished = getattr(config, key)
        if wished and canonical not in seen and canonical not in _REQUIRED:
            raise UserError(
                f"data.columns.{key}={wished!r} is in no record of the {table}: name a field that they have, or drop "
                "the key"
            )
