"""Faults on a cluster of a head and three nodes: every run must end as the undisturbed one did.

The pipeline runs once undisturbed. Then, fault by fault, a copy of that run is put back to the start of one stage, the
stage runs again, and at a seeded moment of it something is killed. Its tables are compared row by row with those of the
undisturbed run, number by number: what follows from equal tables is equal, since every stage is a function of its
inputs. Real engines (vLLM, the stand-in and MiniLM) and real Ray Train workers; engines live across tries unless they
are what is killed.
"""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from hnlm_ray.bench.fault_cluster import FaultCluster
from hnlm_ray.bench.frame import Bar, BenchOptions, Measurement
from hnlm_ray.bench.same_tables import Differences, differences, in_all
from hnlm_ray.config import RunConfig, load_config
from hnlm_ray.pipeline import Run, plan, run_stages
from hnlm_ray.runtime import set_environment
from hnlm_ray.store import RunDir

Fault = Literal[
    "none",
    "node killed",
    "engine killed",
    "training worker killed",
    "driver killed",
    "object store filled",
    "node joins late",
]
_NUM_NODES = 3
_CONFIG: dict[str, Any] = {
    "data": {"format": "synthetic", "engine": "ray", "synthetic": {"num_users": 60, "num_items": 40}},
    "llm": {"standin": {"num_steps": 150, "min_genre_accuracy": 0.3}, "num_threads": 2, "unit_rows": 16},
    "encoder": {"max_length": 64},
    "negative": {"max_pairs_per_user": 1},
    "signal": {"epochs": 6},
    "finetune": {"max_triplets": 64, "batch_size": 8, "epochs": 2},
    "embed": {"max_pairs_per_user": 3, "unit_rows": 32},
    "train": {"epochs": 6},
    "runtime": {"train_workers": 1},
}
_AT_WORK = {
    "ingest": "ray::Map(",
    "signal": "TrainWorker",
    "profile": "EngineHost",
    "negative": "EngineHost",
    "finetune": "TrainWorker",
    "embed": "EngineHost",
    "train": "TrainWorker",
    "evaluate": "ray::",  # the driver's own work: any node that has something on it
}
"""Stage -> what the processes are called that do its work: the node of one of them is killed."""
_TURNS: dict[Fault, tuple[str, ...]] = {
    "engine killed": ("profile", "embed", "negative"),
    "training worker killed": ("train", "finetune", "signal"),
    "driver killed": ("train", "profile", "finetune"),
    "object store filled": ("profile", "ingest", "embed"),
    "node joins late": ("embed", "profile", "signal"),
}
"""Faults that strike one stage per repetition, and which."""
_LONGEST_STAGE_S = 300.0
_STRIKES = 3


@dataclass(frozen=True)
class Try:
    """One fault in one stage."""

    fault: Fault
    stage: str
    struck: bool
    """False: the stage was over before the moment came, each time."""
    seconds: float
    found: Differences


def measure(options: BenchOptions) -> Measurement:
    """All faults, `options.repeats` times over, each time in other stages (`options.seed` is the first turn)."""
    set_environment()
    os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")  # a busy machine is not a dead node
    tries: list[Try] = []
    with tempfile.TemporaryDirectory(prefix="hf") as scratch:
        cluster = FaultCluster(_NUM_NODES)
        try:
            bench = _Bench(Path(scratch), cluster)
            undisturbed = bench.undisturbed()
            for stage in _AT_WORK:  # the first time they also waited for engines, the stand-in and imports
                tries.append(bench.strike("none", stage, 0.0, random.Random(0)))
                undisturbed[stage] = tries[-1].seconds
            for repeat in range(options.repeats):
                for fault, stage in _program(options.seed + repeat, options.quick):
                    randomness = random.Random(f"{options.seed + repeat}/{fault}/{stage}")
                    tries.append(bench.strike_in_time(fault, stage, undisturbed[stage], randomness))
                    print(_row([tries[-1]], undisturbed), flush=True)
            bench.close()
        finally:
            cluster.close()
    return _measurement(tries, undisturbed)


def _program(turn: int, quick: bool) -> list[tuple[Fault, str]]:
    """The faults of one repetition; two of them kill a node in every stage."""
    nodes: list[tuple[Fault, str]] = [("node killed", stage) for stage in list(_AT_WORK)[turn % 2 :: 2]]
    others = [(fault, stages[turn % len(stages)]) for fault, stages in _TURNS.items()]
    return nodes[:1] if quick else nodes + others


class _Bench:
    """The undisturbed run and copies of it that are put back to a stage."""

    def __init__(self, scratch: Path, cluster: FaultCluster) -> None:
        self._scratch = scratch
        self._cluster = cluster
        self._config_file = scratch / "shop.yaml"
        values = {**_CONFIG, "runtime": {**_CONFIG["runtime"], "address": cluster.address}}
        self._config_file.write_text(yaml.safe_dump(values))
        self._config: RunConfig = load_config(str(self._config_file), [])
        self._terminal = _Watch()
        self._run = Run(self._config, self._terminal)
        self._expected = scratch / "expected"
        self._num_tries = 0

    def undisturbed(self) -> dict[str, float]:
        """Run everything; seconds of each stage."""
        run_dir = RunDir(self._expected)
        run_stages(self._config, run_dir, plan(self._config, run_dir, "evaluate"), self._run)
        return {stage: versions[-1].seconds for stage, versions in run_dir.entries().items()}

    def strike_in_time(self, fault: Fault, stage: str, usual_s: float, randomness: random.Random) -> Try:
        """`strike`, and again sooner where the stage was over before the moment came."""
        for _ in range(_STRIKES):
            tried = self.strike(fault, stage, usual_s, randomness)
            if tried.struck:
                break
            usual_s /= 2
        return tried

    def strike(self, fault: Fault, stage: str, usual_s: float, randomness: random.Random) -> Try:
        """Do `stage` again and let `fault` happen in it."""
        self._num_tries += 1
        run_dir = self._put_back_to(stage, self._scratch / f"try{self._num_tries}")
        after_s = randomness.uniform(0.2, 0.7) * usual_s
        if fault == "driver killed":
            struck, seconds = self._kill_the_driver(run_dir, stage, after_s)
        else:
            struck, seconds = self._disturb(fault, run_dir, stage, after_s, randomness)
        found = [
            differences(self._expected / path, Path(run_dir.folder.path) / path)
            for path in run_dir.entries()[stage][-1].artifacts.values()
        ]
        return Try(fault, stage, struck, seconds, in_all(found))

    def close(self) -> None:
        """End the engines."""
        self._run.close()

    def _put_back_to(self, stage: str, target: Path) -> RunDir:
        """A copy of the undisturbed run in which `stage` and what follows it are yet to be done."""
        shutil.copytree(self._expected, target)
        manifest = json.loads((target / "manifest.json").read_text())
        names = list(manifest["stages"])
        for later in names[names.index(stage) :]:
            for path in manifest["stages"].pop(later)[-1]["artifacts"].values():
                shutil.rmtree(target / path)
        (target / "manifest.json").write_text(json.dumps(manifest))
        return RunDir(target)

    def _disturb(
        self, fault: Fault, run_dir: RunDir, stage: str, after_s: float, randomness: random.Random
    ) -> tuple[bool, float]:
        if fault == "node joins late":
            self._cluster.remove_nodes(_NUM_NODES - 1)
        deeds: dict[Fault, Callable[[], Any]] = {
            "node killed": lambda: self._cluster.kill_node(_AT_WORK[stage], randomness),
            "engine killed": lambda: self._cluster.kill_process("EngineHost", randomness),
            "training worker killed": lambda: self._cluster.kill_process("TrainWorker", randomness),
            "object store filled": self._cluster.fill_object_stores,
            "node joins late": self._let_nodes_join,
            "none": lambda: True,
        }

        def work() -> None:
            run_stages(self._config, run_dir, plan(self._config, run_dir, stage), self._run)

        struck = _during(work, self._terminal, stage, after_s, deeds[fault])
        return bool(struck), run_dir.entries()[stage][-1].seconds

    def _let_nodes_join(self) -> bool:
        self._cluster.add_nodes(_NUM_NODES - 1)
        return True

    def _kill_the_driver(self, run_dir: RunDir, stage: str, after_s: float) -> tuple[bool, float]:
        """The run as a process of its own: killed in the stage, then the same command again."""
        command = [sys.executable, "-m", "hnlm_ray.cli", "run", str(self._config_file), "--until", stage]
        command += ["--run-dir", run_dir.folder.path]
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
            assert driver.stdout
            struck = any(_begun(line) == stage for line in driver.stdout)
            time.sleep(after_s)
            struck = struck and driver.poll() is None
            driver.kill()
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_STAGE_S, check=False)
        if done.returncode:
            raise RuntimeError(f"the run did not go on: {(done.stdout + done.stderr)[-3000:]}")
        return struck, time.monotonic() - started


class _Watch(io.StringIO):
    """Where a run prints; knows which stage began last."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = ""

    def write(self, text: str) -> int:
        self.stage = _begun(text) or self.stage
        return len(text)


def _during(work: Callable[[], None], watch: _Watch, stage: str, after_s: float, deed: Callable[[], Any]) -> list[Any]:
    """While `work` is done: wait for `stage`, then `after_s`, then until `deed` finds something to do.

    Returns what it did; nothing, where the stage was over before. The work has a thread of its own, since a node can
    be started from the main thread alone.
    """
    done: list[Any] = []
    watch.stage = ""
    with ThreadPoolExecutor(1, thread_name_prefix="stage") as pool:
        working = pool.submit(work)
        while watch.stage != stage and not working.done():
            time.sleep(0.05)
        wait([working], after_s)
        while not working.done() and not done:
            done.extend([result] if (result := deed()) else [])
            wait([working], 0.1)
        working.result()
    return done


def _begun(line: str) -> str:
    match = re.match(r"\[\d+/\d+\] (\w+)(: goes on)?$", line.strip())
    return match[1] if match else ""


def _measurement(tries: list[Try], undisturbed: dict[str, float]) -> Measurement:
    kinds = list(dict.fromkeys((each.fault, each.stage) for each in tries))
    groups = [[each for each in tries if (each.fault, each.stage) == kind] for kind in kinds]
    figures: dict[str, float] = {
        "tries": len(tries),
        "struck": sum(each.struck for each in tries),
        "rows_compared": sum(each.found.rows for each in tries),
    }
    figures |= {f"undisturbed_{stage}_s": seconds for stage, seconds in undisturbed.items()}
    bars = [
        Bar("rows_lost", sum(each.found.lost for each in tries), 0, better="lower"),
        Bar("rows_done_twice", sum(each.found.twice for each in tries), 0, better="lower"),
        Bar("largest_difference", max(each.found.largest for each in tries), 0, better="lower"),
    ]
    head = "| fault | stage | tried | rows lost | rows done twice | extra seconds |"
    return Measurement(figures, bars, [head, "|" + " --- |" * 6, *(_row(group, undisturbed) for group in groups)])


def _row(tries: list[Try], undisturbed: dict[str, float]) -> str:
    first = tries[0]
    extra = sorted(each.seconds - undisturbed[first.stage] for each in tries)
    lost, twice = (sum(getattr(each.found, name) for each in tries) for name in ("lost", "twice"))
    struck = sum(each.struck for each in tries)
    seconds = " to ".join(f"{value:.0f}" for value in dict.fromkeys((extra[0], extra[-1])))
    return f"| {first.fault} | {first.stage} | {struck} | {lost} | {twice} | {seconds} |"
