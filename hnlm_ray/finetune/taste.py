"""Taste: a projection of the encoder's item vectors, learnt from what users took (METHOD.md section 5, `guarded`).

L_SFT makes z point at hard negatives. To tell the false ones among them, text must also say what a user *would* take:
here a square matrix on top of the tuned vectors, trained so that the sum of a user's items lies near each of them, that
item itself left out of the sum. It costs seconds; `finetune.loss: taste` teaches the same to the encoder itself.

I items, U users, d width of a vector, B pairs of a step.
"""

import numpy as np
import torch
import torch.nn.functional as F

from hnlm_ray.finetune.config import TasteConfig
from hnlm_ray.finetune.loss import taste_loss
from hnlm_ray.recommend.interactions import UserItems


def fit_taste(item_text_emb: np.ndarray, train: UserItems, config: TasteConfig, seed: int) -> np.ndarray:
    """Vectors of unit norm in which the sum of a user's items is the user, float32 [I, d]; zero rows stay zero.

    InfoNCE over the items of a batch, corrected for popularity. Users with one item have nothing left when it is left
    out: they do not train.
    """
    items_Id = torch.from_numpy(item_text_emb.astype(np.float32))
    pairs = _trainable(item_text_emb, train)
    matrix = torch.eye(items_Id.shape[1], requires_grad=True)
    batch_size = min(config.batch_size, len(pairs))
    steps_per_epoch = len(pairs) // batch_size if batch_size > 1 else 0
    num_steps = min(config.epochs * steps_per_epoch, config.max_steps)
    if num_steps:
        users_Ud = torch.from_numpy(train.matrix @ items_Id.numpy())
        user_ids, item_ids = (torch.from_numpy(ids.astype(np.int64)) for ids in (train.user_ids, train.item_ids))
        log_popularity = torch.from_numpy(np.log(np.maximum(train.item_counts, 1) / len(item_ids))).float()
        optimizer = torch.optim.AdamW([matrix], lr=config.lr, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
        rng = np.random.default_rng(seed)
        for step in range(num_steps):
            if step % steps_per_epoch == 0:
                order = rng.permutation(pairs)
            start = step % steps_per_epoch * batch_size
            batch = torch.from_numpy(order[start : start + batch_size])
            users, items = user_ids[batch], item_ids[batch]
            loss = _loss(users_Ud[users] - items_Id[items], items_Id[items], items, matrix, log_popularity, config.tau)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return F.normalize(items_Id @ matrix, dim=-1).numpy()


def _trainable(item_text_emb: np.ndarray, train: UserItems) -> np.ndarray:
    """Places of the pairs whose item has text and whose user has another item with text, int64."""
    has_text = np.abs(item_text_emb).sum(axis=1)[train.item_ids] > 0
    with_text = np.bincount(train.user_ids, weights=has_text, minlength=train.num_users)
    return np.flatnonzero(has_text & (with_text[train.user_ids] > 1))


def _loss(
    rest_Bd: torch.Tensor,
    items_Bd: torch.Tensor,
    item_ids: torch.Tensor,
    matrix: torch.Tensor,
    log_popularity: torch.Tensor,
    tau: float,
) -> torch.Tensor:
    users, items = F.normalize(rest_Bd @ matrix, dim=-1), F.normalize(items_Bd @ matrix, dim=-1)
    again = item_ids[:, None] == item_ids[None, :]  # the same item elsewhere in the batch is not a negative
    again.fill_diagonal_(False)
    return taste_loss(users, items, torch.arange(len(item_ids)), again, log_popularity[item_ids], tau)
