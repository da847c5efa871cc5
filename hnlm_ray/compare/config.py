"""A comparison's file: an ordinary run config with a section `compare`."""

import difflib
import json
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from hnlm_ray.config import RunConfig, load_with_section
from hnlm_ray.errors import UserError
from hnlm_ray.settings import Section, operational
from hnlm_ray.sweep.config import MONITOR, SEARCHED_SECTION, Dimension, SweepConfig, with_point
from hnlm_ray.sweep.space import decode, draws

Kind = Literal["classical", "hnlm", "control", "rival", "outsider"]
K = 20
"""The cut-off of the metrics that the table shows and tests."""
_EXAMPLE = "configs/compare/xrec_amazon_text.yaml"
_SET_SECTIONS = ("train", "profile", "negative", "finetune", "embed", "encoder", "text")
"""Sections that a row may change. Data and warm-up signal are the same for all rows."""
_FIRST_DRAWS = 60
_DRAWS_PER_TRIAL = 20


class RowConfig(Section):
    """One method of the table."""

    name: str = Field(pattern=r"^[\w.+=-]+$")
    """What the table calls it."""
    kind: Kind
    """`classical` sampler; `hnlm` variant; `control` of an hnlm row; `rival` that uses text; `outsider`."""
    set: dict[str, Any] = Field({})
    """Dotted keys and values on top of the file's own, such as `train.sampler.kind: dns`."""
    space: dict[str, Dimension] = Field({})
    """Dotted keys below `train.` that are tuned on validation; empty: nothing is."""
    of: str = ""
    """Of a control: the hnlm row whose settings, those it was tuned to included, it takes over before its own `set`."""

    @model_validator(mode="after")
    def _check(self) -> "RowConfig":
        for key in self.set:
            if key.partition(".")[0] not in _SET_SECTIONS or "." not in key:
                raise ValueError(f"set: {key!r} is not accepted: keys begin with {', '.join(_SET_SECTIONS)} and a dot")
        for key in self.space:
            if not key.startswith(f"{SEARCHED_SECTION}."):
                raise ValueError(f"space: {key!r} cannot be tuned; accepted: keys that begin with 'train.'")
        if MONITOR in {*self.set, *self.space}:
            raise ValueError(
                f"{MONITOR!r} cannot differ: it is the metric that ranks settings and rows; set it for all"
            )
        if bool(self.of) != (self.kind == "control"):
            raise ValueError(f"of={self.of!r} with kind={self.kind!r}: a control names its hnlm row, no other row does")
        if self.of and self.space:
            raise ValueError("space: a control takes over the tuned settings of its row and is not tuned itself")
        return self


class CompareConfig(Section):
    """What is compared, and with which budget."""

    rows: list[RowConfig] = Field(min_length=1)
    """The methods, in the order of the table; or the name of a file beside this one that lists them."""
    trials: int = Field(8, ge=1)
    """Settings that every row with a space tries on validation: the same number for each, drawn at random."""
    tune_seed: int = Field(1000, ge=0)
    """Seed of the draws and of the training of every trial."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2, 3, 4], min_length=1)
    """Seeds with which each row is trained at its best setting, and tested, once each."""
    max_negatives: int = Field(50_000, ge=1)
    """Training pairs of each run whose chosen negatives are looked at for false ones."""
    cpus_per_run: float = operational(1.0, gt=0)
    """CPUs that a training reserves, also its threads; a fraction packs several on one CPU."""
    gpus_per_run: float = operational(0.0, ge=0)
    """GPUs that a training reserves; a fraction packs several on one GPU."""

    @model_validator(mode="after")
    def _check(self) -> "CompareConfig":
        kinds = {row.name: row.kind for row in self.rows}
        if len(kinds) < len(self.rows):
            names = [row.name for row in self.rows]
            raise ValueError(f"rows: {next(name for name in names if names.count(name) > 1)!r} is named twice")
        for row in self.rows:
            if row.of and kinds.get(row.of) != "hnlm":
                accepted = ", ".join(name for name, kind in kinds.items() if kind == "hnlm") or "none in this file"
                raise ValueError(f"rows: {row.name!r} is a control of {row.of!r}; accepted: hnlm rows ({accepted})")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} names one twice")
        if self.tune_seed in self.seeds:
            raise ValueError(
                f"tune_seed={self.tune_seed} is one of seeds: settings would be chosen on a run that counts"
            )
        return self

    def row(self, name: str) -> RowConfig:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def load_compare(path: str | Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, CompareConfig]:
    """Read a comparison's file; `compare.trials=4` overrides the comparison, any other key the run.

    Raises:
        UserError: the file is missing, has no section `compare`, or one of its keys or values is not accepted.
    """
    with_rows = partial(_with_rows, Path(path).parent)
    config, compare = load_with_section(path, overrides, "compare", CompareConfig, _EXAMPLE, with_rows)
    if K not in config.evaluate.ks:
        raise UserError(
            f"config: evaluate.ks={list(config.evaluate.ks)} lacks {K}, at which methods are compared: add it"
        )
    for row in compare.rows:
        row_config(config, compare, row)
        if row.space:
            _check_listed(config, compare, row)
        configs_of(config, compare, row)
    return config, compare


def _check_listed(config: RunConfig, compare: CompareConfig, row: RowConfig) -> None:
    """Every value that a space lists, drawn or not, must be accepted beside some drawn values of its other keys."""
    drawn = _drawn(compare, row)
    listed = [(key, value) for key, dimension in row.space.items() for value in dimension.choice or ()]
    for key, value in listed:
        _check_any(config, compare, row, [{**setting, key: value} for setting in drawn])


def _check_any(config: RunConfig, compare: CompareConfig, row: RowConfig, settings: list[dict[str, Any]]) -> None:
    """One of the settings must be accepted; where none is, the first refusal says why."""
    refusals = []
    for setting in settings:
        try:
            row_config(config, compare, row, setting)
        except UserError as refusal:
            refusals.append(refusal)
        else:
            return
    raise refusals[0]


def _with_rows(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The section with its rows read from the file that it names, if it names one."""
    rows = values.get("rows")
    if not isinstance(rows, str):
        return values
    file = folder / rows
    try:
        return {**values, "rows": yaml.safe_load(file.read_text(encoding="utf-8"))}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"compare.rows={rows!r} is no YAML list of rows beside the config: {reason}") from None


def reduced(compare: CompareConfig, rows: Sequence[str], seeds: Sequence[int], trials: int) -> CompareConfig:
    """The comparison with only some rows or seeds, or fewer trials; what is empty or 0 stays as it is.

    Raises:
        UserError: a row is unknown, a control is named without its row, or seeds or trials are not accepted.
    """
    known = {row.name: row for row in compare.rows}
    for name in rows:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its file names them, {next(iter(known))!r} to begin with"
            raise UserError(f"--rows {name!r} is none of the {len(known)} rows of this comparison: {hint}")
        if known[name].of and known[name].of not in rows:
            raise UserError(f"--rows {name!r} is a control of {known[name].of!r}: name that row as well")
    kept = [row for row in compare.rows if not rows or row.name in rows]
    values = {"rows": kept, "seeds": list(seeds) or compare.seeds, "trials": trials or compare.trials}
    try:
        return CompareConfig.model_validate(compare.model_dump() | {**values, "rows": [r.model_dump() for r in kept]})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        option = f"--trials {trials}" if fault["loc"] == ("trials",) else f"--seeds {','.join(map(str, seeds))}"
        raise UserError(f"{option} is not accepted: {fault['msg'].removeprefix('Value error, ')}") from None


def settings_of(compare: CompareConfig, row: RowConfig) -> list[dict[str, Any]]:
    """The settings that a row tries, a control's those of its row: as many for each, fewer only where its space holds
    no more. Those of fewer trials are the first of those of more.
    """
    tuned = compare.row(row.of) if row.of else row
    return _drawn(compare, tuned)[: compare.trials] if tuned.space else [{}]


def _drawn(compare: CompareConfig, row: RowConfig) -> list[dict[str, Any]]:
    """Distinct settings of a row's space in a fixed order, some more than are tried.

    The first draws count by when they come last, which no number of trials can change; all others by when they come
    first.
    """
    space = SweepConfig(space=row.space, seed=compare.tune_seed)
    num_draws = max(_FIRST_DRAWS, _DRAWS_PER_TRIAL * compare.trials)
    settings = [decode(space, point) for point in islice(draws(space), num_draws)]
    names = [json.dumps(setting, sort_keys=True) for setting in settings]
    first = reversed(dict.fromkeys(reversed(names[:_FIRST_DRAWS])))
    by_name = dict(zip(names, settings, strict=True))
    return [by_name[name] for name in dict.fromkeys([*first, *names])]


def configs_of(config: RunConfig, compare: CompareConfig, row: RowConfig) -> list[RunConfig]:
    """The run config of every setting that a row tries. Raises `UserError` where one is not accepted."""
    return [row_config(config, compare, row, setting) for setting in settings_of(compare, row)]


def row_config(
    config: RunConfig, compare: CompareConfig, row: RowConfig, tuned: dict[str, Any] | None = None
) -> RunConfig:
    """The run config of a row. A control: its row's, that row's `tuned` setting, then the control's own switch."""
    values = compare.row(row.of).set if row.of else {}
    try:
        return with_point(config, {**values, **(tuned or {}), **row.set} if row.of else {**row.set, **(tuned or {})})
    except UserError as error:
        at = f" at {tuned}" if tuned else ""
        raise UserError(f"compare.rows {row.name!r}{at}: {error}") from None
