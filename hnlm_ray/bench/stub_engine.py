"""An engine without a model, for simulations of scale: answers of the right form and length at once, by the prompt."""

import zlib
from collections.abc import Sequence

import numpy as np

from hnlm_ray.generate.protocol import Completion, Counters, EngineSpec, GenerateRequest
from hnlm_ray.generate.schemas import ANSWER_KEYS, write_answer

DIM = 64
_WORDS_PER_ANSWER = 30
_PROMPT_TOKENS = 300
_NUM_VECTORS = 4096


class StubEngine:
    """Says so many words that only the prompt's checksum decides."""

    def __init__(self) -> None:
        self.counters = Counters()
        vectors = np.random.default_rng(0).normal(size=(_NUM_VECTORS, DIM)).astype(np.float32)
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def generate(self, request: GenerateRequest) -> list[Completion]:
        """One answer per prompt."""
        [kind] = [kind for kind, keys in ANSWER_KEYS.items() if keys[0] in request.schema["properties"]][:1]
        completions = []
        for draft in request.drafts:
            number = zlib.crc32(repr(draft).encode())
            text = " ".join(f"w{number % prime}" for prime in range(101, 101 + _WORDS_PER_ANSWER))
            answer = write_answer(kind, text, "simulated")
            completions.append(Completion(answer, True, _PROMPT_TOKENS, 0, 2 * _WORDS_PER_ANSWER, False))
        count = len(completions)
        self.counters += Counters(count, count * _PROMPT_TOKENS, 0, count * 2 * _WORDS_PER_ANSWER)
        return completions

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One of a fixed set of unit vectors per text [len(texts), DIM]."""
        self.counters += Counters(len(texts), len(texts) * _PROMPT_TOKENS, 0, 0)
        vectors: np.ndarray = self._vectors[[zlib.crc32(text.encode()) % _NUM_VECTORS for text in texts]]
        return vectors

    def close(self) -> None:
        """Nothing to give back."""


def stub_engine(spec: EngineSpec) -> StubEngine:
    """What a host builds instead of the engine of `spec`."""
    return StubEngine()
