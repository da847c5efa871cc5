"""Profile generation against the bare engine: the same prompts through the stage and through `vllm.LLM.generate`.

Both sides have an engine of the same settings, started before the clock. Every repetition has prompts of its own, so
that neither finds them in its cache; what prompts of one kind share is cached on both sides alike.
"""

import itertools
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement, paired_values, seconds_of
from hnlm_ray.config import RunConfig, parse_config
from hnlm_ray.demo.config import StandinConfig
from hnlm_ray.demo.teaching import make_tokenizer
from hnlm_ray.generate.chat import ChatTokenizer
from hnlm_ray.generate.engines import EngineManager
from hnlm_ray.generate.inputs import item_rows
from hnlm_ray.generate.prompting import load_template
from hnlm_ray.generate.schemas import answer_schema, parse_answer
from hnlm_ray.generate.unit_worker import TextTask, make_draft
from hnlm_ray.generate.units import TaskSummary, commit_inputs, feeding_of, list_units, run_task, unit_rows
from hnlm_ray.generate.vllm_engine import CPU_BLOCK_TOKENS
from hnlm_ray.progress import Progress
from hnlm_ray.runtime import connected
from hnlm_ray.store import Folder

_MAX_WORDS = 6
_MAX_NEW_TOKENS = 384
"""More than the schema's longest answer, so that no answer is cut, on neither side."""
_CURTNESS = 160.0
"""Preference for ending a string: about one token in ten."""
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""With the instruction, as every chat model has it and the stand-in does not: it is most of what prompts share."""
_WORDS = ("dark", "moon", "river", "love", "ghost", "war", "ship", "garden", "cook", "train", "cat", "stone", "deep")


@dataclass(frozen=True)
class _Prompts:
    """One set of prompts: as the stage's input, and as finished text."""

    task: TextTask
    texts: list[str]


class _Stage:
    """Our side: the units of a task through the dispatcher and the engine, to shards on disk."""

    def __init__(self, config: RunConfig, model: str) -> None:
        self._llm = config.llm
        self._manager = EngineManager(config)
        self._group = self._manager.generator(model)
        self._group.prepare()

    def run(self, prompts: _Prompts) -> TaskSummary:
        return run_task(prompts.task, self._group, self._llm, Progress("bench"), "rows")

    def seconds(self, prompts: _Prompts, way: Literal["from_here", "by_ray_data"]) -> float:
        """Seconds of the same work with the engines fed in one way, whatever the number of rows."""
        units = list_units(prompts.task.inputs)
        feeding = feeding_of(prompts.task, self._group, self._llm, units)
        return seconds_of(lambda: list(getattr(feeding, way)(units)))

    def close(self) -> None:
        self._manager.close()


class _BareEngine:
    """The baseline: `vllm.LLM.generate` in this process, with the same engine settings and schema."""

    def __init__(self, config: RunConfig, model: str) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM, SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        torch.set_num_threads(config.llm.num_threads)
        self._llm = LLM(
            model,
            dtype="float32",
            enforce_eager=True,
            distributed_executor_backend="uni",
            kv_cache_memory_bytes=int(config.llm.kv_cache_gb * 2**30),
            max_num_seqs=config.llm.max_num_seqs,
            max_num_batched_tokens=config.llm.max_num_batched_tokens,
            block_size=CPU_BLOCK_TOKENS,
            enable_prefix_caching=True,
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        )
        schema = StructuredOutputsParams(json=answer_schema("item_profile", _MAX_WORDS))
        self._params = SamplingParams(temperature=0.0, max_tokens=_MAX_NEW_TOKENS, structured_outputs=schema)

    def run(self, prompts: _Prompts) -> list[str]:
        outputs = self._llm.generate(prompts.texts, self._params, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]


def measure(options: BenchOptions) -> Measurement:
    """Rows per second of both sides, the ratio, growth with the number of rows, and where a row's time goes."""
    num_rows, few, many = (96, 48, 96) if options.quick else (2000, 500, 8000)
    repeats = 1 if options.quick else options.repeats
    config = parse_config({"llm": {"num_threads": options.threads}, "runtime": {"address": "local"}})
    with tempfile.TemporaryDirectory() as scratch, connected(config.runtime):
        root = Path(scratch)
        model = _curt_model(root / "model", options.seed)
        chat = ChatTokenizer(model)
        stage, bare = _Stage(config, model), _BareEngine(config, model)

        def prompts(name: str, count: int) -> _Prompts:
            return _make_prompts(root / name, chat, count, config)

        warmup = prompts("warmup", num_rows // 10)
        sets = [warmup, *(prompts(f"set{number}", num_rows) for number in range(repeats))]
        summaries: list[TaskSummary] = []
        answers: list[list[str]] = []
        pairs = paired_values(
            _timed(lambda number: summaries.append(stage.run(sets[number]))),
            _timed(lambda number: answers.append(bare.run(sets[number]))),
            repeats,
        )
        same = _share_of_equal_answers(sets[-1], answers[-1])
        # the few before and behind the many, so that a machine that slows down or warms up favours neither
        sizes = [few] * 2 + [many] + [few] * 2
        tasks = [prompts(f"growth{number}", size) for number, size in enumerate(sizes)]
        grown = [seconds_of(partial(stage.run, task)) / size for task, size in zip(tasks, sizes, strict=True)]
        from_here = stage.seconds(prompts("from_here", few), "from_here")
        by_ray_data = stage.seconds(prompts("by_ray_data", few), "by_ray_data")
        overhead = _overhead(chat, sets[-1], summaries[-1])
        stage.close()
    growth = grown[2] / statistics.mean(grown[:2] + grown[3:])
    tokens_per_row = (summaries[-1].prompt_tokens + summaries[-1].completion_tokens) / num_rows
    figures = {
        "stage_rows_per_s": num_rows / pairs.ours,
        "bare_engine_rows_per_s": num_rows / pairs.baseline,
        "equal_answers_ratio": same,
        "ray_data_start_s": by_ray_data - from_here,
        **{f"estimate_{name}_deviation_ratio": value for name, value in summaries[-1].cost["deviation"].items()},
        "prefix_hit_ratio": summaries[-1].prefix_hit_rate,
        "prefix_shared_ratio": shared_prefix_ratio(chat.tokenize(sets[-1].texts), CPU_BLOCK_TOKENS),
        **overhead,
    }
    bars = [
        Bar("ratio_to_bare_engine", pairs.speedup, 0.90),
        Bar("growth_per_row_ratio", growth, 1.10, better="lower"),
    ]
    notes = [
        f"{num_rows} prompts, {tokens_per_row:.0f} tokens each with the answer, {repeats} pairs",
        f"ratio_to_bare_engine = bare seconds over the stage's, median of {[round(pair, 2) for pair in pairs.ratios]}",
        f"ray_data_start_s = what Ray Data's workers add to {few} rows; estimates come from a task's first units",
        "prefix_shared_ratio = what an endless cache of whole blocks would hold of the prompts: the most to be hit",
        f"growth_per_row_ratio = seconds per row with {many} rows over those with {few}, run twice before and behind",
    ]
    return Measurement(figures, bars, notes)


def shared_prefix_ratio(prompts: Sequence[Sequence[int]], block_tokens: int) -> float:
    """Share of the prompts' tokens that stand in whole blocks with which an earlier prompt begins, too.

    The last token of a prompt is always computed, and with it its block.
    """
    known: set[tuple[int, ...]] = set()
    shared = 0
    for prompt in prompts:
        heads = (tuple(prompt[:end]) for end in range(block_tokens, len(prompt), block_tokens))
        shared += block_tokens * sum(1 for _ in itertools.takewhile(known.__contains__, heads))
        known.update(tuple(prompt[:end]) for end in range(block_tokens, len(prompt) + 1, block_tokens))
    return shared / sum(len(prompt) for prompt in prompts)


def _timed(run: Callable[[int], object]) -> Callable[[], float]:
    """`run(0)`, `run(1)`, ... call by call; returns the seconds of each."""
    numbers = itertools.count()

    def call() -> float:
        started = time.perf_counter()
        run(next(numbers))
        return time.perf_counter() - started

    return call


def _make_prompts(root: Path, chat: ChatTokenizer, count: int, config: RunConfig) -> _Prompts:
    """`count` items of random words, of lengths as real ones have: no two prompts are the same."""
    rng = np.random.default_rng(zlib.crc32(root.name.encode()))

    def words(low: int, high: int) -> list[str]:
        return [" ".join(rng.choice(_WORDS, rng.integers(low, high))) for _ in range(count)]

    nothing = pa.nulls(count, pa.string())
    items = pa.table(
        {
            "item_id": pa.array(range(count), pa.int32()),
            "title": words(2, 8),
            "title_source": ["title"] * count,
            "brand": words(1, 3),
            "categories": [[word] for word in words(1, 3)],
            "description": words(20, 80),
            "text": nothing,
        }
    )
    inputs = Folder(root / "inputs")
    rows = item_rows(items, None, use_supplied=False)
    inputs.write_table("inputs-00000.parquet", rows, row_group_size=unit_rows(count, config.llm.unit_rows))
    commit_inputs(inputs)
    template = load_template("books", "item_profile")
    task = TextTask(template, ("item_id",), inputs, Folder(root / "outputs"), _MAX_WORDS, 0, _MAX_NEW_TOKENS)
    drafts = [make_draft(task, row) for row in rows.to_pylist()]
    return _Prompts(task, chat.render([draft.render() for draft in drafts if draft is not None]))


def _share_of_equal_answers(prompts: _Prompts, answers: list[str]) -> float:
    table = prompts.task.outputs.read_table(columns=["text", "status"]).to_pylist()
    pairs = zip(table, answers, strict=True)
    parsed = [(row["text"], parse_answer("item_profile", raw, _MAX_WORDS, finished=True).text) for row, raw in pairs]
    return sum(ours == bare for ours, bare in parsed) / len(parsed)


def _overhead(chat: ChatTokenizer, prompts: _Prompts, summary: TaskSummary) -> dict[str, float]:
    """Milliseconds per row beside the engine's own work: measured one by one, on one batch of rows."""
    rows = prompts.task.inputs.read_table().slice(0, 256).to_pylist()
    started = time.perf_counter()
    drafts = [draft for row in rows if (draft := make_draft(prompts.task, row))]
    rendered = [draft.render() for draft in drafts]
    texts = chat.render(rendered)
    templated = time.perf_counter()
    token_ids = chat.tokenize(texts)
    tokenized = time.perf_counter()
    ray.get(ray.put(drafts))
    ray.get(ray.put(texts))
    transferred = time.perf_counter()
    chat.decode(token_ids)
    decoded = time.perf_counter()
    per_row = 1000 / len(rows)
    return {
        "templating_ms_per_row": (templated - started) * per_row,
        "tokenizing_ms_per_row": (tokenized - templated) * per_row,
        "transfer_ms_per_row": (transferred - tokenized) * per_row,
        "detokenizing_ms_per_row": (decoded - transferred) * per_row,
        **{f"{part}_ms_per_row": 1000 * seconds for part, seconds in summary.seconds_per_row.items()},
    }


def _curt_model(folder: Path, seed: int) -> str:
    """A random Llama, of the stand-in's kind and width, that soon ends what it says: nothing is trained.

    Channel 0 holds a constant that no layer changes, and the last product turns it into a preference for the quotation
    mark that closes a string: answers of some tens of tokens, each of its own length.
    """
    template = load_template("books", "item_profile")
    tokenizer = make_tokenizer([template.system, template.user, *_WORDS], StandinConfig(vocab_size=1024))
    tokenizer.chat_template = _CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 4.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[tokenizer.convert_tokens_to_ids('"'), 0] = _CURTNESS
    model.save_pretrained(folder)
    return str(folder)
