"""The fine-tune's checkpoint: trained parameters and Adam state in fp32, independent of ZeRO stage and world size.

Everything sharded is gathered, which for an adapter is a few MB; a run may go on with another number of workers.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from hnlm_ray.distributed import rank
from hnlm_ray.store import Folder

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class TrainState:
    """Where a training stands; the data order follows from it and the seed."""

    epoch: int = 0
    step: int = 0
    """Steps done within the epoch."""
    num_steps: int = 0
    """Optimizer steps done in all."""
    num_tokens: int = 0
    seconds: float = 0.0
    best_loss: float = float("inf")
    best_epoch: int = -1
    loss_sum: float = 0.0
    """Sum of the epoch's training losses so far."""
    history: list[dict[str, float]] = field(default_factory=list)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def full_parameters(model: nn.Module) -> dict[str, Tensor]:
    """fp32 values of what is trained, whole on every rank. Every rank must call it."""
    full = {}
    for name, parameter in trainable(model).items():
        value = safe_get_full_fp32_param(parameter)
        full[name] = (parameter.data if value is None else value).detach().float().cpu().clone()
    return full


def set_parameters(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Put values into a model that no trainer has wrapped yet; every trained parameter must be among them."""
    parameters = trainable(model)
    if missing := parameters.keys() ^ values.keys():
        raise ValueError(f"checkpoint and model differ in {len(missing)} parameters, among them {min(missing)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def start_moments(engine: Any) -> None:
    """Make Adam's state now, at zero, as its first step would: DeepSpeed can read and set only what is there."""
    optimizer = _torch_optimizer(engine)
    flat = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)  # ZeRO-3 keeps its own list
    held = flat if flat is not None else [value for group in optimizer.param_groups for value in group["params"]]
    for value in held:
        moments = {moment: torch.zeros_like(value) for moment in _MOMENTS}
        optimizer.state[value] = {"step": torch.tensor(0.0), **moments}
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def save(out: Folder, engine: Any, state: TrainState) -> None:
    """Write a checkpoint; every rank calls it, rank 0 writes. The JSON comes last and names its tensors."""
    parameters = trainable(engine.module)
    tensors = {f"param:{name}": value for name, value in full_parameters(engine.module).items()}
    for name, parameter in parameters.items():
        for moment in _MOMENTS:
            value = _moment(engine, parameter, moment)
            tensors[f"{moment}:{name}"] = value.detach().float().cpu()
    if rank() == 0:
        file = f"step-{state.num_steps}.safetensors"
        out.write_tensors(file, {name: value.numpy() for name, value in tensors.items()})
        values = asdict(state) | {"best_loss": state.best_loss if np.isfinite(state.best_loss) else None}
        out.write_json("state.json", {"file": file, "state": values})
        for old in out.names(".safetensors"):
            if old.startswith("step-") and old != file:
                out.delete(old)


def read(out: Folder) -> tuple[TrainState, dict[str, Tensor]] | None:
    """The last checkpoint, or None at the very start."""
    if not out.exists("state.json"):
        return None
    values = out.read_json("state.json")
    state = values["state"]
    best_loss = float("inf") if state["best_loss"] is None else state["best_loss"]
    tensors = {name: torch.from_numpy(value.copy()) for name, value in out.read_tensors(values["file"]).items()}
    return TrainState(**{**state, "best_loss": best_loss}), tensors


def parameters_in(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trained parameters of a checkpoint's tensors."""
    return {name.removeprefix("param:"): value for name, value in tensors.items() if name.startswith("param:")}


def restore_optimizer(engine: Any, tensors: dict[str, Tensor], num_steps: int) -> None:
    """Put the fp32 parameters and Adam's moments back after the trainer wrapped a model that holds the parameters."""
    for name, parameter in trainable(engine.module).items():
        if safe_get_full_fp32_param(parameter) is not None:
            safe_set_full_fp32_param(parameter, tensors[f"param:{name}"].to(engine.device))
        for moment in _MOMENTS:
            _set_moment(engine, parameter, moment, tensors[f"{moment}:{name}"].to(engine.device))
    for state in _torch_optimizer(engine).state.values():
        state["step"] = torch.tensor(float(num_steps))


def _torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The optimizer that was handed to DeepSpeed, inside whatever wraps it."""
    optimizer: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return optimizer


def _is_plain(parameter: nn.Parameter) -> bool:
    """Whether the optimizer holds this parameter's state under the parameter itself (ZeRO 0 in fp32)."""
    return not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping")


def _moment(engine: Any, parameter: nn.Parameter, moment: str) -> Tensor:
    if not _is_plain(parameter):
        value: Tensor = safe_get_full_optimizer_state(parameter, moment)
        return value
    plain: Tensor = _torch_optimizer(engine).state[parameter][moment]
    return plain


def _set_moment(engine: Any, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
    if not _is_plain(parameter):
        safe_set_full_optimizer_state(parameter, value, moment)
    else:
        _torch_optimizer(engine).state[parameter][moment] = value
