"""`hnlm data inspect PATH`: what raw data looks like, and the config lines for it."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.clean import clean_splits
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.files import UnreadableFile, list_files
from hnlm_ray.ingest.kcore import k_core_mask
from hnlm_ray.ingest.readers import READERS, make_reader
from hnlm_ray.ingest.reading import PartReading
from hnlm_ray.ingest.schema import SCHEMAS, SPLITS, Part, TableName
from hnlm_ray.ingest.stats import degree_summary

MAX_ROWS = 2_000_000
"""Rows per table that are looked at."""
# From the most particular to the most general; `tables` would take nearly anything.
_CANDIDATES = ("lightgcn", "recbole", "movielens", "yelp", "amazon2023", "amazon2018", "tables")
_MIN_USABLE = 0.5
_EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 1000)
_BAR_WIDTH = 30


@dataclass
class TableView:
    """What the first rows of one table show."""

    num_read: int = 0
    num_bad: int = 0
    is_all: bool = True
    reasons: Counter[str] = field(default_factory=Counter)
    columns: set[str] = field(default_factory=set)
    parts: list[pa.Table] = field(default_factory=list)

    def table(self, name: TableName) -> pa.Table:
        """All rows that were read and usable."""
        return pa.concat_tables(self.parts) if self.parts else SCHEMAS[name].empty_table()


def inspect(path: str, max_rows: int = MAX_ROWS) -> str:
    """Describe the data at `path` in words: format, counts, degrees, text coverage, config lines to paste.

    Raises:
        UserError: nothing is there, or no reader makes rows of it.
    """
    files = list_files(path)
    name = guess_format(path)
    config = DataConfig(format=name, path=path)
    views = _read(config, max_rows)
    rows = views["interactions"].table("interactions")
    lines = [
        f"{path}: {len(files)} file{'s' if len(files) > 1 else ''}, {sum(file.size for file in files) / 1e6:,.1f} MB"
    ]
    lines += ["", f"format        {name}"]
    for table, view in views.items():
        amount = "all rows" if view.is_all else f"the first {view.num_read:,} rows"
        lines.append(f"{table:<13} {view.num_read:,} ({amount}), {view.num_bad} unusable{_common(view.reasons)}")
    users, user_degrees = _degrees(rows["user_key"])
    items, item_degrees = _degrees(rows["item_key"])
    lines += [f"users         {len(user_degrees):,} with interactions; {_summary(user_degrees)}"]
    lines += [f"items         {len(item_degrees):,} with interactions; {_summary(item_degrees)}"]
    lines += ["", *_columns(rows)]
    lines += ["", "rows per      users        items", *_histograms(user_degrees, item_degrees)]
    lines += ["", *_cores(users, items)]
    for table in ("items", "users"):
        if table in views:
            lines += ["", *_coverage(table, views[table], rows)]
    return "\n".join([*lines, "", "config", *_config_lines(config, views["interactions"], rows)])


def guess_format(path: str) -> str:
    """The first reader that finds its files at `path` and can use the rows in them. Raises `UserError` if none can."""
    unreadable: UnreadableFile | None = None
    for name in _CANDIDATES:
        try:
            view = _read(DataConfig(format=name, path=path), max_rows=1)["interactions"]
        except UnreadableFile as error:
            unreadable = error
            continue
        except UserError:
            continue  # files of another format: that is the question here
        if view.num_read and 1 - view.num_bad / view.num_read >= _MIN_USABLE:
            return name
    if unreadable:
        raise unreadable
    expected = "; ".join(f"{name}: {READERS[name].expects}" for name in _CANDIDATES)  # type: ignore[attr-defined]
    list_files(path)
    raise UserError(f"no reader makes interactions of {path!r}. Known formats: {expected}")


def _read(config: DataConfig, max_rows: int) -> dict[TableName, TableView]:
    reader = make_reader(config)
    views: dict[TableName, TableView] = {}
    for part in sorted(reader.parts(), key=lambda part: list(SCHEMAS).index(part.table)):
        view = views.setdefault(part.table, TableView())
        if view.num_read >= max_rows:
            view.is_all = False
            continue
        _read_part(config, part, view, max_rows)
    return views


def _read_part(config: DataConfig, part: Part, view: TableView, max_rows: int) -> None:
    reading = PartReading(config, part)
    num_before = view.num_read
    for table, _ in reading:
        view.num_read = num_before + reading.counts["read"]
        if part.table == "interactions":  # of reviews only whether there is one: text would fill the memory
            at = table.schema.get_field_index("review")
            table = table.set_column(at, "review", pc.if_else(table["review"].is_valid(), "x", None))
        view.parts.append(table)
        if view.num_read >= max_rows:
            view.is_all = False
            break
    view.num_bad += reading.counts["bad"]
    view.reasons.update(reading.reasons)
    view.columns |= reading.columns


def _degrees(keys: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    encoded = keys.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    return codes, np.bincount(codes, minlength=len(encoded.dictionary))


def _summary(degrees: np.ndarray) -> str:
    values, counts = np.unique(degrees, return_counts=True)
    summary = degree_summary(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return ", ".join(f"{name} {value:g}" for name, value in summary.items()) + " rows each"


def _common(reasons: Counter[str]) -> str:
    return f" ({'; '.join(f'{reason}: {count:,}' for reason, count in reasons.most_common(5))})" if reasons else ""


def _columns(rows: pa.Table) -> list[str]:
    """How often each optional column of the interactions is filled, and with what."""
    lines = []
    for name in ("rating", "timestamp", "order", "review", "split"):
        values = rows[name].drop_null()
        share = len(values) / max(len(rows), 1)
        what = ""
        if len(values) and name == "rating":
            what = ", ".join(f"{row['values']:g}: {row['counts']:,}" for row in _value_counts(values, 10))
        elif len(values) and name == "timestamp":
            edges = pc.min_max(values).as_py()
            first, last = (pa.scalar(edges[edge], pa.timestamp("s")).as_py().date() for edge in ("min", "max"))
            what = f"{first} to {last}"
        elif len(values) and name == "split":
            what = ", ".join(f"{row['values']}: {row['counts']:,}" for row in _value_counts(values, 6))
        lines.append(f"{name:<13} {share:>4.0%}  {what}".rstrip())
    return lines


def _value_counts(values: pa.ChunkedArray, limit: int) -> list[dict[str, int]]:
    counted = pc.value_counts(values).to_pylist()
    return sorted(sorted(counted, key=lambda row: -row["counts"])[:limit], key=lambda row: row["values"])


def _histograms(user_degrees: np.ndarray, item_degrees: np.ndarray) -> list[str]:
    edges = np.array([*_EDGES, np.iinfo(np.int64).max])
    users, items = (np.histogram(degrees, bins=edges)[0] for degrees in (user_degrees, item_degrees))
    lines = []
    for at, low in enumerate(_EDGES):
        if not users[at] and not items[at]:
            continue
        high = "" if at + 1 == len(_EDGES) else f"-{_EDGES[at + 1] - 1}"
        label = f"{low}{'+' if not high else high if high != f'-{low}' else ''}"
        bar = "#" * round(_BAR_WIDTH * users[at] / users.max())
        lines.append(f"  {label:<9} {users[at]:>10,}   {items[at]:>10,}  {bar}")
    return lines


def _cores(users: np.ndarray, items: np.ndarray) -> list[str]:
    """What k-cores leave, without any other filter."""
    pairs = np.unique(np.stack([users.astype(np.int64), items.astype(np.int64)]), axis=1)
    lines = [f"pairs         {pairs.shape[1]:,} distinct"]
    for k in (5, 10):
        kept = k_core_mask(pairs[0], pairs[1], k)
        left = pairs[:, kept]
        lines.append(
            f"{f'{k}-core':<13} {len(np.unique(left[0])):,} users, {len(np.unique(left[1])):,} items, "
            f"{left.shape[1]:,} interactions"
        )
    return lines


def _coverage(name: TableName, view: TableView, rows: pa.Table) -> list[str]:
    """How many of the items or users that have interactions have text of each kind."""
    table = view.table(name)
    key = table.column_names[0]
    known = pc.unique(rows[key])
    table = table.filter(pc.is_in(table[key], value_set=known.combine_chunks() if hasattr(known, "chunks") else known))
    lines = [f"text of {name} with interactions"]
    for column in table.column_names[1:]:
        filled = len(pc.unique(table.filter(table[column].is_valid())[key]))
        lines.append(f"  {column:<11} {filled / max(len(known), 1):>4.0%}")
    return lines


def _config_lines(config: DataConfig, view: TableView, rows: pa.Table) -> list[str]:
    """The `data` section that fits, with the reasons as comments."""
    lines = ["  data:", f"    format: {config.format}", f"    path: {config.path}"]
    splits = set(clean_splits(rows["split"].combine_chunks())[0].drop_null().to_pylist())
    is_ordered = any(rows[name].null_count == 0 for name in ("timestamp", "order"))
    if {SPLITS[0], SPLITS[2]} <= splits:
        lines.append("    split: {kind: column}  # the data brings its own split")
    elif is_ordered:
        lines.append("    split: {kind: leave_last}  # or random, ratio, time (which needs a timestamp)")
    else:
        lines.append("    split: {kind: random, valid: 0.1, test: 0.1}")
    filters = ["k_core: 5"]
    if "rating" in view.columns and rows["rating"].null_count < len(rows):
        filters.insert(0, "min_rating: 4")
    lines.append(f"    filters: {{{', '.join(filters)}}}  # what counts as liked, and how dense the data must be")
    if view.num_bad:
        share = view.num_bad / view.num_read
        lines.append(
            f"    max_bad_fraction: {max(0.01, round(1.5 * share, 4)):g}  # {share:.2%} of the rows are unusable"
        )
    return lines
