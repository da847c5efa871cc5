"""One unit: asked once, asked again where it helps, isolated where it kills, never doubled."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hnlm_ray.errors import UserError
from hnlm_ray.generate.prompting import load_template
from hnlm_ray.generate.protocol import Completion, EngineDied, GenerateRequest
from hnlm_ray.generate.schemas import write_answer
from hnlm_ray.generate.unit_worker import TextTask, UnitWorker
from hnlm_ray.generate.units import TaskSummary, _summary, check_failures, commit_inputs, list_units, open_units
from hnlm_ray.store import Folder


class Echo:
    """Answers with the item's title; titles say what goes wrong."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int, bool]] = []

    def generate(self, request: GenerateRequest, *, alone: bool = False) -> list[Completion]:
        titles = [draft.slots["title"] for draft in request.drafts]
        self.calls.append((titles, request.max_new_tokens, alone))
        if any("poison" in title for title in titles):
            raise EngineDied("killed")
        return [self._answer(title, request.max_new_tokens) for title in titles]

    def _answer(self, title: str, budget: int) -> Completion:
        if "refused" in title:
            return Completion("", False, 9, 0, 0, False, error="refused by the engine: too long")
        finished = not ("long" in title and budget < 100) and "endless" not in title
        text = "" if "empty" in title else title
        return Completion(write_answer("item_profile", text, "so"), finished, 9, 4, 5, False)


def make_task(root: Path, titles: list[str], sources: list[str] | None = None) -> TextTask:
    inputs = Folder(root / "inputs")
    count = len(titles)
    rows = pa.table(
        {
            "item_id": pa.array(range(count), pa.int32()),
            "title": titles,
            "brand": [""] * count,
            "categories": pa.nulls(count, pa.list_(pa.string())),
            "description": [""] * count,
            "reviews": pa.nulls(count, pa.list_(pa.string())),
            "source": sources or ["title"] * count,
            "given": ["supplied text" if source == "supplied" else None for source in sources or [""] * count],
        }
    )
    inputs.write_table("inputs-00000.parquet", rows, row_group_size=count)
    commit_inputs(inputs)
    template = load_template("books", "item_profile")
    return TextTask(template, ("item_id",), inputs, Folder(root / "outputs"), 100, 0, max_new_tokens=64)


def run(task: TextTask, generator: Any) -> list[dict[str, Any]]:
    [unit] = open_units(task, list_units(task.inputs))
    UnitWorker(task, generator).run(unit)
    rows: list[dict[str, Any]] = task.outputs.read_table().to_pylist()
    return rows


def test_answers_stand_beside_their_ids(tmp_path: Path) -> None:
    rows = run(make_task(tmp_path, ["a", "b"]), Echo())
    assert [(row["item_id"], row["text"], row["status"], row["attempt"]) for row in rows] == [
        (0, "a", "ok", 1),
        (1, "b", "ok", 1),
    ]
    assert rows[0]["seed"] != rows[1]["seed"]
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"], rows[0]["source"]) == (9, 5, "title")


def test_cut_and_empty_answers_are_asked_once_more_with_twice_the_budget(tmp_path: Path) -> None:
    echo = Echo()
    rows = run(make_task(tmp_path, ["a", "long", "endless", "empty", "refused"]), echo)
    assert [budget for _, budget, _ in echo.calls] == [64, 128]
    assert echo.calls[1][0] == ["long", "endless", "empty"]
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "failed", "failed"]
    assert [row["attempt"] for row in rows] == [1, 2, 2, 2, 1]
    assert [row["error"].partition(":")[0] for row in rows[2:]] == ["truncated", "empty", "refused by the engine"]


def test_rows_without_text_and_supplied_rows_cost_nothing(tmp_path: Path) -> None:
    echo = Echo()
    rows = run(make_task(tmp_path, ["a", "b", "c"], sources=["", "supplied", "title"]), echo)
    assert [titles for titles, _, _ in echo.calls] == [["c"]]
    assert [row["status"] for row in rows] == ["failed", "ok", "ok"]
    assert rows[1]["text"] == "supplied text"
    assert rows[0]["error"].startswith("no text")


@pytest.mark.parametrize("poison", [0, 3, 7])
def test_a_row_that_kills_the_engine_is_found_alone(tmp_path: Path, poison: int) -> None:
    titles = ["poison" if row == poison else f"t{row}" for row in range(8)]
    echo = Echo()
    rows = run(make_task(tmp_path, titles), echo)
    assert [row["status"] for row in rows] == ["failed" if row == poison else "ok" for row in range(8)]
    assert rows[poison]["error"].startswith("the engine dies of this row")
    assert not echo.calls[0][2]
    assert all(alone for _, _, alone in echo.calls[1:]), "blame only where nothing else ran"
    assert sum("poison" in titles for titles, _, _ in echo.calls) == 6


def test_only_failed_rows_are_asked_again_by_the_next_run(tmp_path: Path) -> None:
    titles = ["a", "poison", "c", "d"]
    task = make_task(tmp_path, titles)
    before = run(task, Echo())
    assert [row["status"] for row in before] == ["ok", "failed", "ok", "ok"]

    class Healed(Echo):
        def generate(self, request: GenerateRequest, *, alone: bool = False) -> list[Completion]:
            self.calls.append(([draft.slots["title"] for draft in request.drafts], request.max_new_tokens, alone))
            return [self._answer("healed", 64) for _ in request.drafts]

    healed = Healed()
    after = run(task, healed)
    assert [titles for titles, _, _ in healed.calls] == [["poison"]]
    assert [row["text"] for row in after] == ["a", "healed", "c", "d"]
    assert after[1]["attempt"] == 2
    assert [after[row] for row in (0, 2, 3)] == [before[row] for row in (0, 2, 3)]
    assert open_units(task, list_units(task.inputs)) == []


def test_none_answers_are_failed_rows_of_their_own_kind(tmp_path: Path) -> None:
    class NoneOfThree(Echo):
        def _answer(self, title: str, budget: int) -> Completion:
            return Completion(write_answer("hard_negative", title, "so"), True, 9, 4, 5, False)

    ids = {name: pa.array([0, 1, 2], pa.int32()) for name in ("user_id", "item_id")}
    texts = {"title": ["None", "a", "n/a"], "user_profile": ["u"] * 3, "profile": ["p"] * 3, "source": ["title"] * 3}
    inputs = Folder(tmp_path / "inputs")
    inputs.write_table("inputs-00000.parquet", pa.table({**ids, **texts}))
    units = commit_inputs(inputs)
    template = load_template("books", "hard_negative")
    task = TextTask(template, ("user_id", "item_id"), inputs, Folder(tmp_path / "outputs"), 20, 0, max_new_tokens=64)
    report = UnitWorker(task, NoneOfThree()).run(units[0])
    summary = _summary(task, [report], {}, 0.0)
    assert (summary.rows, summary.failed, summary.failures) == (3, 2, {"none": 2})


def test_rows_without_text_do_not_count_against_the_limit(tmp_path: Path) -> None:
    task = make_task(tmp_path, ["a", "b", "c", "refused"], sources=["", "", "title", "title"])
    run(task, Echo())
    summary = TaskSummary(4, 3, {"no text": 2, "refused by the engine": 1}, 0, 0, 0, 0, 0.0, {}, 0.0, {}, [])
    check_failures(summary, "rows", 0.5, "profile.max_failed_fraction")
    with pytest.raises(UserError, match=r"1 of 2 rows have no usable answer.*refused by the engine"):
        check_failures(summary, "rows", 0.4, "profile.max_failed_fraction")
