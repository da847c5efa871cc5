"""The benchmark's table, and that its small form runs and agrees with pandas."""

from pathlib import Path

import pandas as pd
import pytest

from hnlm_ray.bench.frame import BenchOptions
from hnlm_ray.bench.ingest import make_reviews, measure


def test_the_table_is_seeded_and_long_tailed(tmp_path: Path) -> None:
    frame = pd.read_parquet(make_reviews(tmp_path / "a", 30_000, seed=3))
    again = pd.read_parquet(make_reviews(tmp_path / "b", 30_000, seed=3))
    pd.testing.assert_frame_equal(frame, again)
    assert len(frame) == 30_000
    per_item = frame.item_id.value_counts()
    assert per_item.iloc[0] > 20 * per_item.median()


@pytest.mark.usefixtures("ray_session")
def test_the_small_benchmark_runs() -> None:
    measurement = measure(BenchOptions(quick=True, repeats=1))
    assert {bar.name for bar in measurement.bars} == {"tree_peak_60k_gb", "growth_20k_to_60k_ratio"}
    assert measurement.figures["rounds_60k"] > 2
    assert measurement.figures["ingest_60k_s"] > measurement.figures["to_core_60k_s"] > 0
