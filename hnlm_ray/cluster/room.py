"""Whether a cluster can ever place what a run asks for: asked of Ray before anything waits for it."""

import time
from collections.abc import Sequence
from typing import Any

from hnlm_ray.errors import UserError
from hnlm_ray.runtime import Demand, cluster_resources, preflight

_LONGEST_PROBE_S = 50.0
_STEADY_UPDATES = 2
"""Updates of the autoscaler that must have seen a demand without calling it infeasible."""


def autoscales() -> bool:
    """Whether the connected cluster starts nodes on demand."""
    return bool(_autoscaling_state().autoscaler_state_version)


def check_fixed(demands: Sequence[Demand]) -> None:
    """Refuse what a cluster of fixed size has no room for, in all and on any one node.

    Raises:
        UserError: with what is asked for and what there is.
    """
    preflight(demands, cluster_resources())
    for demand in demands:
        if demand.pieces:
            _check_nodes(demand)


def check_autoscaled(demands: Sequence[Demand]) -> None:
    """Refuse what the autoscaler can never place; takes seconds, a minute at most.

    It alone knows which nodes it may start, so it is shown each demand as a placement group. It begins to start nodes
    for those that it can place: ask when the work is about to begin.

    Raises:
        UserError: a demand is larger than every node that it may start, or than so many of them.
    """
    for demand in demands:
        if demand.pieces:
            _probe(demand)


def _check_nodes(demand: Demand) -> None:
    """A piece must fit on one node: two nodes of one GPU are no room for an engine that takes two."""
    import ray

    piece = demand.piece()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= need for name, need in piece.items()) for node in nodes):
        largest = {name: max(node.get(name, 0) for node in nodes) for name in piece}
        raise UserError(
            f"{demand.what}: each part needs {_words(piece)} on one node, and the most that a node has is "
            f"{_words(largest)}: lower what the config asks for (llm.*, runtime.*) or use larger nodes"
        )


def _probe(demand: Demand) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([demand.piece()] * demand.pieces)
    try:
        deadline = time.monotonic() + _LONGEST_PROBE_S
        first = _autoscaling_state().autoscaler_state_version
        while not group.wait(1) and time.monotonic() < deadline:
            state = _autoscaling_state()
            if any(group.id.hex() in request.details for request in state.infeasible_gang_resource_requests):
                now = cluster_resources()
                raise UserError(
                    f"{demand.what} can never be scheduled: it needs {demand.pieces} x ({_words(demand.piece())}) at "
                    "one time, and the autoscaler may not start enough nodes of that size; the cluster has now "
                    f"{now.cpus:g} CPUs and {now.gpus:g} GPUs: lower what the config asks for (llm.*, runtime.*), or "
                    "raise the size or max_workers of its node types"
                )
            if state.autoscaler_state_version >= first + _STEADY_UPDATES:
                return
    finally:
        remove_placement_group(group)


def _autoscaling_state() -> Any:
    """What the autoscaler last reported; its version is 0 where there is none."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    client = GcsClient(ray.get_runtime_context().gcs_address)
    reply = GetClusterStatusReply()
    reply.ParseFromString(client.get_cluster_status(timeout_s=30))
    return reply.autoscaling_state


def _words(resources: dict[str, float]) -> str:
    """`0.5 CPUs and 1 GPUs`; an accelerator type is a name, not a number."""
    return " and ".join(f"{value:g} {name}s" if name.isupper() else name for name, value in resources.items())
