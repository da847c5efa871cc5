"""Loading, pooling, LoRA targets, batches, and what a user may get wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from hnlm_ray.errors import UserError
from hnlm_ray.finetune.batches import Texts, epoch_batches, split_rows
from hnlm_ray.finetune.config import EncoderConfig, FinetuneConfig, LoRAConfig
from hnlm_ray.finetune.encoder import (
    TextEncoder,
    default_pooling,
    embed_ids,
    encoder_source,
    load_backbone,
    load_tokenizer,
    lora_targets,
    make_encoder,
    make_spec,
    pad_batch,
    pool,
    token_ids,
)
from hnlm_ray.finetune.minilm import check_weights, minilm_dir
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.triplets import pair_hash
from hnlm_ray.store import ManifestEntry, RunDir

STATES = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]], [[0.0, 2.0], [0.0, 4.0], [3.0, 0.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[0.7071, 0.7071], [0.4472, 0.8944]]),  # (2, 2) and (1, 2)
        ("last", [[1.0, 0.0], [1.0, 0.0]]),  # the last token that is no padding
        ("cls", [[0.6, 0.8], [0.0, 1.0]]),
    ],
)
def test_pooling_by_hand(pooling: str, expected: list[list[float]]) -> None:
    assert torch.allclose(pool(STATES, MASK, pooling), torch.tensor(expected), atol=1e-4)  # type: ignore[arg-type]


def test_architectures_find_their_pooling_and_targets(bert: str, llama: str) -> None:
    assert default_pooling(bert) == "mean"
    assert default_pooling(llama) == "last"
    assert lora_targets(AutoModel.from_pretrained(bert)) == ["query", "key", "value", "attention.output.dense"]
    assert lora_targets(AutoModel.from_pretrained(llama)) == ["q_proj", "k_proj", "v_proj", "o_proj"]


_SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 9}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("kind", "own_names", "targets"),
    [
        ("qwen2", {}, ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("qwen3", {"head_dim": 16}, ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("phi3", _ENDS, ["qkv_proj", "o_proj"]),
        ("gpt_neox", {}, ["query_key_value", "attention.dense"]),
        ("gpt2", _ENDS, ["attn.c_attn", "attn.c_proj"]),
        ("opt", {"word_embed_proj_dim": 32}, ["q_proj", "k_proj", "v_proj", "out_proj"]),
        ("mpnet", {}, ["attn.q", "attn.k", "attn.v", "attn.o"]),
        ("distilbert", {"dim": 32, "n_heads": 2}, ["q_lin", "k_lin", "v_lin", "out_lin"]),
        ("modernbert", _ENDS | {"cls_token_id": 1, "sep_token_id": 2}, ["Wqkv", "attn.Wo"]),
    ],
)
def test_targets_of_other_architectures(kind: str, own_names: dict[str, int], targets: list[str]) -> None:
    assert lora_targets(AutoModel.from_config(AutoConfig.for_model(kind, **_SMALL, **own_names))) == targets


def test_only_the_adapter_drops_while_training(bert: str) -> None:
    batch = pad_batch([[5, 6, 7], [8]], pad_id=0)
    spec = make_spec(EncoderConfig(model=bert, max_length=64), TextTemplate(64, "none", 3, 8))
    still = make_encoder(spec, FinetuneConfig(lora=LoRAConfig(dropout=0.0)), torch.float32, seed=0)
    assert torch.equal(still.train()(batch)[0], still.eval()(batch)[0])
    dropping = make_encoder(spec, FinetuneConfig(lora=LoRAConfig(dropout=0.5)), torch.float32, seed=0).train()
    for name, value in dropping.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    assert not torch.equal(dropping(batch)[0], dropping(batch)[0])


def test_unknown_architecture_names_its_layers() -> None:
    with pytest.raises(UserError, match=r"finetune\.lora\.targets: alpha, beta"):
        lora_targets(torch.nn.ModuleDict({"alpha": torch.nn.Linear(2, 2), "beta": torch.nn.Linear(2, 2)}))


def test_a_vector_does_not_depend_on_the_batch_it_is_in(llama: str) -> None:
    tokenizer = load_tokenizer(llama)
    encoder = TextEncoder(load_backbone(llama), "last")
    texts = ["a noir crime story", "book 3", "a cosy romance story for fans of romance books near the item"]
    together = embed_ids(encoder, token_ids(tokenizer, texts, 64), tokenizer.pad_token_id, batch_size=2)
    alone = torch.cat([embed_ids(encoder, token_ids(tokenizer, [text], 64), tokenizer.pad_token_id) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)


def test_texts_are_cut_at_their_end(bert: str) -> None:
    tokenizer = load_tokenizer(bert)
    [short], [long] = (token_ids(tokenizer, ["noir crime story book 1 2 3 4 5"], length) for length in (6, 64))
    assert len(short) == 6
    assert short[:5] == long[:5]


def test_minilm_is_the_model_it_claims_to_be(tmp_path: Path) -> None:
    assert (minilm_dir() / "config.json").is_file()
    forged = tmp_path / "model.safetensors"
    forged.write_bytes(b"something else")
    with pytest.raises(UserError, match="sha256"):
        check_weights(forged, "53aa")


def test_spec_of_minilm() -> None:
    spec = make_spec(EncoderConfig(max_length=96), TextTemplate(96, "none", 3, 8))
    assert (spec.pooling, spec.max_length, spec.base_model) == ("mean", 96, "minilm")


@pytest.mark.parametrize(
    ("files", "message"), [([], "no config.json"), (["config.json"], "no tokenizer"), (None, "is no folder")]
)
def test_unusable_model_folders_are_refused(tmp_path: Path, files: list[str] | None, message: str) -> None:
    folder = tmp_path / "model"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}")
    with pytest.raises(UserError, match=message):
        encoder_source(str(folder))


def test_a_run_directory_stands_for_the_encoder_that_was_tuned_there(bert: str, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.commit(ManifestEntry("ingest", "f0", {"dataset": "dataset/f0"}, {}, 0.0, 0.0, "2026-01-01"))
    with pytest.raises(UserError, match="no fine-tune is finished"):
        encoder_source(str(tmp_path))
    for fingerprint in ("f1", "f2"):
        artifacts = {"finetune": f"finetune/{fingerprint}"}
        run_dir.commit(ManifestEntry("finetune", fingerprint, artifacts, {}, 0.0, 0.0, "2026-01-01"))
    shutil.copytree(bert, tmp_path / "finetune" / "f2" / "merged")
    assert encoder_source(str(tmp_path)) == str(tmp_path / "finetune" / "f2" / "merged")


def test_padding() -> None:
    batch = pad_batch([[5, 6, 7], [8]], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_flat_texts_give_back_every_text(bert: str) -> None:
    tokenizer = load_tokenizer(bert)
    texts = ["noir", "a cosy romance story", "", "book 7"]
    flat = Texts.tokenize(tokenizer, texts, 16)
    assert [flat[row].tolist() for row in range(len(flat))] == token_ids(tokenizer, texts, 16)
    assert flat.lengths.tolist() == [3, 6, 2, 4]


def test_batches_are_deterministic_full_and_of_similar_length() -> None:
    rng = np.random.default_rng(0)
    rows, lengths = np.arange(3, 1003), rng.integers(4, 100, 1003)
    batches = epoch_batches(rows, lengths, 32, seed=1, epoch=2)
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in epoch_batches(rows, lengths, 32, 1, 2)]
    assert [batch.tolist() for batch in batches] != [batch.tolist() for batch in epoch_batches(rows, lengths, 32, 1, 3)]
    assert {len(batch) for batch in batches} == {32}
    assert len(np.unique(np.concatenate(batches))) == 1000 // 32 * 32
    padded = sum(int(lengths[batch].max()) * 32 for batch in batches)
    shuffled = [rng.permutation(rows)[start : start + 32] for start in range(0, 992, 32)]
    assert padded < 0.75 * sum(int(lengths[batch].max()) * 32 for batch in shuffled)


def test_few_rows_make_one_batch() -> None:
    assert [len(batch) for batch in epoch_batches(np.arange(5), np.ones(5, int), 32, 0, 0)] == [5]


def test_split_holds_out_by_the_pair_alone() -> None:
    users, items = np.arange(200) % 20, np.arange(200)
    draw = pair_hash(users, items, 0)
    train, held_out = split_rows(draw, 0.1, 1000)
    assert len(held_out) == 20
    assert not set(train) & set(held_out)
    _, again = split_rows(pair_hash(users[::-1], items[::-1], 0), 0.1, 1000)
    assert sorted(199 - again) == sorted(held_out)
    assert len(split_rows(draw, 0.5, 7)[1]) == 7
