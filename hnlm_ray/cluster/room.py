"""Whether a cluster can ever place what a run asks for: asked of Ray before anything waits for it."""

import time
from collections.abc import Sequence
from typing import Any

from hnlm_ray.errors import UserError
from hnlm_ray.runtime import Demand, cluster_resources, preflight

_ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""Ray puts it on nodes whose GPUs it finds; the files of cluster/ say it of nodes that are yet to come."""
_LONGEST_PROBE_S = 50.0


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


def off_gpu_nodes(demand: Demand) -> dict[str, str] | None:
    """A label selector that keeps work without GPUs off the GPU nodes that are up, so that these can go.

    Without it the work goes where CPUs are free at once, and a spot GPU is paid for as long as it lasts. None where the
    cluster does not scale, no such node is up, or only nodes with GPUs have room for the demand.
    """
    import ray

    if demand.resources.gpus or not demand.pieces or not autoscales():
        return None
    with_gpus = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    kinds = {node["Labels"][_ACCELERATOR_LABEL] for node in with_gpus if _ACCELERATOR_LABEL in node["Labels"]}
    if not kinds:
        return None
    selector = {_ACCELERATOR_LABEL: f"!in({','.join(sorted(kinds))})"}
    try:
        _probe(demand, selector)
    except UserError:
        return None
    return selector


def num_places(demand: Demand) -> int | None:
    """How often a demand of one piece has room at the same time, node by node; None where nodes come on demand.

    Raises:
        UserError: not once.
    """
    import ray

    if autoscales():
        check_autoscaled([demand])
        return None
    _check_nodes(demand)
    return places_on([node["Resources"] for node in ray.nodes() if node["Alive"]], demand)


def places_on(nodes: Sequence[dict[str, float]], demand: Demand) -> int:
    """`num_places` of known nodes: what two nodes have left over is no room for a third piece."""
    piece = demand.piece()
    return sum(min(int(node.get(name, 0.0) / need + 1e-9) for name, need in piece.items()) for node in nodes)


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


def _probe(demand: Demand, labels: dict[str, str] | None = None) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group(
        [demand.piece()] * demand.pieces, bundle_label_selector=[labels] * demand.pieces if labels else None
    )
    try:
        deadline = time.monotonic() + _LONGEST_PROBE_S
        asked = None
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
            if asked is not None and state.last_seen_cluster_resource_state_version > asked:
                return  # the autoscaler has seen the demand, and does not call it infeasible
            if asked is None:
                asked = _version_that_asks_for(group.id.hex())
    finally:
        remove_placement_group(group)


def _version_that_asks_for(group_id: str) -> int | None:
    """The version of the cluster's state that has the group among its demands; None where it is not there yet.

    Each reading, the autoscaler's too, gets a version of its own, so a higher one has the group as well. The version of
    the autoscaler's own state says nothing: it counts changes of nodes, several in one update.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(GcsClient(ray.get_runtime_context().gcs_address))
    asked = any(group_id in request.details for request in state.pending_gang_resource_requests)
    return int(state.cluster_resource_state_version) if asked else None


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
    words = {name: f"{value:g} {name}s" if name.isupper() else name for name, value in resources.items()}
    if "memory" in resources:
        words["memory"] = f"{resources['memory'] / 1e9:g} GB of memory"
    return " and ".join(words.values())
