"""The training loop on a toy: it learns, keeps the best checkpoint, and goes on after a kill as if nothing had been."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from xling.config.common import IN_BFLOAT16, Training
from xling.errors import StageError
from xling.grid.stage import Interrupted
from xling.models.resuming import Checkpoints
from xling.models.training import fit, write_curve

TRUE = torch.tensor([1.0, -2.0, 0.5, 3.0])
BUDGET = Training(steps=12, batch_size=4, learning_rate=0.05, warmup_steps=2, eval_every=4, weight_decay=0.1)
Row = tuple[list[float], float]


def rows(count: int = 32) -> list[Row]:
    points = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [(x.tolist(), float(x @ TRUE)) for x in points]


def collate(batch: list[Row]) -> dict[str, Tensor]:
    return {"x": torch.tensor([x for x, _ in batch]), "y": torch.tensor([y for _, y in batch])}


class Toy(nn.Module):
    """A regression whose dropout makes the random state part of the result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.to(self.layers[0].weight.dtype))[:, 0]
        return out


def squared(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return ((model(batch["x"]).float() - batch["y"]) ** 2).mean()


def held_out(model: Any) -> float:
    with torch.inference_mode():
        return float(squared(model, collate(rows(64)[32:])))


def train(
    scratch: Path,
    budget: Training = BUDGET,
    seed: int = 7,
    metric: Callable[[Any], float] = held_out,
    greater: bool = False,
    loss: Callable[[Any, dict[str, Tensor]], Tensor] = squared,
    progress: Callable[[int, int], None] = lambda done, total: None,
    data: list[Row] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[Toy, list[dict[str, float]]]:
    model = Toy().to(torch.bfloat16 if budget.optimizer in IN_BFLOAT16 else torch.float32)
    _, curve = fit(model, data or rows(), collate, loss, metric, greater, budget, seed, scratch, progress, stopping)
    return model, curve


def weights(model: nn.Module) -> list[list[float]]:
    return [p.detach().flatten().tolist() for p in model.parameters()]


def longer(**changed: Any) -> Training:
    return msgspec.structs.replace(BUDGET, **changed)


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def killed_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == step:
            raise Killed

    return progress


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "adamw_kahan", "adamw_stochastic"])
def test_the_loss_falls(tmp_path: Path, optimizer: str) -> None:
    before = held_out(Toy().eval())
    settings = (
        {"optimizer": optimizer} if optimizer != "adafactor" else {"optimizer": optimizer, "schedule": "constant"}
    )
    model, curve = train(tmp_path / "a", longer(steps=200, eval_every=50, **settings))
    losses = [row["loss"] for row in curve if "loss" in row]
    assert losses[-1] < 0.2 * losses[0]
    assert held_out(model.eval()) < 0.1 * before
    other = longer(steps=200, eval_every=50, schedule="constant")
    assert weights(model) != weights(train(tmp_path / "b", other)[0])


@pytest.mark.parametrize("best_step", [4, 8, 12])
@pytest.mark.parametrize("greater", [True, False])
def test_the_best_checkpoint_is_what_is_left(tmp_path: Path, best_step: int, greater: bool) -> None:
    seen: dict[int, list[list[float]]] = {}

    def metric(model: Any) -> float:
        step = 4 * (len(seen) + 1)
        seen[step] = weights(model)
        return float(step == best_step) * (1 if greater else -1)

    model, curve = train(tmp_path, metric=metric, greater=greater)
    assert weights(model) == seen[best_step]
    assert sum(weights(model) == other for other in seen.values()) == 1
    assert [row["step"] for row in curve if "metric" in row] == [4, 8, 12]


def test_the_first_of_equally_good_checkpoints_is_kept(tmp_path: Path) -> None:
    seen: list[list[list[float]]] = []
    model, _ = train(tmp_path, metric=lambda m: seen.append(weights(m)) or 1.0)  # type: ignore[func-returns-value]
    assert weights(model) == seen[0]


@pytest.mark.parametrize(("steps", "eval_every", "evaluated"), [(10, 4, [4, 8, 10]), (3, 50, [3])])
def test_the_last_step_is_evaluated_whatever_its_number(
    tmp_path: Path, steps: int, eval_every: int, evaluated: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    model, curve = train(tmp_path, longer(steps=steps, eval_every=eval_every))
    measured = {row["step"]: row["metric"] for row in curve if "metric" in row}
    losses = {row["step"]: row["loss"] for row in curve if "loss" in row}
    assert list(measured) == evaluated
    # and said, a line an evaluation, for those who follow the stage's log
    assert capfd.readouterr().out.splitlines() == [
        f"step {step} of {steps}: loss {losses[step]:.4g}, metric {metric:.4g}" for step, metric in measured.items()
    ]
    assert weights(model) != weights(Toy())


def test_a_run_reports_its_steps_and_a_curve_without_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is evaluated without dropout, and leaves files in its scratch folder alone, which need not exist."""
    modes, seen = list[bool](), list[tuple[int, int]]()
    monkeypatch.chdir(tmp_path)
    _, curve = train(
        tmp_path / "a" / "scratch",
        metric=lambda model: float(modes.append(model.training) is None),  # type: ignore[func-returns-value]
        progress=lambda done, total: seen.append((done, total)),
    )
    assert modes == [False] * 3 and seen == [(step, 12) for step in range(1, 13)]
    assert {name for row in curve for name in row} == {"step", "loss", "metric", "learning_rate", "grad_norm"}
    shutil.rmtree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    write_curve(tmp_path, curve)
    assert [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()] == curve


def test_the_same_seed_gives_the_same_bits_and_another_one_others(tmp_path: Path) -> None:
    one, curve = train(tmp_path / "a")
    two, same = train(tmp_path / "b")
    other, _ = train(tmp_path / "c", seed=8)
    assert weights(one) == weights(two) != weights(other)
    assert curve == same


@pytest.mark.parametrize("step", [1, 3, 4, 7, 8, 9])
def test_told_to_stop_it_leaves_a_checkpoint_of_that_moment(tmp_path: Path, step: int) -> None:
    budget = longer(steps=14, eval_every=10)  # the loss is recorded every 2 steps
    undisturbed, curve = train(tmp_path / "undisturbed", budget)
    seen: list[int] = []

    def note(done: int, _total: int) -> None:
        seen.append(done)

    with pytest.raises(Interrupted, match=f"after step {step} of 14, with a checkpoint"):
        train(tmp_path / "stopped", budget, progress=note, stopping=lambda: len(seen) >= step)
    assert len(seen) == step
    resumed, same = train(tmp_path / "stopped", budget, progress=note)
    assert seen[step] == step + 1, "it goes on with the next step"
    assert weights(resumed) == weights(undisturbed)
    assert same == curve


def resumed(tmp_path: Path, budget: Training, step: int, spoil: Callable[[Path], object] = str) -> list[int]:
    """The steps that are made after a kill; what comes out must be what an undisturbed run gives."""
    undisturbed, curve = train(tmp_path / "undisturbed", budget)
    with pytest.raises(Killed):
        train(tmp_path / "killed", budget, progress=killed_at(step))
    spoil(tmp_path / "killed")
    seen: list[int] = []
    model, again = train(tmp_path / "killed", budget, progress=lambda done, total: seen.append(done))
    assert weights(model) == weights(undisturbed) and again == curve
    return seen


@pytest.mark.parametrize("step", [1, 4, 5, 8, 11, 12])
def test_after_a_kill_the_result_is_the_same(tmp_path: Path, step: int) -> None:
    """Before the first checkpoint, at one (the report comes before it is written), and between two."""
    assert resumed(tmp_path, BUDGET, step) == list(range(4 * ((step - 1) // 4) + 1, 13))


def test_other_optimizers_and_logged_losses_do_not_depend_on_a_kill_either(tmp_path: Path) -> None:
    """11 is no multiple of the steps between two logged losses."""
    for optimizer in ("adafactor", "adamw_kahan", "adamw_stochastic"):
        resumed(tmp_path / optimizer, longer(optimizer=optimizer), 7)
    resumed(tmp_path / "logging", longer(steps=22, eval_every=11), 12)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rotten(path: Path) -> None:
    """One bit of the middle, size and time kept."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


SPOILT: dict[str, Callable[[Path], object]] = {
    "no state": lambda folder: (folder / "state.json").unlink(),
    "a cut state": lambda folder: cut(folder / "state.json"),
    "no tensors": lambda folder: next(folder.glob("*.safetensors")).unlink(),
    "cut tensors": lambda folder: cut(next(folder.glob("*.safetensors"))),
    "a bit of the tensors": lambda folder: rotten(next(folder.glob("*.safetensors"))),
    "a bit of the state": lambda folder: rotten(folder / "state.json"),
    "not yet renamed": lambda folder: shutil.move(folder, f"{folder}.partial"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_checkpoint_that_is_not_whole_is_not_used(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    assert resumed(tmp_path, BUDGET, 10, lambda scratch: spoil(scratch / "checkpoint-8"))[0] < 9


def test_a_kept_checkpoint_that_rotted_is_named_and_none_is_gone_on_from(tmp_path: Path) -> None:
    checkpoints, weight = Checkpoints(tmp_path), {"a": torch.arange(64.0)}
    for step in (1, 2):
        checkpoints.save(step, weight, {"loss": 0.5}, kept=1)
    rotten(next((tmp_path / "checkpoint-1").glob("*.safetensors")))
    assert Checkpoints(tmp_path).newest() is None
    with pytest.raises(StageError, match="checkpoint-1, the checkpoint that was to be kept, has changed"):
        checkpoints.load(1, weight)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_an_only_checkpoint_that_was_being_written_means_a_fresh_start(tmp_path: Path) -> None:
    assert resumed(tmp_path, BUDGET, 2, lambda scratch: (scratch / "checkpoint-4").mkdir(parents=True))[0] == 1


@pytest.mark.parametrize(
    ("steps", "eval_every"),
    [(12, 4), (11, 4), (13, 11), (30, 12)],
    ids=["whole epochs", "in an epoch", "uneven logging", "uneven logging, longer"],
)
def test_a_kill_after_the_last_step_changes_nothing(tmp_path: Path, steps: int, eval_every: int) -> None:
    """The stage goes on after training (it saves, reloads, scores) and can be killed then, too."""
    budget = longer(steps=steps, eval_every=eval_every)
    first, curve = train(tmp_path, budget)
    second, again = train(tmp_path, budget)
    assert weights(second) == weights(first)
    assert again == curve


def test_nan_is_an_error_that_names_the_step(tmp_path: Path) -> None:
    def diverging(model: Any, batch: dict[str, Tensor]) -> Tensor:
        diverging.calls += 1  # type: ignore[attr-defined]
        return squared(model, batch) * (float("nan") if diverging.calls > 5 else 1.0)  # type: ignore[attr-defined]

    diverging.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(StageError, match=r"became nan at step 5\. Lower the learning rate"):
        train(tmp_path, loss=diverging)


def test_no_steps_leave_the_model_as_it_was(tmp_path: Path) -> None:
    model, curve = train(tmp_path / "scratch", longer(steps=0))
    assert weights(model) == weights(Toy()) and curve == []


def test_fewer_examples_than_a_batch_is_an_error(tmp_path: Path) -> None:
    """The Trainer would give back the model untrained."""
    with pytest.raises(StageError, match=r"There are 5 training examples and a batch has 32\."):
        train(tmp_path, longer(batch_size=32), data=rows(5))


# --- what the paper asks for, and what fits a GPU ---------------------------------------------------------------


def rates(curve: list[dict[str, float]]) -> list[float]:
    return [row["learning_rate"] for row in curve if "learning_rate" in row]


def test_schedules(tmp_path: Path) -> None:
    """The rate that a step was made with: linear warm-up, then down to 0 or on as it is."""
    _, falling = train(tmp_path / "a", longer(eval_every=1))
    _, constant = train(tmp_path / "b", longer(eval_every=1, schedule="constant"))
    assert rates(falling)[:3] == rates(constant)[:3] == [0, 0.025, 0.05]
    assert set(rates(constant)[2:]) == {0.05}
    assert rates(falling)[-1] == pytest.approx(0.005)


class Words(nn.Module):
    """Predicts a token from one: rows have as many counted tokens as they are long."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))


def token_rows() -> list[list[int]]:
    return [[1 + (i * j) % 8 for j in range(2 + i % 7)] for i in range(32)]


def token_batch(rows: list[list[int]]) -> dict[str, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "labels": ids.masked_fill(ids == 0, -100)}


def token_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = model.layers(batch["input_ids"])[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)


@pytest.mark.parametrize("micro", [1, 2, 4, 8, 16])
def test_micro_batches_make_the_step_of_the_whole_batch(tmp_path: Path, micro: int) -> None:
    """Also where their losses are means over different numbers of tokens; one above a process's share is the share."""

    def learn(size: int | None) -> tuple[list[float], list[dict[str, float]]]:
        model = Words()
        budget = longer(batch_size=8, micro_batch_size=size)
        scratch = tmp_path / str(size)
        _, curve = fit(
            model, token_rows(), token_batch, token_loss, lambda m: 0.0, True, budget, 7, scratch, lambda *_: None
        )
        return [value for row in weights(model) for value in row], curve

    whole, curve = learn(None)
    parts, same = learn(micro)
    assert parts == pytest.approx(whole, abs=1e-5)
    assert [row["loss"] for row in same if "loss" in row] == pytest.approx(
        [row["loss"] for row in curve if "loss" in row], abs=1e-5
    )
    assert len({len(row) for row in token_rows()[:8]}) > 1


def test_micro_batches_that_do_not_divide_the_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"micro_batch_size=3 does not divide the 4 examples"):
        train(tmp_path, longer(micro_batch_size=3))


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path, tiny_folder: Path) -> None:
    from xling.models.load import load_policy
    from xling.stages.sft import causal_loss, labelled_batch

    found = []
    for wanted in (False, True):
        model, _ = load_policy(tiny_folder)
        texts = [([1, 5 + i, 6], [7, 8 + i, 2]) for i in range(8)]
        budget = longer(steps=3, gradient_checkpointing=wanted)
        scratch = tmp_path / str(wanted)
        padded = partial(labelled_batch, model.config, pad=0)
        fit(model, texts, padded, causal_loss, lambda m: 0.0, True, budget, 0, scratch, lambda *_: None)
        assert not model.is_activation_checkpointing
        found.append(weights(model))
    assert found[0] == found[1]


def test_bfloat16_computes_in_it_and_keeps_float32_weights(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        said = model(batch["x"])
        seen.add(said.dtype)
        return ((said.float() - batch["y"]) ** 2).mean()

    model = Toy()
    fit(model, rows(), collate, loss, held_out, False, BUDGET, 0, tmp_path, lambda *_: None, precision="bfloat16")
    assert seen == {torch.bfloat16} and next(model.parameters()).dtype == torch.float32


def test_float16_is_not_trained_on_a_processor(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(StageError, match=r"float16 needs a GPU\. Type policy\.dtype=bfloat16"):
        fit(Toy(), rows(), collate, squared, held_out, False, BUDGET, 0, tmp_path, lambda *_: None, precision="float16")
