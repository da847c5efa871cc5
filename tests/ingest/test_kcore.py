"""The k-core: known answers, its definition as a property, and both ways to it alike."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_tables import Ingest, Write, interactions

from hnlm_ray.errors import UserError
from hnlm_ray.ingest.kcore import k_core_mask, k_core_rounds
from hnlm_ray.runtime import RuntimeConfig
from hnlm_ray.store import Folder

Pairs = list[tuple[int, int]]
_PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), unique=True, max_size=90)


def _mask(pairs: Pairs, k: int) -> np.ndarray:
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return k_core_mask(users, items, k)


def _by_definition(pairs: Pairs, k: int) -> Pairs:
    """Drop single rows until no user and no item is short: slow and plain."""
    frame = pd.DataFrame(pairs, columns=["user", "item"])
    while len(frame):
        short = (frame.groupby("user").item.transform("size") < k) | (frame.groupby("item").user.transform("size") < k)
        if not short.any():
            break
        frame = frame[~short]
    return sorted(map(tuple, frame.to_numpy().tolist()))


def _in_buckets(
    folder: Path, pairs: Pairs, k: int, num_buckets: int, on_ray: bool
) -> tuple[Pairs, list[dict[str, int]]]:
    """The pairs cut into buckets by user, pruned in rounds, and put together again."""
    work = Folder(folder)
    work.delete()
    users, items = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    rows = np.arange(len(pairs), dtype=np.int32)
    for bucket in range(num_buckets):
        mine = users % num_buckets == bucket
        work.write_tensors(
            f"core/0/{bucket:05d}", {"user": users[mine] // num_buckets, "item": items[mine], "row": rows[mine]}
        )
    degrees = np.bincount(items, minlength=10)
    rounds = k_core_rounds(work, num_buckets, degrees, k, on_ray=on_ray)
    left = [work.read_tensors(f"core/{len(rounds)}/{bucket:05d}")["row"] for bucket in range(num_buckets)]
    return sorted(pairs[row] for row in np.concatenate(left)), rounds


def test_a_chain_falls_apart_from_its_end() -> None:
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2), (2, 3)]  # a square and a tail
    assert _mask(pairs, 2).tolist() == [True, True, True, True, False, False, False]
    assert not _mask(pairs, 3).any()
    assert _mask(pairs, 1).all()


@given(pairs=_PAIRS, k=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_the_mask_is_the_core_by_definition(pairs: Pairs, k: int) -> None:
    kept = _mask(pairs, k)
    assert sorted(pair for pair, is_kept in zip(pairs, kept, strict=True) if is_kept) == _by_definition(pairs, k)


@given(pairs=_PAIRS, k=st.integers(1, 5), num_buckets=st.integers(1, 4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_buckets_and_single_node_give_the_same_core(tmp_path: Path, pairs: Pairs, k: int, num_buckets: int) -> None:
    core, rounds = _in_buckets(tmp_path, pairs, k, num_buckets, on_ray=False)
    assert core == [pair for pair, is_kept in sorted(zip(pairs, _mask(pairs, k), strict=True)) if is_kept]
    assert rounds[-1] == {
        "interactions": len(core),
        "users": len({user for user, _ in core}),
        "items": len({item for _, item in core}),
    }
    counts = [step["interactions"] for step in rounds]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.usefixtures("ray_session")
@given(pairs=_PAIRS, k=st.integers(2, 4))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ray_data_and_single_node_give_the_same_core(tmp_path: Path, pairs: Pairs, k: int) -> None:
    core, rounds = _in_buckets(tmp_path, pairs, k, 3, on_ray=True)
    assert core == [pair for pair, is_kept in sorted(zip(pairs, _mask(pairs, k), strict=True)) if is_kept]
    assert rounds == _in_buckets(tmp_path, pairs, k, 3, on_ray=False)[1]


def test_the_whole_ingest_is_the_same_on_ray(ray_session: RuntimeConfig, ingest: Ingest, write: Write) -> None:
    rng = np.random.default_rng(0)
    users, items = (60 * rng.random(1500) ** 2).astype(int), (40 * rng.random(1500) ** 2).astype(int)
    ratings, times = rng.integers(0, 6, 1500), rng.integers(0, 99, 1500)
    rows = [
        (f"u{u}", f"i{i}", float(r), int(t), "fine") for u, i, r, t in zip(users, items, ratings, times, strict=True)
    ]
    titles = interactions([(f"i{i}", f"Title &amp; {i}") for i in range(40)], "item_id title")
    raw = write(interactions=interactions(rows), items=titles)
    filters = {"min_rating": 2, "k_core": 7}
    ours = ingest(raw, num_buckets=3, engine="ray", filters=filters)
    local = ingest(raw, num_buckets=3, engine="single_node", filters=filters)
    assert ours.stats["on_ray"]
    assert not local.stats["on_ray"]
    assert len(ours.stats["core_rounds"]) > 1
    for name in ("items", "users", "train", "valid", "test"):
        assert ours.dataset.read_table(name).equals(local.dataset.read_table(name)), name
    one_bucket = ingest(raw, filters=filters)
    assert one_bucket.all_pairs == ours.all_pairs
    assert one_bucket.keyed("test") == ours.keyed("test")


def test_a_users_mistake_stays_one_line_on_ray(ray_session: RuntimeConfig, ingest: Ingest, tmp_path: Path) -> None:
    for shard, names in enumerate(("user_id,item_id", "who,item_id")):
        (tmp_path / f"interactions-{shard}.csv").write_text(f"{names}\na,b\n")
    with pytest.raises(UserError, match=r"^'interactions-1\.csv' has no column for data\.columns\.user_id") as caught:
        ingest(tmp_path, engine="ray")
    assert "\n" not in str(caught.value)
