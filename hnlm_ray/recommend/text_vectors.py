"""Vectors of item and user texts, for the models that read text (METHOD.md section 8).

Legend: U users, I items, N = U + I nodes (users first), d width of the encoder.
"""

from dataclasses import dataclass

import numpy as np

from hnlm_ray.errors import UserError
from hnlm_ray.recommend.interactions import UserItems
from hnlm_ray.store import Folder

TEXT_FILE = "text.safetensors"
"""item_text_emb float32 [I, d], and user_text_emb [U, d] where users have texts of their own; a zero row is no text"""


@dataclass(frozen=True)
class TextVectors:
    """One vector per node, zero where there is no text: a zero is never taken for a text."""

    nodes: np.ndarray
    """float32 [N, d]"""

    @classmethod
    def of(cls, user_items: UserItems, item_emb: np.ndarray, user_emb: np.ndarray | None = None) -> "TextVectors":
        """From item vectors [I, d] and user vectors [U, d].

        A user without a vector gets the mean of the user's training items that have one, and none where none has.

        Raises:
            UserError: the vectors belong to other users or items, or no item has one.
        """
        users = np.zeros((user_items.num_users, item_emb.shape[-1]), np.float32) if user_emb is None else user_emb
        for kind, emb, count in (("item", item_emb, user_items.num_items), ("user", users, user_items.num_users)):
            if emb.shape != (count, item_emb.shape[-1]):
                raise UserError(
                    f"{kind} text vectors have the shape {list(emb.shape)}, and there are {count} {kind}s and item "
                    f"vectors of width {item_emb.shape[-1]}: make them from the same data set"
                )
        if not item_emb.any():
            raise UserError("no item has a text vector: give items a text, or take a model that reads none")
        means = _means_of_items(user_items, item_emb)
        return cls(np.concatenate([np.where(users.any(1, keepdims=True), users, means), item_emb]).astype(np.float32))

    @classmethod
    def load(cls, folder: Folder, user_items: UserItems) -> "TextVectors":
        """Read the artifact `text`."""
        tensors = folder.read_tensors(TEXT_FILE)
        return cls.of(user_items, tensors["item_text_emb"], tensors.get("user_text_emb"))


def _means_of_items(user_items: UserItems, item_emb: np.ndarray) -> np.ndarray:
    """float32 [U, d]: mean over the user's training items with a vector; zero where there is none."""
    has_text = item_emb.any(1).astype(np.float32)
    counts = user_items.matrix @ has_text
    return user_items.matrix @ item_emb / np.maximum(counts, 1)[:, None]
