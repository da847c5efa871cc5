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
    epoch_s: float = 0.0
    """Seconds of the current epoch before the checkpoint"""
    sampling_s: float = 0.0
    """Of those, seconds of sampling"""
    best_metric: float = -1.0
    best_epoch: int = 0
    validations_without_gain: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per epoch: loss, seconds, and metrics where it was validated"""


@dataclass
class Saved:
    """What a checkpoint holds."""

    state: TrainState
    engine: dict[str, torch.Tensor]
    """`Engine.state`"""
    best: dict[str, np.ndarray]
    """Tensors of the best validation"""
    refreshed: dict[str, np.ndarray]
    """`user_emb` and `item_emb` of the last refresh; empty before the first"""


@dataclass
class Checkpoint:
    """Reads and writes the state in a folder."""

    folder: Folder

    def save(self, saved: Saved) -> None:
        """Replace the checkpoint."""
        tensors = {f"engine/{name}": tensor.numpy() for name, tensor in saved.engine.items()}
        tensors |= {f"best/{name}": array for name, array in saved.best.items()}
        tensors |= {f"refreshed/{name}": array for name, array in saved.refreshed.items()}
        tensors[_STATE] = np.frombuffer(json.dumps(asdict(saved.state)).encode(), np.uint8)
        self.folder.write_tensors(_FILE, tensors)

    def load(self) -> Saved | None:
        """What was saved last, or None."""
        if not self.folder.exists(_FILE):
            return None
        tensors = self.folder.read_tensors(_FILE)
        state = TrainState(**json.loads(tensors.pop(_STATE).tobytes()))
        parts: dict[str, dict[str, np.ndarray]] = {"engine": {}, "best": {}, "refreshed": {}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        engine = {name: torch.from_numpy(value.copy()) for name, value in parts["engine"].items()}
        return Saved(state, engine, parts["best"], parts["refreshed"])

    def delete(self) -> None:
        """Remove it, once the result is written."""
        self.folder.delete(_FILE)
