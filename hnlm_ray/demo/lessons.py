"""What the stand-in generator learns: real prompts, and answers that a very small model can give.

Every answer is short and made of words that stand in the prompt, in their order there, so that copying (the first
thing a small transformer learns) and counting are enough. Prompts come from the data set itself, from other
synthetic shops, and from shops whose genres have invented names: the model must read them, not know them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from hnlm_ray.demo.catalogue import Catalogue, make_catalogue
from hnlm_ray.demo.config import SyntheticConfig
from hnlm_ray.demo.lexicon import GENRES, MOODS, SYLLABLES
from hnlm_ray.generate.prompting import (
    DOMAINS,
    Draft,
    Prompt,
    as_data,
    cut_words,
    item_draft,
    load_template,
    negative_draft,
    user_draft,
)
from hnlm_ray.generate.schemas import write_answer
from hnlm_ray.store import Folder

KINDS = ("item_profile", "user_profile", "hard_negative")
_MAX_ITEMS = 4000
_MAX_USERS = 1500
_SENTENCE_WORDS = 16
_TITLE_WORDS = 5
_NUM_THEMES = 2
_THEME_SHARE = (0.01, 0.6)
"""Words in fewer or more of the items' texts than this tell nothing that a reader could be said to like."""
_MAX_HISTORY = 12
_SHELF = re.compile(r"^Lovers of ([^.,]+)(?:, ([^.]+))?\.")
_ABOUT = re.compile(r"About ([^.]+)\.$")
_SUBTITLE = re.compile(r"\s*[:;(\[]|\s-\s")
_NO_THEMES = frozenset(
    re.findall(
        r"\w+",
        "about also been book books both does enjoy enjoyed fans from have interested into like more most novel novels "
        "other over reader readers series some story stories such than that their them then there these they this "
        "those through very well were what when where which while will with would your",
    )
)
_REJECTED = re.compile(r"[Bb]ut (.+) leaves (?:me|them) cold")
_GENRE_OF = {name.lower(): genre for genre, names in GENRES.items() for name in names}


class Lesson(NamedTuple):
    """A prompt and the answer to it."""

    kind: str
    prompt: Prompt
    answer: str


@dataclass(frozen=True)
class Shop:
    """Items and reading histories, as the prompts need them."""

    items: list[dict[str, Any]]
    """title, brand, categories, description (or ready-made text in its place)."""
    histories: list[list[tuple[int, str | None]]]
    """Per user: (item, review), newest first."""

    def text(self) -> Iterator[str]:
        """All words, for the tokenizer and the fingerprint."""
        for item in self.items:
            yield " ".join(
                as_data(part)
                for part in (
                    item["title"],
                    item["brand"],
                    ", ".join(item["categories"] or ()),
                    item["description"],
                )
            )
        for history in self.histories:
            yield from (as_data(review) for _, review in history if review)

    @cached_property
    def themes(self) -> frozenset[str]:
        """Words that describe some of the items, but neither one alone nor nearly all: what items without categories
        are told by."""
        named_in = Counter(word for item in self.items for word in set(_words(item["description"])))
        fewest, most = (share * len(self.items) for share in _THEME_SHARE)
        return frozenset(word for word, count in named_in.items() if max(2, fewest) <= count <= most)

    def profile(self, item_id: int) -> tuple[str, str]:
        """(summary, reasoning) of an item: its shelf or its title and themes, then what its description says first."""
        item = self.items[item_id]
        shelf = [as_data(name) for name in (item["categories"] or ())]
        if shelf:
            about = first_sentence(as_data(item["description"])) if item["description"] else ""
            shelf = shelf[1:3] or shelf
            return f"Lovers of {', '.join(shelf)}. {about}".strip(), f"Its shelf is {shelf[-1]}."
        themes = [word for word in dict.fromkeys(_words(item["description"])) if word in self.themes][:_NUM_THEMES]
        about = f"About {', '.join(themes)}." if themes else ""
        return f"Like {short_title(item['title'])}. {about}".strip(), "Only its own words tell."


def shop_of_dataset(dataset: Folder) -> Shop:
    """A sample of an ingested data set: items, and training interactions only."""
    columns = ["item_id", "title", "brand", "categories", "description", "text"]
    items = dataset.read_table("items", columns=columns).sort_by("item_id").to_pylist()
    for item in items:
        item["description"] = item["description"] or item["text"]  # as the prompts do
    histories = _histories(dataset.read_table("train", columns=["user_id", "item_id", "review"]))
    if len(histories) > _MAX_USERS:
        chosen = np.random.default_rng(0).permutation(len(histories))[:_MAX_USERS]
        histories = [histories[n] for n in chosen]
    return Shop(items[:_MAX_ITEMS], [[(i, r) for i, r in history if i < _MAX_ITEMS] for history in histories])


def _histories(interactions: pa.Table) -> list[list[tuple[int, str | None]]]:
    """Per user, in the order of first appearance: (item, review), newest first."""
    histories: dict[int, list[tuple[int, str | None]]] = {}
    for user, item, review in zip(*(interactions.column(n).to_pylist() for n in range(3)), strict=True):
        histories.setdefault(user, []).append((item, review))
    return [history[::-1] for history in histories.values()]


def synthetic_shop(seed: int) -> Shop:
    """A shop of the same kind as the built-in one, with other books and readers."""
    return shop_of_catalogue(make_catalogue(SyntheticConfig(num_users=600, num_items=1500, seed=seed)))


def shop_of_catalogue(catalogue: Catalogue) -> Shop:
    """The shop that a catalogue describes."""
    items = catalogue.items.to_pylist()
    place = {item["item_key"]: n for n, item in enumerate(items)}
    rows = catalogue.interactions
    item_ids = pa.array([place[key] for key in rows["item_key"].to_pylist()])
    return Shop(items, _histories(pa.table([rows["user_key"], item_ids, rows["review"]], ["user", "item", "review"])))


def renamed(shop: Shop, rng: np.random.Generator) -> Shop:
    """The shop with invented names for its genres and sub-genres, wherever they stand."""

    def invented() -> str:
        words = ("".join(rng.choice(SYLLABLES, size=rng.integers(1, 4))) for _ in range(rng.integers(1, 3)))
        return " ".join(words).title()

    names = {name: invented() for genre, subgenres in GENRES.items() for name in (*subgenres, genre)}
    names |= {name.lower(): new.lower() for name, new in names.items()}
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(names, key=len, reverse=True)))

    def translate(text: str) -> str:
        return pattern.sub(lambda found: names[found[0]], text)

    items = [
        {
            **item,
            "categories": [translate(name) for name in item["categories"]],
            "description": translate(item["description"]),
        }
        for item in shop.items
    ]
    histories = [[(i, translate(review) if review else review) for i, review in row] for row in shop.histories]
    return Shop(items, histories)


def first_sentence(text: str, num_words: int = _SENTENCE_WORDS) -> str:
    """The first sentence, at most `num_words` words of it, with a full stop."""
    sentence = re.split(r"(?<=[^.])[.!?](?:\s|$)", text, maxsplit=1)[0]
    return cut_words(sentence, num_words).rstrip(" .,;:") + "."


def short_title(title: str) -> str:
    """A title without its subtitle, series or edition, at most `_TITLE_WORDS` words of it.

    >>> short_title("Crow (Boston Underworld) (Volume 1)")
    'Crow'
    """
    title = as_data(title)
    return cut_words(_SUBTITLE.split(title)[0] or title, _TITLE_WORDS)


def _words(text: str | None) -> list[str]:
    """The words that could be themes, in order."""
    return [word for word in re.findall(r"\b[a-z]{4,}\b", as_data(text).lower()) if word not in _NO_THEMES]


def user_answer(entries: Sequence[dict[str, str]]) -> tuple[str, str]:
    """(summary, reasoning) of a user from the prompt's entries: shelves or themes named most, and what was rejected."""
    shelves = [found for entry in entries if (found := _SHELF.match(entry["profile"]))]
    if 2 * len(shelves) < len(entries) or not shelves:
        titles = " and ".join(short_title(entry["title"]) for entry in entries[:2])
        abouts = [found[1].split(", ") for entry in entries if (found := _ABOUT.search(entry["profile"]))]
        themes = [word for word, _ in Counter(word for about in abouts for word in about).most_common(_NUM_THEMES)]
        return f"Likes {titles}." + (f" About {', '.join(themes)}." if themes else ""), "The latest choices."
    genres = Counter(found[1] for found in shelves).most_common(2)  # ties: the newest first
    subgenres = Counter(found[2] for found in shelves if found[2]).most_common(1)
    text = "Enjoys " + " and ".join(name for name, count in genres if count > 1 or name == genres[0][0])
    text += f", above all {subgenres[0][0]}." if subgenres else "."
    rejected = next((found[1] for entry in entries if (found := _REJECTED.search(entry["review"]))), "")
    return f"{text} But {rejected} leaves them cold." if rejected else text, f"Mostly {genres[0][0]}."


def negative_answer(user_text: str, title: str, item_text: str, rng: np.random.Generator) -> tuple[str, str]:
    """(hard negative, reasoning): in the item's genre the sub-genre that the user rejects, or else another one."""
    shelf = _SHELF.match(item_text)
    if not shelf or shelf[1] not in GENRES:
        about = _ABOUT.search(item_text)
        return f"Another {short_title(title)}." + (f" {about[0]}" if about else ""), "Close in words only."
    genre = shelf[1]
    names = list(GENRES[genre])
    rejected = _REJECTED.search(user_text)
    if rejected and _GENRE_OF.get(rejected[1]) == genre:
        name = next(name for name in names if name.lower() == rejected[1])
    else:
        place = names.index(shelf[2]) if shelf[2] in names else 0
        name = names[(place + 1) % len(names)]
    mood = next((mood for mood in MOODS if mood in item_text), MOODS[0])
    first, second = rng.permutation(GENRES[genre][name].motifs)[:2]
    return f"{mood.capitalize()} {name.lower()} with {first} and {second}.", f"{genre}, but {name.lower()}."


def lessons(shop: Shop, num_lessons: int, rng: np.random.Generator, kinds: Sequence[str] = KINDS) -> list[Lesson]:
    """`num_lessons` random lessons of the given prompt kinds, over all packaged prompts."""
    made: list[Lesson] = []
    while len(made) < num_lessons:
        kind, domain = kinds[int(rng.integers(len(kinds)))], DOMAINS[int(rng.integers(len(DOMAINS)))]
        item_id = int(rng.integers(len(shop.items)))
        history = shop.histories[int(rng.integers(len(shop.histories)))]
        if kind == "item_profile":
            draft, (text, reasoning) = _item_lesson(shop, item_id, domain, rng)
        elif not history:
            continue
        elif kind == "user_profile":
            draft, (text, reasoning) = _user_lesson(shop, history, domain, rng)
        else:
            item_id = history[int(rng.integers(len(history)))][0]
            draft, (text, reasoning) = _negative_lesson(shop, history, item_id, domain, rng)
        made.append(Lesson(kind, draft.render(), write_answer(kind, text, reasoning)))
    return made


Answered = tuple[Draft, tuple[str, str]]


def _item_lesson(shop: Shop, item_id: int, domain: str, rng: np.random.Generator) -> Answered:
    item = shop.items[item_id]
    reviews = _reviews_of(shop, item_id)
    fields = {name: item[name] for name in ("title", "brand", "categories", "description")}
    draft = item_draft(load_template(domain, "item_profile"), **fields, reviews=reviews[: int(rng.integers(4))])
    return draft, shop.profile(item_id)


def _reviews_of(shop: Shop, item_id: int) -> list[str]:
    return [review for history in shop.histories[:200] for i, review in history if i == item_id and review][:3]


def _user_lesson(shop: Shop, history: list[tuple[int, str | None]], domain: str, rng: np.random.Generator) -> Answered:
    shown = history[: int(rng.integers(1, _MAX_HISTORY + 1))]
    choices = [{"title": shop.items[i]["title"], "profile": shop.profile(i)[0], "review": r} for i, r in shown]
    draft = user_draft(load_template(domain, "user_profile"), choices)
    return draft, user_answer([dict(entry) for entry in draft.entries])


def _negative_lesson(
    shop: Shop, history: list[tuple[int, str | None]], item_id: int, domain: str, rng: np.random.Generator
) -> Answered:
    draft, (user_text, _) = _user_lesson(shop, history, domain, rng)
    item = shop.items[item_id]
    draft = negative_draft(
        load_template(domain, "hard_negative"),
        user_profile=user_text,
        title=item["title"],
        item_profile=shop.profile(item_id)[0],
    )
    slots = draft.slots
    return draft, negative_answer(slots["user_profile"], slots["title"], slots["profile"], rng)
