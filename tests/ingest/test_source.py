"""What is said before a run: checks, counts, fingerprint."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
from raw_tables import Write, grid, interactions

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.ingest.readers import READERS, make_reader
from hnlm_ray.ingest.source import check, input_fingerprint, plan_counts


def _config(path: Path | str, **values: object) -> DataConfig:
    return DataConfig.model_validate({"format": "tables", "path": str(path), **values})


def test_good_data_passes(write: Write) -> None:
    check(_config(write(interactions=interactions(grid(3, 3)))))
    check(DataConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": "nowhere"}, "'nowhere' does not exist"),
        ({"format": "amazn2018"}, "data.format 'amazn2018' is unknown: use one of synthetic, tables"),
        ({"format": "no_such_package.Reader"}, "cannot be imported"),
        ({"format": "./readers.Reader"}, r"data.format './readers.Reader' is unknown: .* or the dotted path"),
        ({"filters": {"min_rating": 4}}, "data.filters.min_rating needs a rating, and 'interactions.parquet' has none"),
        ({"split": {"kind": "column"}}, "data.split.kind=column needs a split"),
        ({"split": {"kind": "time"}}, "needs a timestamp"),
        ({"columns": {"item_id": "thing"}}, "data.columns.item_id='thing' is not in"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, object], message: str, write: Write) -> None:
    raw = write(interactions=interactions([(u, i) for u, i, *_ in grid(3, 3)]))
    with pytest.raises(UserError, match=message):
        check(_config(**{"path": raw, **values}))


def test_nothing_usable_in_the_first_rows(write: Write) -> None:
    with pytest.raises(UserError, match=r"no usable interaction .the table is empty"):
        check(_config(write(interactions=interactions(grid(1, 1)).slice(0, 0))))
    with pytest.raises(UserError, match=r"no usable interaction .item_key is missing: 3"):
        check(_config(write(interactions=pa.table({"user_id": ["a"] * 3, "item_id": pa.nulls(3)}))))


def test_counts_are_exact_for_parquet_and_close_for_text(write: Write, tmp_path: Path) -> None:
    raw = write(interactions=interactions(grid(3, 5)), items=pa.table({"item_id": ["a", "b"]}))
    assert plan_counts(_config(raw)) == {"interactions": 15, "items": 2, "users": None, "exact": True}
    path = tmp_path / "ratings.csv"
    interactions(grid(100, 300)).to_pandas().to_csv(path, index=False)
    counts = plan_counts(_config(path))
    assert not counts["exact"]
    assert abs(counts["interactions"] - 30_000) < 600


def test_the_fingerprint_follows_the_content_not_the_place(write: Write, tmp_path: Path) -> None:
    first = write(interactions=interactions(grid(3, 3)))
    same = write(interactions=interactions(grid(3, 3)))
    other = write(interactions=interactions(grid(3, 4)))
    os.utime(same / "interactions.parquet", (time.time() - 99, time.time() - 99))
    assert input_fingerprint(_config(first)) == input_fingerprint(_config(same))
    assert input_fingerprint(_config(first)) != input_fingerprint(_config(other))
    (same / "interactions.parquet").rename(same / "interactions2.parquet")
    assert input_fingerprint(_config(first)) != input_fingerprint(_config(same))
    synthetic = {input_fingerprint(DataConfig.model_validate({"synthetic": {"seed": seed}})) for seed in (0, 0, 1)}
    assert len(synthetic) == 2


def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    reader = make_reader(_config(tmp_path, format="hnlm_ray.ingest.readers.tables.TablesReader"))
    assert type(reader) is READERS["tables"]
