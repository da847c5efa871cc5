"""The whole pipeline as a user runs it: the `hnlm` command, each run in a process of its own."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hnlm_ray.pipeline import STAGE_NAMES
from hnlm_ray.store import Folder, RunDir

ROOT = Path(__file__).parents[2]
HNLM = [sys.executable, "-m", "hnlm_ray.cli"]
SMALL = [
    "data.synthetic.num_users=40",
    "data.synthetic.num_items=40",
    "llm.standin.num_steps=150",
    "llm.standin.min_genre_accuracy=0.3",
    "signal.epochs=5",
    "finetune.max_triplets=64",
    "finetune.epochs=1",
    "train.epochs=6",
    "train.model=rlmrec_con",  # LightGCN with an auxiliary loss on texts: every stage there is has its part
    "text.source=profiles",
]
ARGUMENTS = ["run", "configs/quickstart.yaml", *(part for value in SMALL for part in ("--set", value))]
STAGE_BEGINS = re.compile(r"^\[\d+/10\] (\w+)(: goes on)?$")


def hnlm(*arguments: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HNLM, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A complete run."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = hnlm(*ARGUMENTS, "--run-dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "logs" / "run.log").read_text()[-5000:]
    assert done.stdout.splitlines()[-1] == f"report: {folder}/report.html"
    return RunDir(folder)


def artifact(run_dir: RunDir, stage: str, name: str) -> Folder:
    entry = run_dir.current(stage)
    assert entry is not None, f"{stage} is not complete"
    return run_dir.folder.child(entry.artifacts[name])


def test_every_stage_leaves_its_artifacts(undisturbed: RunDir) -> None:
    assert [stage for stage in STAGE_NAMES if undisturbed.current(stage) is None] == []
    dataset, profiles = artifact(undisturbed, "ingest", "dataset"), artifact(undisturbed, "profile", "profiles")
    items, users, train = (dataset.read_table(name) for name in ("items", "users", "train"))
    assert sorted(profiles.read_table("items")["item_id"].to_pylist()) == list(range(items.num_rows))
    assert sorted(profiles.read_table("users")["user_id"].to_pylist()) == list(range(users.num_rows))
    statuses = profiles.read_table("items")["status"].to_pylist()
    assert statuses.count("ok") >= 0.9 * len(statuses)

    z = artifact(undisturbed, "embed", "embeddings").read_table("pairs")
    pairs = set(zip(train["user_id"].to_pylist(), train["item_id"].to_pylist(), strict=True))
    assert set(zip(z["user_id"].to_pylist(), z["item_id"].to_pylist(), strict=True)) == pairs
    vectors = np.stack(z["z"].to_numpy(zero_copy_only=False)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)


def test_hard_negatives_are_never_training_or_held_out_positives(undisturbed: RunDir) -> None:
    dataset = artifact(undisturbed, "ingest", "dataset")
    liked = {
        pair
        for split in ("train", "valid", "test")
        for pair in zip(*(dataset.read_table(split)[name].to_pylist() for name in ("user_id", "item_id")), strict=True)
    }
    train = dataset.read_table("train")
    known = set(zip(train["user_id"].to_pylist(), train["item_id"].to_pylist(), strict=True))
    triplets = artifact(undisturbed, "finetune", "finetune").read_table("triplets")
    hard = set(zip(triplets["user_id"].to_pylist(), triplets["hard_item_id"].to_pylist(), strict=True))
    assert hard
    assert not hard & known
    assert set(zip(triplets["user_id"].to_pylist(), triplets["item_id"].to_pylist(), strict=True)) <= known <= liked


def test_the_report_holds_what_was_measured(undisturbed: RunDir) -> None:
    report = undisturbed.folder.read_json("report.json")
    assert report["timing"]["run_s"] > report["timing"]["total_s"] > 0  # Ray starts outside the stages
    assert report["memory"]["peak_gb"] > 0
    assert undisturbed.folder.read_json("metrics.json")
    page = undisturbed.folder.read_bytes("report.html").decode()
    assert "<script src" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_second_run_does_nothing_and_says_so(undisturbed: RunDir) -> None:
    before = undisturbed.folder.read_json("manifest.json")
    started = time.monotonic()
    again = hnlm(*ARGUMENTS, "--run-dir", undisturbed.folder.uri)
    assert again.returncode == 0
    assert "nothing to do: all 10 stages" in again.stdout
    assert undisturbed.folder.read_json("manifest.json") == before
    assert time.monotonic() - started < 30


def test_status_names_every_stage(undisturbed: RunDir) -> None:
    done = hnlm("status", undisturbed.folder.uri)
    assert done.returncode == 0
    assert "10 of 10 stages complete" in done.stdout


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = hnlm(*ARGUMENTS, "--run-dir", str(tmp_path / "never"), "--dry-run")
    assert done.returncode == 0
    assert "up to 40 users" in done.stdout or "prompts" in done.stdout
    assert not (tmp_path / "never").exists()


def test_a_changed_prompt_redoes_what_depends_on_it_and_nothing_else(undisturbed: RunDir) -> None:
    changed = hnlm(*ARGUMENTS, "--run-dir", undisturbed.folder.uri, "--dry-run", "--set", "negative.prompt=books")
    states = dict(re.findall(r"^  (\w+) +(done|partial|missing)\b", changed.stdout, flags=re.MULTILINE))
    assert [stage for stage, state in states.items() if state == "done"] == ["ingest", "signal", "profile", "text"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "did you mean 'train.epochs'"),
        ("data.format=nosuch", "nosuch"),
        ("llm.model=./no/such/folder", "no/such/folder"),
        ("llm.cpus_per_replica=64", "64"),
        ("llm.gpus_per_replica=1", "GPU"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path: Path, override: str, message: str) -> None:
    run_dir = tmp_path / "never"
    done = hnlm(*ARGUMENTS, "--run-dir", str(run_dir), "--set", override)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (run_dir / "manifest.json").exists()


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rsplit("\r", 1)[-1].rstrip("\n")


@pytest.mark.timeout(2400)
def test_kill_9_in_every_stage_loses_nothing(undisturbed: RunDir, tmp_path: Path) -> None:
    """One run, killed once in each stage at a seeded moment, ends as the undisturbed one."""
    rng = random.Random(7)
    folder = tmp_path / "killed"
    killed_in: list[str] = []
    seconds = {stage: undisturbed.current(stage).seconds for stage in STAGE_NAMES}  # type: ignore[union-attr]
    for _ in range(len(STAGE_NAMES) + 1):
        process = subprocess.Popen(
            [*HNLM, *ARGUMENTS, "--run-dir", str(folder)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        for line in lines_of(process):
            begins = STAGE_BEGINS.match(line)
            if begins and begins[1] not in killed_in:
                time.sleep(rng.uniform(0.2, 0.8) * seconds[begins[1]])
                os.kill(process.pid, signal.SIGKILL)
                killed_in.append(begins[1])
                break
        if process.wait(timeout=900) == 0:
            break
    assert process.returncode == 0
    assert len(killed_in) >= 8, killed_in  # a stage of milliseconds may be over before the signal arrives

    run_dir = RunDir(folder)
    assert_same_rows(undisturbed, run_dir)
    metrics, expected = run_dir.folder.read_json("metrics.json"), undisturbed.folder.read_json("metrics.json")
    assert flat(metrics) == pytest.approx(flat(expected), abs=1e-6)


def assert_same_rows(expected: RunDir, found: RunDir) -> None:
    for stage, name, table, keys, exact in (
        ("ingest", "dataset", "train", ["user_id", "item_id"], ["rating", "timestamp"]),
        ("profile", "profiles", "items", ["item_id"], ["text", "status"]),
        ("profile", "profiles", "users", ["user_id"], ["text", "status"]),
        ("negative", "negatives", "pairs", ["user_id", "item_id"], ["text", "status"]),
        ("negative", "negatives", "grounded", ["user_id", "item_id", "rank"], ["negative_item_id"]),
        ("finetune", "finetune", "triplets", ["user_id", "item_id", "hard_item_id"], ["q", "p", "n"]),
        ("embed", "embeddings", "pairs", ["user_id", "item_id"], []),
    ):
        columns = keys + exact
        rows = [sorted_rows(artifact(run, stage, name).read_table(table, columns), keys) for run in (expected, found)]
        assert rows[0] == rows[1], f"{stage}: {table} differs"
        assert len({tuple(row[key] for key in keys) for row in rows[1]}) == len(rows[1]), f"{table} has duplicates"


def sorted_rows(table: pa.Table, keys: list[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = table.sort_by([(key, "ascending") for key in keys]).to_pylist()
    return rows


def flat(values: object, prefix: str = "") -> dict[str, float]:
    if isinstance(values, dict):
        return {
            key: number for name, value in values.items() for key, number in flat(value, f"{prefix}{name}.").items()
        }
    if isinstance(values, int | float):
        return {prefix: float(values)}
    return {}


def test_flat_reads_numbers_at_any_depth() -> None:
    assert flat(json.loads('{"a": {"b": 1, "c": "text"}, "d": 2.5}')) == {"a.b.": 1.0, "d.": 2.5}
