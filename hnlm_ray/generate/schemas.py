"""What the generator must answer: JSON schemas for the engine, and the check of what came back."""

import json
from typing import Any, NamedTuple

from hnlm_ray.generate.prompting import cut_words

ANSWER_KEYS = {  # prompt kind -> (key of the text, key of the reasoning), in the order in which the model writes them
    "item_profile": ("summarization", "reasoning"),
    "user_profile": ("summarization", "reasoning"),
    "hard_negative": ("hard_negative_item", "reasoning"),
}
_CHARS_PER_WORD = 7
_MAX_REASONING_CHARS = 280
_NONE_ANSWERS = frozenset({"none", "n/a", "null", "no item", "nothing"})


class Answer(NamedTuple):
    """One checked answer."""

    text: str
    """The summary or the hard negative; empty where there is none."""
    reasoning: str
    error: str
    """Why the answer is unusable; empty where it is fine."""


def answer_schema(kind: str, max_words: int) -> dict[str, Any]:
    """JSON schema of an answer: its two strings, bounded, and nothing else."""
    text_key, reasoning_key = ANSWER_KEYS[kind]
    return {
        "type": "object",
        "properties": {
            text_key: {"type": "string", "minLength": 1, "maxLength": max_words * _CHARS_PER_WORD},
            reasoning_key: {"type": "string", "minLength": 1, "maxLength": _MAX_REASONING_CHARS},
        },
        "required": [text_key, reasoning_key],
        "additionalProperties": False,
    }


def write_answer(kind: str, text: str, reasoning: str) -> str:
    """The answer as an engine bound to `answer_schema` writes it: what a generator is trained on."""
    text_key, reasoning_key = ANSWER_KEYS[kind]
    return json.dumps({text_key: text, reasoning_key: reasoning}, ensure_ascii=False)


def parse_answer(kind: str, raw: str, max_words: int, *, finished: bool) -> Answer:
    """Check an engine's answer; a text of more than `max_words` words loses the rest.

    `finished` says whether the model came to its own end (False: the token budget cut it).
    """
    text_key, reasoning_key = ANSWER_KEYS[kind]
    if not finished:
        return Answer("", "", "truncated: the answer did not end within its token budget")
    try:
        value = json.loads(raw, strict=False)
    except json.JSONDecodeError as error:
        return Answer("", "", f"not JSON: {error}")
    if not isinstance(value, dict) or set(value) != {text_key, reasoning_key}:
        return Answer("", "", f"not an object of {text_key!r} and {reasoning_key!r}")
    text, reasoning = value[text_key], value[reasoning_key]
    if not isinstance(text, str) or not isinstance(reasoning, str):
        return Answer("", "", f"{text_key!r} or {reasoning_key!r} is not a string")
    text = cut_words(" ".join(text.split()), max_words)
    reasoning = " ".join(reasoning.split())
    if not text:
        return Answer("", reasoning, f"empty: {text_key!r} has no words")
    if kind == "hard_negative" and text.lower().strip(" .") in _NONE_ANSWERS:
        return Answer("", reasoning, "none: the model names no item")
    return Answer(text, reasoning, "")
