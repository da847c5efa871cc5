"""What counts as an answer."""

import json

import pytest

from hnlm_ray.generate.schemas import answer_schema, parse_answer, write_answer


@pytest.mark.parametrize("kind", ["item_profile", "user_profile", "hard_negative"])
def test_what_a_generator_is_taught_is_what_is_accepted(kind: str) -> None:
    answer = parse_answer(kind, write_answer(kind, "dark sagas", "the title says so"), 20, finished=True)
    assert answer == ("dark sagas", "the title says so", "")
    assert list(json.loads(write_answer(kind, "a", "b"))) == answer_schema(kind, 20)["required"]


@pytest.mark.parametrize(
    ("raw", "finished", "error"),
    [
        ('{"summarization": "a", "reasoning": "b', False, "truncated"),
        ('{"summarization": "a", "reasoning": "b', True, "not JSON"),
        ('["summarization"]', True, "not an object"),
        ('{"summarization": "a"}', True, "not an object"),
        ('{"summarization": 3, "reasoning": "b"}', True, "'summarization' or"),
        ('{"summarization": "  ", "reasoning": "b"}', True, "empty"),
    ],
)
def test_unusable_answers_say_why(raw: str, finished: bool, error: str) -> None:
    answer = parse_answer("item_profile", raw, 20, finished=finished)
    assert answer.text == ""
    assert answer.error.startswith(error)


def test_long_texts_lose_whole_words() -> None:
    raw = write_answer("item_profile", " ".join(f"w{n}" for n in range(30)), "r")
    assert parse_answer("item_profile", raw, 3, finished=True).text == "w0 w1 w2"


@pytest.mark.parametrize("text", ["None", "none.", "N/A"])
def test_none_answers_are_told_apart(text: str) -> None:
    answer = parse_answer("hard_negative", write_answer("hard_negative", text, "nothing fits"), 20, finished=True)
    assert answer.error.startswith("none")
    assert parse_answer("item_profile", write_answer("item_profile", text, "r"), 20, finished=True).text == text
