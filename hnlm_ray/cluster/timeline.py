"""Which nodes a run had, from moment to moment."""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

NodeCounts = dict[str, int]
"""Living nodes by kind: `head`, `cpu`, `gpu`."""


def node_counts() -> NodeCounts:
    """The nodes of the connected Ray that are alive now; none where no Ray is connected."""
    import ray

    if not ray.is_initialized():
        return {}
    return dict(Counter(_kind(node["Resources"]) for node in ray.nodes() if node["Alive"]))


def _kind(resources: dict[str, float]) -> str:
    if "node:__internal_head__" in resources:
        return "head"
    return "gpu" if resources.get("GPU") else "cpu"


class NodeTimeline:
    """Watches the nodes in the background."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="node-timeline", daemon=True)
        self._points = [(time.time(), node_counts())]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()

    def since(self, start: float) -> list[tuple[float, NodeCounts]]:
        """(Unix time, nodes by kind): what stood at `start`, and every change since."""
        points = list(self._points)
        before = [counts for at, counts in points if at <= start]
        later = [(round(at, 1), counts) for at, counts in points if at > start]
        return [(round(start, 1), before[-1] if before else points[0][1]), *later]

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            counts = node_counts()
            if counts != self._points[-1][1]:
                self._points.append((time.time(), counts))
