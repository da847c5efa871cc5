"""The synthetic shop: the same every time, believable, and with real hard negatives in it."""

import re

import numpy as np
import pandas as pd
import pytest

from hnlm_ray.demo.catalogue import Catalogue, make_catalogue
from hnlm_ray.demo.config import SyntheticConfig
from hnlm_ray.demo.lexicon import GENRES


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return make_catalogue(SyntheticConfig())


@pytest.fixture(scope="module")
def joined(catalogue: Catalogue) -> pd.DataFrame:
    """Interactions beside the truth about their book and their reader."""
    rows = catalogue.interactions.to_pandas()
    rows = rows.merge(catalogue.item_truth.to_pandas()).merge(catalogue.user_truth.to_pandas())
    rows["liked"] = [genre in liked for genre, liked in zip(rows.genre, rows.liked_genres, strict=True)]
    rows["disliked"] = [name in names for name, names in zip(rows.subgenre, rows.disliked_subgenres, strict=True)]
    return rows


def test_same_seed_same_tables_other_seed_other_tables(catalogue: Catalogue) -> None:
    again = make_catalogue(SyntheticConfig())
    for name in ("items", "interactions", "item_truth", "user_truth"):
        assert getattr(again, name).equals(getattr(catalogue, name)), name
    assert not make_catalogue(SyntheticConfig(seed=1)).interactions.equals(catalogue.interactions)


def test_sizes_and_keys(catalogue: Catalogue) -> None:
    items, interactions = catalogue.items.to_pandas(), catalogue.interactions.to_pandas()
    assert len(items) == 200
    assert items.item_key.is_unique
    assert items.title.is_unique
    assert 4500 <= len(interactions) <= 5500
    assert not interactions.duplicated(["user_key", "item_key"]).any()
    assert set(interactions.item_key) <= set(items.item_key)
    assert interactions.user_key.nunique() == 300
    assert interactions.groupby("user_key").size().min() >= 5
    assert set(interactions.rating) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert interactions.groupby("user_key").timestamp.is_monotonic_increasing.all()


def test_every_book_is_shelved_under_its_genre(catalogue: Catalogue) -> None:
    for item, truth in zip(catalogue.items.to_pylist(), catalogue.item_truth.to_pylist(), strict=True):
        assert item["item_key"] == truth["item_key"]
        assert item["categories"][1] == truth["genre"]


def test_no_subgenre_names_a_foreign_genre() -> None:
    for genre, subgenres in GENRES.items():
        for name in subgenres:
            foreign = [other for other in GENRES if other != genre and re.search(rf"\b{other}\b", name, re.IGNORECASE)]
            assert not foreign, (name, foreign)


def test_disliked_subgenre_within_a_liked_genre_is_a_real_hard_negative(joined: pd.DataFrame) -> None:
    liked = joined[joined.liked & ~joined.disliked]
    disliked = joined[joined.disliked]
    assert len(disliked) > 100  # readers do try them, so that behaviour can tell
    assert disliked.liked.all()
    assert liked.rating.mean() - disliked.rating.mean() > 1.5
    per_user_subgenre = len(liked) / joined.user_key.nunique() / 7.5, len(disliked) / joined.user_key.nunique() / 2.5
    assert per_user_subgenre[0] > 2 * per_user_subgenre[1]  # ... and yet take them up far less often


def test_disliked_books_say_so_in_reviews(joined: pd.DataFrame) -> None:
    reviews = joined[joined.disliked & (joined.rating <= 2)].review.dropna()
    assert len(reviews) > 30
    assert reviews.str.contains("I like .*, but .* leaves me cold").all()


def test_text_and_behaviour_agree_only_in_part(joined: pd.DataFrame) -> None:
    def share_liked(rows: pd.DataFrame) -> float:
        return float(rows.liked.mean())

    catalogue_share = 0.25  # two to three genres of ten
    assert catalogue_share + 0.15 < share_liked(joined) < 0.85
    silent = make_catalogue(SyntheticConfig(text_agreement=0.0))
    rows = silent.interactions.to_pandas().merge(silent.item_truth.to_pandas()).merge(silent.user_truth.to_pandas())
    rows["liked"] = [genre in liked for genre, liked in zip(rows.genre, rows.liked_genres, strict=True)]
    assert share_liked(rows) < share_liked(joined) - 0.2


def test_some_blurbs_hide_or_misname_the_subgenre(catalogue: Catalogue) -> None:
    for item, truth in zip(catalogue.items.to_pylist(), catalogue.item_truth.to_pylist(), strict=True):
        named = truth["subgenre"].lower() in item["description"].lower()
        assert named == (truth["blurb"] == "true"), item
    shares = catalogue.item_truth.to_pandas().blurb.value_counts(normalize=True)
    assert 0.05 < shares["vague"] < 0.25
    assert 0.03 < shares["missold"] < 0.2


def test_popularity_is_skewed_and_sequels_follow(catalogue: Catalogue, joined: pd.DataFrame) -> None:
    counts = np.sort(joined.groupby("item_key").size().to_numpy())[::-1]
    assert counts[:20].sum() > 0.2 * counts.sum()
    titles = catalogue.items.to_pandas().set_index("item_key").title
    series = titles[titles.str.contains("#")]
    assert len(series) > 20
    first, second = (
        {name.split("(")[1].split(",")[0]: key for key, name in series.items() if f"#{n})" in name} for n in (1, 2)
    )
    readers = joined.groupby("item_key").user_key.agg(set)
    went_on = [
        len(readers[first[name]] & readers[second[name]]) / len(readers[first[name]])
        for name in first.keys() & second.keys()
    ]
    assert np.mean(went_on) > 0.4


@pytest.mark.timeout(60)
def test_a_million_interactions_take_seconds() -> None:
    catalogue = make_catalogue(SyntheticConfig(num_users=60_000, num_items=20_000))
    assert catalogue.interactions.num_rows > 950_000
