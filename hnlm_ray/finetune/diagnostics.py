"""Base against tuned encoder on pairs that were held out of the tune: gathers what `tune_figures` measures.

The only place of the fine-tune that reads validation pairs, and only after the tune is finished and chosen.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from hnlm_ray.finetune.embed_plan import embed_items
from hnlm_ray.finetune.encoder import encoder_source
from hnlm_ray.finetune.pairs import PairTexts, group_by_user
from hnlm_ray.finetune.spec import EncoderSpec
from hnlm_ray.finetune.tune_figures import TuneSample, measure
from hnlm_ray.finetune.user_rows import UserRows
from hnlm_ray.store import Folder

if TYPE_CHECKING:
    from hnlm_ray.pipeline import StageContext

_MAX_PAIRS = 500
_MAX_ITEMS = 2000


def diagnose(ctx: "StageContext", texts: PairTexts, tuned: Any, dtype: str, num_engines: int) -> dict[str, Any]:
    """`{"base": figures, "tuned": figures, "num_pairs", "num_items", "window"}` of one run.

    Both encoders embed the same texts anew, at full width: what is stored may be reduced.
    """
    spec = EncoderSpec.from_json(ctx.input("finetune").read_json("encoder.json"))
    source = encoder_source(spec.base_model)
    base = ctx.engines.encoder(source, pooling=spec.pooling, max_length=spec.max_length, dtype=dtype)
    table = ctx.input("finetune").read_table("validation.parquet").slice(0, _MAX_PAIRS)
    user_ids, item_ids, targets = (table[name].to_numpy() for name in ("user_id", "item_id", "hard_item_id"))
    held_out = _held_out_items(ctx.input("dataset").child("valid"), user_ids)
    catalogue = _catalogue(
        np.flatnonzero(texts.has_text), [item_ids, targets, held_out[held_out >= 0]], ctx.config.seed
    )
    sample = TuneSample(
        user_ids,
        np.searchsorted(catalogue, item_ids),
        np.searchsorted(catalogue, targets),
        np.where(held_out >= 0, np.searchsorted(catalogue, held_out), -1),
    )
    user_emb, item_emb = texts.signal
    scores_SI = user_emb[user_ids] @ item_emb.T
    seen = UserRows(Folder(texts.sources.train), ["user_id", "item_id"])(user_ids)
    positives = group_by_user(seen["user_id"].to_numpy(), seen["item_id"].to_numpy())
    queries: list[str] = table["q"].to_pylist()
    window = ctx.config.finetune.window
    figures: dict[str, Any] = {"num_pairs": len(table), "num_items": len(catalogue), "window": list(window)}
    for name, encoder in (("base", base), ("tuned", tuned)):
        items_Cd = embed_items(texts, encoder, catalogue, num_engines)
        figures[name] = measure(encoder.embed(queries), items_Cd, catalogue, sample, scores_SI, positives, window)
    return figures


def _held_out_items(valid: Folder, user_ids: np.ndarray) -> np.ndarray:
    """One validation positive per pair's user, the first; -1 where the user has none."""
    if not valid.parquet_files():
        return np.full(len(user_ids), -1)
    table = UserRows(valid, ["user_id", "item_id"])(user_ids)
    first = {
        user: int(items[0])
        for user, items in group_by_user(table["user_id"].to_numpy(), table["item_id"].to_numpy()).items()
    }
    return np.array([first.get(user, -1) for user in user_ids.tolist()])


def _catalogue(told: np.ndarray, needed: list[np.ndarray], seed: int) -> np.ndarray:
    """Sorted item ids: all that are needed, filled up at random to `_MAX_ITEMS` with items `told` by a text."""
    kept = np.unique(np.concatenate(needed))
    others = np.setdiff1d(told, kept)
    num_more = max(0, min(_MAX_ITEMS - len(kept), len(others)))
    return np.sort(np.concatenate([kept, np.random.default_rng(seed).permutation(others)[:num_more]]))
