"""One unit of LLM work from its input rows to its finished shard. Plain classes: no Ray, no vLLM.

A unit is a row group of an input file. Its shard carries the unit's own name and is written atomically, so a unit is
done exactly when its shard is there: a killed run loses the units it had in hand, repeats them, and doubles nothing.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hnlm_ray.generate.prompting import Draft, Template, item_draft, negative_draft, user_draft
from hnlm_ray.generate.protocol import Completion, EngineDied, GenerateRequest
from hnlm_ray.generate.schemas import answer_schema, parse_answer
from hnlm_ray.store import Folder

OUTPUT_FIELDS = (
    ("text", pa.string()),
    ("reasoning", pa.string()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("source", pa.string()),
    ("prompt_tokens", pa.int32()),
    ("completion_tokens", pa.int32()),
    ("attempt", pa.int16()),
    ("seed", pa.int64()),
    ("truncated", pa.bool_()),
)
_ASKED_AGAIN = ("truncated:", "empty:", "not JSON:", "not an object")
"""Errors of an answer that a second try with a larger budget may mend."""


class Generator(Protocol):
    """What a worker needs of an `EngineGroup`."""

    def generate(self, request: GenerateRequest, *, alone: bool = False) -> list[Completion]:
        """Answer the prompts in order; raises `EngineDied`."""


@dataclass(frozen=True)
class TextTask:
    """What to ask about every row of a folder of inputs, and where the answers go."""

    template: Template
    id_columns: tuple[str, ...]
    inputs: Folder
    outputs: Folder
    max_words: int
    max_prompt_tokens: int
    max_new_tokens: int
    max_entry_words: int = 0
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Unit:
    """A row group of an input file."""

    name: str
    file: str
    row_group: int
    num_rows: int

    @property
    def shard(self) -> str:
        """Name of its output file."""
        return f"part-{self.name}.parquet"


@dataclass
class UnitReport:
    """What became of a unit."""

    unit: str
    rows: int
    asked: int = 0
    """Rows that went to the engine in this run."""
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    read_s: float = 0.0
    render_s: float = 0.0
    engine_s: float = 0.0
    parse_s: float = 0.0
    write_s: float = 0.0
    ended_at: float = field(default_factory=time.time)


@dataclass
class _Row:
    """A row on its way to its answer."""

    values: dict[str, Any]
    draft: Draft | None
    seed: int = 0
    attempt: int = 0
    result: dict[str, Any] = field(default_factory=dict)


class UnitWorker:
    """Reads a unit, asks the engine, checks the answers, writes the shard."""

    def __init__(self, task: TextTask, generator: Generator) -> None:
        self._task = task
        self._generator = generator

    def run(self, unit: Unit) -> UnitReport:
        """Do one unit. Where its shard stands already with failed rows in it, only those are asked again."""
        report = UnitReport(unit.name, unit.num_rows)
        clock = _Clock()
        values = self._read(unit)
        before = self._results_before(unit)
        report.read_s = clock.lap()
        rows = [self._row(row, old) for row, old in zip(values, before, strict=True)]
        asked = [row for row in rows if not row.result]
        report.asked = len(asked)
        report.render_s = clock.lap()
        self._ask(asked, self._task.max_new_tokens, report)
        again = [row for row in asked if row.result["error"].startswith(_ASKED_AGAIN)]
        self._ask(again, 2 * self._task.max_new_tokens, report)
        report.engine_s = clock.lap() - report.parse_s
        self._task.outputs.write_table(unit.shard, self._table(rows))
        report.write_s = clock.lap()
        report.failed = sum(row.result["status"] == "failed" for row in rows)
        report.ended_at = time.time()
        return report

    def _read(self, unit: Unit) -> list[dict[str, Any]]:
        inputs = self._task.inputs
        with inputs.fs.open_input_file(f"{inputs.path}/{unit.file}") as source:
            rows: list[dict[str, Any]] = pq.ParquetFile(source).read_row_group(unit.row_group).to_pylist()
        return rows

    def _results_before(self, unit: Unit) -> Sequence[dict[str, Any] | None]:
        if not self._task.outputs.exists(unit.shard):
            return [None] * unit.num_rows
        results: list[dict[str, Any]] = self._task.outputs.read_table(unit.shard).to_pylist()
        return results

    def _row(self, values: dict[str, Any], before: Mapping[str, Any] | None) -> _Row:
        if before is not None and before["status"] == "ok":
            return _Row(values, None, result=dict(before))
        attempts = before["attempt"] if before is not None else 0
        if given := values.get("given"):
            return _Row(values, None, result=_result(given, "", "", attempt=0))
        draft = make_draft(self._task, values)
        if draft is None:
            return _Row(values, None, result=_result("", "", "no text: the data tell nothing of this row", attempt=0))
        return _Row(values, draft, attempt=attempts)

    def _ask(self, rows: Sequence[_Row], max_new_tokens: int, report: UnitReport) -> None:
        if not rows:
            return
        for row in rows:
            row.attempt += 1
            row.seed = _seed(self._task, row)
        completions = self._generate(rows, max_new_tokens)
        started = time.perf_counter()
        task = self._task
        for row, completion in zip(rows, completions, strict=True):
            if completion.error:
                text = reasoning = ""
                error = completion.error
            else:
                kind, finished = task.template.kind, completion.finished
                text, reasoning, error = parse_answer(kind, completion.text, task.max_words, finished=finished)
            row.result = _result(text, reasoning, error, row.attempt, row.seed, completion)
            report.prompt_tokens += completion.prompt_tokens
            report.cached_tokens += completion.cached_tokens
            report.completion_tokens += completion.completion_tokens
        report.parse_s += time.perf_counter() - started

    def _generate(self, rows: Sequence[_Row], max_new_tokens: int) -> list[Completion]:
        try:
            return self._generator.generate(self._request(rows, max_new_tokens))
        except EngineDied:
            return self._isolate(rows, max_new_tokens)

    def _isolate(self, rows: Sequence[_Row], max_new_tokens: int) -> list[Completion]:
        """Ask again with an engine to ourselves; a part that kills it is halved until the row that does is found."""
        try:
            return self._generator.generate(self._request(rows, max_new_tokens), alone=True)
        except EngineDied as died:
            if len(rows) == 1:
                return [self._condemn(rows[0], max_new_tokens, died)]
        middle = len(rows) // 2
        return [*self._isolate(rows[:middle], max_new_tokens), *self._isolate(rows[middle:], max_new_tokens)]

    def _condemn(self, row: _Row, max_new_tokens: int, died: EngineDied) -> Completion:
        """A single row died alone: once may be chance (a lost node), twice is the row."""
        try:
            return self._generator.generate(self._request([row], max_new_tokens), alone=True)[0]
        except EngineDied:
            return Completion("", False, 0, 0, 0, False, error=f"the engine dies of this row: {died}")

    def _request(self, rows: Sequence[_Row], max_new_tokens: int) -> GenerateRequest:
        task = self._task
        return GenerateRequest(
            drafts=[row.draft for row in rows if row.draft is not None],
            max_prompt_tokens=task.max_prompt_tokens,
            max_new_tokens=max_new_tokens,
            schema=answer_schema(task.template.kind, task.max_words),
            temperature=task.temperature,
            seeds=[row.seed for row in rows],
            reserved_tokens=task.max_new_tokens,  # a second try has the same prompt: only its answer may be longer
        )

    def _table(self, rows: Sequence[_Row]) -> pa.Table:
        ids = {name: pa.array([row.values[name] for row in rows], pa.int32()) for name in self._task.id_columns}
        for row in rows:
            row.result["source"] = row.values["source"]
        results = {name: pa.array([row.result[name] for row in rows], kind) for name, kind in OUTPUT_FIELDS}
        return pa.table({**ids, **results})


def make_draft(task: TextTask, row: Mapping[str, Any]) -> Draft | None:
    """The prompt of one input row, uncut; None where the data have nothing to ask about."""
    if not row["source"]:
        return None
    template, kind = task.template, task.template.kind
    if kind == "item_profile":
        return item_draft(
            template,
            title=row["title"],
            brand=row["brand"],
            categories=row["categories"],
            description=row["description"],
            reviews=row["reviews"] or (),
            max_words=task.max_words,
            max_entry_words=task.max_entry_words,
        )
    if kind == "user_profile":
        return user_draft(template, row["history"], max_words=task.max_words, max_entry_words=task.max_entry_words)
    return negative_draft(
        template,
        user_profile=row["user_profile"],
        title=row["title"],
        item_profile=row["profile"],
        max_words=task.max_words,
    )


def _seed(task: TextTask, row: _Row) -> int:
    """A row's own seed: from the config's, the row's id and the attempt, never from the place in a batch."""
    ids = [row.values[name] for name in task.id_columns]
    digest = hashlib.blake2b(f"{task.seed}/{task.template.kind}/{ids}/{row.attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 33


def _result(
    text: str, reasoning: str, error: str, attempt: int, seed: int = 0, completion: Completion | None = None
) -> dict[str, Any]:
    return {
        "text": text,
        "reasoning": reasoning,
        "status": "failed" if error else "ok",
        "error": error,
        "prompt_tokens": completion.prompt_tokens if completion else 0,
        "completion_tokens": completion.completion_tokens if completion else 0,
        "attempt": attempt,
        "seed": seed,
        "truncated": completion.truncated if completion else False,
    }


class _Clock:
    def __init__(self) -> None:
        self._at = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        passed, self._at = now - self._at, now
        return passed
