"""The root config: one YAML file, dotted overrides, unknown keys refused with the nearest name.

Every section lives beside the code it configures; a docstring under each field documents the key, and a default
stands there and nowhere else. Files in `configs/` state only what differs.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from hnlm_ray.errors import UserError
from hnlm_ray.finetune.config import EmbedConfig, EncoderConfig, FinetuneConfig
from hnlm_ray.generate.config import LLMConfig, NegativeConfig, ProfileConfig
from hnlm_ray.ingest.config import DataConfig
from hnlm_ray.recommend.config import EvaluateConfig, SignalConfig, TextConfig, TrainConfig
from hnlm_ray.report.config import ReportConfig
from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.settings import Section, operational

SectionT = TypeVar("SectionT", bound=Section)


class RunConfig(Section):
    """One run of the pipeline."""

    name: str = operational("run")
    """Name of the run; its directory is `runs/<name>` where none is given. Default: the config file's name."""
    seed: int = Field(0, ge=0)
    """Seed of splits, training and sampling."""
    data: DataConfig = DataConfig()
    """Where interactions and item text come from, how they are filtered and split."""
    llm: LLMConfig = LLMConfig()
    """The generator: the model that writes profiles and hard negatives."""
    encoder: EncoderConfig = EncoderConfig()
    """The encoder: the model that is fine-tuned and embeds."""
    profile: ProfileConfig = ProfileConfig()
    """Profiles of items and users."""
    signal: SignalConfig = SignalConfig()
    """The warm-up recommender whose embeddings are the collaborative signal."""
    negative: NegativeConfig = NegativeConfig()
    """Text negatives and their grounding."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Triplets and the encoder's fine-tune under collaborative signals."""
    embed: EmbedConfig = EmbedConfig()
    """Hard-negative embeddings of training pairs."""
    text: TextConfig = TextConfig()
    """Vectors of item and user texts, for the models that read text."""
    train: TrainConfig = TrainConfig()
    """The recommender, trained with hard negatives."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Metrics on held-out data."""
    report: ReportConfig = ReportConfig()
    """What the report shows."""
    runtime: RuntimeConfig = operational(RuntimeConfig())
    """Where it runs and what it may use; never part of a result."""

    @model_validator(mode="after")
    def _pairs_that_are_read_are_embedded(self) -> "RunConfig":
        hnlm = self.train.hnlm
        reads_pairs = hnlm.variant == "aligned" or (
            hnlm.variant in ("grounded", "hybrid") and hnlm.pool_source == "embeddings"
        )
        if self.embed.max_pairs_per_user == 0 and reads_pairs:
            raise ValueError(
                f"embed.max_pairs_per_user=0 embeds items alone, and train.hnlm.variant={hnlm.variant!r} reads the "
                "vectors of pairs: set it to 1 or more, or to null for all"
            )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML config and apply overrides such as `train.epochs=5`.

    Raises:
        UserError: the file is missing or no mapping, a key is unknown, or a value is not accepted.
    """
    values = read_values(path)
    for override in overrides:
        apply_override(values, override)
    return parse_config(values)


def read_values(path: str | Path) -> dict[str, Any]:
    """The plain values of a config file; `name` is the file's own where it gives none. Raises `UserError`."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"config {str(path)!r} does not exist: give a YAML file such as configs/quickstart.yaml")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {str(path)!r} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"config {str(path)!r} holds a {type(values).__name__}: a mapping of sections is expected")
    values.setdefault("name", file.stem)
    return values


def load_with_section(
    path: str | Path,
    overrides: Sequence[str],
    section: str,
    model: type[SectionT],
    example: str,
    prepared: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> tuple[RunConfig, SectionT]:
    """Read a run config with one more section: `<section>.key=value` overrides that section, any other key the run.

    `prepared`: what the section's plain values become before they are checked.

    Raises:
        UserError: the file is missing, has no such section, or one of its keys or values is not accepted.
    """
    values = read_values(path)
    if section not in values:
        raise UserError(f"config {str(path)!r} has no section `{section}`: see {example}")
    for override in overrides:
        apply_override(values, override)
    own = values.pop(section)
    if not isinstance(own, dict):
        raise UserError(f"config: {section}={own!r} is not accepted: it is a section of keys, see {example}")
    config = parse_config(values)
    try:
        return config, model.model_validate(prepared(own))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join([section, *map(str, first["loc"])])
        raise UserError(f"config: {key}: {first['msg'].removeprefix('Value error, ')}") from None


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Validate plain values. Raises `UserError` with the first fault in words."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(_in_words(error)) from None


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set the key of one `KEY=VALUE` in nested plain values. Raises `UserError` where it is no such pair."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override!r} is not understood: write KEY=VALUE, for example train.epochs=5")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise UserError(f"--set {override!r}: {text!r} is no valid YAML value; quote it if it is text") from None
    *parents, leaf = key.strip().split(".")
    node = values
    for depth, parent in enumerate(parents):
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"--set {override!r}: {'.'.join(parents[: depth + 1])} is a value, not a section")
    node[leaf] = value


def _in_words(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    first = faults[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        words = _unknown_key(key)
    elif first["type"] == "value_error" and "ctx" in first:
        words = str(first["ctx"]["error"])
        words = words if not key or words.startswith(key) else f"{key}: {words}"
    else:
        words = f"{key}={first['input']!r} is not accepted: {first['msg']}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"config: {words}{more}"


def _unknown_key(key: str) -> str:
    *parents, leaf = key.split(".")
    model: type[BaseModel] = RunConfig
    for parent in parents:
        model = _nested_model(model, parent)
    known = list(model.model_fields)
    nearest = difflib.get_close_matches(leaf, known, n=1, cutoff=0.5)
    here = ".".join(parents) or "the top level"
    hint = f"did you mean {'.'.join([*parents, nearest[0]])!r}?" if nearest else f"{here} has: {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


def _nested_model(model: type[BaseModel], name: str) -> type[BaseModel]:
    annotation = model.model_fields[name].annotation
    candidates = [annotation, *get_args(annotation)]
    return next(kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel))
