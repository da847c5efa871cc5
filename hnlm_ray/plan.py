"""What a run will do and what it needs, before any of it happens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hnlm_ray.config import RunConfig
from hnlm_ray.errors import UserError
from hnlm_ray.finetune.tuned import encoder_folder
from hnlm_ray.generate.chat import check_on_hub, has_tokenizer
from hnlm_ray.ingest.source import plan_counts
from hnlm_ray.pipeline import PlannedStage
from hnlm_ray.runtime import Demand, Resources
from hnlm_ray.store import RunDir

_PROCESS_GB = 2.0
"""A Python process with torch or vLLM and a small model, measured."""
_TEXT_STAGES = ("profile", "negative")
_TASKS = {"profile": ("items", "users"), "negative": ("pairs",)}
_VECTOR_STAGES = ("embed", "text")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt")


def check_models(config: RunConfig) -> None:
    """Refuse model folders that are not there or not whole, before anything starts.

    Raises:
        UserError: a path is no folder, or has no config or no tokenizer. A Hub name is not looked up: `check_encoder`.
    """
    if config.llm.engine == "vllm":
        _check_model("llm.model", config.llm.model, "stand-in")
    _check_model("encoder.model", config.encoder.model, "minilm")


def _check_model(key: str, model: str, built_in: str) -> None:
    folder = encoder_folder(model) if key == "encoder.model" else Path(model).expanduser()
    if model == built_in or not (folder.exists() or model.startswith((".", "/", "~"))):
        return
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{key} {model!r} is no model folder (no config.json): give {built_in!r}, a folder or a Hub name"
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"{key} {model!r} has no tokenizer ({' or '.join(_TOKENIZER_FILES)}): save one beside the model"
        )


def check_encoder(config: RunConfig, planned: Sequence[PlannedStage]) -> None:
    """Refuse an encoder that the Hub does not give, where a stage is left that reads one: it would be missed only after
    all of the generation. A generator is missed before it has cost anything.

    Raises:
        UserError: there is no model of this name, or no way to the Hub and no copy on this machine.
    """
    model = config.encoder.model
    if model == "minilm" or encoder_folder(model).exists():
        return
    if any("encoder" in item.stage.sections and item.state != "done" for item in planned):
        check_on_hub("encoder.model", model)


def generator(config: RunConfig) -> str:
    """The generator by name, or in words that there is none."""
    if config.llm.engine == "none":
        return "none (texts are composed from the catalogue, no text negatives, no cost)"
    return config.llm.model


def demands(config: RunConfig, planned: Sequence[PlannedStage]) -> list[Demand]:
    """What each part of the plan needs at one time, for those stages that still have to run.

    Raises:
        UserError: a batch of the fine-tune cannot be shared by a number of workers that its group may have.
    """
    todo = {item.stage.name for item in planned if item.state != "done"}
    parts, llm, runtime = [], config.llm, config.runtime
    if todo & set(_TEXT_STAGES) and llm.engine == "vllm":
        what = f"the generator ({llm.replicas[0]} x {llm.model})"
        parts.append(_engine_demand(config, what, llm.gpus_per_replica))
    elif todo & set(_VECTOR_STAGES):
        what = f"the encoder ({llm.replicas[0]} x {config.encoder.model})"
        gpus = min(1.0, llm.gpus_per_replica)
        parts.append(_engine_demand(config, what, gpus))
    if todo & {"signal", "finetune", "train"}:
        fewest, most = runtime.train_group()
        if "finetune" in todo:
            for num_workers in range(max(1, fewest), most + 1):
                config.finetune.check_shares(num_workers)
        workers = max(1, fewest)
        gpus = workers if runtime.use_gpu else 0
        needed = Resources(workers * runtime.cpus_per_train_worker, gpus, workers * _PROCESS_GB, 0)
        parts.append(Demand(f"training with {workers} worker(s)", needed, fewest))
    if todo:
        parts.append(Demand("the artifacts", Resources(1, 0, _PROCESS_GB, _disk_gb(config))))
    return parts


def _engine_demand(config: RunConfig, what: str, gpus: float) -> Demand:
    llm, replicas = config.llm, config.llm.replicas[0]
    memory_gb = llm.memory_gb or _PROCESS_GB + (0 if gpus else llm.kv_cache_gb + _weights_gb(llm.model))
    needed = Resources(replicas * llm.cpus_per_replica, replicas * gpus, replicas * memory_gb, 0)
    return Demand(what, needed, replicas, llm.accelerator, llm.memory_gb)


def _weights_gb(model: str) -> float:
    folder = Path(model).expanduser()
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9 if folder.is_dir() else 0.0


def _disk_gb(config: RunConfig) -> float:
    """Upper estimate: z in float16 per training pair, text of every row, twice for the copies in between."""
    counts = plan_counts(config.data)
    pairs, users, per_user = counts["interactions"] or 0, counts["users"], config.embed.max_pairs_per_user
    embedded = min(pairs, per_user * users) if per_user is not None and users else pairs
    return 0.5 + 2 * (embedded * 2 * (config.embed.r or 4096) + pairs * 1000) / 1e9


def describe(config: RunConfig, planned: Sequence[PlannedStage], present: Resources) -> str:
    """The plan in words: stages and their states, rows and prompts, resources needed against those present."""
    counts = plan_counts(config.data)
    lines = [
        f"plan for {config.name}: data {config.data.path or config.data.format}, generator {generator(config)}, "
        f"encoder {config.encoder.model}"
    ]
    lines += ["", f"  {'stage':<10} {'state':<8} rows"]
    lines += [f"  {item.stage.name:<10} {item.state:<8} {_rows(item.stage.name, config, counts)}" for item in planned]
    lines += ["", f"  {'needed at one time':<48} {'CPUs':>6} {'GPUs':>6} {'GB memory':>10} {'GB disk':>8}"]
    for demand in demands(config, planned):
        lines.append(f"  {demand.what:<48} {_numbers(demand.resources)}")
    lines.append(f"  {'present':<48} {_numbers(present)}")
    return "\n".join(lines)


def costs(config: RunConfig, planned: Sequence[PlannedStage], run_dir: RunDir) -> str:
    """What the LLM stages that still have to run will cost, in words; empty where none has to."""
    llm, todo = config.llm, {item.stage.name for item in planned if item.state != "done"}
    parts = [part for stage, part in _TASKS.items() if stage in todo]
    if llm.engine == "none" or not parts:
        return ""
    ingested = next((item.entry for item in planned if item.stage.name == "ingest" and item.state == "done"), None)
    if ingested is None:
        return "  LLM cost: known with the data set (stage ingest), and from the first rows of each task"
    tokenizer = llm.tokenizer or llm.model
    if not has_tokenizer(tokenizer):
        return f"  LLM cost: known with the tokenizer of {tokenizer}, which is not on this machine yet"
    from hnlm_ray.generate.forecast import forecast  # loads the tokenizer's library

    expected = forecast(config, run_dir.folder.child(ingested.artifacts["dataset"]))
    lines = [f"  LLM cost of {part:<24} {expected[part].in_words()}" for names in parts for part in names]
    if llm.engine == "vllm" and not llm.price.tokens_per_s:
        lines.append("  hours and price: set llm.price.tokens_per_s, or see the estimate of each task's first rows")
    return "\n".join(lines)


def _numbers(resources: Resources) -> str:
    return f"{resources.cpus:>6g} {resources.gpus:>6g} {resources.memory_gb:>10.1f} {resources.disk_gb:>8.1f}"


def _rows(stage: str, config: RunConfig, counts: dict[str, Any]) -> str:
    """What a stage works on, before filters: upper bounds from the raw counts."""
    users, items, pairs = (counts[name] for name in ("users", "items", "interactions"))

    def at_most(value: int | None, what: str) -> str:
        return f"up to {value:,} {what}" if value is not None else f"{what}: known after ingest"

    negative, per_user = config.negative, config.negative.max_pairs_per_user
    asked = pairs if negative.pairs == "all" or users is None or pairs is None else min(pairs, users * per_user)
    asked = min(asked, negative.max_pairs) if asked is not None and negative.max_pairs else asked
    cap = config.embed.max_pairs_per_user
    embedded = pairs if cap is None or pairs is None or users is None else min(pairs, users * cap)
    prompts = users + items if users is not None and items is not None else None
    writes = config.llm.engine != "none"
    learnt = f"at most {config.finetune.max_triplets or 'all'} triplets"
    learnt = at_most(users, "users' items") if config.finetune.loss == "taste" else learnt
    rows = {
        "ingest": at_most(pairs, "interactions"),
        "signal": f"{config.signal.epochs} epochs at most",
        "profile": at_most(prompts, "prompts (items and users)" if writes else "composed texts, no prompts"),
        "negative": at_most(asked, "prompts (user-item pairs)") if writes else at_most(items, "items, no prompts"),
        "finetune": f"{config.finetune.epochs} epochs over {learnt}",
        "embed": at_most(embedded, "texts (training pairs)") if cap != 0 else at_most(items, "texts (items)"),
        "text": at_most(prompts if config.text.source == "profiles" else items, "texts"),
        "train": f"{config.train.epochs} epochs at most",
    }
    return rows.get(stage, "")
