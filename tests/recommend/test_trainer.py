"""Checkpoints in the middle of an epoch, and one rank against two."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from board_data import checkerboard, write_dataset, write_embeddings

from hnlm_ray.recommend.checkpoint import Checkpoint
from hnlm_ray.recommend.config import TrainConfig
from hnlm_ray.recommend.engine import DeepSpeedEngine, _step_count
from hnlm_ray.recommend.fitting import build_trainer
from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.loops import load_llm_negatives
from hnlm_ray.recommend.samplers.base import Batch
from hnlm_ray.recommend.trainer import Trainer
from hnlm_ray.store import Folder

SMALL: dict[str, Any] = {"dim": 8, "num_layers": 2, "batch_size": 50, "epochs": 4, "lr": 0.05, "eval_every": 2}
ALIGNED = {"variant": "aligned", "alpha": 0.3, "lambda_cl": 0.1}


class Killed(RuntimeError):
    """Stands for a process that ends in the middle of an epoch."""


@pytest.mark.parametrize("killed_at", [(2, 3), (3, 1)])
@pytest.mark.parametrize(
    ("model", "hnlm"),
    [
        ("lightgcn", {"variant": "none"}),
        ("simgcl", {"variant": "none"}),
        ("sgl", {"variant": "none"}),
        ("lightgcn", {"variant": "grounded", "window": [0.3, 0.7], "refresh_every": 2}),
        ("lightgcn", {"variant": "graded", "num_false_negatives": 3, "refresh_every": 2}),
    ],
)
def test_a_run_killed_within_an_epoch_ends_like_an_undisturbed_one(
    model: str,
    hnlm: dict[str, Any],
    killed_at: tuple[int, int],
    board: Interactions,
    artifacts: dict[str, str],
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hnlm_ray.recommend.trainer._STEPS_BETWEEN_CLOCKS", 1)
    hnlm |= {"control": "window-only"} if hnlm["variant"] == "graded" else {}
    config = TrainConfig.model_validate(
        {**SMALL, "model": model, "hnlm": hnlm, "sampler": {"kind": "dns"}, "checkpoint_every_s": 1e-9}
    )

    def start(target: Folder | None) -> Trainer:
        llm = load_llm_negatives(artifacts, board, config, 0)
        return build_trainer(board, config, 0, llm, checkpoint=Checkpoint(target) if target else None)

    undisturbed = start(None)
    expected = undisturbed.fit()
    disturbed = start(folder)
    step = disturbed.objective.forward

    def dying(batch: Batch) -> torch.Tensor:
        if (batch.epoch, batch.step) == killed_at:
            raise Killed
        return step(batch)

    monkeypatch.setattr(disturbed.objective, "forward", dying)
    with pytest.raises(Killed):
        disturbed.fit()
    resumed, saved = start(folder), Checkpoint(folder).load()
    tensors = resumed.fit()
    assert saved is not None
    assert resumed.state.history[killed_at[0]]["seconds"] > saved.state.epoch_s > 0
    assert resumed.state.history[killed_at[0]]["sampling_s"] > saved.state.sampling_s > 0
    assert resumed.state.num_steps == undisturbed.state.num_steps
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor)
    keep = ("epoch", "loss", "valid")
    histories = [[{key: e[key] for key in keep if key in e} for e in t.state.history] for t in (resumed, undisturbed)]
    assert histories[0] == histories[1]


def test_a_resumed_optimizer_counts_on_the_device_of_its_parameters() -> None:
    assert _step_count(3, torch.empty(2, device="meta")).device.type == "meta"  # fused Adam takes no other


def trainer_of(root: str, world_size: int = 1, zero_stage: int = 0) -> Trainer:
    """Bare for one rank, under DeepSpeed for several."""
    uris = {name: f"{root}/{name}" for name in ("dataset", "embeddings")}
    data = Interactions.load(Folder(uris["dataset"]))
    config = TrainConfig.model_validate({**SMALL, "zero_stage": zero_stage, "hnlm": ALIGNED})
    llm = load_llm_negatives(uris, data, config, 0)
    if world_size == 1:
        return build_trainer(data, config, 0, llm)
    return build_trainer(
        data, config, 0, llm, engine=lambda module: DeepSpeedEngine(module, config, world_size), world_size=world_size
    )


def ranks(rank: int, world_size: int, root: str, zero_stage: int, results: Any) -> None:
    """One rank of a training with DeepSpeed; puts its loss curve and embeddings."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    import deepspeed.comm

    dist.init_process_group(
        "gloo", init_method=f"file://{root}/store-{world_size}-{zero_stage}", rank=rank, world_size=world_size
    )
    deepspeed.comm.init_distributed(dist_backend="gloo", dist_init_required=False, verbose=False)
    trainer = trainer_of(root, world_size, zero_stage)
    tensors = trainer.fit()
    state = trainer.engine.state()
    if rank == 0:
        results.put(
            ([entry["loss"] for entry in trainer.state.history], tensors, {k: v.numpy() for k, v in state.items()})
        )
    dist.barrier()
    dist.destroy_process_group()


def run_ranks(world_size: int, root: Path, zero_stage: int) -> Any:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=ranks, args=(rank, world_size, str(root), zero_stage, results))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    result = results.get()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    return result


def test_two_ranks_of_half_the_batch_are_one_bare_loop_of_the_whole(tmp_path: Path) -> None:
    board = checkerboard()
    write_dataset(Folder(tmp_path / "dataset"), board)
    write_embeddings(Folder(tmp_path / "embeddings"), board, share=0.9)
    whole = trainer_of(str(tmp_path))
    one = whole.fit()
    one_loss = [entry["loss"] for entry in whole.state.history]
    one_state = {name: tensor.numpy() for name, tensor in whole.engine.state().items()}
    two_loss, two, two_state = run_ranks(2, tmp_path, zero_stage=2)
    np.testing.assert_allclose(two_loss, one_loss, rtol=1e-5)
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
    assert one_state.keys() == two_state.keys()
    for name, tensor in one_state.items():
        np.testing.assert_allclose(two_state[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
