"""AdamW in less memory: it follows float32's AdamW where rounding to bfloat16 alone loses every step."""

import copy
import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from xling.models import precision
from xling.models.precision import rounded
from xling.models.training import Descent
from xling.planning.memory import HELD

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra eightbit)"
)
LEAN = ["adamw_kahan", "adamw_stochastic", pytest.param("adamw_8bit", marks=needs_bitsandbytes)]
HALF = LEAN[:2]


class Weight(nn.Module):
    def __init__(self, dtype: torch.dtype, value: float = 1.0, size: int = 4096) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size // 64, 64), value, dtype=dtype))


def dtype_of(optimizer: str) -> torch.dtype:
    return torch.bfloat16 if optimizer in HALF else torch.float32


def down(optimizer: str, steps: int, rate: float, gradient: Any) -> Tensor:
    model = Weight(dtype_of(optimizer))
    descent = Descent("model", model, optimizer, "x")
    for step in range(steps):
        model.weight.grad = gradient(step, model.weight.detach().float()).to(model.weight.dtype)
        descent.step(rate)
    return model.weight.detach().float()


def test_rounding_by_chance_is_right_on_average() -> None:
    chance = torch.Generator().manual_seed(0)
    for value in (1.001, -3.007, 1e-30, 0.0):
        found = rounded(torch.full((100_000,), value), chance)
        assert torch.equal(found, found.bfloat16().float()) and len(found.unique()) <= 2
        assert float(found.mean()) == pytest.approx(value, rel=1e-4)
    same = torch.tensor([1.5, -2.0, 2.0**-100])
    assert torch.equal(rounded(same, chance), same)


@pytest.mark.parametrize("optimizer", LEAN)
def test_small_steps_add_up(optimizer: str) -> None:
    """200 steps of 1e-4 from 1.0, of which bfloat16 could not tell one: its next numbers are 0.996 and 0.992."""
    found = down(optimizer, 200, 1e-4, lambda step, weight: torch.ones_like(weight))
    assert float(found.mean()) == pytest.approx(0.98, abs=0.0004 if optimizer != "adamw_kahan" else 0.002)
    assert float((found - 0.98).abs().max()) < (0.04 if optimizer == "adamw_stochastic" else 0.004)


@pytest.mark.parametrize("optimizer", LEAN)
def test_second_moments_fall_again(optimizer: str) -> None:
    """After large gradients small ones count again: rounded to the nearest, their mean would stay as large."""
    large_then_small: Any = lambda step, weight: torch.full_like(weight, 1.0 if step < 5 else 0.01)  # noqa: E731
    found, exact = (down(name, 600, 1e-4, large_then_small) for name in (optimizer, "adamw"))
    assert float(found.mean()) == pytest.approx(float(exact.mean()), abs=1e-3)


@pytest.mark.parametrize("optimizer", LEAN)
def test_what_is_held_is_what_the_plan_says(optimizer: str) -> None:
    model = Weight(dtype_of(optimizer), size=1 << 16)
    tensors = Descent("model", model, optimizer, "x").tensors()
    weight = tensors.pop("weights.weight")
    held = sum(value.nbytes for name, value in tensors.items() if not name.startswith("qmap"))  # tables for all weights
    assert (weight.nbytes / weight.numel(), held / weight.numel()) == HELD[optimizer]


def test_parts_of_a_weight_are_updated_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance is another then: within two of bfloat16's numbers."""
    toward: Any = lambda step, weight: weight - 3.0  # noqa: E731
    whole = down("adamw_kahan", 20, 1e-2, toward)
    monkeypatch.setattr(precision, "WEIGHTS_AT_ONCE", 1000)
    assert torch.allclose(down("adamw_kahan", 20, 1e-2, toward), whole, rtol=0.015)


def test_a_float32_weight_beside_them_is_followed_as_by_adamw() -> None:
    """A new head, which is not in bfloat16."""
    found = {}
    for optimizer in ("adamw", "adamw_kahan"):
        torch.manual_seed(0)
        head = nn.Linear(8, 1)
        descent = Descent("model", head, optimizer, "x", weight_decay=0.1)
        for _ in range(10):
            head(torch.arange(16.0).view(2, 8) / 16).pow(2).sum().backward()
            descent.step(1e-2)
        found[optimizer] = head.weight.detach()
    assert torch.allclose(found["adamw"], found["adamw_kahan"], rtol=1e-5)


def test_micro_batches_add_up_in_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    """Rounded to the nearest at each of 64 additions they are a hundredth off, and not shorter (docs/models.md)."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=2000, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=32)  # fmt: skip
    half = LlamaForCausalLM(config).bfloat16()
    texts = torch.randint(3, 900, (64, 64))

    def gradient(model: Any, count: int) -> Tensor:
        model.zero_grad()
        for part in texts.chunk(count):
            logits = model(input_ids=part).logits[:, :-1].float()
            (cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) / count).backward()
        return torch.cat([weight.grad.double().flatten() for weight in model.parameters()])

    off, length = dict[int, float](), dict[int, float]()
    exact = gradient(copy.deepcopy(half).double(), 1)
    for count in (1, 16, 64):
        found = gradient(half, count)
        off[count], length[count] = (float(one.norm() / exact.norm()) for one in (found - exact, found))
    with capsys.disabled():
        print(", ".join(f"{count} micro-batches: {100 * value:.2f} %" for count, value in off.items()))
    assert off[16] < 1.5 * off[1] and off[1] < off[64] < 0.02
    assert all(value == pytest.approx(1.0, abs=0.001) for value in length.values())
