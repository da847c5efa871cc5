"""The state a training goes on from: one safetensors file, replaced atomically, so it is whole or the one before."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from hnlm_ray.store import Folder

_FILE = "checkpoint.safetensors"
_STATE = "state_json"


@dataclass
class TrainState:
    """Everything that must survive besides tensors. Randomness is a function of (seed, epoch, step): none is kept."""

    epoch: int = 0
    """Epochs finished"""
    step: int = 0
    """Steps finished within the current epoch"""
    num_steps: int = 0
    """Optimizer steps in total"""
    loss_sum: float = 0.0
    """Sum over the current epoch's pairs of this run's loss"""
    best_metric: float = -1.0
    best_epoch: int = 0
    validations_without_gain: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per epoch: loss, seconds, and metrics where it was validated"""


@dataclass
class Checkpoint:
    """Reads and writes the state in a folder."""

    folder: Folder

    def save(self, state: TrainState, engine: dict[str, torch.Tensor], best: dict[str, np.ndarray]) -> None:
        """Replace the checkpoint."""
        tensors = {f"engine/{name}": tensor.numpy() for name, tensor in engine.items()}
        tensors |= {f"best/{name}": array for name, array in best.items()}
        tensors[_STATE] = np.frombuffer(json.dumps(asdict(state)).encode(), np.uint8)
        self.folder.write_tensors(_FILE, tensors)

    def load(self) -> tuple[TrainState, dict[str, torch.Tensor], dict[str, np.ndarray]] | None:
        """What was saved last, or None."""
        if not self.folder.exists(_FILE):
            return None
        tensors = self.folder.read_tensors(_FILE)
        state = TrainState(**json.loads(tensors.pop(_STATE).tobytes()))
        engine = {
            key[7:]: torch.from_numpy(value.copy()) for key, value in tensors.items() if key.startswith("engine/")
        }
        best = {key[5:]: value for key, value in tensors.items() if key.startswith("best/")}
        return state, engine, best

    def delete(self) -> None:
        """Remove it, once the result is written."""
        self.folder.delete(_FILE)
