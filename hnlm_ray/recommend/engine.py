"""What drives an `Objective`: bare torch, or DeepSpeed. Both have `engine(batch)`, `backward(loss)`, `step()`.

The state of either is plain tensors by parameter name, whole and the same for any number of ranks and ZeRO stage,
so that a checkpoint needs no pickle and a run may resume on another number of workers.
"""

from typing import Any, Protocol

import torch
from torch import nn

from hnlm_ray.recommend.config import FitConfig
from hnlm_ray.recommend.samplers.base import Batch

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Engine(Protocol):
    """One optimizer step: `engine(batch)`, `backward`, `step`."""

    module: nn.Module

    def __call__(self, batch: Batch) -> torch.Tensor: ...

    def backward(self, loss: torch.Tensor) -> Any: ...

    def step(self) -> Any: ...

    def state(self) -> dict[str, torch.Tensor]:
        """Every parameter and its Adam moments; a collective call."""

    def load_state(self, tensors: dict[str, torch.Tensor], num_steps: int) -> None:
        """Put back what `state` returned after `num_steps` optimizer steps; a collective call."""


class BareEngine:
    """Torch alone, one process."""

    def __init__(self, module: nn.Module, lr: float) -> None:
        self.module = module
        self.optimizer = build_optimizer(module, lr)

    def __call__(self, batch: Batch) -> torch.Tensor:
        return self.module(batch)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients into the parameters."""
        loss.backward()

    def step(self) -> None:
        """Update, then let go of the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """See `Engine.state`."""
        return _optimizer_state(self.module, self.optimizer)

    def load_state(self, tensors: dict[str, torch.Tensor], num_steps: int) -> None:
        """See `Engine.load_state`."""
        _load_optimizer_state(self.module, self.optimizer, tensors, num_steps)


class DeepSpeedEngine:
    """DeepSpeed with ZeRO 0-2 over the process group that Ray Train has set up."""

    def __init__(self, module: nn.Module, config: FitConfig, world_size: int) -> None:
        import deepspeed

        self.module, self.zero_stage = module, config.zero_stage
        self.optimizer = build_optimizer(module, config.lr)
        self.deepspeed, *_ = deepspeed.initialize(
            model=module,
            optimizer=self.optimizer,
            model_parameters=[p for p in module.parameters() if p.requires_grad],
            dist_init_required=False,
            config={
                # Bookkeeping only: the trainer cuts the batches, and the last one of an epoch is smaller.
                "train_micro_batch_size_per_gpu": max(1, config.batch_size // world_size),
                "gradient_accumulation_steps": 1,
                "zero_optimization": {"stage": config.zero_stage},
                "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": config.precision == "bf16"},
            },
        )

    def __call__(self, batch: Batch) -> torch.Tensor:
        return self.deepspeed(batch)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients, averaged over ranks."""
        self.deepspeed.backward(loss)

    def step(self) -> None:
        """Update, then let go of the gradients."""
        self.deepspeed.step()

    def state(self) -> dict[str, torch.Tensor]:
        """See `Engine.state`."""
        if self.zero_stage == 0 and self.deepspeed.optimizer is self.optimizer:
            return _optimizer_state(self.module, self.optimizer)
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                tensors[name] = parameter.detach()
                continue
            tensors[name] = safe_get_full_fp32_param(parameter)
            for moment in _MOMENTS:
                tensors[f"{moment}/{name}"] = safe_get_full_optimizer_state(parameter, moment)
        return {name: tensor.detach().float().cpu() for name, tensor in tensors.items()}

    def load_state(self, tensors: dict[str, torch.Tensor], num_steps: int) -> None:
        """See `Engine.load_state`."""
        if self.zero_stage == 0 and self.deepspeed.optimizer is self.optimizer:
            _load_optimizer_state(self.module, self.optimizer, tensors, num_steps)
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(tensors[name])
                if parameter.requires_grad:
                    safe_set_full_fp32_param(parameter, tensors[name].to(parameter.device))
                    for moment in _MOMENTS:
                        safe_set_full_optimizer_state(parameter, tensors[f"{moment}/{name}"], moment)
        for held, state in self.optimizer.state.items():
            state["step"] = _step_count(num_steps, held)


def build_optimizer(module: nn.Module, lr: float) -> torch.optim.Adam:
    """Adam, fused: one pass over parameters, gradients and moments."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def _optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in module.named_parameters():
        tensors[name] = parameter.detach()
        for moment in _MOMENTS:
            if moment in optimizer.state.get(parameter, {}):
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _load_optimizer_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], num_steps: int
) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[name])
            if f"{_MOMENTS[0]}/{name}" in tensors:
                state = {moment: tensors[f"{moment}/{name}"].to(parameter) for moment in _MOMENTS}
                optimizer.state[parameter] = {"step": _step_count(num_steps, parameter), **state}


def _step_count(num_steps: int, parameter: torch.Tensor) -> torch.Tensor:
    """As fused Adam keeps it: a float on the parameter's own device."""
    return torch.tensor(float(num_steps), device=parameter.device)
