"""Benchmark `embed`: the stage's units (texts, dispatcher, engine host, shards) against bare vLLM `embed`, MiniLM.

Both sides embed the q of the same pairs in the same precision on the same threads, and both tokenise. Ours also writes
the texts from the artifacts and the shards; start-up of either engine is not timed.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement, paired_values
from hnlm_ray.bench.pair_data import write_pair_data

_MAX_LENGTH = 96
_UNIT_ROWS = 256


def measure(options: BenchOptions) -> Measurement:
    """Pairs per second of both sides in turn."""
    from hnlm_ray.config import parse_config
    from hnlm_ray.finetune.encoder import encoder_source, fast_dtype
    from hnlm_ray.finetune.pair_embedder import EmbedTask
    from hnlm_ray.finetune.pairs import PairTexts
    from hnlm_ray.finetune.texts import TextTemplate
    from hnlm_ray.generate.engines import EngineManager
    from hnlm_ray.runtime import connected
    from hnlm_ray.store import Folder

    config = parse_config(
        {
            "llm": {"num_threads": options.threads},
            "encoder": {"max_length": _MAX_LENGTH},
            "runtime": {"address": "local"},
        }
    )
    dtype = str(fast_dtype("cpu")).removeprefix("torch.")
    source, template = encoder_source("minilm"), TextTemplate(_MAX_LENGTH, "neighbors", 3, 8)
    with tempfile.TemporaryDirectory() as folder, connected(config.runtime):
        sources = write_pair_data(Path(folder) / "data", 20 if options.quick else 200, 300, 10, options.seed)
        engines = EngineManager(config)
        try:
            group = engines.encoder(source, pooling="mean", max_length=_MAX_LENGTH, dtype=dtype)
            group.prepare()
            shards = Folder(Path(folder) / "shards")
            task = EmbedTask(sources, template, shards.uri, 384, None, "")
            pairs = Folder(sources.train).read_table()
            texts = PairTexts(sources, template).queries(pairs["user_id"].to_numpy(), pairs["item_id"].to_numpy())
            bare = BareEngine(source, dtype, options.threads)
            speeds = paired_values(lambda: _ours(task, group), lambda: bare.pairs_per_s(texts), options.repeats)
        finally:
            engines.close()
    tokens_per_pair = bare.num_tokens / len(texts)
    figures = {
        "pairs_per_s": speeds.ours,
        "tokens_per_s": speeds.ours * tokens_per_pair,
        "bare_engine_pairs_per_s": speeds.baseline,
        "bare_engine_tokens_per_s": speeds.baseline * tokens_per_pair,
        "tokens_per_pair": tokens_per_pair,
    }
    notes = [f"precision {dtype}", f"ratio of each pair: {[round(1 / pair, 2) for pair in speeds.ratios]}"]
    return Measurement(figures, [Bar("ratio_to_bare_engine", speeds.ratio, 0.9)], notes)


def _ours(task: Any, group: Any) -> float:
    from hnlm_ray.finetune.embed_plan import embed_pairs
    from hnlm_ray.progress import Progress
    from hnlm_ray.store import Folder

    Folder(task.shards).delete()
    progress = Progress("embed")
    started = time.perf_counter()
    reports = embed_pairs(task, group, _UNIT_ROWS, 1, progress)
    seconds = time.perf_counter() - started
    progress.close()
    return sum(report.embedded for report in reports) / seconds


class BareEngine:
    """vLLM as its own documentation uses it, in this process."""

    def __init__(self, source: str, dtype: str, threads: int) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import torch

        torch.set_num_threads(threads)
        from vllm import LLM

        self._llm = LLM(
            source,
            runner="pooling",
            dtype=dtype,
            enforce_eager=True,
            distributed_executor_backend="uni",
            kv_cache_memory_bytes=1 << 28,
            max_num_seqs=256,
            disable_log_stats=True,
        )
        self.num_tokens = 0

    def pairs_per_s(self, texts: list[str]) -> float:
        """Texts per second, tokenisation included."""
        started = time.perf_counter()
        outputs = self._llm.embed(
            texts, use_tqdm=False, tokenization_kwargs={"truncation": True, "max_length": _MAX_LENGTH}
        )
        seconds = time.perf_counter() - started
        self.num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
        return len(texts) / seconds
