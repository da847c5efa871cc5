"""Profile quality against hand-made profiles whose marks are known."""

from pathlib import Path

import pyarrow as pa
import pytest

from hnlm_ray.demo.quality import genres_named, profile_quality, quality_line
from hnlm_ray.store import Folder


def test_genres_are_found_whole_in_any_case_and_in_order() -> None:
    assert genres_named("Enjoys MYSTERY, then science fiction and fantasy; mystery again") == [
        "Mystery",
        "Science Fiction",
        "Fantasy",
    ]
    assert genres_named("Romantic, mysterious, historical travels") == []
    assert genres_named(None) == []


@pytest.fixture
def dataset(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "dataset")
    categories = [["Books", "Fantasy", "Epic Fantasy"], ["Books", "Mystery"], ["Books", "Horror"], None]
    folder.write_table("items/part-0.parquet", pa.table({"item_id": [0, 1, 2, 3], "categories": categories}))
    # User 0: Fantasy and Mystery tie. User 1: mostly Horror. User 2 has no training rows.
    folder.write_table("train/part-0.parquet", pa.table({"user_id": [0, 0, 1, 1, 1], "item_id": [0, 1, 2, 2, 1]}))
    return folder


def test_shares_of_right_genres(dataset: Folder, tmp_path: Path) -> None:
    profiles = Folder(tmp_path / "profiles")
    profiles.write_table(
        "items/part-0.parquet",
        pa.table({"item_id": [0, 1, 2, 3], "text": ["Lovers of Fantasy.", "Fantasy and Mystery.", None, "Horror."]}),
    )
    profiles.write_table(
        "users/part-0.parquet", pa.table({"user_id": [0, 1, 2], "text": ["Likes Mystery.", "Fantasy.", "Travel."]})
    )
    quality = profile_quality(dataset, profiles)
    assert quality == {
        "item_genre_accuracy": 0.3333,  # of items 0..2: right, right genre named second, failed; item 3 has none
        "user_genre_accuracy": 0.5,
        "genres_per_item_profile": 1.0,
        "genres_per_user_profile": 1.0,
    }
    assert "33% of items" in quality_line(quality)
