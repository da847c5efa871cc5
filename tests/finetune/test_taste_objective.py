"""The loss `taste`: the encoder itself learns what goes together, from users' items instead of triplets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_world import NUM_ITEMS, World, kind_of, make_world
from test_finetune_stage import context_of

from hnlm_ray.errors import UserError
from hnlm_ray.finetune import finetune_stage
from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.encoder import TextEncoder, embed_ids, load_backbone, load_tokenizer, token_ids
from hnlm_ray.finetune.loss import taste_loss
from hnlm_ray.finetune.pairs import PairTexts
from hnlm_ray.finetune.taste_objective import TasteObjective, UserPairs, split_users
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.pipeline import StageContext
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.runtime import RuntimeConfig

TASTE = {"loss": "taste", "batch_size": 8, "epochs": 12, "validation_fraction": 0.2, "tau": 0.1}

Tuned = tuple[World, StageContext, dict[str, Any]]


@pytest.fixture(scope="module")
def tuned(bert: str, ray_session: RuntimeConfig, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A finished fine-tune on users' items: its world, context and summary."""
    world = make_world(tmp_path_factory.mktemp("taste"))
    ctx = context_of(world, bert, ray_session, **TASTE)
    return world, ctx, finetune_stage.run(ctx)


def test_loss_is_that_of_each_pair_against_what_its_user_has_not() -> None:
    pairs = UserPairs.of([np.array([4, 7]), np.array([2, 4, 9])])
    assert pairs.item_ids.tolist() == [2, 4, 7, 9]
    items = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    log_popularity = torch.tensor([-1.0, -0.5, -2.0, -1.5])
    found = taste_loss(pairs.rest(items), items, pairs.columns, pairs.others, log_popularity, tau=0.2)
    taken: list[list[int]] = [[1, 2], [0, 1, 3]]  # places of the users' items among those of the batch
    losses = []
    for places in taken:
        for place in places:
            others = [other for other in places if other != place]
            rest = items[others].sum(0) / items[others].sum(0).norm()
            rivals = [other for other in range(4) if other not in others]
            logits = items[rivals] @ rest / 0.2 - log_popularity[rivals]
            losses.append(-torch.log_softmax(logits, 0)[rivals.index(place)])
    assert float(found) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_items_that_go_together_come_together(tuned: Tuned, bert: str) -> None:
    _, ctx, summary = tuned
    before, *_, last = summary["training"]["epochs"]
    assert last["validation_loss"] < before["validation_loss"] - 0.1
    texts = PairTexts(finetune_stage.sources_of(ctx), finetune_stage.template_of(ctx)).items(np.arange(NUM_ITEMS))
    kinds = np.array([2 * genre + kind for genre, kind in map(kind_of, range(NUM_ITEMS))])
    same, gaps = kinds[:, None] == kinds[None, :], []
    for source in (bert, f"{ctx.out('finetune').path}/merged"):
        tokenizer = load_tokenizer(source)
        encoder = TextEncoder(load_backbone(source), "mean")
        vectors = embed_ids(encoder, token_ids(tokenizer, texts, 64), tokenizer.pad_token_id).numpy()
        cosines = vectors @ vectors.T
        gaps.append(cosines[same].mean() - cosines[~same].mean())
    assert gaps[1] > 3 * gaps[0]


def test_validation_is_the_loss_of_what_was_drawn_of_the_held_out_users(bert: str, tmp_path: Path) -> None:
    world = make_world(tmp_path)
    ctx = world.context()
    texts = PairTexts(finetune_stage.sources_of(ctx), TextTemplate(64, "none", 3, 8, whole_items=True))
    config = FinetuneConfig(loss="taste", max_items_per_user=3, validation_fraction=0.2, batch_size=8)
    tokenizer, encoder = load_tokenizer(bert), TextEncoder(load_backbone(bert), "mean")
    objective = TasteObjective(texts, np.arange(NUM_ITEMS), tokenizer, config, 0, torch.device("cpu"))
    rng = np.random.default_rng(0)
    pairs = UserPairs.of([rng.choice(objective.train.of(user), 3, replace=False) for user in objective.held_out])
    items = embed_ids(encoder, [objective.items[item] for item in pairs.item_ids], tokenizer.pad_token_id)
    log_popularity = objective.log_popularity[pairs.item_ids]
    expected = taste_loss(pairs.rest(items), items, pairs.columns, pairs.others, log_popularity, config.tau)
    assert objective.validate(encoder)["validation_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_triplets_are_of_held_out_users_alone(tuned: Tuned) -> None:
    world, ctx, summary = tuned
    train = UserItems.from_pairs(*np.array(world.train).T, 24, NUM_ITEMS)
    config = FinetuneConfig.model_validate(ctx.config.finetune)
    learnt, held_out = split_users(train, config, ctx.config.seed)
    assert not set(learnt) & set(held_out)
    assert (len(learnt), len(held_out)) == (19, 5) == (summary["training"]["num_train"], 5)
    for name in ("triplets", "validation.parquet"):
        assert set(ctx.out("finetune").read_table(name)["user_id"].to_pylist()) <= set(held_out.tolist())
    assert summary["headline"].startswith("19 users, ")


def test_parity_is_proven_on_item_texts(tuned: Tuned) -> None:
    _, ctx, _ = tuned
    texts = ctx.out("finetune").read_table("parity/texts.parquet")["text"].to_pylist()
    assert len(texts) == len(set(texts)) > 20
    assert all(text.startswith("book ") for text in texts)


def test_users_with_one_item_cannot_be_learnt_from(tmp_path: Path) -> None:
    train = UserItems.from_pairs(np.arange(5), np.arange(5), 5, 5)
    with pytest.raises(UserError, match="two items that have a text, and there are 0"):
        split_users(train, FinetuneConfig(loss="taste"), seed=0)
