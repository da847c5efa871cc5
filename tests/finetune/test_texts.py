"""The text template: labels, budgets, contexts, and that it survives its JSON."""

import numpy as np
import pytest

from hnlm_ray.errors import UserError
from hnlm_ray.finetune.spec import EncoderSpec
from hnlm_ray.finetune.texts import TextTemplate


def test_query_puts_the_user_first_and_leaves_out_what_is_missing() -> None:
    template = TextTemplate(96, "none", 3, 8)
    assert template.query("likes noir", "Dune", "a desert") == (
        "A near miss for this user. User: likes noir Chosen: Dune About: a desert"
    )
    assert template.query("", "Dune", "") == "A near miss for this user. Chosen: Dune"


@pytest.mark.parametrize("context", ["neighbors", "none"])
def test_every_part_is_cut_to_its_share_so_that_none_pushes_another_out(context: str) -> None:
    template = TextTemplate(96, context, 3, 8)  # type: ignore[arg-type]
    long = " ".join(["word"] * 500)
    near = template.titles([long] * 3, "near_user") if context == "neighbors" else ""
    query = template.query(long, "Title " + long, "Profile " + long, near, near)
    assert "Title" in query
    assert "Profile" in query
    assert len(query.split()) < 96 / 1.2  # fits after tokenisation


def test_an_item_has_its_room_in_a_query_or_stands_alone() -> None:
    in_query, alone = TextTemplate(96, "none", 3, 8), TextTemplate(96, "none", 3, 8, whole_items=True)
    long = " ".join(map(str, range(90)))
    assert len(in_query.item("Dune", long).split()) < 40
    assert alone.item("Dune", long) == f"Dune {long}"
    assert alone.item("hot wheels", "hot wheels track") == "hot wheels track"
    assert (alone.item("Dune", ""), alone.item("", "a desert")) == ("Dune", "a desert")


def test_titles_share_their_part_equally() -> None:
    template = TextTemplate(128, "neighbors", 2, 8)
    text = template.titles(["one two three four five six seven eight nine ten eleven twelve", "x y"], "near_user")
    first, second = text.split("; ")
    assert 2 <= len(first.split()) < 12
    assert second == "x y"


def test_numbers_prints_the_leading_components() -> None:
    template = TextTemplate(128, "numbers", 3, 3)
    assert template.numbers(np.array([0.123, -1.0, 2.5, 9.0])) == "0.12 -1.00 2.50"


def test_too_short_a_length_is_refused_with_its_key() -> None:
    with pytest.raises(UserError, match=r"encoder\.max_length=64 .*'numbers'"):
        TextTemplate(64, "numbers", 3, 8)


def test_spec_survives_json() -> None:
    spec = EncoderSpec("minilm", "mean", TextTemplate(96, "neighbors", 3, 8))
    assert EncoderSpec.from_json(spec.as_json()) == spec
