"""Prompts: text files with named slots, filled with data that is marked as data, cut to a token budget.

A prompt file has the sections `[system]`, `[user]` and, where a list goes in, `[entry]`, one per list element;
`$entries` in `[user]` is where the list stands. A line whose slots are all empty is left out. All rows of one
kind share the system text, then the user's part, then the item's: the engine's prefix cache keeps what repeats.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template as Slots
from typing import NamedTuple

from hnlm_ray.errors import UserError

DOMAINS = ("products", "books", "businesses")
_SLOTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {  # kind -> slots of [user], slots of [entry]
    "item_profile": (frozenset({"title", "brand", "categories", "description", "entries"}), frozenset({"review"})),
    "user_profile": (frozenset({"entries"}), frozenset({"title", "profile", "review"})),
    "hard_negative": (frozenset({"user_profile", "title", "profile"}), frozenset()),
}
# A word is a run of non-blanks; scripts without blanks count (and are cut) by character.
_WORD = re.compile(r"[⺀-鿿豈-﫿]|[^\s⺀-鿿豈-﫿]+")
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\s]+")
_QUOTES = str.maketrans("<>", "\u2039\u203a")  # single angle quotation marks


@dataclass(frozen=True)
class Template:
    """One prompt file, taken apart."""

    kind: str
    """`item_profile`, `user_profile` or `hard_negative`."""
    source: str
    """The file's text."""
    system: str
    user: str
    entry: str


class Prompt(NamedTuple):
    """What the model gets: the instruction, and the data with the question."""

    system: str
    user: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]


@cache
def load_template(name: str, kind: str) -> Template:
    """The prompt file `kind` of a packaged domain, or the file at the path `name`.

    Raises `UserError` for an unknown domain, a missing file, a missing section, a slot that this kind does not have or
    a `$` that names none.
    """
    if name in DOMAINS:
        source = files("hnlm_ray.generate").joinpath("prompts", name, f"{kind}.txt").read_text(encoding="utf-8")
    elif Path(name).is_file():
        source = Path(name).read_text(encoding="utf-8")
    else:
        raise UserError(
            f"prompt {name!r} is neither a packaged domain ({', '.join(DOMAINS)}) nor a file; "
            "name one of them or give the path of a prompt file"
        )
    parts = re.split(r"^\[(\w+)\]\n", source, flags=re.MULTILINE)
    sections = {heading: text.strip("\n") for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    user_slots, entry_slots = _SLOTS[kind]
    wanted = {"system", "user"} | ({"entry"} if entry_slots else set())
    if set(sections) != wanted:
        raise UserError(
            f"prompt {name!r} has the sections {sorted(sections)}; a prompt of kind {kind} has {sorted(wanted)}"
        )
    allowed = {"system": {"max_words"}, "user": user_slots | {"max_words"}, "entry": entry_slots}
    for heading, text in sections.items():
        if not Slots(text).is_valid():
            raise UserError(f"prompt {name!r}, section [{heading}]: a $ without the name of a slot; write $$ for a $")
        if unknown := set(Slots(text).get_identifiers()) - allowed[heading]:
            raise UserError(
                f"prompt {name!r}, section [{heading}]: unknown slot ${min(unknown)}; "
                f"accepted: {', '.join(f'${slot}' for slot in sorted(allowed[heading])) or 'none'}"
            )
    if "entries" in user_slots and "entries" not in Slots(sections["user"]).get_identifiers():
        raise UserError(f"prompt {name!r}, section [user]: ${'entries'} is missing; it is where the list goes in")
    return Template(kind, source, sections["system"], sections["user"], sections.get("entry", ""))


def as_data(text: str | None) -> str:
    """Text of a data set as it may stand in a prompt: one line, and no bracket that could open or close a tag."""
    return _HIDDEN.sub(" ", text or "").strip().translate(_QUOTES)


def cut_words(text: str, num_words: int) -> str:
    """The first `num_words` words of `text`; never a part of a word."""
    if num_words <= 0:
        return ""
    end = 0
    for count, word in enumerate(_WORD.finditer(text), start=1):
        if count > num_words:
            return text[:end]
        end = word.end()
    return text


def count_words(text: str) -> int:
    """Number of words, as `cut_words` counts them."""
    return sum(1 for _ in _WORD.finditer(text))


@dataclass(frozen=True)
class Draft:
    """A prompt before it is cut to its budget."""

    template: Template
    max_words: int
    slots: Mapping[str, str]
    """Slot -> text that is already data (`as_data`)."""
    entries: tuple[Mapping[str, str], ...] = ()
    """List elements, the one to keep longest first."""
    elastic: tuple[str, ...] = ()
    """Slots that lose words when no entry is left to drop, in the order in which they do."""

    def render(self) -> Prompt:
        """The prompt with all of its text."""
        entries = "\n".join(_fill(self.template.entry, entry) for entry in self.entries)
        slots = {**self.slots, "entries": entries, "max_words": str(self.max_words)}
        return Prompt(_fill(self.template.system, slots), _fill(self.template.user, slots))


def _fill(text: str, slots: Mapping[str, str]) -> str:
    lines = []
    for line in text.split("\n"):
        names = Slots(line).get_identifiers()
        if not names or any(slots.get(name) for name in names):
            lines.append(Slots(line).substitute({name: slots.get(name, "") for name in names}))
    return "\n".join(lines)


def item_draft(
    template: Template,
    *,
    title: str | None,
    brand: str | None,
    categories: Sequence[str] | None,
    description: str | None,
    reviews: Sequence[str] = (),
    max_words: int = 100,
    max_entry_words: int = 24,
) -> Draft:
    """The prompt for P_i from S_i = {title, brand, categories, description, training reviews (newest first)}."""
    slots = {
        "title": as_data(title),
        "brand": as_data(brand),
        "categories": as_data(", ".join(categories or ())),
        "description": as_data(description),
    }
    entries = tuple({"review": cut_words(as_data(review), max_entry_words)} for review in reviews if as_data(review))
    return Draft(template, max_words, slots, entries, ("description", "categories", "brand", "title"))


def user_draft(
    template: Template, history: Sequence[Mapping[str, str | None]], *, max_words: int = 100, max_entry_words: int = 24
) -> Draft:
    """The prompt for P_u from S_u = [{title, profile, review}, ...], training interactions, newest first."""
    entries = []
    for choice in history:
        entry = {slot: as_data(choice.get(slot)) for slot in ("title", "profile", "review")}
        for slot in ("profile", "review"):
            entry[slot] = cut_words(entry[slot], max_entry_words)
        entries.append(entry)
    return Draft(template, max_words, {}, tuple(entries))


def negative_draft(
    template: Template, *, user_profile: str, title: str | None, item_profile: str | None, max_words: int = 20
) -> Draft:
    """The prompt for a hard negative from {P_u, title_i, P_i}; what pairs of one user share comes first."""
    slots = {"user_profile": as_data(user_profile), "title": as_data(title), "profile": as_data(item_profile)}
    return Draft(template, max_words, slots, (), ("profile", "user_profile", "title"))


class Fitted(NamedTuple):
    """A prompt within its budget."""

    prompt: Prompt
    token_ids: list[int]
    truncated: bool
    """Whether entries or words were left out."""


Encode = Callable[[Sequence[Prompt]], list[list[int]]]


def fit(drafts: Sequence[Draft], encode: Encode, max_prompt_tokens: int) -> list[Fitted]:
    """Cut each draft until its prompt, chat template included, takes at most `max_prompt_tokens` tokens.

    Whole entries go first, from the end of the list; then words from the end of the elastic slots. Exact, by the
    model's own tokenizer (`encode`); most prompts fit at once and are encoded together, once.

    Raises `UserError` when the fixed text alone exceeds the budget.
    """
    short = [_bounded(draft, max_prompt_tokens) for draft in drafts]
    prompts = [draft.render() for draft in short]
    fitted = []
    for draft, given, prompt, token_ids in zip(short, drafts, prompts, encode(prompts), strict=True):
        if len(token_ids) <= max_prompt_tokens:
            fitted.append(Fitted(prompt, token_ids, truncated=draft != given))
        else:
            fitted.append(_cut(draft, encode, max_prompt_tokens))
    return fitted


def _bounded(draft: Draft, num_words: int) -> Draft:
    """The draft without words that the budget cannot hold in any case: no book is tokenized to keep a page."""
    slots = {name: cut_words(text, num_words) if name in draft.elastic else text for name, text in draft.slots.items()}
    return replace(draft, slots=slots) if slots != draft.slots else draft


def _cut(draft: Draft, encode: Encode, budget: int) -> Fitted:
    def tokens(candidate: Draft) -> list[int]:
        return encode([candidate.render()])[0]

    def largest(most: int, candidate: Callable[[int], Draft]) -> int:
        """The largest n <= most whose candidate fits (bisection); -1 where none does."""
        low, high = -1, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(tokens(candidate(middle))) <= budget else (low, middle - 1)
        return low

    num_entries = largest(len(draft.entries), lambda n: replace(draft, entries=draft.entries[:n]))
    if num_entries < 0 or (num_entries == 0 and not draft.elastic):
        draft = _spread(draft)
        for slot in draft.elastic:
            text = draft.slots[slot]

            def shortened(n: int, text: str = text, slot: str = slot, base: Draft = draft) -> Draft:
                return replace(base, slots={**base.slots, slot: cut_words(text, n)})

            num_words = largest(count_words(text), shortened)
            draft = shortened(max(num_words, 0))
            if num_words >= 0:
                break
        else:
            raise UserError(
                f"the fixed text of the {draft.template.kind} prompt takes {len(tokens(draft))} tokens, only {budget} "
                "may be used; raise llm.max_model_len or lower max_new_tokens"
            )
    else:
        draft = replace(draft, entries=draft.entries[:num_entries])
    return Fitted(draft.render(), tokens(draft), truncated=True)


def _spread(draft: Draft) -> Draft:
    """A draft without its list; where the list is all there is, its first entry becomes elastic text instead."""
    if draft.elastic or not draft.entries:
        return replace(draft, entries=())
    template = replace(draft.template, user=draft.template.user.replace("$entries", draft.template.entry))
    return replace(draft, template=template, slots=draft.entries[0], entries=(), elastic=("review", "profile", "title"))
