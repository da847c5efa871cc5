"""Two ranks with half a batch each are one rank with the whole batch: losses, gradients, weights, for every ZeRO stage.

Ranks are spawned processes, so each of the two tests starts them once and does everything in them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_world import World, make_job, make_world
from ranks import run_ranks

from hnlm_ray.finetune.loss import triplet_loss
from hnlm_ray.store import Folder

B, D = 8, 6
ZERO_STAGES = (0, 1, 2, 3)


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


def _train(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Four steps of each job; a trainer restored from the third step's checkpoint has to repeat the fourth."""
    from hnlm_ray.distributed import rank
    from hnlm_ray.finetune import checkpoint
    from hnlm_ray.finetune.batches import epoch_batches
    from hnlm_ray.finetune.export import write_models
    from hnlm_ray.finetune.trainer import Trainer, TrainJob

    results = []
    for values in jobs:
        job = TrainJob(**values)
        trainer = Trainer(job)
        batches = epoch_batches(trainer.train_rows, trainer.triplets.queries.lengths, trainer.config.batch_size, 0, 0)
        losses = []
        for number, batch in enumerate(batches[:4]):
            if number == 3:
                checkpoint.save(trainer.out.child("checkpoint"), trainer.engine, trainer.state)
                best = checkpoint.full_parameters(trainer.engine.module)
            losses.append(trainer.train_step(batch))
            trainer.state.num_steps += 1
        weights = {name: value.numpy() for name, value in checkpoint.full_parameters(trainer.engine.module).items()}
        restored = Trainer(job)
        assert restored.state.num_steps == 3
        again = restored.train_step(batches[3])
        repeated = {name: value.numpy() for name, value in checkpoint.full_parameters(restored.engine.module).items()}
        validation = restored.validation.run(restored.engine)
        proof = {}
        if rank() == 0:
            out = Folder(job.out)
            out.child("checkpoint").write_tensors(
                "best.safetensors", {key: value.numpy() for key, value in best.items()}
            )
            texts = trainer.parity_texts()[:4]
            proof = write_models(trainer.spec, trainer.config, 0, out, texts, trainer.device, torch.float32)
        torch.distributed.barrier()
        results.append(
            {
                "losses": [*losses, again],
                "weights": weights,
                "repeated": repeated,
                "proof": proof,
                "validation": validation,
            }
        )
    return results


def _both(jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that one start of the ranks does."""
    return {"loss": {name: _loss_and_gradients(name) for name in ("pairwise", "infonce")}, "trained": _train(jobs)}


def _jobs(world: World, model: str, folder: Path) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"batch_size": 8, "lr": 1e-3, "lora": {"r": 4, "dropout": 0.0}, "precision": "fp32"}
    jobs = [make_job(world, model, folder / f"zero-{stage}", **settings, zero_stage=stage) for stage in ZERO_STAGES]
    jobs.append(make_job(world, model, folder / "chunked", **settings, zero_stage=2, chunk_size=2))
    jobs.append(make_job(world, model, folder / "full", **settings, zero_stage=3, method="full"))
    return jobs


NAMES = [*(f"zero-{stage}" for stage in ZERO_STAGES), "chunked", "full"]


@pytest.fixture(scope="module")
def trained(llama: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What every rank of a run returned, by number of ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    world = make_world(folder / "run")
    return {num: run_ranks(num, _both, _jobs(world, llama, folder / str(num))) for num in (1, 2)}


@pytest.mark.parametrize("name", ["pairwise", "infonce"])
def test_two_halves_are_one_whole(trained: dict[int, list[dict[str, Any]]], name: str) -> None:
    [(whole_loss, whole)] = [result["loss"][name] for result in trained[1]]
    for result in trained[2]:
        loss, gradient = result["loss"][name]
        assert loss == pytest.approx(whole_loss, rel=1e-6)
        np.testing.assert_allclose(gradient, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_ranks_train_alike(trained: dict[int, list[dict[str, Any]]], number: int) -> None:
    [alone] = [result["trained"][number] for result in trained[1]]
    reference = trained[1][0]["trained"][0] if NAMES[number] != "full" else alone
    assert alone["losses"] == pytest.approx(reference["losses"], rel=1e-4)  # ZeRO and chunks change nothing
    for result in trained[2]:
        assert result["trained"][number]["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert result["trained"][number]["validation"]["validation_loss"] == pytest.approx(
            alone["validation"]["validation_loss"], rel=1e-2
        )


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_restored_training_goes_on_as_if_nothing_had_happened(
    trained: dict[int, list[dict[str, Any]]], number: int, num_ranks: int
) -> None:
    for result in trained[num_ranks]:
        run = result["trained"][number]
        assert run["losses"][4] == run["losses"][3]
        for name, value in run["weights"].items():
            np.testing.assert_array_equal(run["repeated"][name], value)


@pytest.mark.parametrize("number", range(len(ZERO_STAGES)), ids=NAMES[: len(ZERO_STAGES)])
def test_saved_adapters_are_not_empty(trained: dict[int, list[dict[str, Any]]], number: int) -> None:
    """ZeRO-3 with LoRA too: the tensors were read back and every B matrix had moved."""
    for num_ranks in (1, 2):
        proof = trained[num_ranks][0]["trained"][number]["proof"]
        assert proof["num_tensors"] == 2 * 2 * 4  # A and B of q, k, v, o in two layers
        assert proof["mean_norm_of_b"] > 0
