"""Paced engines and tasks of titles: what the tests of this folder run without a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import paced_engine
import pyarrow as pa
import ray

from hnlm_ray.generate.engines import EngineGroup, start_dispatcher
from hnlm_ray.generate.hosts import HostPlan
from hnlm_ray.generate.prompting import load_template
from hnlm_ray.generate.protocol import EngineSpec
from hnlm_ray.generate.unit_worker import TextTask
from hnlm_ray.generate.units import commit_inputs
from hnlm_ray.store import Folder

ray.cloudpickle.register_pickle_by_value(paced_engine)  # workers do not see the folders of tests
MakeGroup = Callable[..., EngineGroup]


def paced_plan(**changes: Any) -> HostPlan:
    """Hosts that import nothing and hold a quarter of a CPU."""
    values: dict[str, Any] = {
        "replicas": (1, 1),
        "options": {"num_cpus": 0.25},
        "imports_vllm": False,
        "start_timeout_s": 60.0,
        "unit_timeout_s": 60.0,
        "max_deaths": 20,
        "idle_timeout_s": 60.0,
    }
    return HostPlan(**(values | changes))


def paced_group(plan: HostPlan, row_s: float, started: str = "", gate: str = "") -> EngineGroup:
    """Paced engines behind a dispatcher of their own."""
    spec = EngineSpec("generate", "paced", "paced", engine_args={"row_s": row_s, "started": started, "gate": gate})
    return EngineGroup(start_dispatcher(plan, paced_engine.make_paced_engine), spec, plan)


def title_task(root: Path, titles: list[str], rows_per_unit: int) -> TextTask:
    """Item profiles of rows that have a title and nothing else."""
    inputs, count = Folder(root / "inputs"), len(titles)
    if not inputs.exists("units.json"):
        nothing = pa.nulls(count, pa.list_(pa.string()))
        columns = {
            "item_id": pa.array(range(count), pa.int32()),
            "title": titles,
            "brand": [""] * count,
            "categories": nothing,
            "description": [""] * count,
            "reviews": nothing,
            "source": ["title"] * count,
            "given": pa.nulls(count, pa.string()),
        }
        inputs.write_table("inputs-00000.parquet", pa.table(columns), row_group_size=rows_per_unit)
        commit_inputs(inputs)
    template = load_template("books", "item_profile")
    return TextTask(template, ("item_id",), inputs, Folder(root / "outputs"), 100, 0, max_new_tokens=64)
