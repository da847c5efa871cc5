"""Time and price of large runs: arithmetic by hand."""

import pytest

from hnlm_ray.bench.scale_cost import Assumed, PerRow, Shop, estimate
from hnlm_ray.generate.config import PriceConfig

COSTS = PerRow(interaction_us=3.6, prompt_us=360.0, pair_us=36.0, train_pair_us=36.0)


def test_an_estimate_is_the_sum_of_its_rows() -> None:
    shop = Shop(interactions=10, items=0.5, negatives=2, embedded_pairs=4)
    found = estimate(10**6, COSTS, shop)
    assert found.core_hours == pytest.approx((10 * 3.6 + 3.5 * 360 + 4 * 36) * 1e6 / 3.6e9)
    generated = 1e6 * (472 + 2 * 164 + 0.5 * 140) / Assumed().generator_tokens_per_s
    assert found.gpu_hours == pytest.approx((generated + 1e6 * 4 * 76 / Assumed().encoder_tokens_per_s) / 3600)
    assert found.hours == pytest.approx(found.gpu_hours / Assumed().gpus)
    assert found.epoch_hours == pytest.approx(10**7 * 36 / 3.6e9)
    assert found.price > found.gpu_hours * PriceConfig().per_hour["A10G"]


def test_ten_times_the_users_are_ten_times_the_cost() -> None:
    small, large = estimate(10**6, COSTS), estimate(10**7, COSTS)
    assert [value / 10 for value in large] == pytest.approx(list(small))
