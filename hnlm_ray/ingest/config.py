"""Which data, which of it, and how it is split."""

from datetime import date
from typing import Literal

from pydantic import Field, model_validator

from hnlm_ray.demo.config import SyntheticConfig
from hnlm_ray.settings import Section, operational


class ColumnsConfig(Section):
    """What the columns of ready tables are called (format `tables`). Empty: found by a usual name, where present."""

    user_id: str = ""
    """Who: required. Usual names: user_id, user, reviewerID."""
    item_id: str = ""
    """What: required. Usual names: item_id, item, parent_asin, asin."""
    rating: str = ""
    """Stars. Usual names: rating, stars, overall."""
    timestamp: str = ""
    """When: Unix seconds or milliseconds, a date or a timestamp. Usual names: timestamp, time, date."""
    order: str = ""
    """An integer that orders a user's rows where the timestamp does not. Usual names: seq_pos, order."""
    review: str = ""
    """The user's own words. Usual names: review, review_text, reviewText."""
    split: str = ""
    """trn/train, val/valid, tst/test. Usual name: split."""
    title: str = ""
    """Usual names: title, name."""
    brand: str = ""
    """Usual names: brand, author, store."""
    categories: str = ""
    """A list, or text separated by `|` or `,`. Usual names: categories, category, genres."""
    description: str = ""
    """Usual name: description."""
    item_text: str = ""
    """Ready-made text about an item. Usual names: text, profile, id_text."""
    user_text: str = ""
    """Ready-made text about a user. Usual names: text, profile, id_text."""


class FilterConfig(Section):
    """Which interactions count. Applied in this order: rating, dates, newest of a duplicate pair, k-core."""

    min_rating: float | None = None
    """Keep ratings of at least this; with it, a row without rating is a bad row. None: every row is a positive."""
    since: date | None = None
    """First day that counts (UTC)."""
    until: date | None = None
    """First day that no longer counts (UTC)."""
    k_core: int = Field(default=0, ge=0)
    """Users and items with fewer interactions go, again and again until none is left. 0 and 1: all stay."""

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> "FilterConfig":
        if self.since and self.until and self.since >= self.until:
            raise ValueError(f"since {self.since} is not before until {self.until}: the date window is empty")
        return self


class SplitConfig(Section):
    """Which interactions are held out."""

    kind: Literal["random", "leave_last", "time", "ratio", "column"] = "random"
    """`random`: a share of each user's rows. `leave_last`: each user's last row for test, the one before for
    validation. `time`: two moments cut all rows. `ratio`: a share of all rows, whoever's. `column`: as the data says
    (where it knows no validation rows, a share `valid` of each user's training rows)."""
    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share for validation; unused by `leave_last`."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share for test; unused by `leave_last` and `column`."""
    keep_unseen: bool = False
    """Keep held-out rows whose user or item has no training row, and such users and items with them."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "SplitConfig":
        if self.valid + self.test >= 1:
            raise ValueError(f"valid {self.valid} + test {self.test} leave nothing to train on: their sum must be < 1")
        return self


class PublishedCounts(Section):
    """What a paper prints for this data set, shown beside the run's own counts."""

    users: int = Field(gt=0)
    """Users after all filters."""
    items: int = Field(gt=0)
    """Items after all filters."""
    interactions: int = Field(gt=0)
    """Interactions after all filters."""


class DataConfig(Section):
    """Section `data`."""

    format: str = "synthetic"
    """A name in `ingest.readers.READERS`, or the dotted path of your own reader class: `package.module.Class`."""
    path: str = operational("")  # what lies there counts, by its content
    """A file or folder, local, s3:// or gs://. Unused by `synthetic`."""
    columns: ColumnsConfig = ColumnsConfig()
    """Column names of ready tables; the other formats know their own."""
    filters: FilterConfig = FilterConfig()
    """Which interactions count."""
    split: SplitConfig = SplitConfig()
    """Which of them are held out."""
    max_bad_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of unusable rows past which the run fails; up to it they go to `quarantine/`."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """The built-in catalogue (format `synthetic`)."""
    published: PublishedCounts | None = operational(None)
    """Counts to print beside this run's."""
    engine: Literal["auto", "single_node", "ray"] = operational("auto")
    """`single_node` works in this process, `ray` as Ray Data plans; `auto` decides by input size. Same result."""
