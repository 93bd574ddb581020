"""AdamW in less memory than float32 takes: weights and moments in bfloat16, or moments in 8 bits.

A step moves a weight by less than bfloat16 can tell (a 256th to a 512th of it), and rounded to the nearest most steps
would be lost. `adamw_stochastic` rounds up or down by chance, so that they are right on average; `adamw_kahan` keeps
what rounding left over, in bfloat16 too, and adds it to the next step (Zamirai et al. 2020, "Revisiting bfloat16
training", which has both). Moments are rounded by chance in both: to the nearest the second, which change by a
thousandth a step, would never fall, and the first stay 2 % short of a steady gradient.

What each takes of memory: `HELD` in xling/planning/memory.py.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xling.errors import StageError, install
from xling.models.sizes import WEIGHTS_AT_ONCE


class HalfAdamW(torch.optim.Optimizer):
    """AdamW on weights in bfloat16; any that are float32 (a new head) are updated as they are.

    Random bits come of the step's number and the weight's place among the optimizer's: the same after a kill, and in
    all processes that train the same weights.
    """

    def __init__(self, groups: list[Any], kahan: bool) -> None:
        super().__init__(groups, {"lr": 1.0, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})
        self.kahan = kahan

    def init_state(self, group: dict[str, Any], weight: Tensor, *_: int) -> None:
        """What is held of a weight before the first step."""
        fixed = weight.detach()
        names = ["exp_avg", "exp_avg_sq", *["rest"] * (self.kahan and weight.dtype == torch.bfloat16)]
        self.state[weight] = {"step": 0} | {name: torch.zeros_like(fixed) for name in names}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        place = 0
        for group in self.param_groups:
            for weight in group["params"]:
                place += 1
                if (gradient := weight.grad) is not None:
                    self.state[weight]["step"] += 1
                    self._follow(group, weight, gradient, place)

    def _follow(self, group: dict[str, Any], weight: Tensor, gradients: Tensor, place: int) -> None:
        state, (first, second) = self.state[weight], group["betas"]
        step, rate = state["step"], group["lr"]
        # On a CPU 32 bits of a seed count; odd factors, so that no two steps of a weight have the same.
        chance = torch.Generator(weight.device).manual_seed((step * 2654435761 + place * 2246822507) % 2**32)
        for w, gradient, mean, square, *rest in _parts(weight, gradients, *_held(state)):
            g = gradient.float()
            m = mean.float().lerp_(g, 1 - first)
            v = square.float().mul_(second).addcmul_(g, g, value=1 - second)
            _write(mean, m, chance)
            _write(square, v, chance)
            new = w.float().mul_(1 - rate * group["weight_decay"])
            new = new.add_(rest[0]) if rest else new  # what the last step could not write, and it did not decay
            denominator = v.div(1 - second**step).sqrt_().add_(group["eps"])
            new.addcdiv_(m, denominator, value=-rate / (1 - first**step))
            _write(w, new, None if rest else chance)
            if rest:
                rest[0].copy_(new.sub_(w))


def _held(state: dict[str, Any]) -> list[Tensor]:
    return [value for name, value in state.items() if name != "step"]


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors of one shape, flat; of all but the second, the gradient, these are views."""
    flat = [tensor.detach().reshape(-1) if i == 1 else tensor.detach().view(-1) for i, tensor in enumerate(tensors)]
    return zip(*(tensor.split(WEIGHTS_AT_ONCE) for tensor in flat), strict=True)


def _write(place: Tensor, value: Tensor, chance: torch.Generator | None) -> None:
    """`value`, float32, into `place`; into bfloat16 rounded by chance, or to the nearest where that is None."""
    if place.dtype == torch.bfloat16 and chance is not None:
        value = rounded(value, chance)
    place.copy_(value)


def rounded(value: Tensor, chance: torch.Generator) -> Tensor:
    """float32 -> float32 that bfloat16 has: up with the chance that the bits it lacks are worth, right on average."""
    bits = torch.randint(1 << 16, value.shape, generator=chance, device=value.device, dtype=torch.int32)
    return bits.add_(value.view(torch.int32)).bitwise_and_(-(1 << 16)).view(torch.float32)


def eight_bits(groups: list[Any]) -> Any:
    """bitsandbytes' AdamW: moments of weights with 4096 numbers and more in 8 bits, in blocks of 256 with a scale each.

    Dettmers et al. (2021), "8-bit optimizers via block-wise quantization".
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise StageError(f"optimizer=adamw_8bit needs bitsandbytes: {install('eightbit')}.") from error
    return AdamW8bit(groups, lr=1.0, weight_decay=0.0)
