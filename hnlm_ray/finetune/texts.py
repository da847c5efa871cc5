"""The texts q, p and n (METHOD.md section 3): one template, shared by training and inference, stored with the encoder.

A query reads: instruction, what is known of the user, then the item the user chose. Pairs of one user share the first
part, so an engine's prefix cache keeps it. Every part is cut to its own share of the encoder's length, so that a long
profile never pushes the rest out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from hnlm_ray.errors import UserError

Context = Literal["neighbors", "numbers", "none"]

_TOKENS_PER_WORD = 1.4  # English in WordPiece and Llama vocabularies; the encoder cuts at max_length in any case
_FIXED_TOKENS = 18  # instruction, labels and special tokens
_TOKENS_PER_NUMBER = 4
_SHARES = {"user_profile": 0.3, "near_user": 0.2, "title": 0.12, "item_profile": 0.23, "near_item": 0.15}
_MIN_WORDS = 12


@dataclass(frozen=True)
class TextTemplate:
    """How q, p and n are written for an encoder of `max_length` tokens."""

    max_length: int
    context: Context
    num_context_items: int
    num_context_dims: int
    whole_items: bool = False
    """Items fill the encoder's length instead of the room that they have in a query: for encoders that compare items
    with items (loss `taste`), not with queries."""
    instruction: str = "A near miss for this user."

    def __post_init__(self) -> None:
        if self._num_words() < _MIN_WORDS:
            raise UserError(
                f"encoder.max_length={self.max_length} leaves {max(self._num_words(), 0)} words for the texts beside "
                f"the context {self.context!r}, at least {_MIN_WORDS} are needed; raise encoder.max_length"
            )

    def as_json(self) -> dict[str, Any]:
        """The template as plain values; `TextTemplate(**values)` restores it."""
        return asdict(self)

    def query(self, user_profile: str, title: str, item_profile: str, near_user: str = "", near_item: str = "") -> str:
        """q of a pair: P_u, the chosen item, and the collaborative context of both (by `titles` or `numbers`)."""
        parts = [
            self.instruction,
            _labelled("User:", self._cut(user_profile, "user_profile")),
            _labelled("Near the user:", near_user),
            _labelled("Chosen:", self._cut(title, "title")),
            _labelled("About:", self._cut(item_profile, "item_profile")),
            _labelled("Near the item:", near_item),
        ]
        return " ".join(part for part in parts if part)

    def item(self, title: str, item_profile: str) -> str:
        """p, n and catalogue items: title and P_i, no longer than an item inside a query unless `whole_items`."""
        if self.whole_items:  # a title that was made of the text is not said twice
            return item_profile if item_profile.startswith(title) else f"{title} {item_profile}".strip()
        return " ".join(part for part in (self._cut(title, "title"), self._cut(item_profile, "item_profile")) if part)

    def titles(self, titles: Sequence[str], part: Literal["near_user", "near_item"]) -> str:
        """Context `neighbors`: titles, each cut to an equal share of the part."""
        num_words = max(self._words(part) // max(len(titles), 1), 2)
        return "; ".join(_first_words(title, num_words) for title in titles if title)

    def numbers(self, vector: np.ndarray) -> str:
        """Context `numbers`: the leading components of a CF vector, two decimals (the paper's form)."""
        return " ".join(f"{value:.2f}" for value in vector[: self.num_context_dims])

    def _num_words(self) -> int:
        numbers = 2 * self.num_context_dims * _TOKENS_PER_NUMBER if self.context == "numbers" else 0
        return int((self.max_length - _FIXED_TOKENS - numbers) / _TOKENS_PER_WORD)

    def _words(self, part: str) -> int:
        text_parts = _SHARES if self.context == "neighbors" else _SHARES.keys() - {"near_user", "near_item"}
        total = sum(_SHARES[name] for name in text_parts)
        return max(int(self._num_words() * _SHARES[part] / total), 2)

    def _cut(self, text: str, part: str) -> str:
        return _first_words(text, self._words(part))


def _first_words(text: str, num_words: int) -> str:
    return " ".join(text.split(maxsplit=num_words)[:num_words])


def _labelled(label: str, text: str) -> str:
    return f"{label} {text}" if text else ""
