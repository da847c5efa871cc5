"""Hardness of chosen negatives, against a percentile by hand."""

import numpy as np

from hnlm_ray.compare.negatives import score_percentiles_of
from hnlm_ray.recommend.interactions import UserItems


def test_hardness_is_the_share_of_unseen_items_that_score_lower() -> None:
    rng = np.random.default_rng(0)
    num_users, num_items = 300, 40
    user_emb, item_emb = rng.normal(size=(num_users, 4)), rng.normal(size=(num_items, 4))
    train = UserItems.from_pairs(*rng.integers(0, (num_users, num_items), (900, 2)).T, num_users, num_items)
    user_ids = rng.integers(0, num_users, 1000)
    item_ids = np.array([rng.choice(np.setdiff1d(np.arange(num_items), train.of(user))) for user in user_ids])
    found = score_percentiles_of(user_ids, item_ids, user_emb, item_emb, train)
    for user, item, percentile in zip(user_ids, item_ids, found, strict=True):
        scores = item_emb @ user_emb[user]
        unseen = np.setdiff1d(np.arange(num_items), train.of(user))
        assert percentile == np.float32((scores[unseen] < scores[item]).sum() / len(unseen))
