"""Statistics of the report against values computed by hand or by an independent library."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hnlm_ray.report import analysis


def test_groups_are_ranges_of_counts_and_keep_ties_together() -> None:
    groups = analysis.count_groups(np.array([7, 1, 2, 1, 9, 5]), num_groups=3)
    assert [(group.label, group.members.tolist()) for group in groups] == [
        ("1", [1, 3]),
        ("2-5", [2, 5]),
        ("7-9", [0, 4]),
    ]
    tied = analysis.count_groups(np.array([1, 1, 1, 2, 5, 9]), num_groups=3)
    assert [group.label for group in tied] == ["1-2", "5-9"]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 6))
def test_groups_partition_whatever_the_counts(counts: list[int], num_groups: int) -> None:
    groups = analysis.count_groups(np.array(counts), num_groups)
    assert sorted(np.concatenate([group.members for group in groups]).tolist()) == list(range(len(counts)))
    assert 1 <= len(groups) <= num_groups
    assert all(left.high < right.low for left, right in itertools.pairwise(groups))


def test_gini_by_hand() -> None:
    assert analysis.gini(np.array([3, 3, 3, 3])) == pytest.approx(0.0)
    assert analysis.gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    # mean absolute difference of (1, 3) over all ordered pairs is 1, twice the mean is 4
    assert analysis.gini(np.array([3, 1])) == pytest.approx(0.25)
    assert analysis.gini(np.zeros(5)) == 0.0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    values = np.array(counts, dtype=float)
    pairwise = np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean())
    assert analysis.gini(values) == pytest.approx(pairwise)


def test_popularity_and_tail_by_hand() -> None:
    popularity = np.array([50, 30, 10, 5, 3, 2])  # the last three hold 10 of 100, with the third 20
    assert analysis.tail_items(popularity, 0.2).tolist() == [False, False, True, True, True, True]
    assert analysis.tail_items(popularity, 0.1).tolist() == [False, False, False, True, True, True]
    recommended = np.array([[0, 1], [0, 3]])
    assert analysis.average_popularity(recommended, popularity) == pytest.approx((50 + 30 + 50 + 5) / 4)
    assert analysis.tail_coverage(recommended, popularity, 0.2) == pytest.approx(1 / 4)
    assert analysis.tail_items(np.array([4, 4, 4]), 0.5).tolist() == [False] * 3  # ties straddle: all head
    assert analysis.tail_coverage(recommended[:, :1], np.array([4, 4, 4]), 0.5) == 0.0


def test_pair_membership() -> None:
    found = analysis.is_pair_of(np.array([0, 0, 1, 7]), np.array([1, 9, 1, 2]), np.array([0, 1]), np.array([1, 2]))
    assert found.tolist() == [True, False, False, False]
    nothing = np.zeros(0, dtype=np.int32)
    assert analysis.is_pair_of(np.array([3]), np.array([3]), nothing, nothing).tolist() == [False]


def test_false_rate_is_compared_at_equal_hardness() -> None:
    # In every bin the rival is false twice as often, yet it picks so many easy ones that its plain rate is lower.
    hardness = np.array([0.1] * 10 + [0.9] * 90)
    is_false = np.array([0] * 10 + [1] * 18 + [0] * 72)  # 0 % easy, 20 % hard: 18 % in all
    rival_hardness = np.array([0.1] * 180 + [0.9] * 20)
    rival_is_false = np.array([0] * 180 + [1] * 8 + [0] * 12)  # 0 % easy, 40 % hard: 4 % in all
    result = analysis.false_rate_at_equal_hardness(hardness, is_false, rival_hardness, rival_is_false, num_bins=2)
    assert rival_is_false.mean() < is_false.mean()
    assert result.ours == pytest.approx(0.18)
    assert result.rival == pytest.approx(0.36)
    assert result.covered == 1.0


def test_false_rate_names_what_it_could_not_compare() -> None:
    ours, rival = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.85, 0.95])
    result = analysis.false_rate_at_equal_hardness(ours, np.array([1, 1, 1, 0]), rival, np.array([0, 1]), num_bins=2)
    assert (result.ours, result.rival, result.covered) == (0.5, 0.5, 0.5)


def test_paired_p_value_matches_scipy_and_its_edge_cases() -> None:
    ours, rival = np.array([0.31, 0.33, 0.32, 0.35, 0.34]), np.array([0.30, 0.31, 0.32, 0.33, 0.31])
    assert analysis.paired_p_value(ours, rival) == pytest.approx(stats.ttest_rel(ours, rival).pvalue)
    # by hand: differences 1..5, mean 3, s = sqrt(2.5), t = 3 / (s / sqrt(5)) = 4.2426, 4 degrees of freedom
    assert analysis.paired_p_value(np.arange(1.0, 6.0), np.zeros(5)) == pytest.approx(0.013236, abs=1e-6)
    assert analysis.paired_p_value(rival, rival) == 1.0
    assert analysis.paired_p_value(rival + 0.01, rival) == 0.0
    with pytest.raises(ValueError, match="at least 2"):
        analysis.paired_p_value(np.array([1.0]), np.array([2.0]))


def test_holm_by_hand() -> None:
    assert analysis.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert analysis.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert analysis.holm([]) == []
