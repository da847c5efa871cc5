"""Stage `profile`: P_i for every item, then P_u for every user from training interactions and P_i (METHOD.md, 1)."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hnlm_ray.generate.build_inputs import build_item_inputs, build_user_inputs, is_large
from hnlm_ray.generate.composed import compose_all
from hnlm_ray.generate.engines import EngineGroup
from hnlm_ray.generate.prompting import load_template
from hnlm_ray.generate.unit_worker import TextTask
from hnlm_ray.generate.units import TaskSummary, check_failures, run_task
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from hnlm_ray.config import RunConfig
    from hnlm_ray.pipeline import StageContext


def generator_group(ctx: "StageContext") -> EngineGroup:
    """The engines of `llm.model`; `stand-in` is made from the data set first, where it does not stand yet."""
    model = ctx.config.llm.model
    if model == "stand-in":
        from hnlm_ray.demo.standin import standin_dir

        model = standin_dir(ctx.config.llm.standin, ctx.input("dataset"), progress=ctx.progress)
        if not ctx.config.runtime.is_local():
            model = _for_every_node(Path(model), ctx.run_dir.folder)
    return ctx.engines.generator(model)


def _for_every_node(model: Path, run_dir: Folder) -> str:
    """The driver's folder `model` as one in the run directory, where engines on other machines find it."""
    copy = run_dir.child("standin", model.name)
    if not copy.exists("complete.json"):
        copy.upload(model)
        copy.write_json("complete.json", {"from": model.name})
    return copy.uri


def profile_task(config: "RunConfig", part: Literal["items", "users"], inputs: Folder, outputs: Folder) -> TextTask:
    """What is asked about items, and about users."""
    profile = config.profile
    prompt, kind, id_column = {
        "items": (profile.item_prompt, "item_profile", "item_id"),
        "users": (profile.user_prompt, "user_profile", "user_id"),
    }[part]
    return TextTask(
        template=load_template(prompt, kind),
        id_columns=(id_column,),
        inputs=inputs,
        outputs=outputs,
        max_words=profile.max_words,
        max_prompt_tokens=profile.max_prompt_tokens,
        max_new_tokens=profile.max_new_tokens,
        max_entry_words=profile.max_entry_words,
        temperature=config.llm.temperature,
        seed=config.llm.seed,
    )


def run(ctx: "StageContext") -> dict[str, Any]:
    """Write `profiles/items` and `profiles/users`; a run that was cut goes on with the units that are missing."""
    llm, profile = ctx.config.llm, ctx.config.profile
    dataset, out = ctx.input("dataset"), ctx.out("profiles")
    large = is_large(dataset)
    group = generator_group(ctx) if llm.engine != "none" else None
    started = time.monotonic()

    def write(part: Literal["items", "users"]) -> TaskSummary:
        task = profile_task(ctx.config, part, out.child("inputs", part), out.child(part))
        if group is None:
            [id_column] = task.id_columns
            return compose_all(task.inputs, task.outputs, id_column, profile.max_words, llm, ctx.progress, part)
        return run_task(task, group, llm, ctx.progress, part, ctx.run.say)

    build_item_inputs(dataset, out.child("inputs", "items"), profile, llm, large)
    item_summary = write("items")
    check_failures(item_summary, "item profiles", profile.max_failed_fraction, "profile.max_failed_fraction")

    build_user_inputs(dataset, out, out.child("inputs", "users"), profile, llm, large)
    user_summary = write("users")
    check_failures(user_summary, "user profiles", profile.max_failed_fraction, "profile.max_failed_fraction")
    summary = summary_of({"items": item_summary, "users": user_summary}, time.monotonic() - started)
    if group is None:
        summary["headline"] += ", composed from the catalogue without a generator"
    return summary | _quality(ctx, dataset, out, summary["headline"])


def _quality(ctx: "StageContext", dataset: Folder, profiles: Folder, headline: str) -> dict[str, Any]:
    """Whether the profiles name the right genres, where the truth is known: in the built-in catalogue."""
    if ctx.config.data.format != "synthetic":
        return {}
    from hnlm_ray.demo.quality import profile_quality, quality_line

    quality = profile_quality(dataset, profiles)
    return {"quality": quality, "headline": f"{headline}; {quality_line(quality)}"}


def summary_of(tasks: dict[str, TaskSummary], total_s: float) -> dict[str, Any]:
    """What the manifest and the report say of a stage's LLM tasks."""
    rows = sum(task.rows for task in tasks.values())
    failed = sum(task.failed for task in tasks.values())
    asked = sum(task.asked_rows for task in tasks.values())
    ready_s = sum(task.engine_ready_s for task in tasks.values())
    words = " + ".join(f"{task.rows} {name}" for name, task in tasks.items())
    speed = f", {asked / max(total_s - ready_s, 1e-9):.1f} rows/s" if asked else ""
    return {
        "headline": f"{words}, {failed} failed{speed}",
        "rows": rows,
        "failed": failed,
        "engine_ready_s": round(ready_s, 2),
        "generation_s": round(total_s - ready_s, 2),
        "tasks": {name: task.as_json() for name, task in tasks.items()},
    }
