"""The value model of PPO: what reward, less the KL penalty, is still to come at each token of a response.

`own`: a trunk of its own, that starts as SFT_t's or the reward model's; `shared`: a linear head on the policy's states.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xling.models.load import load_trunk
from xling.models.responses import Responses, predicting_states
from xling.models.reward import HeadedNet, scalar_head
from xling.models.stored import load_reward
from xling.optimizers.problem import Problem


class SharedValue(nn.Module):
    """A linear head that starts at zero, on the policy's own states."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.head = scalar_head(policy)

    def forward(self, batch: Responses, states: Tensor) -> Tensor:
        """(T,) values from the policy's states (T, D) before each token of the mask."""
        return self.head(states.float())[:, 0]  # type: ignore[no-any-return]


class OwnValue(HeadedNet):
    """A trunk (decoder-only or encoder-decoder) with a linear head."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk, self.head = trunk, scalar_head(trunk)

    def forward(self, batch: Responses, states: Tensor) -> Tensor:
        """(T,) values of the places before each token of the mask; the policy's `states` are not looked at."""
        read = predicting_states(self.trunk, batch)[batch.mask]
        return self.head(read.float())[:, 0]  # type: ignore[no-any-return]


Value = SharedValue | OwnValue


def value_model(problem: Problem, value: str, init: str) -> Value:
    """By the settings `value` (own or shared) and `value_init` (sft or reward, for a trunk of its own)."""
    if value == "shared":
        return SharedValue(problem.policy)
    if init == "reward":
        return _from_reward(problem.rooms["reward"], problem.standardised)
    return OwnValue(load_trunk(problem.rooms["sft"], dtype="float32", dropout=0.0))


def _from_reward(folder: Path, standardised: tuple[float, float]) -> OwnValue:
    """The reward model's trunk and head, in the units of the standardised reward: (reward - mean) / deviation."""
    stored: Any = load_reward(folder).net
    made = OwnValue(stored.trunk.float().eval())
    mean, deviation = standardised
    with torch.no_grad():
        made.head.weight.copy_(stored.head.weight / deviation)
        made.head.bias.copy_((stored.head.bias - mean) / deviation)
    return made
