"""An engine without a model: answers depend on the prompt alone and take their time. For tests of what runs engines."""

import os
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import ray

from hnlm_ray.generate.prompting import Prompt, fit
from hnlm_ray.generate.protocol import Completion, Counters, EngineSpec, GenerateRequest
from hnlm_ray.generate.schemas import write_answer


def encode(prompts: Sequence[Prompt]) -> list[list[int]]:
    """One token per word."""
    return [[len(word) for word in (prompt.system + " " + prompt.user).split()] for prompt in prompts]


class Gate:
    """Files by which a test decides when calls end: each needs a pass of its own, or the gate to stand open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def wait(self, node_id: str) -> None:
        """Say on which node a call is at work, and hold it until it may end."""
        (self._folder / f"at-work-{node_id}").touch()
        while not ((self._folder / "open").exists() or self._took_a_pass()):
            time.sleep(0.02)

    def nodes_at_work(self) -> set[str]:
        """Nodes whose engines had work so far."""
        return {path.name.removeprefix("at-work-") for path in self._folder.glob("at-work-*")}

    def let_one_end(self) -> None:
        """Let one of the calls end."""
        (self._folder / f"pass-{time.time_ns()}").touch()

    def open(self) -> None:
        """Let every call end."""
        (self._folder / "open").touch()

    def _took_a_pass(self) -> bool:
        for path in self._folder.glob("pass-*"):
            with suppress(FileNotFoundError):  # another call was faster
                path.unlink()
                return True
        return False


class PacedEngine:
    """Takes `spec.engine_args["row_s"]` per row, one at a time whoever asks; ends its process at a row that says so.

    With `spec.engine_args["gate"]`, a folder, no call ends before the gate lets it: see `Gate`.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self.counters = Counters()
        self._computing = threading.Lock()
        if folder := spec.engine_args.get("started"):
            (Path(folder) / f"{os.getpid()}-{time.time_ns()}").touch()

    def generate(self, request: GenerateRequest) -> list[Completion]:
        completions = []
        if gate := self._spec.engine_args.get("gate"):
            Gate(Path(gate)).wait(ray.get_runtime_context().get_node_id())
        for row in fit(request.drafts, encode, 400):
            with self._computing:
                time.sleep(self._spec.engine_args["row_s"])
            if "poison" in row.prompt.user:
                os._exit(9)
            answer = write_answer("item_profile", f"crc {zlib.crc32(row.prompt.user.encode())}", "so")
            completions.append(Completion(answer, True, len(row.token_ids), 0, 4, row.truncated))
            self.counters += Counters(1, len(row.token_ids), 0, 4)
        return completions

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.array([[len(text), 1.0] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_paced_engine(spec: EngineSpec) -> PacedEngine:
    return PacedEngine(spec)
