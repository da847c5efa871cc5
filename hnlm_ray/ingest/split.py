"""Splits into train, valid and test: pure functions on arrays of one bucket, in which users are whole.

All arrays are [N], rows sorted by user and then from old to new. Codes: 0 train, 1 valid, 2 test.
"""

import numpy as np

from hnlm_ray.ingest.config import SplitConfig

TRAIN, VALID, TEST = 0, 1, 2


def random_numbers(user_hashes: np.ndarray, item_hashes: np.ndarray, seed: int) -> np.ndarray:
    """[N] in [0, 1), drawn by the pair and the seed alone: the same wherever and in whatever order rows are read."""
    mixed = user_hashes * np.uint64(3) ^ item_hashes
    mixed += np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def split_random(users: np.ndarray, randoms: np.ndarray, config: SplitConfig) -> np.ndarray:
    """A share of each user's rows, rounded half up; at least one row stays for training."""
    by_draw = np.lexsort((randoms, users))
    place, size = _places(users[by_draw])
    num_test = np.minimum(np.floor(size * config.test + 0.5), size - 1)
    num_valid = np.minimum(np.floor(size * config.valid + 0.5), size - 1 - num_test)
    codes = np.empty(len(users), dtype=np.int8)
    codes[by_draw] = np.where(place < num_test, TEST, np.where(place < num_test + num_valid, VALID, TRAIN))
    return codes


def split_leave_last(users: np.ndarray) -> np.ndarray:
    """Each user's last row for test and the one before for validation; of two rows one is test, a single one trains."""
    place, size = _places(users)
    from_end = size - 1 - place
    test = (from_end == 0) & (size >= 2)
    valid = (from_end == 1) & (size >= 3)
    return np.where(test, TEST, np.where(valid, VALID, TRAIN)).astype(np.int8)


def split_time(timestamps: np.ndarray, valid_from: int, test_from: int) -> np.ndarray:
    """Rows before `valid_from` train, those from `test_from` on test, those between validate."""
    return ((timestamps >= valid_from).astype(np.int8) + (timestamps >= test_from)).astype(np.int8)


def split_ratio(randoms: np.ndarray, config: SplitConfig) -> np.ndarray:
    """A share of all rows, whoever's."""
    held_out = randoms < config.test + config.valid
    return np.where(randoms < config.test, TEST, np.where(held_out, VALID, TRAIN)).astype(np.int8)


def carve_valid(codes: np.ndarray, users: np.ndarray, randoms: np.ndarray, share: float) -> np.ndarray:
    """Where the source knows train and test only: a share of each user's training rows for validation."""
    codes = codes.copy()
    train = np.flatnonzero(codes == TRAIN)
    only_valid = SplitConfig(valid=share, test=0.0)
    codes[train] = split_random(users[train], randoms[train], only_valid)
    return codes


def held_out_and_unseen(
    users: np.ndarray, items: np.ndarray, codes: np.ndarray, item_in_train: np.ndarray
) -> np.ndarray:
    """Which rows [N] are held out although their user or item has no training row. `item_in_train`: [I] flags."""
    user_in_train = np.zeros(int(users.max(initial=-1)) + 1, dtype=bool)
    user_in_train[users[codes == TRAIN]] = True
    return (codes != TRAIN) & ~(user_in_train[users] & item_in_train[items])


def _places(users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row [N] of sorted `users`: its place among the user's rows, and how many those are."""
    first = np.searchsorted(users, users, side="left")
    size = np.searchsorted(users, users, side="right") - first
    return np.arange(len(users)) - first, size
