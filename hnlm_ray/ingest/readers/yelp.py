"""Yelp open data set: `yelp_academic_dataset_review.json` and `yelp_academic_dataset_business.json`."""

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from hnlm_ray.ingest.files import bare_name
from hnlm_ray.ingest.readers.base import JsonLinesReader, python_values
from hnlm_ray.ingest.schema import RawColumn, TableName


class YelpReader(JsonLinesReader):
    """Reviews and businesses as JSON lines; users, tips and check-ins are not read."""

    expects = "a file with `review` and one with `business` in its name (.json, plain or .gz)"
    fields: ClassVar = {
        "interactions": {
            "user_key": ("user_id", pa.string()),
            "item_key": ("business_id", pa.string()),
            "rating": ("stars", pa.float64()),
            "timestamp": ("date", pa.string()),
            "review": ("text", pa.string()),
        },
        "items": {
            "item_key": ("business_id", pa.string()),
            "title": ("name", pa.string()),
            "categories": ("categories", pa.string()),
            "brand": ("city", pa.string()),
            "text": ("state", pa.string()),
        },
    }

    @classmethod
    def tables(cls, names: Sequence[str]) -> dict[str, TableName]:
        kinds: dict[str, TableName] = {"review": "interactions", "business": "items"}
        readable = [name for name in names if bare_name(name).endswith((".json", ".jsonl"))]
        return {name: table for name in readable for word, table in kinds.items() if word in bare_name(name)}

    def adapt(self, table: TableName, columns: dict[str, RawColumn]) -> None:
        """City and state are the only description that there is."""
        if table == "items":
            places = zip(python_values(columns.pop("brand")), python_values(columns.pop("text")), strict=True)
            columns["description"] = [", ".join(str(name) for name in place if name) or None for place in places]
