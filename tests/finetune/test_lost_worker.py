"""A killed Ray Train worker: the group starts again from the checkpoint, with the same data in the same order."""

from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
from finetune_world import make_world
from safetensors.torch import load_file
from test_finetune_stage import context_of
from torch.testing import assert_close

from hnlm_ray.finetune import finetune_stage
from hnlm_ray.progress import Progress
from hnlm_ray.runtime import RuntimeConfig


class Killing(Progress):
    """Kills one of the training workers of this process's Ray once the training has done a few steps."""

    def __init__(self, workers: Callable[[], list[psutil.Process]]) -> None:
        super().__init__("test")
        self._workers = workers
        self.killed_at: list[int] = []
        self.group_sizes: list[int] = []

    def reach(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        super().reach(done, total, metrics)
        workers = self._workers()
        self.group_sizes.append(len(workers))
        if not self.killed_at and workers:
            workers[-1].kill()
            self.killed_at.append(done)


def test_a_killed_worker_costs_time_and_nothing_else(
    bert: str, ray_session: RuntimeConfig, ray_processes: Callable[[str], list[psutil.Process]], tmp_path: Path
) -> None:
    settings = {"epochs": 10, "lora": {"r": 4, "dropout": 0.0}, "zero_stage": 1}
    alone = context_of(make_world(tmp_path / "alone"), bert, ray_session, **settings)
    undisturbed = finetune_stage.run(alone)["training"]
    elastic = RuntimeConfig.model_validate(ray_session.model_dump() | {"train_workers": [1, 2]})
    ctx = context_of(make_world(tmp_path / "elastic"), bert, elastic, **settings)
    ctx.progress = progress = Killing(lambda: ray_processes("RayTrainWorker"))
    resumed = finetune_stage.run(ctx)["training"]
    assert progress.killed_at
    assert progress.killed_at[0] < undisturbed["num_steps"], "the worker was killed when all was done"
    assert resumed["num_steps"] == undisturbed["num_steps"]
    assert resumed["num_tokens"] == undisturbed["num_tokens"], "every triplet once per epoch"
    for one, two in zip(resumed["epochs"], undisturbed["epochs"], strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    mine, other = (load_file(Path(c.out("finetune").path) / "merged/model.safetensors") for c in (ctx, alone))
    assert_close(mine, other, rtol=1e-3, atol=1e-4)
