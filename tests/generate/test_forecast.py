"""The cost before the run, against the prompts that the run then writes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_model import make_tiny_llama

from hnlm_ray.config import RunConfig, parse_config
from hnlm_ray.generate.build_inputs import build_item_inputs, build_pair_inputs, build_user_inputs
from hnlm_ray.generate.chat import ChatTokenizer
from hnlm_ray.generate.forecast import forecast
from hnlm_ray.generate.negative_stage import negative_task
from hnlm_ray.generate.profile_stage import profile_task
from hnlm_ray.generate.unit_worker import TextTask, make_draft
from hnlm_ray.pipeline import plan
from hnlm_ray.plan import costs
from hnlm_ray.store import Folder, ManifestEntry, RunDir

NUM_ITEMS, NUM_USERS = 150, 200
WORDS = ["dark", "moon", "river", "love", "ghost", "war", "ship", "garden", "cook", "train", "cat", "stone"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_llama(tmp_path_factory.mktemp("tiny"), WORDS))


def config_of(tokenizer: str, **llm: object) -> RunConfig:
    return parse_config({"llm": {"model": tokenizer, **llm}, "data": {"format": "synthetic"}})


def write_dataset(root: Folder) -> Folder:
    """Items with descriptions of 10 to 60 words, users with 3 to 14 interactions, every other one reviewed."""
    rng = np.random.default_rng(0)

    def sentence(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high)))

    items = {
        "item_id": pa.array(range(NUM_ITEMS), pa.int32()),
        "title": [sentence(2, 6) for _ in range(NUM_ITEMS)],
        "title_source": ["title"] * NUM_ITEMS,
        "brand": [sentence(1, 3) for _ in range(NUM_ITEMS)],
        "categories": [[sentence(1, 2)] for _ in range(NUM_ITEMS)],
        "description": [sentence(10, 60) for _ in range(NUM_ITEMS)],
        "text": pa.nulls(NUM_ITEMS, pa.string()),
    }
    root.child("items").write_table("part-0.parquet", pa.table(items))
    root.child("users").write_table("part-0.parquet", pa.table({"user_id": pa.array(range(NUM_USERS), pa.int32())}))
    rows = [
        {"user_id": user, "item_id": int(item), "timestamp": n, "review": sentence(5, 40) if n % 2 else None}
        for user in range(NUM_USERS)
        for n, item in enumerate(rng.permutation(NUM_ITEMS)[: rng.integers(3, 15)])
    ]
    ids = [("user_id", pa.int32()), ("item_id", pa.int32()), ("timestamp", pa.int64()), ("review", pa.string())]
    root.child("train").write_table("part-0.parquet", pa.Table.from_pylist(rows, pa.schema(ids)))
    return root


def write_profiles(root: Folder, max_words: int) -> Folder:
    """Profiles as long as they may be."""
    rng = np.random.default_rng(1)
    for name, column, count in (("items", "item_id", NUM_ITEMS), ("users", "user_id", NUM_USERS)):
        texts = [" ".join(rng.choice(WORDS, max_words)) for _ in range(count)]
        made = {column: pa.array(range(count), pa.int32()), "text": texts, "status": ["ok"] * count}
        root.child(name).write_table("part-000000.parquet", pa.table(made))
    return root


def test_tokens_are_foretold_within_a_fifth(tokenizer: str, tmp_path: Path) -> None:
    root, config = Folder(tmp_path), config_of(tokenizer, price={"tokens_per_s": 1000.0, "per_hour": {"cpu": 3600.0}})
    dataset, profiles = write_dataset(root.child("d")), write_profiles(root.child("p"), config.profile.max_words)
    chat, llm = ChatTokenizer(tokenizer), config.llm
    inputs = {name: root.child("inputs", name) for name in ("items", "users", "pairs")}
    build_item_inputs(dataset, inputs["items"], config.profile, llm, large=False)
    build_user_inputs(dataset, profiles, inputs["users"], config.profile, llm, large=False)
    build_pair_inputs(dataset, profiles, root, inputs["pairs"], config.negative, llm, large=False)

    def written(task: TextTask) -> tuple[int, int]:
        """Rows and prompt tokens of the run itself."""
        drafts = [draft for row in task.inputs.read_table().to_pylist() if (draft := make_draft(task, row))]
        return len(drafts), sum(map(len, chat.encode([draft.render() for draft in drafts])))

    tasks = {name: profile_task(config, name, inputs[name], root) for name in ("items", "users")}
    for name, task in (tasks | {"pairs": negative_task(config, inputs["pairs"], root)}).items():
        cost, (rows, prompt_tokens) = forecast(config, dataset)[name], written(task)
        assert cost.rows == pytest.approx(rows, rel=0.05), name
        assert cost.prompt_tokens == pytest.approx(prompt_tokens, rel=0.2), name
        assert 0 < cost.completion_tokens <= cost.rows * task.max_new_tokens
        assert cost.price == pytest.approx((cost.prompt_tokens + cost.completion_tokens) / 1000.0, abs=0.01), name


def test_the_plan_shows_the_cost_once_data_and_tokenizer_are_there(tokenizer: str, tmp_path: Path) -> None:
    run_dir, config = RunDir(tmp_path / "run"), config_of(tokenizer)
    assert "known with the data set" in costs(config, plan(config, run_dir), run_dir)
    fingerprint = plan(config, run_dir)[0].fingerprint
    write_dataset(run_dir.artifact("dataset", fingerprint))
    folders = {name: f"{name}/{fingerprint}" for name in ("dataset", "quarantine")}
    run_dir.commit(
        ManifestEntry(
            stage="ingest", fingerprint=fingerprint, artifacts=folders, summary={}, seconds=0.0, peak_memory_gb=0.0,
            completed_at="2026-01-01T00:00:00+00:00",
        )
    )  # fmt: skip
    words = costs(config, plan(config, run_dir), run_dir)
    assert [line.split()[3] for line in words.splitlines()[:3]] == ["items", "users", "pairs"]
    assert f"{NUM_ITEMS} rows" in words
    assert "set llm.price.tokens_per_s" in words
    absent = config_of("stand-in")
    assert "tokenizer of stand-in" in costs(absent, plan(absent, run_dir), run_dir)
    nothing = parse_config({"llm": {"engine": "none"}})
    assert costs(nothing, plan(nothing, run_dir), run_dir) == ""
