"""k-core: the largest set of interactions in which every user and every item still has k of them.

Two ways to the same set. `k_core_mask` holds all pairs. `k_core_rounds` lets one task per bucket of users hold its
pairs: users are pruned inside their bucket, items by degrees summed over the buckets, round after round until nothing
changes. The driver holds one flag and one number per item, never a row.
"""

from functools import partial

import numpy as np

from hnlm_ray.ingest.tasks import Result, run_tasks
from hnlm_ray.store import Folder


def k_core_mask(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Which pairs [N] belong to the k-core. `users`, `items`: [N] codes >= 0; pairs are distinct."""
    kept = np.ones(len(users), dtype=bool)
    if not len(users):
        return kept
    while True:
        user_degrees = np.bincount(users[kept], minlength=users.max() + 1)
        item_degrees = np.bincount(items[kept], minlength=items.max() + 1)
        still = kept & (user_degrees[users] >= k) & (item_degrees[items] >= k)
        if (still == kept).all():
            return kept
        kept = still


def k_core_rounds(
    work: Folder, num_buckets: int, item_degrees: np.ndarray, k: int, *, on_ray: bool
) -> list[dict[str, int]]:
    """Prune the pairs in `work/core/0` to their k-core: counts after every round.

    Round r reads `work/core/<r-1>` and writes `work/core/<r>`: `<bucket>` with the pairs that are left (user, item,
    row) and `degrees-<bucket>`; what the last round wrote is the k-core. `item_degrees` [I]: at the start.
    """
    rounds: list[dict[str, int]] = []
    alive = item_degrees >= k
    while True:
        here = work.child("core", str(len(rounds) + 1))
        before = work.child("core", str(len(rounds)))
        here.write_tensors("alive", {"alive": alive})
        item_degrees = np.zeros(len(alive), dtype=np.int64)
        counts = {"interactions": 0, "users": 0, "items": int(alive.sum())}
        for bucket, result in run_tasks(partial(_prune, before, here, k), range(num_buckets), on_ray=on_ray):
            item_degrees[alive] += here.read_tensors(f"degrees-{bucket:05d}")["degrees"]
            counts["interactions"] += result["interactions"]
            counts["users"] += result["users"]
        rounds.append(counts)
        if rounds[1:]:
            before.delete()  # not the pairs of the start, from which a killed run begins again
        still = item_degrees >= k
        if (still == alive).all():
            return rounds
        alive = still


def _prune(before: Folder, here: Folder, k: int, bucket: int) -> Result:
    """Drop pairs of items that are gone, then users with fewer than k pairs; count what is left per living item."""
    pairs = before.read_tensors(f"{bucket:05d}")
    alive = here.read_tensors("alive")["alive"]
    kept = alive[pairs["item"]]
    degrees = np.bincount(pairs["user"][kept], minlength=1)
    kept[kept] = degrees[pairs["user"][kept]] >= k
    left = {name: values[kept] for name, values in pairs.items()}
    here.write_tensors(f"{bucket:05d}", left)
    item_degrees = np.bincount(left["item"], minlength=len(alive))[alive].astype(np.int32)
    here.write_tensors(f"degrees-{bucket:05d}", {"degrees": item_degrees})
    return {"interactions": len(left["user"]), "users": int((degrees >= k).sum())}
