"""Steps down a gradient: the learning rate over steps, clipping, what is kept for a killed run."""

from typing import Any

import pytest
import torch

from xling.errors import StageError
from xling.optimizers import learning_rate
from xling.optimizers.steps import Descent


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [("constant", [2 / 3, 4 / 3, 2.0, 2.0, 2.0, 2.0]), ("linear", [2 / 3, 4 / 3, 2.0, 1.5, 1.0, 0.5])],
)
def test_the_learning_rate_rises_then_stays_or_falls(schedule: str, wanted: list[float]) -> None:
    assert [learning_rate(2.0, step, 6, 2, schedule) for step in range(6)] == pytest.approx(wanted)
    assert learning_rate(2.0, 0, 6, 0, "constant") == 2.0


def parameter() -> Any:
    return torch.nn.Parameter(torch.tensor([3.0, 4.0]))


def test_the_norm_is_that_before_clipping_and_weights_do_not_decay() -> None:
    weight = parameter()
    descent = Descent("policy", [weight], "adamw", "learning_rate")
    (10 * weight**2 / 2).sum().backward()
    assert descent.step(0.1) == pytest.approx(50.0)
    assert weight.grad is None
    assert weight.tolist() == pytest.approx([2.9, 3.9])  # Adam's first step: the gradient's sign


def test_a_gradient_that_is_no_number_changes_nothing_and_names_the_setting() -> None:
    weight = parameter()
    (weight * float("nan")).sum().backward()
    descent = Descent("value model", [weight], "adamw", "value_learning_rate")
    with pytest.raises(StageError, match=r"value model became nan\. Lower optimizer\.value_learning_rate"):
        descent.step(0.1)
    assert weight.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_goes_on_from_its_state_as_if_nothing_had_been(optimizer: str) -> None:
    def train(descent: Descent, weight: Any, steps: int) -> None:
        for _ in range(steps):
            ((weight - 7.0) ** 2).sum().backward()
            descent.step(0.1)

    whole, first = parameter(), parameter()
    train(Descent("policy", [whole], optimizer, "learning_rate"), whole, 7)
    before = Descent("policy", [first], optimizer, "learning_rate")
    train(before, first, 4)
    second = torch.nn.Parameter(first.detach().clone())
    after = Descent("policy", [second], optimizer, "learning_rate")
    after.restore(before.state())
    train(after, second, 3)
    assert torch.equal(whole, second) and not torch.equal(first, second)
