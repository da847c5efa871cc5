"""Broken input through the `hnlm` command: one clear line, or counted rows in the quarantine, never a trace."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnlm_ray.store import RunDir

ROOT = Path(__file__).parents[2]
HEADER = "user_id,item_id,rating,review"


def run(data: Path, run_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`hnlm run` of a recommender without LLM negatives: every stage that such data can reach."""
    settings = [f"data.path={data}", "data.split.kind=random", "train.epochs=2", *overrides]
    command = [sys.executable, "-m", "hnlm_ray.cli", "run", "configs/xrec_amazon_text_classical.yaml"]
    sets = [part for value in settings for part in ("--set", value)]
    return subprocess.run(
        [*command, *sets, "--run-dir", str(run_dir)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def good_rows(num_users: int = 20, num_items: int = 20) -> list[str]:
    return [f"u{u},i{(u + k) % num_items},5,fine" for u in range(num_users) for k in range(10)]


def missing(folder: Path) -> Path:
    return folder / "nowhere.csv"


def without_item_column(folder: Path) -> Path:
    (folder / "interactions.csv").write_text("user_id,movie\nu1,m1\n")
    return folder / "interactions.csv"


def empty(folder: Path) -> Path:
    (folder / "interactions.csv").write_text(HEADER + "\n")
    return folder / "interactions.csv"


def all_null(folder: Path) -> Path:
    table = pa.table({"user_id": pa.nulls(9, pa.string()), "item_id": pa.nulls(9, pa.string())})
    pq.write_table(table, folder / "interactions.parquet")
    return folder / "interactions.parquet"


def no_parquet(folder: Path) -> Path:
    (folder / "interactions.parquet").write_bytes(b"PAR1 this is not")
    return folder / "interactions.parquet"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "nowhere.csv"),
        (without_item_column, "data.columns.item_id"),
        (empty, "interactions.csv"),
        (all_null, "interactions.parquet"),
        (no_parquet, "interactions.parquet"),
    ],
)
def test_what_cannot_work_is_one_line_and_nothing_is_written(
    make: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    done = run(make(tmp_path), tmp_path / "run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_model_without_tokenizer_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "interactions.csv").write_text("\n".join([HEADER, *good_rows()]))
    done = run(tmp_path / "interactions.csv", tmp_path / "run", f"llm.model={tmp_path}/model")
    assert done.returncode == 2
    assert "has no tokenizer" in done.stderr
    assert not (tmp_path / "run").exists()


def test_rows_that_cannot_be_used_are_set_aside_and_counted(tmp_path: Path) -> None:
    rows = [line.encode() for line in good_rows()]
    bad = [b",i3,5,who", b"u3,,5,what", b"u4,i5\xff,5,bytes", b"u5,i5"]
    low = [b"lonely,i1,1,no", b"lonely,i2,2,no"]  # all of this user's rows fall to the rating filter
    again = rows[:7]
    marked = [b"u1,i15,5,&lt;b&gt;Great&lt;/b&gt; <script>alert(1)</script>fun"]
    (tmp_path / "interactions.csv").write_bytes(b"\n".join([HEADER.encode(), *rows, *bad, *low, *again, *marked]))
    done = run(
        tmp_path / "interactions.csv", tmp_path / "run", "data.filters.min_rating=4", "data.max_bad_fraction=0.05"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = RunDir(tmp_path / "run")
    report = run_dir.folder.read_json("report.json")
    assert report["data"]["quarantined"]["interactions"] == len(bad)
    assert (report["data"]["users"], report["data"]["interactions"]) == (20, len(rows) + 1)
    entry = run_dir.current("ingest")
    assert entry is not None
    dataset = run_dir.folder.child(entry.artifacts["dataset"])
    assert "lonely" not in dataset.read_table("users")["user_key"].to_pylist()
    train = dataset.read_table("train")
    assert not [review for review in train["review"].to_pylist() if "<" in review or "&lt;" in review]

    strict = run(tmp_path / "interactions.csv", tmp_path / "strict", "data.max_bad_fraction=0.001")
    assert strict.returncode == 2
    last = strict.stderr.splitlines()[-1]
    assert last.startswith("hnlm: ")
    assert "data.max_bad_fraction" in last
    assert "Traceback" not in strict.stderr
