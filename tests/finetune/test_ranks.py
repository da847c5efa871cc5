"""Two ranks with half a batch each are one rank with the whole batch: losses, gradients, weights, for every ZeRO stage.

Two ranks are spawned processes that start once and do everything; one rank runs in this process.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_world import make_job, make_world
from ranks import one_rank, run_ranks

from hnlm_ray.finetune.loss import triplet_loss
from hnlm_ray.store import Folder

B, D = 8, 6


def _loss_and_gradients(name: str) -> tuple[float, list[list[float]]]:
    """Embeddings of shared weights; loss and parameter gradients averaged over ranks, as DDP and DeepSpeed do."""
    import torch.distributed as dist

    rank, num_ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(D, D, generator=rng, requires_grad=True)
    inputs = torch.randn(3, B, D, generator=rng)
    p_ids, n_ids = torch.tensor([0, 1, 2, 3, 0, 5, 6, 7]), torch.tensor([9, 10, 11, 0, 13, 14, 1, 16])
    own = slice(rank * B // num_ranks, (rank + 1) * B // num_ranks)
    q, p, n = (torch.nn.functional.normalize(part[own] @ weight, dim=-1) for part in inputs)
    loss = triplet_loss(name, q, p, n, p_ids[own], n_ids[own], 0.05, over_ranks=True)  # type: ignore[arg-type]
    loss.backward()
    assert weight.grad is not None
    total, gradient = loss.detach().clone(), weight.grad.clone()
    if num_ranks > 1:
        dist.all_reduce(total)
        dist.all_reduce(gradient)
    return float(total / num_ranks), (gradient / num_ranks).tolist()


def _train(jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Three steps of each job; a trainer restored from the second step's checkpoint has to repeat the third."""
    from hnlm_ray.distributed import rank
    from hnlm_ray.finetune import checkpoint
    from hnlm_ray.finetune.batches import epoch_batches
    from hnlm_ray.finetune.export import write_models
    from hnlm_ray.finetune.trainer import Trainer, TrainJob

    results = {}
    for name, values in jobs.items():
        job = TrainJob(**values)
        trainer = Trainer(job)
        objective = trainer.objective
        batches = epoch_batches(objective.train_rows, objective.lengths, trainer.config.batch_size, 0, 0)
        losses = []
        for number, batch in enumerate(batches[:3]):
            if number == 2:
                checkpoint.save(trainer.out.child("checkpoint"), trainer.engine, trainer.state)
                best = checkpoint.full_parameters(trainer.engine.module)
            losses.append(trainer.train_step(batch)[0])
            trainer.state.num_steps += 1
        weights = {name: value.numpy() for name, value in checkpoint.full_parameters(trainer.engine.module).items()}
        restored = Trainer(job)
        assert restored.state.num_steps == 2
        again, _ = restored.train_step(batches[2])
        repeated = {name: value.numpy() for name, value in checkpoint.full_parameters(restored.engine.module).items()}
        validation = restored.objective.validate(restored.engine)
        proof = {}
        if rank() == 0:
            out = Folder(job.out)
            out.child("checkpoint").write_tensors(
                "best.safetensors", {key: value.numpy() for key, value in best.items()}
            )
            texts = objective.parity_texts(4)
            proof = write_models(trainer.spec, trainer.config, 0, out, texts, trainer.device, torch.float32)
        torch.distributed.barrier()
        results[name] = {
            "losses": [*losses, again],
            "weights": weights,
            "repeated": repeated,
            "proof": proof,
            "validation_loss": validation["validation_loss"],
        }
    return results


def _everything(jobs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All that one start of the ranks does."""
    return {"loss": {name: _loss_and_gradients(name) for name in ("pairwise", "infonce")}, "trained": _train(jobs)}


_LORA: dict[str, Any] = {"batch_size": 8, "lr": 1e-3, "lora": {"r": 4, "dropout": 0.0}, "precision": "fp32"}
_TASTE = _LORA | {"loss": "taste", "batch_size": 6, "max_items_per_user": 5}
_ALONE = {
    "lora": _LORA,
    "taste": _TASTE,
    "taste chunked": _TASTE | {"chunk_size": 3},
    "chunked": _LORA | {"chunk_size": 2},
    "full": _LORA | {"method": "full"},
    "bf16": _LORA | {"precision": "bf16"},
}
_TOGETHER = {
    "taste": _TASTE,
    "taste chunked": _TASTE | {"zero_stage": 3, "chunk_size": 3},
    "zero-0": _LORA | {"zero_stage": 0},
    "zero-1 chunked": _LORA | {"zero_stage": 1, "chunk_size": 2},
    "zero-2": _LORA | {"zero_stage": 2},
    "zero-3": _LORA | {"zero_stage": 3},
    "full": _LORA | {"zero_stage": 3, "method": "full"},
    "bf16": _LORA | {"zero_stage": 2, "precision": "bf16"},
}
_SAME = {"zero-0": "lora", "zero-1 chunked": "chunked", "zero-2": "lora", "zero-3": "lora", "full": "full"}
_SAME |= {"taste": "taste", "taste chunked": "taste chunked"}


@pytest.fixture(scope="module")
def alone(llama: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one rank does with whole batches."""
    return _run(1, _ALONE, llama, tmp_path_factory.mktemp("alone"))[0]


@pytest.fixture(scope="module")
def together(llama: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks does with half of every batch."""
    return _run(2, _TOGETHER, llama, tmp_path_factory.mktemp("together"))


def _run(num_ranks: int, settings: dict[str, Any], model: str, folder: Path) -> list[dict[str, Any]]:
    world = make_world(folder / "run")
    jobs = {name: make_job(world, model, folder / name, **values) for name, values in settings.items()}
    if num_ranks == 1:
        with one_rank():
            return [_everything(jobs)]
    return run_ranks(num_ranks, _everything, jobs)


@pytest.mark.parametrize("name", ["pairwise", "infonce"])
def test_two_halves_are_one_whole(alone: dict[str, Any], together: list[dict[str, Any]], name: str) -> None:
    whole_loss, whole = alone["loss"][name]
    for result in together:
        loss, gradient = result["loss"][name]
        assert loss == pytest.approx(whole_loss, rel=1e-6)
        np.testing.assert_allclose(gradient, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", _SAME)
def test_ranks_train_alike(alone: dict[str, Any], together: list[dict[str, Any]], name: str) -> None:
    expected = alone["trained"][_SAME[name]]
    for result in together:
        found = result["trained"][name]
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-3)
        assert found["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-2)


@pytest.mark.parametrize(("chunked", "whole"), [("chunked", "lora"), ("taste chunked", "taste")])
def test_chunks_change_nothing(alone: dict[str, Any], chunked: str, whole: str) -> None:
    assert alone["trained"][chunked]["losses"] == pytest.approx(alone["trained"][whole]["losses"], rel=1e-4)


def test_bf16_follows_fp32(alone: dict[str, Any]) -> None:
    assert alone["trained"]["bf16"]["losses"] == pytest.approx(alone["trained"]["lora"]["losses"], rel=0.1)


def test_a_restored_training_goes_on_as_if_nothing_had_happened(
    alone: dict[str, Any], together: list[dict[str, Any]]
) -> None:
    for result in [alone, *together]:
        for name, run in result["trained"].items():
            assert run["losses"][3] == run["losses"][2], name
            for parameter, value in run["weights"].items():
                np.testing.assert_array_equal(run["repeated"][parameter], value, err_msg=f"{name}: {parameter}")


def test_saved_adapters_are_not_empty(alone: dict[str, Any], together: list[dict[str, Any]]) -> None:
    """ZeRO-3 with LoRA too: the tensors were read back and every B matrix had moved."""
    for result in [alone, together[0]]:
        for name, run in result["trained"].items():
            if name != "full":
                assert run["proof"]["num_tensors"] == 2 * 2 * 4  # A and B of q, k, v, o in two layers
                assert run["proof"]["mean_norm_of_b"] > 0
