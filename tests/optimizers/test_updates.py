"""Updates of weights: the learning rate over steps, clipping, and going on as if nothing had been; checkpoints."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from xling.optimizers import checkpoints
from xling.optimizers.updates import Updates


def weight() -> Tensor:
    return torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))


def train(updates: Updates, parameter: Tensor, steps: int) -> None:
    for _ in range(steps):
        ((parameter - 7.0) ** 2).sum().backward()  # type: ignore[no-untyped-call]
        updates.step()


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]), ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25])],
)
def test_learning_rate_rises_then_stays_or_falls(schedule: str, rates: list[float]) -> None:
    parameter, seen = weight(), []
    updates = Updates([parameter], "adamw", 1.0, 2, schedule, 6)
    for _ in rates:
        seen.append(updates.learning_rate)
        train(updates, parameter, 1)
    assert seen == pytest.approx(rates)


def test_the_norm_is_that_before_clipping_and_the_gradient_is_forgotten() -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    updates = Updates([parameter], "adamw", 0.1, 0, "constant", 5)
    (10 * parameter**2 / 2).sum().backward()  # type: ignore[no-untyped-call]
    assert updates.step() == pytest.approx(50.0)
    assert parameter.grad is None
    # Adam's first update is the learning rate times the gradient's sign, with no decay of weights
    assert parameter.tolist() == pytest.approx([2.9, 3.9])


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_goes_on_from_a_checkpoint_as_if_nothing_had_been(optimizer: str, tmp_path: Path) -> None:
    whole = weight()
    train(Updates([whole], optimizer, 0.1, 2, "linear", 9), whole, 7)
    first = weight()
    before = Updates([first], optimizer, 0.1, 2, "linear", 9)
    train(before, first, 4)
    checkpoints.save(tmp_path, {"weight": first.detach(), "updates": before.state(), "step": 4})

    state = checkpoints.load(tmp_path)
    assert state is not None and state["step"] == 4
    second = torch.nn.Parameter(state["weight"])
    after = Updates([second], optimizer, 0.1, 2, "linear", 9)
    after.restore(state["updates"])
    train(after, second, 3)
    assert torch.equal(whole, second) and not torch.equal(whole, weight())


def test_a_checkpoint_half_written_is_not_read(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path) is None
    (tmp_path / "training.pt.partial").write_bytes(b"half")
    assert checkpoints.load(tmp_path) is None
    checkpoints.save(tmp_path, {"step": 1})
    assert checkpoints.load(tmp_path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]
