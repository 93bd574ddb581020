"""Updates of weights: the gradient optimiser and the learning rate over steps, as transformers' Trainer has them.

So that a policy is updated the same way by our optimizers and by trl's trainers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Adafactor, get_scheduler

MAX_NORM = 1.0  # of the gradients, over all weights


class Updates:
    """AdamW or Adafactor on some weights, with a learning rate that rises linearly, then stays or falls linearly to 0.

    The learning rate of update i, from 0, is i / warmup_steps of the whole during the warm-up: the first is then 0.
    """

    def __init__(
        self, parameters: Iterable[Tensor], optimizer: str, learning_rate: float, warmup: int, schedule: str, steps: int
    ) -> None:
        """optimizer: adamw or adafactor; schedule: constant or linear; steps: updates in all, warm-up included."""
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer = _optimizer(self.parameters, optimizer, learning_rate)
        name = "constant_with_warmup" if schedule == "constant" else schedule
        self.schedule = get_scheduler(name, self.optimizer, warmup, steps)

    @property
    def learning_rate(self) -> float:
        """That of the next update."""
        return float(self.schedule.get_last_lr()[0])

    def step(self) -> float:
        """Clip the gradients, update the weights, forget the gradients; returns the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(norm)

    def state(self) -> dict[str, Any]:
        """What `restore` takes: tensors and plain values."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, on weights of the same order and shapes."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def _optimizer(parameters: list[Tensor], name: str, learning_rate: float) -> torch.optim.Optimizer:
    if name == "adafactor":
        return Adafactor(parameters, lr=learning_rate, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
