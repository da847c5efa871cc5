"""How good the profiles of the synthetic catalogue are: do they name the genres that are true?"""

import re
from collections import Counter
from typing import Any

import numpy as np

from hnlm_ray.demo.lexicon import GENRES
from hnlm_ray.store import Folder

_GENRE = re.compile("|".join(rf"\b{name}\b" for name in GENRES), re.IGNORECASE)
_SPELLING = {name.lower(): name for name in GENRES}


def genres_named(text: str | None) -> list[str]:
    """The genres of the synthetic catalogue that `text` names, in the order of their first mention.

    >>> genres_named("Enjoys epic fantasy and some mystery, above all fantasy.")
    ['Fantasy', 'Mystery']
    """
    return list(dict.fromkeys(_SPELLING[found.lower()] for found in _GENRE.findall(text or "")))


def profile_quality(dataset: Folder, profiles: Folder) -> dict[str, float]:
    """Measures of the profiles of a data set made from the synthetic catalogue, for the run's report.

    - `item_genre_accuracy`: share of items whose profile names their genre before any other;
    - `user_genre_accuracy`: share of users whose profile names the genre they interacted with most in training (any
      of them on a tie);
    - `genres_per_item_profile`, `genres_per_user_profile`: mean number of genres named, so that a model that lists
      them all does not pass for a good one.

    A failed profile names nothing.
    """
    items = dataset.read_table("items", columns=["item_id", "categories"]).to_pydict()
    genre_of = {
        item: next((name for name in names or () if name in GENRES), None)
        for item, names in zip(items["item_id"], items["categories"], strict=True)
    }
    train = dataset.read_table("train", columns=["user_id", "item_id"]).to_pydict()
    read: dict[int, Counter[str | None]] = {}
    for user, item in zip(train["user_id"], train["item_id"], strict=True):
        read.setdefault(user, Counter())[genre_of[item]] += 1

    item_named = _named(profiles, "items", "item_id")
    user_named = _named(profiles, "users", "user_id")
    item_hits = [named[:1] == [genre_of[item]] for item, named in item_named.items() if genre_of[item]]
    user_hits = [bool(set(named) & _favourites(read[user])) for user, named in user_named.items() if user in read]
    return {
        "item_genre_accuracy": _mean(item_hits),
        "user_genre_accuracy": _mean(user_hits),
        "genres_per_item_profile": _mean([len(named) for named in item_named.values()]),
        "genres_per_user_profile": _mean([len(named) for named in user_named.values()]),
    }


def quality_line(quality: dict[str, float]) -> str:
    """The measures in one line, for the terminal."""
    return (
        f"profiles name the right genre for {quality['item_genre_accuracy']:.0%} of items and the favourite genre of "
        f"{quality['user_genre_accuracy']:.0%} of users"
    )


def _named(profiles: Folder, part: str, id_column: str) -> dict[int, list[str]]:
    rows = profiles.read_table(part, columns=[id_column, "text"]).to_pydict()
    return {key: genres_named(text) for key, text in zip(rows[id_column], rows["text"], strict=True)}


def _favourites(counts: Counter[Any]) -> set[str]:
    most = max(counts.values())
    return {name for name, count in counts.items() if count == most and name}


def _mean(values: list[Any]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0
