"""The stage `finetune` with Ray and DeepSpeed, on a tiny decoder with last-token pooling."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_world import World, make_world
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

from hnlm_ray.finetune import finetune_stage
from hnlm_ray.finetune.encoder import TextEncoder, embed_ids, load_tokenizer, token_ids
from hnlm_ray.pipeline import StageContext
from hnlm_ray.progress import Progress
from hnlm_ray.runtime import RuntimeConfig

FINETUNE = {
    "epochs": 2,
    "batch_size": 16,
    "lr": 5e-3,
    "lora": {"r": 4},
    "precision": "fp32",
    "window": [0.3, 0.9],
    "checkpoint_interval_s": 1e-6,
}


def context_of(world: World, model: str, runtime: RuntimeConfig, **finetune: object) -> StageContext:
    return world.context(
        encoder={"model": model, "max_length": 64},
        finetune=FINETUNE | finetune,
        runtime=runtime.model_dump(),
    )


class Interrupted(Progress):
    """A user who presses Ctrl-C at a step."""

    def __init__(self, at: int) -> None:
        super().__init__("test")
        self._at = at

    def reach(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if done == self._at:
            raise KeyboardInterrupt
        super().reach(done, total, metrics)


Tuned = tuple[World, StageContext, dict[str, Any]]


@pytest.fixture(scope="module")
def tuned(llama: str, ray_session: RuntimeConfig, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A finished fine-tune: its world, context and summary."""
    world = make_world(tmp_path_factory.mktemp("tuned"))
    ctx = context_of(world, llama, ray_session)
    return world, ctx, finetune_stage.run(ctx)


def triplets_of(ctx: StageContext) -> list[dict[str, Any]]:
    table = ctx.out("finetune").read_table("triplets")
    rows: list[dict[str, Any]] = table.sort_by([("user_id", "ascending"), ("item_id", "ascending")]).to_pylist()
    return rows


def test_finetune_learns_and_says_so(tuned: Tuned) -> None:
    _, ctx, summary = tuned
    before, *_, last = summary["training"]["epochs"]
    assert last["validation_loss"] < before["validation_loss"]
    assert summary["num_triplets"] <= summary["num_pairs"] == 144
    assert sum(summary["cf_percentile"]) == summary["num_triplets"]
    assert summary["training"]["adapter"]["num_tensors"] == 2 * 2 * 4  # A and B of q, k, v, o in two layers
    assert len(summary["examples"]) == 20
    assert {"q", "p", "n", "cf_percentile", "similarity"} <= summary["examples"][0].keys()
    assert ctx.out("finetune").read_json("encoder.json")["pooling"] == "last"


def test_triplets_are_of_training_pairs_and_aim_inside_the_window_at_what_the_user_has_not(tuned: Tuned) -> None:
    world, ctx, _ = tuned
    rows = triplets_of(ctx)
    assert {(row["user_id"], row["item_id"]) for row in rows} <= set(world.train)
    assert not {(row["user_id"], row["hard_item_id"]) for row in rows} & set(world.train)
    assert all(0.3 <= row["cf_percentile"] <= 0.9 for row in rows)


def test_adapter_and_merged_model_are_one_encoder(tuned: Tuned, llama: str) -> None:
    out = Path(tuned[1].out("finetune").path)
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(llama), out / "adapter").eval()
    merged = AutoModel.from_pretrained(out / "merged").eval()
    texts = tuned[1].out("finetune").read_table("parity/texts.parquet")["text"].to_pylist()
    tokenizer = load_tokenizer(str(out / "merged"))
    ids = token_ids(tokenizer, texts, 64)
    vectors = [
        embed_ids(TextEncoder(model, "last"), ids, tokenizer.pad_token_id).numpy() for model in (adapted, merged)
    ]
    trained = load_file(out / "parity" / "vectors.safetensors")["vectors"].numpy()
    for found in vectors:
        np.testing.assert_allclose(found, trained, atol=1e-5)
    base = TextEncoder(AutoModel.from_pretrained(llama).eval(), "last")
    assert np.abs(embed_ids(base, ids, tokenizer.pad_token_id).numpy() - trained).max() > 1e-2


def test_an_interrupted_training_ends_as_an_undisturbed_one(
    tuned: Tuned, llama: str, ray_session: RuntimeConfig, tmp_path: Path
) -> None:
    ctx = context_of(make_world(tmp_path), llama, ray_session)
    ctx.progress = Interrupted(at=9)
    with pytest.raises(KeyboardInterrupt):
        finetune_stage.run(ctx)
    assert ctx.out("finetune").read_json("checkpoint/state.json")["state"]["num_steps"] == 8
    ctx.progress = Progress("test")
    resumed, undisturbed = finetune_stage.run(ctx), tuned[2]
    assert resumed["training"]["epochs"] == undisturbed["training"]["epochs"]
    assert triplets_of(ctx) == triplets_of(tuned[1])
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        one, two = (load_file(Path(context.out("finetune").path) / name) for context in (ctx, tuned[1]))
        assert all(torch.equal(value, two[key]) for key, value in one.items())
