"""Input rows of the LLM stages: what each prompt is made of, as Parquet files whose row groups are the units of work.

The training table is sorted by user, so everything that is said of one user lies together: a range of users is read by
itself, in one process or in many (`map_ranges`), and no shuffle is needed. Only reviews by item need one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from hnlm_ray.store import Folder

UNITS_PER_FILE = 64
SINGLE_NODE_ROWS = 5_000_000
"""Training interactions up to which one process builds the inputs: below, starting workers costs more than it saves."""

Range = tuple[int, int]
"""Ids [first, end)."""


class TextsOfItems(Protocol):
    """What prompts say of items."""

    def take(self, item_ids: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """Titles and profiles of `item_ids`."""

    def has_any(self, item_ids: np.ndarray) -> np.ndarray:
        """Whether an item has a title or a profile, bool [len(item_ids)]."""


@dataclass(frozen=True)
class ItemTexts:
    """Title and profile of every item, in the order of their ids."""

    titles: pa.Array
    profiles: pa.Array
    """P_i; null where there is none."""

    def take(self, item_ids: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """Titles and profiles of `item_ids`."""
        return self.titles.take(pa.array(item_ids)), self.profiles.take(pa.array(item_ids))

    def has_any(self, item_ids: np.ndarray) -> np.ndarray:
        """Whether an item has a title or a profile."""
        return self._told[item_ids]

    @cached_property
    def _told(self) -> np.ndarray:
        told = pc.or_(pc.not_equal(self.titles, ""), pc.is_valid(self.profiles))
        return np.asarray(told.to_numpy(zero_copy_only=False))


def read_range(folder: Folder, name: str, column: str, ids: Range, columns: list[str] | None = None) -> pa.Table:
    """Rows of the Parquet folder `name` whose `column` lies in `ids`; row groups outside of it are not read."""
    paths = folder.parquet_files(name)
    within = (pads.field(column) >= ids[0]) & (pads.field(column) < ids[1])
    return pads.dataset(paths, filesystem=folder.fs, format="parquet").to_table(columns=columns, filter=within)


def ok_texts(folder: Folder, name: str, id_column: str, ids: Range) -> pa.Array:
    """Profiles of the ids in range, in order, from finished shards; null where the model gave none."""
    table = read_range(folder, name, id_column, ids, [id_column, "text", "status"])
    table = table.filter(pc.equal(table["status"], "ok"))
    return aligned(table[id_column], table["text"], ids)


def aligned(found_ids: pa.ChunkedArray, values: pa.ChunkedArray, ids: Range) -> pa.Array:
    """`values` in the order of the ids in range; null for an id that was not found."""
    places = np.full(ids[1] - ids[0], -1, np.int64)
    places[found_ids.to_numpy() - ids[0]] = np.arange(len(found_ids))
    return _one_array(values).take(pa.array(places, mask=places < 0))


def ranges(num_ids: int, rows_per_unit: int) -> list[Range]:
    """Ranges of ids, one input file each."""
    size = rows_per_unit * UNITS_PER_FILE
    return [(first, min(first + size, num_ids)) for first in range(0, num_ids, size)]


def write_ranges(
    inputs: Folder, parts: list[Range], rows_per_unit: int, build: Callable[[Range], pa.Table], *, distributed: bool
) -> None:
    """Write one input file per range: `build` makes its rows, in this process or (`distributed`) in Ray Data tasks."""

    def write(number: int) -> None:
        table = build(parts[number])
        if table.num_rows:
            inputs.write_table(f"inputs-{number:05d}.parquet", table, row_group_size=rows_per_unit)

    if not distributed:
        for number in range(len(parts)):
            write(number)
        return
    import ray

    def write_one(row: Mapping[str, Any]) -> dict[str, Any]:
        write(int(row["number"]))
        return {"number": row["number"]}

    numbers = [{"number": number} for number in range(len(parts))]
    ray.data.from_items(numbers, override_num_blocks=len(numbers)).map(write_one).materialize()


def item_rows(items: pa.Table, reviews: pa.Array | None, *, use_supplied: bool) -> pa.Table:
    """S_i of a range of items: {title, brand, categories, description, training reviews}, and where they come from.

    Ready-made text stands in for a missing description; with `use_supplied` it is the profile itself (`given`).
    """
    num_items = items.num_rows
    text = _filled(items["text"])
    supplied = pc.if_else(pc.not_equal(text, ""), text, None)
    description = _filled(items["description"])
    borrowed = pc.and_(pc.equal(description, ""), pc.not_equal(text, ""))
    description = pc.if_else(borrowed, text, description)
    title, brand = told_titles(items), _filled(items["brand"])
    categories = _one_array(items["categories"])
    if reviews is None:
        reviews = pa.nulls(num_items, pa.list_(pa.string()))
    given = supplied if use_supplied else pa.nulls(num_items, pa.string())
    named = {
        "title": pc.not_equal(title, ""),
        "brand": pc.not_equal(brand, ""),
        "categories": pc.greater(pc.fill_null(pc.list_value_length(categories), 0), 0),
        "description": pc.and_(pc.not_equal(description, ""), pc.invert(borrowed)),
        "text": borrowed,
        "reviews": pc.greater(pc.fill_null(pc.list_value_length(reviews), 0), 0),
    }
    source = pc.if_else(pc.is_valid(given), "supplied", _joined_names(named, num_items))
    return pa.table(
        {
            "item_id": items["item_id"],
            "title": title,
            "brand": brand,
            "categories": categories,
            "description": description,
            "reviews": reviews,
            "source": source,
            "given": given,
        }
    )


def told_titles(items: pa.Table) -> pa.Array:
    """Titles of a table of items, empty where the data have none: a name made of the item's key tells nothing."""
    by_key = pc.equal(pc.cast(_one_array(items["title_source"]), pa.string()), "key")
    return pc.if_else(by_key, "", _filled(items["title"]))


def newest_reviews(item_ids: np.ndarray, timestamps: np.ndarray, reviews: pa.Array, ids: Range, most: int) -> pa.Array:
    """The newest `most` reviews of each item in range, newest first: list<string> [ids]."""
    order = np.lexsort((np.arange(len(item_ids)), timestamps, item_ids))[::-1]  # items descending, newest first
    order = order[_rank_in_group(item_ids[order]) < most]
    order = order[np.argsort(item_ids[order], kind="stable")]
    counts = np.bincount(item_ids[order] - ids[0], minlength=ids[1] - ids[0])
    return _lists(counts, reviews.take(pa.array(order)))


def user_rows(train: pa.Table, items: TextsOfItems, ids: Range, most: int) -> pa.Table:
    """S_u = [{title, P_i, review}, ...] of a range of users: their newest `most` training interactions, newest first.

    `train` holds the interactions of those users, sorted by (user_id, time). Those of which no text is known say
    nothing and are passed over. Texts are taken for the chosen interactions alone: a user may have any number of them.
    """
    user_ids, item_ids = train["user_id"].to_numpy(), train["item_id"].to_numpy()
    reviewed = _one_array(pc.is_valid(train["review"])).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(items.has_any(item_ids) | reviewed)
    newest = rows[_newest(user_ids[rows], most)]
    titles, profiles = items.take(item_ids[newest])
    reviews = _one_array(train["review"]).take(pa.array(newest))
    entries = pa.StructArray.from_arrays([titles, profiles, reviews], ["title", "profile", "review"])
    counts = np.bincount(user_ids[newest] - ids[0], minlength=ids[1] - ids[0])
    return pa.table(
        {
            "user_id": pa.array(np.arange(*ids), pa.int32()),
            "history": _lists(counts, entries),
            "source": np.where(counts > 0, "interactions", ""),
        }
    )


def pair_rows(
    train: pa.Table, items: TextsOfItems, user_profiles: pa.Array, ids: Range, order: np.ndarray, caps: np.ndarray
) -> pa.Table:
    """{P_u, title_i, P_i} of the chosen pairs of a range of users, sorted by user, so that prompts share their prefix.

    `order` [rows of train]: a pair's key, the smallest chosen first. `caps` [ids]: pairs of each user.
    """
    user_ids = train["user_id"].to_numpy()
    rows = np.lexsort((order, user_ids))
    rows = rows[_rank_in_group(user_ids[rows]) < caps[user_ids[rows] - ids[0]]]
    item_ids = train["item_id"].to_numpy()[rows]
    titles, profiles = items.take(item_ids)
    known = user_profiles.take(pa.array(user_ids[rows] - ids[0]))
    item = pc.if_else(pc.not_equal(titles, ""), "+title", "")
    item = pc.binary_join_element_wise(item, pc.if_else(pc.is_valid(profiles), "+item_profile", ""), "")
    askable = pc.and_(pc.is_valid(known), pc.not_equal(item, ""))
    source = pc.if_else(askable, pc.binary_join_element_wise("user_profile", item, ""), "")
    return pa.table(
        {
            "user_id": pa.array(user_ids[rows], pa.int32()),
            "item_id": pa.array(item_ids, pa.int32()),
            "user_profile": pc.fill_null(known, ""),
            "title": titles,
            "profile": pc.fill_null(profiles, ""),
            "source": source,
        }
    )


def pair_caps(counts: np.ndarray, max_pairs_per_user: int | None, max_pairs: int) -> np.ndarray:
    """Pairs of each user: its training interactions, cut per user and, taking turns, to `max_pairs` (0 = no limit).

    Turn by turn every user who has a pair left gets one more; in the last turn, users in the order of their ids.
    """
    caps = counts if max_pairs_per_user is None else np.minimum(counts, max_pairs_per_user)
    if not max_pairs or caps.sum() <= max_pairs:
        return caps
    low, high = 0, int(caps.max())
    while low < high:  # the most whole turns that fit
        turns = (low + high + 1) // 2
        low, high = (turns, high) if np.minimum(caps, turns).sum() <= max_pairs else (low, turns - 1)
    chosen = np.minimum(caps, low)
    left = max_pairs - int(chosen.sum())
    chosen[np.flatnonzero(caps > low)[:left]] += 1
    return chosen


def _newest(user_ids: np.ndarray, most: int) -> np.ndarray:
    """Places of each user's last `most` entries in a list sorted by time, users ascending, newest first."""
    backwards = np.lexsort((-np.arange(len(user_ids)), user_ids))
    kept: np.ndarray = backwards[_rank_in_group(user_ids[backwards]) < most]
    return kept


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values."""
    starts = np.r_[True, groups[1:] != groups[:-1]] if len(groups) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(groups)), 0))
    return np.arange(len(groups)) - first


def _lists(counts: np.ndarray, values: pa.Array) -> pa.Array:
    offsets = np.r_[0, np.cumsum(counts)].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _joined_names(named: Mapping[str, pa.Array], num_rows: int) -> pa.Array:
    masks = [mask.to_numpy(zero_copy_only=False) for mask in (_one_array(mask) for mask in named.values())]
    names = list(named)
    rows: Iterator[tuple[bool, ...]] = zip(*masks, strict=True)
    joined = ["+".join(name for name, has in zip(names, row, strict=True) if has) for row in rows]
    return pa.array(joined if num_rows else [], pa.string())


def _filled(column: pa.ChunkedArray) -> pa.Array:
    """Text without nulls, blanks cut at both ends."""
    return pc.utf8_trim_whitespace(pc.fill_null(pc.cast(_one_array(column), pa.string()), ""))


def _one_array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
