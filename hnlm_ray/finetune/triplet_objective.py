"""L_SFT or InfoNCE on triplets of texts (METHOD.md section 3). b triplets of this rank, B of the global batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hnlm_ray.distributed import rank, world_size
from hnlm_ray.errors import UserError
from hnlm_ray.finetune.batches import Texts, Triplets, split_rows
from hnlm_ray.finetune.config import FinetuneConfig
from hnlm_ray.finetune.encoder import pad_batch
from hnlm_ray.finetune.gradcache import Chunk
from hnlm_ray.finetune.loss import LossName, triplet_loss
from hnlm_ray.finetune.objective import Batch
from hnlm_ray.finetune.triplets import pair_hash
from hnlm_ray.finetune.validation import Validation


class TripletObjective:
    """Rows are the triplets of `table`, which all ranks hold."""

    def __init__(
        self,
        table: pa.Table,
        candidates: pa.Table,
        tokenizer: PreTrainedTokenizerBase,
        config: FinetuneConfig,
        loss: LossName,
        max_length: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """`candidates`: item_id and text of catalogue items that q has to find its p among."""
        self.config, self.loss, self.device = config, loss, device
        self.pad_id: int = tokenizer.pad_token_id
        self.table = table.sort_by([("user_id", "ascending"), ("item_id", "ascending")])
        if len(table) < 2:
            raise UserError(
                f"only {len(table)} triplets: too few training pairs have a candidate inside finetune.window="
                f"{list(config.window)}; widen it, or raise finetune.num_semantic_candidates or max_triplets"
            )
        self.triplets = Triplets.tokenize(self.table, tokenizer, max_length)
        self.lengths = self.triplets.queries.lengths
        draw = pair_hash(self.table["user_id"].to_numpy(), self.table["item_id"].to_numpy(), seed + 1)
        self.train_rows, self.held_out = split_rows(draw, config.validation_fraction, config.max_validation_triplets)
        self.num_validation = len(self.held_out)
        self.validation = Validation(
            self.triplets,
            self.held_out,
            Texts.tokenize(tokenizer, candidates["text"].to_pylist(), max_length),
            candidates["item_id"].to_numpy(),
            config,
            loss,
            self.pad_id,
        )

    def batch(self, rows: np.ndarray, step: int) -> Batch:
        """This rank's share of the triplets, against the p and n of all ranks."""
        own = rows[rank() :: world_size()][: len(rows) // world_size()]
        size = self.config.chunk_size or len(own)
        chunks = [self.chunk(own[start : start + size]) for start in range(0, len(own), size)]
        return Batch(chunks, lambda embedded: self._loss(own, embedded), self.triplets.num_tokens(rows))

    def chunk(self, rows: np.ndarray) -> Chunk:
        """Padded q, and p with n, of these triplets."""
        triplets = self.triplets
        queries = [triplets.queries[row] for row in rows]
        items = [triplets.items[row] for row in np.concatenate([triplets.hard_rows[rows], triplets.item_rows[rows]])]
        return pad_batch(queries, self.pad_id, self.device), pad_batch(items, self.pad_id, self.device)

    def validate(self, engine: Any) -> dict[str, float]:
        """Loss on held-out triplets, and whether q finds its p."""
        return self.validation.run(engine)

    def held_out_triplets(self) -> pa.Table:
        """The triplets that are not trained on, in the order of `held_out`."""
        return self.table.take(pa.array(self.held_out))

    def parity_texts(self, num_texts: int) -> list[str]:
        """q in words, those of held-out triplets first."""
        rows = np.concatenate([self.held_out, self.train_rows])[:num_texts]
        texts: list[str] = self.table["q"].take(pa.array(rows)).to_pylist()
        return texts

    def _loss(self, rows: np.ndarray, embedded: Sequence[tuple[Tensor, ...]]) -> Tensor:
        q_bd = torch.cat([q for q, _ in embedded])
        p_bd = torch.cat([pn[: len(q)] for q, pn in embedded])
        n_bd = torch.cat([pn[len(q) :] for q, pn in embedded])
        hard_ids = torch.as_tensor(self.triplets.hard_item_ids[rows], device=self.device)
        item_ids = torch.as_tensor(self.triplets.item_ids[rows], device=self.device)
        return triplet_loss(self.loss, q_bd, p_bd, n_bd, hard_ids, item_ids, self.config.tau, over_ranks=True)
