"""A seeded book shop: items with text, readers with latent tastes, ratings that the text explains only in part.

U users, I items, S sub-genres, C circles, N drawn interactions.

A reader likes two or three genres, and within each of them has a favourite sub-genre and one that he or she
dislikes: books of the latter are the real hard negatives, close in text and yet rejected. The rest of the
behaviour comes from what a reader's circle reads, from popularity and from series, none of which any text
mentions; and some blurbs are vague or praise a book as what it is not.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.demo.config import SyntheticConfig
from hnlm_ray.demo.lexicon import ADJECTIVES, FIRST_NAMES, GENRES, MOODS, SYLLABLES, SubgenreWords

NUM_CIRCLES = 8
SHARE_VAGUE = 0.15
"""Books whose blurb does not tell the sub-genre."""
SHARE_MISSOLD = 0.1
"""Books whose blurb praises them as another sub-genre of their genre."""
SHARE_REVIEWED = 0.6
MIN_INTERACTIONS = 5
CHANCE_OF_SEQUEL = 0.5
_YEAR_2015 = 1_420_070_400
_SECONDS_PER_DAY = 86_400

SUBGENRES: list[tuple[str, str]] = [(genre, name) for genre, names in GENRES.items() for name in names]
"""(genre, sub-genre) of every sub-genre id."""
_WORDS: list[SubgenreWords] = [GENRES[genre][name] for genre, name in SUBGENRES]
_GENRE_NAMES = list(GENRES)
_GENRE_OF = np.array([_GENRE_NAMES.index(genre) for genre, _ in SUBGENRES])
_PER_GENRE = len(SUBGENRES) // len(GENRES)


@dataclass(frozen=True)
class Catalogue:
    """What a shop would hand over, and the truth it does not know."""

    items: pa.Table
    """item_key, title, brand, categories list<str> (from wide to narrow), description."""
    interactions: pa.Table
    """user_key, item_key, rating float32 (1..5), timestamp int64 (s), review (nullable); by user, oldest first."""
    item_truth: pa.Table
    """item_key, genre, subgenre, blurb ('true', 'vague' or 'missold')."""
    user_truth: pa.Table
    """user_key, liked_genres, favourite_subgenres, disliked_subgenres: list<str>, one of the latter per genre."""


@dataclass(frozen=True)
class _Books:
    subgenre: np.ndarray  # [I] sorted, so that the books of one sub-genre lie side by side
    motif: list[str]  # [I]
    sequel: np.ndarray  # [I] the next book of the series, or -1
    popularity: np.ndarray  # [I]
    affinity: np.ndarray  # [C, I] what each circle makes of each book
    quality: np.ndarray  # [I]


@dataclass(frozen=True)
class _Readers:
    circle: np.ndarray  # [U]
    choice: np.ndarray  # [U, S] chance of taking up a book of the sub-genre, rows sum to 1
    liking: np.ndarray  # [U, S] what the text of a book promises its reader: about -1.5 .. 1
    truth: pa.Table


def make_catalogue(config: SyntheticConfig) -> Catalogue:
    """Make the shop that `config` describes; the same config gives the same tables.

    About `num_users * interactions_per_user` interactions: a reader who has read all that attracts him or her stops.
    """
    book_seed, reader_seed, history_seed = np.random.SeedSequence(config.seed).spawn(3)
    books, items, item_truth = _make_books(config, np.random.default_rng(book_seed))
    readers = _make_readers(config, books, np.random.default_rng(reader_seed))
    interactions = _make_interactions(config, books, readers, items["item_key"], np.random.default_rng(history_seed))
    return Catalogue(items.sort_by("item_key"), interactions, item_truth.sort_by("item_key"), readers.truth)


def _make_books(config: SyntheticConfig, rng: np.random.Generator) -> tuple[_Books, pa.Table, pa.Table]:
    num_items = config.num_items
    genre_share = 1.0 / (1.0 + np.arange(len(GENRES)))  # the first genres are the popular ones
    share = np.repeat(np.sqrt(genre_share), _PER_GENRE)
    subgenre = np.sort(rng.choice(len(SUBGENRES), num_items, p=share / share.sum()))
    in_series = np.where(rng.random(num_items) < 0.4, np.arange(num_items) // 3, -1)  # three neighbours: one series
    sequel = np.full(num_items, -1)
    same = (in_series[1:] == in_series[:-1]) & (in_series[1:] >= 0) & (subgenre[1:] == subgenre[:-1])
    sequel[:-1][same] = np.flatnonzero(same) + 1
    rank = rng.permutation(num_items) + 1.0

    blurbs = rng.choice(3, num_items, p=[1 - SHARE_VAGUE - SHARE_MISSOLD, SHARE_VAGUE, SHARE_MISSOLD])
    rows = _item_rows(subgenre, sequel, blurbs, rng)
    keys = pa.array([f"book-{shelf:05d}" for shelf in rng.permutation(num_items)])  # ids tell nothing of genres
    items = pa.table({"item_key": keys} | {name: [row[name] for row in rows] for name in _ITEM_COLUMNS})
    truth = pa.table(
        {
            "item_key": keys,
            "genre": [SUBGENRES[s][0] for s in subgenre],
            "subgenre": [SUBGENRES[s][1] for s in subgenre],
            "blurb": [("true", "vague", "missold")[b] for b in blurbs],
        }
    )
    books = _Books(
        subgenre=subgenre,
        motif=[row["motif"] for row in rows],
        sequel=sequel,
        popularity=rank**-config.popularity_skew,
        affinity=rng.normal(size=(NUM_CIRCLES, num_items)),
        quality=rng.normal(size=num_items),
    )
    return books, items, truth


_ITEM_COLUMNS = ("title", "brand", "categories", "description")


def _item_rows(subgenre: np.ndarray, sequel: np.ndarray, blurbs: np.ndarray, rng: np.random.Generator) -> list[dict]:
    """Text of every book; the books of a series share author and series name."""

    def pick(options: tuple[str, ...] | list[str]) -> str:
        return options[int(rng.integers(len(options)))]

    def place() -> str:
        return "".join(pick(SYLLABLES) for _ in range(int(rng.integers(2, 4)))).capitalize()

    rows: list[dict] = []
    titles: set[str] = set()
    series, author, volume = "", "", 0
    for item, (s, blurb) in enumerate(zip(subgenre, blurbs, strict=True)):
        genre, name = SUBGENRES[s]
        words = _WORDS[s]
        title = ""
        while not title or title in titles:
            noun, where, adjective = pick(words.nouns), place(), pick(ADJECTIVES)
            title = pick(
                [f"The {adjective} {noun}", f"The {noun} of {where}", f"{where} {noun}", f"{adjective} {noun}"]
            )
        titles.add(title)
        if item == 0 or sequel[item - 1] != item:
            author, volume = f"{pick(FIRST_NAMES)} {place()}", 1
            series = f"{place()} {pick(['Chronicles', 'Trilogy', 'Cycle', 'Files'])}" if sequel[item] > 0 else ""
        else:
            volume += 1
        hero, mood = pick(words.heroes), pick(MOODS)
        motif, other_motif = (words.motifs[m] for m in rng.permutation(len(words.motifs))[:2])
        cousin = SUBGENRES[s - s % _PER_GENRE + (s % _PER_GENRE + 1) % _PER_GENRE][1]
        promise = {
            0: f"{_a(mood)} {name.lower()} book about {hero}, with {motif} and {other_motif}.",
            1: f"The {mood} book that everybody talks about: {hero} will stay with you.",
            2: f"{_a(mood)} book about {hero}, with {motif}. For readers of {cousin.lower()}.",
        }[int(blurb)]
        close = pick([f"Set in {place()}.", f"By the author of {pick(ADJECTIVES)} {pick(words.nouns)}.", ""])
        rows.append(
            {
                "title": f"{title} ({series}, #{volume})" if series else title,
                "brand": author,
                "categories": ["Books", genre] if blurb == 1 else ["Books", genre, name],
                "description": f"{promise} {close}".strip(),
                "motif": motif,
            }
        )
    return rows


def _a(words: str) -> str:
    return f"An {words}" if words[0] in "aeiou" else f"A {words}"


def _make_readers(config: SyntheticConfig, books: _Books, rng: np.random.Generator) -> _Readers:
    num_users, num_genres = config.num_users, len(GENRES)
    rows = np.arange(num_users)
    appeal = np.log(1.0 / np.sqrt(1.0 + np.arange(num_genres)))
    order = np.argsort(-(appeal + rng.gumbel(size=(num_users, num_genres))), axis=1)  # [U, G] best-liked genre first
    num_liked = rng.integers(2, 4, size=num_users)
    favourite = rng.integers(_PER_GENRE, size=(num_users, num_genres))
    disliked = (favourite + rng.integers(1, _PER_GENRE, size=(num_users, num_genres))) % _PER_GENRE

    weight = np.full((num_users, num_genres), 0.02)
    liking = np.full((num_users, len(SUBGENRES)), -0.3)
    for place, strength in enumerate((1.0, 0.5, 0.3)):
        likes = rows[num_liked > place]
        genre = order[likes, place]
        weight[likes, genre] = strength
        for offset in range(_PER_GENRE):
            liking[likes, genre * _PER_GENRE + offset] = 0.5
        liking[likes, genre * _PER_GENRE + favourite[likes, genre]] = 1.0
        liking[likes, genre * _PER_GENRE + disliked[likes, genre]] = -1.5
    taste = np.repeat(weight, _PER_GENRE, axis=1) * np.exp(1.2 * liking)

    mass = np.bincount(books.subgenre, weights=books.popularity, minlength=len(SUBGENRES))  # [S], 0 where no book is
    circle = rng.integers(NUM_CIRCLES, size=num_users)
    fashion = rng.dirichlet(np.full(len(SUBGENRES), 0.3), size=NUM_CIRCLES)[circle]  # what the circle passes around
    own, shared = (_normalised(part * mass) for part in (taste * 1.0, fashion + 1e-3))
    choice = config.text_agreement * own + (1 - config.text_agreement) * shared

    def names(offsets: np.ndarray) -> list[list[str]]:
        return [
            [SUBGENRES[g * _PER_GENRE + offsets[u, g]][1] for g in order[u, : num_liked[u]]] for u in range(num_users)
        ]

    truth = pa.table(
        {
            "user_key": [f"reader-{u:05d}" for u in range(num_users)],
            "liked_genres": [[_GENRE_NAMES[g] for g in order[u, : num_liked[u]]] for u in range(num_users)],
            "favourite_subgenres": names(favourite),
            "disliked_subgenres": names(disliked),
        }
    )
    return _Readers(circle, _normalised(choice), liking, truth)


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=1, keepdims=True)


def _make_interactions(
    config: SyntheticConfig, books: _Books, readers: _Readers, item_keys: pa.ChunkedArray, rng: np.random.Generator
) -> pa.Table:
    user_ids, item_ids = _draw_histories(config, books, readers, rng)
    subgenre = books.subgenre[item_ids]
    text_liking = readers.liking[user_ids, subgenre]
    circle_liking = books.affinity[readers.circle[user_ids], item_ids]
    surprise = rng.normal(scale=0.6, size=len(user_ids))
    score = 3.7 + 1.1 * text_liking + 0.4 * circle_liking + 0.3 * books.quality[item_ids] + surprise
    rating = np.clip(np.rint(score), 1, 5).astype(np.float32)

    start = rng.integers(0, 2 * 365 * _SECONDS_PER_DAY, size=config.num_users)
    gaps = (1 + rng.exponential(12.0, size=len(user_ids)) * _SECONDS_PER_DAY).astype(np.int64)
    elapsed = np.cumsum(gaps)
    first = np.searchsorted(user_ids, np.arange(config.num_users))
    elapsed -= elapsed[np.minimum(first, len(elapsed) - 1)][user_ids]
    timestamp = _YEAR_2015 + start[user_ids] + elapsed

    return pa.table(
        {
            "user_key": readers.truth["user_key"].take(pa.array(user_ids)).combine_chunks(),
            "item_key": item_keys.take(pa.array(item_ids)).combine_chunks(),
            "rating": rating,
            "timestamp": timestamp,
            "review": _reviews(books, item_ids, subgenre, rating, text_liking, rng),
        }
    )


def _draw_histories(
    config: SyntheticConfig, books: _Books, readers: _Readers, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (user, item) pairs, by user and in the order of reading: sub-genre first, then a book of it."""
    mean_extra = config.interactions_per_user - MIN_INTERACTIONS
    lengths = MIN_INTERACTIONS + rng.negative_binomial(2, 2 / (2 + mean_extra), size=config.num_users)  # long-tailed
    lengths = np.minimum(lengths, config.num_items - 1)
    user_ids = np.repeat(np.arange(config.num_users), lengths * 3)  # thrice: doublets fall away below
    subgenre = _draw_rows(readers.choice, user_ids, rng.random(len(user_ids)))

    # A book of the sub-genre: a uniform draw between the ends of its segment in the circle's cumulated appeal.
    appeal = _normalised(books.popularity * np.exp(books.affinity))  # [C, I]
    ends = np.cumsum(appeal, axis=1)
    bounds = np.searchsorted(books.subgenre, np.arange(len(SUBGENRES) + 1))  # [S + 1]
    edge = np.concatenate([np.zeros((NUM_CIRCLES, 1)), ends], axis=1)[:, bounds]  # [C, S + 1]
    circle = readers.circle[user_ids]
    low, high = edge[circle, subgenre], edge[circle, subgenre + 1]
    item_ids = _draw_rows(appeal, circle, low + (high - low) * rng.random(len(user_ids)))
    item_ids = np.clip(item_ids, bounds[subgenre], bounds[subgenre + 1] - 1)  # rounding at the ends of a segment

    # A sequel follows right upon the book before it.
    position = np.arange(len(user_ids), dtype=np.float64)
    follows = (books.sequel[item_ids] >= 0) & (rng.random(len(item_ids)) < CHANCE_OF_SEQUEL)
    user_ids = np.concatenate([user_ids, user_ids[follows]])
    item_ids = np.concatenate([item_ids, books.sequel[item_ids[follows]]])
    order = np.argsort(np.concatenate([position, position[follows] + 0.5]), kind="stable")
    user_ids, item_ids = user_ids[order], item_ids[order]

    _, first_seen = np.unique(user_ids * np.int64(config.num_items) + item_ids, return_index=True)
    first_seen.sort()
    user_ids, item_ids = user_ids[first_seen], item_ids[first_seen]
    nth = np.arange(len(user_ids)) - np.searchsorted(user_ids, user_ids)  # place in the reader's history
    kept = nth < lengths[user_ids]
    return user_ids[kept], item_ids[kept]


def _draw_rows(weights: np.ndarray, rows: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """A column for each of `rows` by the inverse of the row's cumulated `weights` (rows sum to 1): [N]."""
    num_columns = weights.shape[1]
    ends = np.minimum(np.cumsum(weights, axis=1), 1.0)
    ends[:, -1] = 1.0
    ends += np.arange(len(weights))[:, None]  # one ascending array for all rows
    return np.minimum(np.searchsorted(ends.ravel(), rows + uniform, side="right") - rows * num_columns, num_columns - 1)


_OPENINGS = (
    ("Gave up halfway.", "A disappointment.", "Not for me."),
    ("It was all right.", "Decent.", "Mixed feelings."),
    ("Loved it!", "Wonderful.", "Could not put it down."),
)
_VERDICTS = (
    ("I have read better {name}.", "A fair {name} title.", "The usual {name}."),
    ("Exactly the {name} I look for.", "More {name} like this, please.", "One of the best in {name}."),
)


def _reviews(
    books: _Books,
    item_ids: np.ndarray,
    subgenre: np.ndarray,
    rating: np.ndarray,
    text_liking: np.ndarray,
    rng: np.random.Generator,
) -> pa.Array:
    """A review of three short sentences for a part of the interactions, null for the rest."""
    num = len(item_ids)
    tone = np.where(rating <= 2, 0, np.where(rating == 3, 1, 2))
    rejected = (text_liking < -1) & (tone == 0)
    variant = rng.integers(3, size=num)
    openings = pa.array([text for texts in _OPENINGS for text in texts])
    verdicts = []
    for genre, name in SUBGENRES:
        name = name.lower()
        verdicts += [f"I like {genre.lower()}, but {name} leaves me cold."] * 3
        verdicts += [f"Poor {name}."] * 3
        verdicts += [text.format(name=name) for texts in _VERDICTS for text in texts]
    kind = np.where(rejected, 0, tone + 1)
    motif = pa.array(books.motif).take(pa.array(item_ids))
    about = pc.binary_join_element_wise(pa.array(["Too much of", "Some", "I enjoyed"]).take(pa.array(tone)), motif, " ")
    reviews = pc.binary_join_element_wise(
        openings.take(pa.array(tone * 3 + variant)),
        pc.binary_join_element_wise(about, ".", ""),
        pa.array(verdicts).take(pa.array(subgenre * 12 + kind * 3 + variant)),
        " ",
    )
    return pc.if_else(pa.array(rng.random(num) < SHARE_REVIEWED), reviews, pa.scalar(None, pa.string()))
