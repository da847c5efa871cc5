"""The models that read text: that text reaches what is trained, and that no text is never taken for one."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from board_data import board_item_text, board_text

from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.pipeline import plan
from hnlm_ray.recommend.config import TEXT_MODELS, TrainConfig
from hnlm_ray.recommend.fitting import build_trainer
from hnlm_ray.recommend.interactions import Interactions, UserItems
from hnlm_ray.recommend.models import MODELS, rlmrec_con
from hnlm_ray.recommend.names import import_dotted, reads_text
from hnlm_ray.recommend.text_stage import catalogue_texts
from hnlm_ray.recommend.text_vectors import TextVectors
from hnlm_ray.recommend.trainer import Trainer
from hnlm_ray.store import Folder, RunDir

SMALL: dict[str, Any] = {"dim": 8, "num_layers": 2, "batch_size": 64, "epochs": 1, "lr": 0.01}


def make(board: Interactions, text: TextVectors | None = None, **config: Any) -> Trainer:
    values = {**SMALL, "hnlm": {"variant": "none"}, **config}
    return build_trainer(board, TrainConfig.model_validate(values), 0, text=text or board_text(board))


def test_a_user_without_text_is_the_mean_of_the_items_that_have_one() -> None:
    seen = UserItems.from_pairs(np.array([0, 0, 0, 1, 2]), np.array([0, 1, 2, 2, 0]), 3, 3)
    items = np.array([[1, 0], [0, 3], [0, 0]], np.float32)
    users = np.array([[0, 0], [0, 0], [7, 7]], np.float32)
    nodes = TextVectors.of(seen, items, users).nodes
    np.testing.assert_allclose(nodes, [[0.5, 1.5], [0, 0], [7, 7], [1, 0], [0, 3], [0, 0]])


def test_vectors_of_another_data_set_are_refused(board: Interactions) -> None:
    with pytest.raises(UserError, match=r"shape \[19, 12\], and there are 20 items"):
        TextVectors.of(board.train, board_item_text(board)[1:])
    with pytest.raises(UserError, match="no item has a text vector"):
        TextVectors.of(board.train, np.zeros((20, 12), np.float32))


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_text_reaches_the_loss_and_every_weight_moves(model: str, board: Interactions) -> None:
    text = board_text(board)
    other = TextVectors(np.roll(text.nodes, 1, axis=1))
    losses = []
    for vectors in (text, other):
        trainer = make(board, vectors, model=model)
        before = {name: weight.detach().clone() for name, weight in trainer.objective.named_parameters()}
        trainer.step(next(trainer.batches()))
        losses.append(trainer.state.loss_sum)
        unmoved = [name for name, weight in trainer.objective.named_parameters() if torch.equal(weight, before[name])]
        assert unmoved == []
    assert losses[0] != losses[1]


def test_nodes_without_text_share_one_learned_vector_in_alpharec(board: Interactions) -> None:
    backbone = make(board, model="alpharec", num_layers=0).objective.backbone
    items = backbone.all()[board.num_users :]
    torch.testing.assert_close(items[::5], items[:1].expand(4, -1))
    assert (items[1] - items[0]).abs().max() > 1e-3
    assert "emb" not in dict(backbone.named_parameters())


def test_nodes_without_text_keep_their_embedding_in_kar(board: Interactions) -> None:
    backbone = make(board, model="kar", rival={"backbone": "mf"}).objective.backbone
    items, own = backbone.all()[board.num_users :], backbone.inner.emb.detach()[board.num_users :]  # type: ignore[union-attr]
    torch.testing.assert_close(items[::5], own[::5])
    assert (items[1] - own[1]).abs().max() > 1e-3


def test_nodes_without_text_are_neither_masked_nor_aligned(board: Interactions) -> None:
    backbone = make(board, model="rlmrec_gen", rival={"mask_share": 0.5}).objective.backbone
    without = set((np.flatnonzero(board_item_text(board)[:, 0] == 0) + board.num_users).tolist())
    masked: set[int] = set()
    for step in range(20):
        backbone.begin_step(0, step)
        backbone.rows(torch.tensor([0, 30]))
        masked |= set(backbone._masked.tolist())  # type: ignore[operator, union-attr]
    assert masked == set(range(44)) - without
    aligned = make(board, model="rlmrec_con").objective.backbone
    aligned.rows(torch.tensor([0, 24, 29]))  # a user, and two items without text
    loss = aligned.auxiliary(torch.tensor([0]), torch.tensor([0]))
    assert loss is not None
    assert float(loss.detach()) == 0.0  # one user against itself, no item


@pytest.mark.parametrize("model", ["rlmrec_con", "rlmrec_gen", "kar"])
@pytest.mark.parametrize("backbone", ["mf", "ngcf", "sgl", "simgcl", "xsimgcl", MODELS["lightgcn"]])
def test_an_add_on_goes_with_every_backbone(model: str, backbone: str, board: Interactions) -> None:
    added, alone = make(board, model=model, rival={"backbone": backbone}), make(board, model=backbone)
    start = added.objective.backbone.inner.emb.detach().clone()  # type: ignore[union-attr]
    assert torch.equal(start, alone.objective.backbone.emb)
    assert added.objective.backbone.final_dim == alone.objective.backbone.final_dim
    tensors = added.fit()
    assert np.isfinite(tensors["item_emb"]).all()
    assert np.abs(tensors["item_emb"] - alone.fit()["item_emb"]).max() > 1e-6


def test_at_weight_zero_the_contrast_changes_nothing(board: Interactions) -> None:
    added = make(board, model="rlmrec_con", rival={"align_weight": 0.0}).fit()
    np.testing.assert_allclose(added["item_emb"], make(board, model="lightgcn").fit()["item_emb"], atol=1e-5)


def test_the_contrast_is_of_a_bounded_number_of_nodes_at_a_time(
    board: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss_by(most: int) -> float:
        monkeypatch.setattr(rlmrec_con, "_MOST_CONTRASTED", most)
        backbone = make(board, model="rlmrec_con").objective.backbone
        backbone.rows(torch.cat([user_ids, item_ids + board.num_users]))
        loss = backbone.auxiliary(user_ids, item_ids)
        assert loss is not None
        return float(loss.detach())

    user_ids, item_ids = torch.arange(20), torch.arange(20)
    assert loss_by(1) == pytest.approx(0.0, abs=1e-6)  # each against itself alone
    assert 0 < loss_by(5) < loss_by(10) < loss_by(20)
    assert loss_by(20) == loss_by(2048)


def test_what_cannot_be_added_to_is_refused(board: Interactions) -> None:
    with pytest.raises(ValueError, match="'kar' cannot be added to"):
        make(board, model="kar", rival={"backbone": "kar"})
    with pytest.raises(ValueError, match="'text' cannot be added to"):
        make(board, model="kar", rival={"backbone": "text"})
    with pytest.raises(UserError, match=r"train\.rival\.backbone='lightgnc' is unknown.*'lightgcn'"):
        make(board, model="kar", rival={"backbone": "lightgnc"})
    with pytest.raises(UserError, match="no embeddings of its own"):
        make(board, model="kar", rival={"backbone": MODELS["alpharec"]})


def test_names_and_classes_agree_on_who_reads_text() -> None:
    for name, path in MODELS.items():
        assert reads_text(name) == reads_text(path) == import_dotted(name, MODELS, "train.model").reads_text
    assert reads_text("text")
    assert not reads_text("ease")


def test_only_models_that_read_text_wait_for_it(tmp_path: Path) -> None:
    def stages(until: str = "report", **values: Any) -> list[str]:
        none = {"hnlm": {"variant": "none"}}
        train = {"train": none | {"model": values.pop("model")}}
        return [item.stage.name for item in plan(parse_config(train | values), RunDir(tmp_path), until)]

    rest = ["train", "evaluate", "report"]
    assert stages(model="lightgcn") == ["ingest", *rest]
    assert stages(model="kar") == stages(model=MODELS["kar"]) == ["ingest", "text", *rest]
    assert stages(model="kar", text={"source": "profiles"}) == ["ingest", "profile", "text", *rest]
    for source in ("tuned", "taste"):
        assert stages("text", model="text", text={"source": source})[-3:] == ["finetune", "embed", "text"]


def test_the_catalogue_s_texts_are_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    items = {
        "item_id": [1, 0, 2],
        "title": ["Emma ", "item 0", "item 2"],
        "title_source": ["source", "key", "key"],
        "brand": ["Austen", None, ""],
        "categories": [["Novel", "Classic"], None, []],
        "description": [None, "A plain box", None],
        "text": [None, None, None],
    }
    Folder(tmp_path).write_table("items/part-0.parquet", pa.table(items))
    assert catalogue_texts(Folder(tmp_path)) == ["A plain box", "Emma. Austen. Novel, Classic", ""]
