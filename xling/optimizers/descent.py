"""Steps down a gradient: AdamW or Adafactor, gradients clipped to norm 1, a learning rate that the step alone decides.

Settings mean what they mean for SFT and reward models (xling/models/training.py).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from xling.errors import StageError

LARGEST_NORM = 1.0


class Descent:
    """The gradient optimizer of some parameters."""

    def __init__(self, what: str, parameters: Iterable[nn.Parameter], optimizer: str, setting: str) -> None:
        self.what, self.setting, self.parameters = what, setting, list(parameters)
        self.optimizer = _optimizer(optimizer, self.parameters)

    def step(self, learning_rate: float) -> float:
        """Follow the gradients that are there, and forget them; returns their norm. StageError if that is no number."""
        norm = float(nn.utils.clip_grad_norm_(self.parameters, LARGEST_NORM))
        if not norm < float("inf"):
            raise StageError(f"The gradient of the {self.what} became {norm}. Lower optimizer.{self.setting}.")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Any]:
        return dict(self.optimizer.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


def _optimizer(name: str, parameters: list[nn.Parameter]) -> Any:
    """No weight decay: the policy is drawn to SFT_t by its KL penalty, not to zero."""
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=1.0, scale_parameter=False, relative_step=False)  # as transformers' Trainer
    return torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0, fused=True)


def learning_rate(peak: float, step: int, steps: int, warmup: int, schedule: str) -> float:
    """That of step `step` (from 0) of `steps`: up linearly for `warmup` steps, then constant, or linearly to zero."""
    rising = min(1.0, (step + 1) / (warmup + 1))
    falling = min(1.0, (steps - step) / max(1, steps - warmup)) if schedule == "linear" else 1.0
    return peak * min(rising, falling)
