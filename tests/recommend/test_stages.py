"""The training loops under Ray Train and DeepSpeed, on artifacts as the earlier stages write them."""

from typing import Any

import numpy as np
import pytest

from hnlm_ray.distributed import run_training
from hnlm_ray.progress import Progress
from hnlm_ray.recommend.artifact import RecommenderArtifact
from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.config import TrainConfig
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import SUMMARY_FILE, signal_loop, train_loop
from hnlm_ray.recommend.ranking import evaluate
from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.store import Folder

SMALL: dict[str, Any] = {"dim": 8, "num_layers": 2, "batch_size": 64, "epochs": 12, "eval_every": 4, "lr": 0.05}


def train(
    artifacts: dict[str, str], out: Folder, runtime: RuntimeConfig, hnlm: dict[str, Any], **config: Any
) -> Folder:
    values = TrainConfig.model_validate({**SMALL, **config, "hnlm": hnlm}).model_dump(mode="json")
    loop_config = {"config": values, "seed": 0, "out": out.uri, **artifacts}
    run_training(train_loop, loop_config, runtime=runtime, out=out, name="train", progress=Progress("train"))
    return out


def test_signal_learns_the_checkerboard(
    artifacts: dict[str, str], board: Interactions, folder: Folder, ray_session: RuntimeConfig
) -> None:
    loop_config = {"config": SMALL, "seed": 0, "out": folder.uri, "dataset": artifacts["dataset"]}
    run_training(signal_loop, loop_config, runtime=ray_session, out=folder, name="signal", progress=Progress("signal"))
    emb = folder.read_tensors("embeddings.safetensors")
    assert emb["user_emb"].shape == (24, 8)
    assert emb["item_emb"].shape == (20, 8)
    assert emb["user_emb"].dtype == np.float32
    liked = (emb["user_emb"] @ emb["item_emb"].T)[np.arange(24) % 2 == 0]
    assert liked[:, ::2].min(1).mean() > liked[:, 1::2].max(1).mean()
    history = folder.read_json("history.json")
    assert [entry["epoch"] for entry in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize(
    "hnlm", [{"variant": "aligned"}, {"variant": "grounded"}, {"variant": "grounded", "pool_source": "negatives"}]
)
def test_train_writes_a_recommender_that_ranks(
    hnlm: dict[str, Any], artifacts: dict[str, str], board: Interactions, folder: Folder, ray_session: RuntimeConfig
) -> None:
    out = train(artifacts, folder, ray_session, {**hnlm, "window": [0, 1]})
    loaded = RecommenderArtifact.load(out)
    result = evaluate(loaded.scorer(), board.train.union(board.valid), board.test, (5,), 7).mean()
    assert result["recall@5"] == 1.0
    summary = out.read_json(SUMMARY_FILE)
    missing = 0 if hnlm.get("pool_source") else round(0.1 * board.num_pairs + 0.5)
    assert abs(summary["num_missing_negatives"] - missing) <= 1


def test_a_model_that_reads_text_finds_it_among_the_artifacts(
    artifacts: dict[str, str], board: Interactions, folder: Folder, ray_session: RuntimeConfig
) -> None:
    out = train(artifacts, folder, ray_session, {"variant": "none"}, model="alpharec", loss={"kind": "softmax"})
    loaded = RecommenderArtifact.load(out)
    result = evaluate(loaded.scorer(), board.train.union(board.valid), board.test, (5,), 7).mean()
    assert result["recall@5"] >= 0.9


def test_a_finished_checkpoint_gives_the_same_result_again(
    artifacts: dict[str, str], folder: Folder, ray_session: RuntimeConfig
) -> None:
    undisturbed = train(artifacts, folder.child("whole"), ray_session, {"variant": "aligned"})
    begun = train(artifacts, folder.child("begun"), ray_session, {"variant": "aligned"}, epochs=5)
    assert Checkpoint(begun).load() is not None
    resumed = train(artifacts, begun, ray_session, {"variant": "aligned"})
    for name, tensor in undisturbed.read_tensors("model.safetensors").items():
        np.testing.assert_array_equal(tensor, resumed.read_tensors("model.safetensors")[name], err_msg=name)
