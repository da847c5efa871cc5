"""Amazon Reviews 2023: `<category>.jsonl.gz` and `meta_<category>.jsonl.gz`; items are known by `parent_asin`."""

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from hnlm_ray.ingest.readers.amazon2018 import amazon_tables
from hnlm_ray.ingest.readers.base import JsonLinesReader, python_values
from hnlm_ray.ingest.schema import RawColumn, TableName


class Amazon2023Reader(JsonLinesReader):
    """Reviews and metadata as JSON lines; times in milliseconds. For the ratings-only CSV use format `tables`."""

    expects = "review files such as Electronics.jsonl.gz, and meta_Electronics.jsonl.gz for the items"
    fields: ClassVar = {
        "interactions": {
            "user_key": ("user_id", pa.string()),
            "item_key": ("parent_asin", pa.string()),
            "rating": ("rating", pa.float64()),
            "timestamp": ("timestamp", pa.int64()),
            "review": ("text", pa.string()),
        },
        "items": {
            "item_key": ("parent_asin", pa.string()),
            "title": ("title", pa.string()),
            "brand": ("store", pa.string()),
            "categories": ("categories", pa.list_(pa.string())),
            "description": ("description", pa.list_(pa.string())),
            "text": ("features", pa.list_(pa.string())),
        },
    }

    @classmethod
    def tables(cls, names: Sequence[str]) -> dict[str, TableName]:
        return amazon_tables(names)

    def adapt(self, table: TableName, columns: dict[str, RawColumn]) -> None:
        """Half of the items describe themselves by a list of features only: it stands in for the description."""
        if table == "items":
            described = zip(python_values(columns["description"]), python_values(columns.pop("text")), strict=True)
            columns["description"] = [description or features for description, features in described]
