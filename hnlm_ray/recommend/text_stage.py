"""Stage `text`: vectors of item and user texts, for the models that read text (METHOD.md section 8).

Texts come from the training side alone: the catalogue, and profiles, which were written from training interactions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnlm_ray.errors import UserError
from hnlm_ray.generate.build_inputs import load_item_texts
from hnlm_ray.generate.inputs import ok_texts, told_titles
from hnlm_ray.generate.negative_stage import embed_texts
from hnlm_ray.recommend.text_vectors import TEXT_FILE
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext

_OF_ITEMS = {"tuned": ("items.safetensors", "item_text_emb"), "taste": ("taste.safetensors", "item_taste_emb")}
"""text.source -> file and tensor of the artifact `embeddings`."""


def run(ctx: "StageContext") -> dict[str, Any]:
    """Write `text.safetensors`: item_text_emb [I, d], and user_text_emb [U, d] for `source: profiles`."""
    source, out = ctx.config.text.source, ctx.out("text")
    if source in ("tuned", "taste"):
        told = np.array([bool(text) for text in catalogue_texts(ctx.input("dataset"))])
        file, name = _OF_ITEMS[source]
        vectors = ctx.input("embeddings").read_tensors(file)[name]
        tensors = {"item_text_emb": np.where(told[:, None], vectors, 0)}
    elif source == "profiles":
        dataset, profiles = ctx.input("dataset"), ctx.input("profiles")
        users = pc.fill_null(ok_texts(profiles, "users", "user_id", (0, dataset.num_rows("users"))), "").to_pylist()
        tensors = {
            "item_text_emb": _vectors(ctx, _profiled_items(dataset, profiles), "items"),
            "user_text_emb": _vectors(ctx, users, "users"),
        }
    else:
        tensors = {"item_text_emb": _vectors(ctx, catalogue_texts(ctx.input("dataset")), "items")}
    counts = {name.split("_")[0]: int(emb.any(1).sum()) for name, emb in tensors.items()}
    if not counts["item"]:
        raise UserError(
            f"no item has a text (text.source={source!r}): give items a title, description or text, or set train.model "
            "to one that reads none"
        )
    out.write_tensors(TEXT_FILE, {name: emb.astype(np.float32) for name, emb in tensors.items()})
    users_of = f"{counts['user']} users have a profile" if "user" in counts else "users are the mean of their items"
    headline = f"{counts['item']} of {len(tensors['item_text_emb'])} items have a text, {users_of}"
    return {"headline": headline, "source": source, "items_with_text": counts["item"]}


def catalogue_texts(dataset: Folder) -> list[str]:
    """What the data set itself says of each item, by id; '' where it says nothing."""
    items = dataset.read_table("items").sort_by("item_id")
    categories = pc.binary_join(pc.fill_null(items["categories"].combine_chunks(), []), ", ")
    items = items.set_column(items.schema.get_field_index("categories"), "categories", categories)
    items = items.set_column(items.schema.get_field_index("title"), "title", told_titles(items))
    return joined(items, ("title", "brand", "categories", "description", "text"))


def joined(items: pa.Table, columns: Sequence[str]) -> list[str]:
    """The columns that are not empty, as sentences."""
    rows = zip(*(items[column].to_pylist() for column in columns), strict=True)
    return [". ".join(part.strip() for part in row if part and part.strip()) for row in rows]


def _profiled_items(dataset: Folder, profiles: Folder) -> list[str]:
    texts = load_item_texts(dataset, profiles)
    return joined(pa.table({"title": texts.titles, "profile": texts.profiles}), ("title", "profile"))


def _vectors(ctx: "StageContext", texts: Sequence[str], unit: str) -> np.ndarray:
    """Vectors by the untuned encoder, [n, d]; a zero for an empty text."""
    from hnlm_ray.finetune.encoder import encoder_source

    encoder = ctx.engines.encoder(encoder_source(ctx.config.encoder.model))
    present = [place for place, text in enumerate(texts) if text]
    ctx.progress.start(len(present), unit, "embed")
    found = embed_texts(encoder, [texts[place] for place in present], ctx.progress)
    vectors = np.zeros((len(texts), found.shape[1]), np.float32)
    vectors[present] = found
    return vectors
