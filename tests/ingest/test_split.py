"""Who is held out: known answers and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnlm_ray.ingest.config import SplitConfig
from hnlm_ray.ingest.split import (
    TEST,
    TRAIN,
    VALID,
    carve_valid,
    held_out_and_unseen,
    random_numbers,
    split_leave_last,
    split_random,
    split_ratio,
    split_time,
)


def test_leave_last_takes_the_newest_rows() -> None:
    users = np.array([0, 0, 0, 0, 1, 1, 2])
    assert split_leave_last(users).tolist() == [TRAIN, TRAIN, VALID, TEST, TRAIN, TEST, TRAIN]


def test_time_cuts_at_the_moments() -> None:
    assert split_time(np.array([1, 5, 6, 9, 10]), valid_from=5, test_from=9).tolist() == [0, 1, 1, 2, 2]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    valid=st.floats(0, 0.45),
    test=st.floats(0, 0.45),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_takes_the_rounded_share_of_each_user(sizes: list[int], valid: float, test: float, seed: int) -> None:
    users = np.repeat(np.arange(len(sizes)), sizes)
    randoms = np.random.default_rng(seed).random(len(users))
    codes = split_random(users, randoms, SplitConfig(valid=valid, test=test))
    for user, size in enumerate(sizes):
        mine = codes[users == user]
        num_test = min(int(size * test + 0.5), size - 1)
        assert (mine == TEST).sum() == num_test
        assert (mine == VALID).sum() == min(int(size * valid + 0.5), size - 1 - num_test)
        assert (mine == TRAIN).any()


def test_random_numbers_are_uniform_and_hang_on_pair_and_seed_alone() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 2**63, (2, 200_000)).astype(np.uint64)
    numbers = random_numbers(users, items, seed=1)
    assert abs(numbers.mean() - 0.5) < 0.005
    assert np.histogram(numbers, bins=10, range=(0, 1))[0].min() > 19_300
    backwards = random_numbers(users[::-1], items[::-1], seed=1)[::-1]
    assert (numbers == backwards).all()
    assert abs(np.corrcoef(numbers, random_numbers(users, items, seed=2))[0, 1]) < 0.01


def test_ratio_takes_shares_of_all_rows() -> None:
    codes = split_ratio(np.array([0.05, 0.15, 0.25, 0.99]), SplitConfig(valid=0.1, test=0.1))
    assert codes.tolist() == [TEST, VALID, TRAIN, TRAIN]


def test_carved_validation_comes_from_train_only() -> None:
    users = np.repeat([0, 1], 10)
    codes = np.where(np.arange(20) % 5 == 0, TEST, TRAIN).astype(np.int8)
    carved = carve_valid(codes, users, np.random.default_rng(0).random(20), share=0.25)
    assert ((carved == TEST) == (codes == TEST)).all()
    assert [(carved[users == user] == VALID).sum() for user in (0, 1)] == [2, 2]


def test_unseen_users_and_items_are_found() -> None:
    users = np.array([0, 0, 1, 2, 2])
    items = np.array([0, 1, 0, 0, 2])
    codes = np.array([TRAIN, TEST, TEST, TRAIN, VALID], dtype=np.int8)
    in_train = np.array([True, False, False])
    assert held_out_and_unseen(users, items, codes, in_train).tolist() == [False, True, True, False, True]


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="leave nothing to train on"):
        SplitConfig(valid=0.5, test=0.5)
