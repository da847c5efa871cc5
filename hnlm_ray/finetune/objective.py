"""What a fine-tune learns from, as the trainer sees it: rows that are drawn in batches, their texts and their loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from hnlm_ray.finetune.gradcache import Chunk


@dataclass(frozen=True)
class Batch:
    """One optimizer step on this rank."""

    chunks: list[Chunk]
    """Texts of each forward pass; every rank has equally many."""
    loss: Callable[[Sequence[tuple[Tensor, ...]]], Tensor]
    """Embeddings per chunk -> this rank's loss, whose mean over ranks is that of the global batch."""
    num_tokens: int
    """Tokens of the global batch, without padding."""


class Objective(Protocol):
    """`TripletObjective` (rows are triplets) or `TasteObjective` (rows are users)."""

    train_rows: np.ndarray
    """What is trained on, held-out rows left out; the same on every rank."""
    lengths: np.ndarray
    """Tokens of every row: rows of similar length share a batch."""
    num_validation: int
    """Rows that are held out."""

    def batch(self, rows: np.ndarray, step: int) -> Batch:
        """This rank's part of the step on these rows."""

    def validate(self, engine: Any) -> dict[str, float]:
        """validation_loss, accuracy@1 and accuracy@10 on what is held out; every rank computes the same."""

    def parity_texts(self, num_texts: int) -> list[str]:
        """At most so many texts of the kind that will be embedded, held-out ones first."""
