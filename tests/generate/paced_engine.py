"""An engine without a model: answers depend on the prompt alone and take their time. For tests of what runs engines."""

import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hnlm_ray.generate.prompting import Prompt, fit
from hnlm_ray.generate.protocol import Completion, Counters, EngineSpec, GenerateRequest
from hnlm_ray.generate.schemas import write_answer


def encode(prompts: Sequence[Prompt]) -> list[list[int]]:
    """One token per word."""
    return [[len(word) for word in (prompt.system + " " + prompt.user).split()] for prompt in prompts]


class PacedEngine:
    """Waits `spec.engine_args["row_s"]` per row; ends its process at a row that says so."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self.counters = Counters()
        if folder := spec.engine_args.get("started"):
            (Path(folder) / f"{os.getpid()}-{time.time_ns()}").touch()

    def generate(self, request: GenerateRequest) -> list[Completion]:
        completions = []
        for row in fit(request.drafts, encode, 400):
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

    def close(self) -> None:
        pass


def make_paced_engine(spec: EngineSpec) -> PacedEngine:
    return PacedEngine(spec)
