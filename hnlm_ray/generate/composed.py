"""Texts without a generator (`llm.engine: none`): composed from the catalogue by a fixed form.

They hold nothing that the data do not: an item's own text, and for a user the newest training items. No Ray, no vLLM.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hnlm_ray.generate.config import LLMConfig
from hnlm_ray.generate.cost import Usage, cost_of
from hnlm_ray.generate.prompting import cut_words
from hnlm_ray.generate.unit_worker import OUTPUT_FIELDS
from hnlm_ray.generate.units import TaskSummary, list_units
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

_SOURCE = "composed"


def compose_all(
    inputs: Folder, outputs: Folder, id_column: str, max_words: int, llm: LLMConfig, progress: Progress, part: str
) -> TaskSummary:
    """Write the shard of every unit of `inputs` that has none yet; rows without text fail, as with a generator."""
    units = list_units(inputs)
    progress.start(sum(unit.num_rows for unit in units), "rows", part)
    done = set(outputs.names(".parquet"))
    for unit in units:
        if unit.shard not in done:
            with inputs.fs.open_input_file(f"{inputs.path}/{unit.file}") as source:
                rows = pq.ParquetFile(source).read_row_group(unit.row_group).to_pylist()
            outputs.write_table(unit.shard, shard_of(rows, id_column, max_words))
        progress.update(unit.num_rows)
    return composed_summary(outputs, llm)


def composed_summary(outputs: Folder, llm: LLMConfig) -> TaskSummary:
    """What stands of a task that asked no generator: no tokens, no time of an engine, no cost."""
    found = outputs.read_table(columns=["error"])["error"].to_pylist()
    errors = Counter(error for error in found if error)
    return TaskSummary(
        rows=len(found),
        failed=errors.total(),
        failures={error.partition(":")[0]: count for error, count in errors.most_common()},
        prompt_tokens=0,
        completion_tokens=0,
        cut_prompts=0,
        asked_rows=0,
        prefix_hit_rate=0.0,
        seconds_per_row=dict.fromkeys(("read", "render", "engine", "parse", "write"), 0.0),
        engine_ready_s=0.0,
        cost={"measured": cost_of(Usage(), llm).as_json()},
        tokens_over_time=[],
    )


def shard_of(rows: list[dict[str, Any]], id_column: str, max_words: int) -> pa.Table:
    """The rows of a shard, with the columns that a generator's shard has."""
    texts = [cut_words(" ".join(_text(row).split()), max_words) for row in rows]
    values: dict[str, list[Any]] = {
        "text": texts,
        "reasoning": [""] * len(rows),
        "status": ["ok" if text else "failed" for text in texts],
        "error": ["" if text else "no text: the data tell nothing of this row" for text in texts],
        "source": [f"{_SOURCE}:{row['source']}" if text else "" for row, text in zip(rows, texts, strict=True)],
        "truncated": [False] * len(rows),
    }
    columns = {name: pa.array(values.get(name, [0] * len(rows)), kind) for name, kind in OUTPUT_FIELDS}
    return pa.table({id_column: pa.array([row[id_column] for row in rows], pa.int32()), **columns})


def _text(row: Mapping[str, Any]) -> str:
    """Of an item: its ready-made text, else what the catalogue says of it. Of a user: the newest training items."""
    if "history" in row:
        return "; ".join(entry["title"] or entry["profile"] or entry["review"] or "" for entry in row["history"])
    if row["given"]:
        return str(row["given"])
    categories = ", ".join(row["categories"] or ())
    return ". ".join(part for part in (row["title"], row["brand"], categories, row["description"]) if part)
