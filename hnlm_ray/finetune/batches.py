"""Tokenised triplets and the order in which a training sees them: the same on every machine and after every resume."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from hnlm_ray.finetune.encoder import token_ids

_BUCKET_BATCHES = 16
"""Batches whose rows are sorted by length together: less padding with little loss of shuffling."""
_TOKENIZE_ROWS = 4096


@dataclass(frozen=True)
class Texts:
    """Token ids of many texts in one flat array."""

    flat: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.flat[self.starts[row] : self.starts[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text."""
        return np.diff(self.starts)

    @classmethod
    def tokenize(cls, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> "Texts":
        """Token ids of `texts`, cut to `max_length`."""
        parts, lengths = [np.empty(0, dtype=np.int32)], [0]
        for start in range(0, len(texts), _TOKENIZE_ROWS):
            rows = token_ids(tokenizer, texts[start : start + _TOKENIZE_ROWS], max_length)
            parts += [np.asarray(row, dtype=np.int32) for row in rows]
            lengths += [len(row) for row in rows]
        return cls(np.concatenate(parts), np.cumsum(lengths))


@dataclass(frozen=True)
class Triplets:
    """Tokenised (q, p, n) with their item ids; item texts are kept once each, however often they occur."""

    queries: Texts
    items: Texts
    hard_item_ids: np.ndarray
    item_ids: np.ndarray
    hard_rows: np.ndarray
    """Row of p in `items`, per triplet."""
    item_rows: np.ndarray
    """Row of n in `items`, per triplet."""

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def tokenize(cls, table: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int) -> "Triplets":
        """From a table of triplets."""
        hard_ids, item_ids = table["hard_item_id"].to_numpy(), table["item_id"].to_numpy()
        known, first = np.unique(np.concatenate([hard_ids, item_ids]), return_index=True)
        texts = pa.chunked_array([*table["p"].chunks, *table["n"].chunks], pa.string()).take(pa.array(first))
        return cls(
            Texts.tokenize(tokenizer, table["q"].to_pylist(), max_length),
            Texts.tokenize(tokenizer, texts.to_pylist(), max_length),
            hard_ids,
            item_ids,
            np.searchsorted(known, hard_ids),
            np.searchsorted(known, item_ids),
        )

    def num_tokens(self, rows: np.ndarray) -> int:
        """Tokens of q, p and n of these triplets, without padding."""
        items = self.items.lengths
        return int(
            self.queries.lengths[rows].sum() + items[self.hard_rows[rows]].sum() + items[self.item_rows[rows]].sum()
        )


def split_rows(draw: np.ndarray, fraction: float, max_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train and to validate on by the number drawn for each; at least one each, `max_rows` held out at most."""
    order = np.argsort(draw, kind="stable")
    num_held_out = min(max(1, round(fraction * len(order))), max_rows, len(order) - 1)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])


def epoch_batches(rows: np.ndarray, lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Batches of exactly `batch_size` rows, of similar query length, in an order that (seed, epoch) decides.

    The remainder that fills no batch is left out of this epoch; fewer rows than one batch make one smaller batch.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(rows)
    if len(shuffled) <= batch_size:
        return [shuffled]
    shuffled = shuffled[: len(shuffled) // batch_size * batch_size]
    batches = []
    for start in range(0, len(shuffled), batch_size * _BUCKET_BATCHES):
        bucket = shuffled[start : start + batch_size * _BUCKET_BATCHES]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += np.split(bucket, len(bucket) // batch_size)
    return [batches[position] for position in rng.permutation(len(batches))]
