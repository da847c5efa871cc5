"""Amazon Reviews 2018: `<category>.json.gz` or `<category>_5.json.gz`, and `meta_<category>.json.gz`."""

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.ingest.files import bare_name
from hnlm_ray.ingest.readers.base import JsonLinesReader
from hnlm_ray.ingest.schema import RawColumn, TableName


def amazon_tables(names: Sequence[str]) -> dict[str, TableName]:
    """Files that begin with `meta` hold items, other JSON files reviews."""
    readable = [name for name in names if bare_name(name).endswith((".json", ".jsonl"))]
    return {name: "items" if bare_name(name).startswith("meta") else "interactions" for name in readable}


class Amazon2018Reader(JsonLinesReader):
    """Reviews and metadata as JSON lines; a category's 5-core has the same shape."""

    expects = "review files such as Toys_and_Games.json.gz, and meta_Toys_and_Games.json.gz for the items"
    fields: ClassVar = {
        "interactions": {
            "user_key": ("reviewerID", pa.string()),
            "item_key": ("asin", pa.string()),
            "rating": ("overall", pa.float64()),
            "timestamp": ("unixReviewTime", pa.int64()),
            "review": ("reviewText", pa.string()),
        },
        "items": {
            "item_key": ("asin", pa.string()),
            "title": ("title", pa.string()),
            "brand": ("brand", pa.string()),
            "categories": ("category", pa.list_(pa.string())),
            "description": ("description", pa.list_(pa.string())),
        },
    }

    @classmethod
    def tables(cls, names: Sequence[str]) -> dict[str, TableName]:
        return amazon_tables(names)

    def adapt(self, table: TableName, columns: dict[str, RawColumn]) -> None:
        """Drop titles that are the script of a product page: a known fault of this dump."""
        if table == "items":
            titles = columns["title"]
            if isinstance(titles, list):
                columns["title"] = [None if "getTime()" in str(title) else title for title in titles]
            else:
                columns["title"] = pc.if_else(pc.match_substring(titles, "getTime()"), None, titles)
