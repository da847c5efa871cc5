"""LightGCN the way SELFRec trains it: the baseline of `hnlm bench train`. Kept plain; not part of the library.

COO adjacency and autograd through every layer, negatives drawn by `random.choice` against a Python dict, Adam over
fresh gradients, embeddings of users and items as two parameters that are concatenated in every step.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch

from hnlm_ray.recommend.interactions import Interactions


class ReferenceLightGCN:
    """One model with its optimizer; `step` trains the next batch, an epoch is as many steps as there are batches."""

    def __init__(self, data: Interactions, dim: int, num_layers: int, batch_size: int, lr: float, reg: float) -> None:
        self.data, self.num_layers, self.batch_size, self.reg = data, num_layers, batch_size, reg
        self.user_emb = torch.nn.Parameter(torch.nn.init.xavier_uniform_(torch.empty(data.num_users, dim)))
        self.item_emb = torch.nn.Parameter(torch.nn.init.xavier_uniform_(torch.empty(data.num_items, dim)))
        self.adjacency = self._adjacency()
        self.optimizer = torch.optim.Adam([self.user_emb, self.item_emb], lr=lr)
        self.seen = {user: dict.fromkeys(data.train.of(user).tolist(), 1) for user in range(data.num_users)}
        self.all_items = list(range(data.num_items))
        self.pairs = list(zip(data.user_ids.tolist(), data.item_ids.tolist(), strict=True))
        self._batches: Iterator[tuple[list[int], list[int], list[int]]] = iter(())

    def step(self) -> float:
        """Train one batch; returns its loss."""
        batch = next(self._batches, None)
        if batch is None:
            self._batches = self._epoch()
            batch = next(self._batches)
        users, positives, negatives = batch
        user_all, item_all = self._propagate()
        user, positive, negative = user_all[users], item_all[positives], item_all[negatives]
        scores = (user * positive).sum(1) - (user * negative).sum(1)
        loss = -torch.log(10e-6 + torch.sigmoid(scores)).mean()
        norms = [self.user_emb[users], self.item_emb[positives], self.item_emb[negatives]]
        loss = loss + self.reg * sum(torch.norm(emb, p=2) for emb in norms) / self.batch_size
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _epoch(self) -> Iterator[tuple[list[int], list[int], list[int]]]:
        random.shuffle(self.pairs)
        for start in range(0, len(self.pairs), self.batch_size):
            users, positives, negatives = [], [], []
            for user, item in self.pairs[start : start + self.batch_size]:
                negative = random.choice(self.all_items)
                while negative in self.seen[user]:
                    negative = random.choice(self.all_items)
                users.append(user)
                positives.append(item)
                negatives.append(negative)
            yield users, positives, negatives

    def _propagate(self) -> tuple[torch.Tensor, torch.Tensor]:
        current = torch.cat([self.user_emb, self.item_emb])
        layers = [current]
        for _ in range(self.num_layers):
            current = torch.sparse.mm(self.adjacency, current)
            layers.append(current)
        final = torch.stack(layers, dim=1).mean(dim=1)
        return final[: self.data.num_users], final[self.data.num_users :]

    def _adjacency(self) -> torch.Tensor:
        train = self.data.train
        users, items = train.user_ids.astype(np.int64), train.item_ids.astype(np.int64) + self.data.num_users
        rows, columns = np.concatenate([users, items]), np.concatenate([items, users])
        degrees = np.bincount(rows, minlength=self.data.num_users + self.data.num_items)
        values = (1 / np.sqrt(degrees[rows] * degrees[columns])).astype(np.float32)
        size = (len(degrees), len(degrees))
        places = torch.from_numpy(np.stack([rows, columns]))
        return torch.sparse_coo_tensor(places, torch.from_numpy(values), size, check_invariants=False).coalesce()
