"""Models that are solved or read off, without the trainer: EASE, and the ranking by text alone."""

import numpy as np

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.config import FitConfig
from hnlm_ray.recommend.ease import solve_ease
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.recommend.text_vectors import TextVectors


def solve(config: FitConfig, user_items: UserItems, text: TextVectors | None) -> dict[str, np.ndarray]:
    """The tensors of `config.model`, as `RecommenderArtifact` keeps them.

    `ease`: `item_weights` [I, I]. `text`: `user_emb` [U, d] and `item_emb` [I, d] of unit length, the texts themselves.

    Raises:
        UserError: the model reads text, and there is none.
    """
    if config.model == "ease":
        return {"item_weights": solve_ease(user_items, config.ease_reg)}
    if text is None:
        raise UserError(f"model={config.model!r} ranks by text: give a vector per item (`item_text_emb`)")
    norms = np.linalg.norm(text.nodes, axis=1, keepdims=True)
    nodes = text.nodes / np.maximum(norms, np.float32(1e-12))
    return {"user_emb": nodes[: user_items.num_users], "item_emb": nodes[user_items.num_users :]}
