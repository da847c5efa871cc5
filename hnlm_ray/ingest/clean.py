"""Cleaning of text and of interaction rows: pure functions on Arrow tables."""

import html
import re
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.ingest.config import FilterConfig

_MARKUP = r"[&<]"
_HIDDEN_FROM = re.compile(r"<(?:(?P<script>script\b)|(?P<style>style\b)|(?P<comment>!--))", re.IGNORECASE)
_HIDDEN_TO = {
    "script": re.compile(r"</script\s*>", re.IGNORECASE),
    "style": re.compile(r"</style\s*>", re.IGNORECASE),
    "comment": re.compile(r"-->"),
}
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")  # not `<3` or `a < b`
_BLANK = r"[\s\x00-\x1f\x7f\x{a0}\x{200b}\x{feff}]+"  # RE2: with control characters and blanks of no width
_SPLIT_SPELLINGS = {
    "trn": "train",
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "tst": "test",
    "test": "test",
}


def clean_text(texts: pa.Array) -> pa.Array:
    """HTML entities resolved, tags stripped, white space and control characters to single blanks; empty text null."""
    if not len(texts):
        return texts
    has_markup = pc.fill_null(pc.match_substring_regex(texts, _MARKUP), False)
    if pc.any(has_markup).as_py():
        plain = pa.array([strip_markup(text) for text in texts.filter(has_markup).to_pylist()], pa.string())
        texts = pc.replace_with_mask(texts, has_markup, plain)
    texts = pc.replace_substring_regex(texts, _BLANK, " ")
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(texts, ""), None, texts)


def strip_markup(text: str) -> str:
    """Resolve entities, then drop tags, comments, scripts and styles.

    Entities first and until nothing changes (`&amp;quot;` is common), for tags may be escaped themselves.
    """
    for _ in range(3):
        resolved = html.unescape(text)
        if resolved == text:
            break
        text = resolved
    return _TAG.sub(" ", _without_hidden(text))


def _without_hidden(text: str) -> str:
    """A blank for every comment, script and style that ends.

    An end that is missing once is missing for all that follows, and is not looked for again: one pattern for both ends
    would read to the end of the text from every start.
    """
    kept: list[str] = []
    position = 0
    unclosed: set[str | None] = set()
    for start in _HIDDEN_FROM.finditer(text):
        kind = start.lastgroup
        if start.start() < position or kind in unclosed:
            continue
        if end := _HIDDEN_TO[str(kind)].search(text, start.end()):
            kept.append(text[position : start.start()])
            position = end.end()
        else:
            unclosed.add(kind)
    return " ".join([*kept, text[position:]])


def clean_lists(lists: pa.Array) -> pa.Array:
    """`clean_text` on every member of every list; members that come out empty go, and so does an empty list."""
    members = clean_text(lists.flatten())
    parents = pc.list_parent_indices(lists).filter(members.is_valid())
    members = members.drop_null()
    counts = np.bincount(parents.to_numpy(), minlength=len(lists))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    empty = pa.array(counts == 0)
    return pc.if_else(empty, None, pa.ListArray.from_arrays(pa.array(offsets), members))


def clean_splits(splits: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Every spelling of train, valid and test as that word; and which values [N] are no split."""
    encoded = splits.dictionary_encode()
    words = [_SPLIT_SPELLINGS.get(word.lower()) for word in encoded.dictionary.to_pylist()]
    cleaned = pa.array(words, pa.string()).take(encoded.indices)
    return cleaned, pc.and_(splits.is_valid(), cleaned.is_null()).to_numpy(zero_copy_only=False)


def rating_mask(ratings: pa.Array, filters: FilterConfig) -> np.ndarray:
    """Which rows [N] have a rating that counts."""
    if filters.min_rating is None:
        return np.ones(len(ratings), dtype=bool)
    return _mask(pc.greater_equal(ratings, filters.min_rating))


def date_mask(timestamps: pa.Array, filters: FilterConfig) -> np.ndarray:
    """Which rows [N] lie in the date window."""
    mask = np.ones(len(timestamps), dtype=bool)
    if filters.since is not None:
        mask &= _mask(pc.greater_equal(timestamps, _midnight(filters.since)))
    if filters.until is not None:
        mask &= _mask(pc.less(timestamps, _midnight(filters.until)))
    return mask


def newest_of_pairs(users: np.ndarray, items: np.ndarray, timestamps: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Rows to keep, ascending: of rows of the same user and item the newest, and of equally old ones the last."""
    by_age = np.lexsort((orders, timestamps, items, users))
    is_last = np.ones(len(by_age), dtype=bool)
    same_user = users[by_age[1:]] == users[by_age[:-1]]
    same_item = items[by_age[1:]] == items[by_age[:-1]]
    is_last[:-1] = ~(same_user & same_item)
    return np.sort(by_age[is_last])


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _mask(condition: pa.Array) -> np.ndarray:
    return pc.fill_null(condition, False).to_numpy(zero_copy_only=False)
