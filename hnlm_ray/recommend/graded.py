"""`graded`: text tells false hard negatives from true ones, and both are used as what they are (METHOD.md section 5).

An unseen item that behaviour and text say the user would take is likely no negative at all. Leaving it out, as
`guarded` does, forgets what is known of it; `graded` ranks it where it belongs: above the hard negatives.

Legend: U users, I items, B pairs of a batch, D dimension, T likely false negatives per user.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from hnlm_ray.recommend.interactions import Interactions
from hnlm_ray.recommend.ranking import EmbeddingScorer, Scorer
from hnlm_ray.recommend.samplers import drawing
from hnlm_ray.recommend.samplers.base import Batch
from hnlm_ray.recommend.text_match import TextMatch
from hnlm_ray.recommend.text_sides import standardised

_STREAM = 9
_USERS_PER_BLOCK = 256


@dataclass(frozen=True)
class SumOfScores:
    """Scores of two, each in standard deviations over the catalogue, added."""

    one: Scorer
    other: Scorer

    def scores(self, user_ids: np.ndarray) -> torch.Tensor:
        """See `Scorer.scores`."""
        one = standardised(self.one.scores(user_ids).numpy())
        return torch.from_numpy(one + standardised(self.other.scores(user_ids).numpy()))


@dataclass
class FalseNegatives:
    """Each user's T unseen items of which behaviour and text together say that they would be taken."""

    interactions: Interactions
    text: TextMatch | None
    """None: behaviour alone, the control `window-only`"""
    text_weight: float
    """Standard deviations of the behavioural score that one of the similarity in text is worth"""
    popularity_discount: float
    """Standard deviations of the score that an item loses per e-fold of its popularity: what everybody takes says
    little about this user"""
    num_per_user: int
    """T"""
    tau: float
    """Standard deviations of the score by which one must fall behind another to be drawn e times less often"""
    weight: float
    """beta: of -log sigmoid(e_u.e_f - e_u.e_j) beside L_rank"""
    seed: int
    item_ids: np.ndarray = field(init=False)
    """int32 [U, T], the surest first, -1 where a user has taken too much of the catalogue"""
    chances: np.ndarray = field(init=False)
    """float32 [U, T]: how likely that one or a surer one is drawn, 1 in the last column"""

    def choose(self, behaviour: Scorer) -> None:
        """Choose them anew by these scores, a block of users at a time."""
        data = self.interactions
        num_per_user = min(self.num_per_user, data.num_items)
        discounts = np.float32(self.popularity_discount) * np.log1p(data.train.item_counts).astype(np.float32)
        self.item_ids = np.empty((data.num_users, num_per_user), np.int32)
        self.chances = np.empty((data.num_users, num_per_user), np.float32)
        for start in range(0, data.num_users, _USERS_PER_BLOCK):
            user_ids = np.arange(start, min(start + _USERS_PER_BLOCK, data.num_users))
            scores = standardised(behaviour.scores(user_ids).numpy()) - discounts
            if self.text is not None:
                by_text = standardised(self.text.scores(user_ids))
                by_text *= np.float32(self.text_weight)
                scores += by_text
            rows, seen = data.train.entries(user_ids)
            scores[rows, seen] = -np.inf
            best = torch.from_numpy(scores).topk(num_per_user)
            self.item_ids[user_ids] = torch.where(best.values.isfinite(), best.indices, -1).numpy()
            behind = (best.values - best.values[:, :1]).nan_to_num(nan=0.0)  # nothing left at all: -inf less itself
            self.chances[user_ids] = torch.softmax(behind / self.tau, dim=1).cumsum(dim=1).numpy()
        self.chances[:, -1] = 1  # not a rounding below it

    def choose_by_model(self, user_emb: np.ndarray, item_emb: np.ndarray) -> None:
        """Choose them anew by the embeddings of a model, [U, D] and [I, D]."""
        self.choose(EmbeddingScorer(torch.from_numpy(user_emb), torch.from_numpy(item_emb)))

    def draw(self, batch: Batch) -> np.ndarray:
        """One of the user's for each pair, the surer the likelier, int32 [B]; a user who has none gets the pair's own
        positive."""
        fractions = np.empty((len(batch.pair_ids), 1), np.float32)
        drawing.draw_fractions(drawing.stream_key(self.seed, _STREAM, batch.epoch), batch.pair_ids, fractions)
        place = (self.chances[batch.user_ids] <= fractions).sum(axis=1)
        drawn = self.item_ids[batch.user_ids, place]
        return np.where(drawn >= 0, drawn, batch.item_ids)
