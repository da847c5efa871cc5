"""A small made-up world for the fine-tune's tests: artifacts of the earlier stages, and tiny encoders to tune.

Items come in two genres of two kinds each; a user likes one kind, so the other kind of the same genre is close in
text and distant in behaviour: real hard negatives.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from hnlm_ray.config import RunConfig, parse_config
from hnlm_ray.finetune.config import EncoderConfig, FinetuneConfig
from hnlm_ray.finetune.encoder import make_spec
from hnlm_ray.finetune.pairs import PairTexts, Sources
from hnlm_ray.finetune.texts import TextTemplate
from hnlm_ray.finetune.trainer import TrainJob
from hnlm_ray.finetune.triplet_dataset import write_candidates
from hnlm_ray.finetune.triplets import TripletMaker
from hnlm_ray.pipeline import STAGE_NAMES, Run, StageContext
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder, RunDir

NUM_USERS, NUM_ITEMS, DIM = 24, 48, 8
GENRES = ("crime", "romance")
KINDS = ("noir", "cosy")
WORDS = "a miss for this user User : Near the Chosen About enjoys books book story fans of item . ; A near"


@dataclass(frozen=True)
class World:
    """Where the artifacts lie, and what is in them."""

    run_dir: RunDir
    train: list[tuple[int, int]]
    valid: list[tuple[int, int]]
    test: list[tuple[int, int]]

    def context(self, **sections: object) -> StageContext:
        """A stage's context over these artifacts."""
        config = run_config(**sections)
        return StageContext(config, self.run_dir, dict.fromkeys(STAGE_NAMES, "v"), Progress("test"), Run(config))


def run_config(**sections: object) -> RunConfig:
    """A config with the given sections."""
    return parse_config({"name": "test", **sections})


def kind_of(item: int) -> tuple[int, int]:
    """(genre, kind) of an item."""
    return item % 2, item // 2 % 2


def make_world(folder: Path) -> World:
    """Write dataset, profiles, signal and negatives."""
    rng = np.random.default_rng(0)
    run_dir = RunDir(folder)
    liked = [(user % 2, user // 2 % 2) for user in range(NUM_USERS)]
    pairs: dict[str, list[tuple[int, int]]] = {"train": [], "valid": [], "test": []}
    for user, taste in enumerate(liked):
        own = [item for item in range(NUM_ITEMS) if kind_of(item) == taste]
        for split, item in zip(["train"] * 6 + ["valid", "test"], rng.permutation(own)[:8].tolist(), strict=True):
            pairs[split].append((user, item))
    dataset = run_dir.artifact("dataset", "v")
    for split, rows in pairs.items():
        dataset.child(split).write_table("part-00000.parquet", _ids(rows, ("user_id", "item_id")), row_group_size=40)
    for kind, count in (("user", NUM_USERS), ("item", NUM_ITEMS)):
        dataset.child(f"{kind}s").write_table("part-00000.parquet", _ids([(i,) for i in range(count)], (f"{kind}_id",)))
    texts = [_item_text(item) for item in range(NUM_ITEMS)]
    negatives = run_dir.artifact("negatives", "v")
    table = {
        "item_id": pa.array(range(NUM_ITEMS), pa.int32()),
        "title": [text[0] for text in texts],
        "text": [text[1] for text in texts],
    }
    negatives.child("item_texts").write_table("part-0.parquet", pa.table(table))
    text_emb = np.stack([_unit(np.eye(DIM)[item % 2] + 0.4 * rng.normal(size=DIM)) for item in range(NUM_ITEMS)])
    negatives.write_tensors("item_text_emb.safetensors", {"item_text_emb": text_emb.astype(np.float32)})
    grounded = [
        (user, item, rank, (item + 2 + 4 * rank) % NUM_ITEMS) for user, item in pairs["train"][::3] for rank in range(3)
    ]
    grounded_table = _ids(grounded, ("user_id", "item_id", "rank", "negative_item_id"))
    negatives.child("grounded").write_table("part-0.parquet", grounded_table)
    users = {
        "user_id": pa.array(range(NUM_USERS), pa.int32()),
        "text": [f"enjoys {KINDS[k]} {GENRES[g]} books" for g, k in liked],
    }
    users["status"] = ["failed" if user == 3 else "ok" for user in range(NUM_USERS)]
    run_dir.artifact("profiles", "v").child("users").write_table("part-0.parquet", pa.table(users))
    centers = rng.normal(size=(4, DIM))
    user_emb = np.stack([centers[2 * g + k] + 0.3 * rng.normal(size=DIM) for g, k in liked])
    item_emb = np.stack(
        [centers[2 * kind_of(i)[0] + kind_of(i)[1]] + 0.5 * rng.normal(size=DIM) for i in range(NUM_ITEMS)]
    )
    signal = {"user_emb": user_emb.astype(np.float32), "item_emb": item_emb.astype(np.float32)}
    run_dir.artifact("signal", "v").write_tensors("embeddings.safetensors", signal)
    return World(run_dir, pairs["train"], pairs["valid"], pairs["test"])


def _item_text(item: int) -> tuple[str, str]:
    genre, kind = kind_of(item)
    return f"book {item}", f"a {KINDS[kind]} {GENRES[genre]} story for fans of {GENRES[genre]}"


def _ids(rows: list[tuple[int, ...]], names: tuple[str, ...]) -> pa.Table:
    columns = zip(*sorted(rows), strict=True)
    return pa.table({name: pa.array(column, pa.int32()) for name, column in zip(names, columns, strict=True)})


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    words = WORDS.split()
    words += [*GENRES, *KINDS, *map(str, range(NUM_ITEMS))]
    vocab = {word: number for number, word in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if "[CLS]" in vocab:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="</s>")


def make_bert(folder: Path) -> str:
    """A tiny encoder-only model with random weights; returns its folder."""
    tokenizer = _tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_llama(folder: Path) -> str:
    """A tiny decoder with random weights and no padding token; returns its folder."""
    tokenizer = _tokenizer(["[UNK]", "</s>"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=1,  # vLLM's attention on CPUs takes heads of 32 and more
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_job(world: World, model: str, out: Path, **config: object) -> dict[str, object]:
    """A training job over triplets of all training pairs, as plain values."""
    settings = FinetuneConfig.model_validate(config)
    template = TextTemplate(64, "none", 3, 8)
    sources = Sources(
        world.run_dir.artifact("dataset", "v").child("train").uri,
        *(world.run_dir.artifact(name, "v").uri for name in ("profiles", "signal", "negatives")),
    )
    users, items = (np.array(column) for column in zip(*world.train, strict=True))
    folder = Folder(out)
    folder.write_table("triplets/part-0.parquet", TripletMaker(sources, template, settings, seed=0)(users, items))
    write_candidates(PairTexts(sources, template), settings, 0, folder)
    spec = make_spec(EncoderConfig(model=model), template)
    triplets, values = folder.child("triplets").uri, settings.model_dump(mode="json")
    return vars(TrainJob(triplets, folder.uri, folder.uri, sources.as_json(), values, spec.as_json(), 0))
