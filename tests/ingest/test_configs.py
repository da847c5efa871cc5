"""The paper's four data sets, one config each: the filters that METHOD names, and a run over a small dump."""

import json
import random
from datetime import date
from pathlib import Path

import pytest

from hnlm_ray.config import load_config
from hnlm_ray.ingest.build import Build
from hnlm_ray.ingest.stage import headline
from hnlm_ray.progress import Progress
from hnlm_ray.store import Folder

_CONFIGS = Path(__file__).parents[2] / "configs"
_PAPER = {
    "toys": ("amazon2018", 4, date(2015, 1, 1), date(2018, 1, 1), 10, (22_338, 9_023, 200_511)),
    "cds": ("amazon2018", 4, date(2014, 1, 1), date(2016, 1, 1), 10, (19_385, 8_279, 186_535)),
    "yelp2018": ("yelp", 4, date(2015, 1, 1), date(2018, 1, 1), 10, (29_832, 16_781, 513_976)),
    "electronics2023": ("amazon2023", 3, date(2010, 1, 1), date(2018, 1, 1), 0, (97_570, 44_669, 178_259)),
}


@pytest.mark.parametrize("name", _PAPER)
def test_filters_and_published_counts(name: str) -> None:
    data = load_config(_CONFIGS / f"{name}.yaml").data
    assert data.published is not None
    filters, counts = data.filters, data.published
    assert (
        data.format, filters.min_rating, filters.since, filters.until, filters.k_core,
        (counts.users, counts.items, counts.interactions),
    ) == _PAPER[name]  # fmt: skip


def test_a_dump_through_the_config_prints_both_counts(tmp_path: Path) -> None:
    rng = random.Random(0)
    raw = tmp_path / "raw"
    raw.mkdir()
    with (raw / "Toys_and_Games.json").open("w") as file:
        for user in range(30):
            for item in rng.sample(range(25), 18):
                review = {"reviewerID": f"A{user}", "asin": f"B{item}", "overall": 5.0, "unixReviewTime": 1_450_000_000}
                file.write(json.dumps(review) + "\n")
        file.write(json.dumps(review | {"unixReviewTime": 1_600_000_000}) + "\n")
    config = load_config(_CONFIGS / "toys.yaml", [f"data.path={raw}"])
    out = Folder(tmp_path / "dataset"), Folder(tmp_path / "quarantine")
    stats = Build(config.data, config.seed, *out, Progress("ingest")).run()
    assert stats["steps"][-2]["step"] == "10-core"
    expected = f"{stats['users']:,} users, {stats['items']:,} items, {stats['interactions']:,} interactions"
    assert headline(stats) == f"{expected} (published: 22,338, 9,023, 200,511)"
    assert stats["users"] == 30
