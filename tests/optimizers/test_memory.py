"""Less memory for the same step: micro-batches, layers computed again, chunks of tokens, adapters switched off."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import bandit, disturb, problem_of, same, saved, weights
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from xling.config.policies import Lora
from xling.errors import ConfigError
from xling.models import states
from xling.models.lean import in_chunks, without_adapters
from xling.models.training import Descent, checkpointed, core, trainable
from xling.optimizers import dpo, grpo, ppo, rloo
from xling.optimizers.problem import Problem
from xling.optimizers.training import run
from xling.stages.sft import causal_loss, labelled_batch, seq2seq_loss

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import trainings

FEW: dict[str, Any] = {"steps": 2, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}
WIDE = 1 << 27
# Relative norm of two gradients' difference: no more than each of them is off from float64's.
CLOSE = {"llama": 1e-6, "mt5": 2e-6}
Gradients = list[dict[int, Tensor]]


@pytest.fixture(params=["llama", "mt5"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return saved(tmp_path / "model", request.param)


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gradients]:
    """Gradients of each step of an optimizer, by the parameter's number."""
    seen: Gradients = []
    step = Descent.step

    def noted(self: Descent, *args: Any) -> float:
        seen.append({i: p.grad.clone() for i, p in enumerate(self.parameters.values()) if p.grad is not None})
        return step(self, *args)

    monkeypatch.setattr(Descent, "step", noted)
    yield seen


def learner(
    name: str, folder: Path, scratch: Path, micro: int | None, dtype: torch.dtype = torch.float32, **changed: Any
) -> Any:
    """Responses of one to four tokens; of dpo, pairs of such. dtype: of policy and reference."""
    problem = bandit(folder, scratch, lambda ids: float(ids.count(2)), 2, 4, **changed)
    disturb(problem.reference)
    for model in (problem.policy, problem.reference):
        model.to(dtype)
    budget = FEW | {"micro_batch_size": micro}
    if name == "dpo":
        pairs: list[dpo.Pair] = [dpo.Pair(0, [2 + i % 8, 3, 1], [4, 2 + i // 8, 5, 6][: 2 + i % 3]) for i in range(16)]
        return dpo.Learner(problem, dpo.Settings(**budget), pairs)
    if name == "rloo":
        return rloo.Learner(problem, rloo.Settings(trainer="own", **budget))
    value: Any = name.partition(" ")[2] or "own"
    return ppo.Learner(problem, ppo.Settings(value=value, value_only_steps=1, minibatches=2, epochs=2, **budget))


def kind_of(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def apart(one: dict[int, Tensor], other: dict[int, Tensor]) -> float:
    """The norm of the difference over the norm."""
    assert one.keys() == other.keys()
    difference = sum(float((one[i] - other[i]).double().square().sum()) for i in one)
    return float((difference / sum(float(value.double().square().sum()) for value in one.values())) ** 0.5)


# --- micro-batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ppo", "ppo shared", "rloo", "dpo"])
def test_micro_batches_add_up_to_the_step(name: str, folder: Path, tmp_path: Path, followed: Gradients) -> None:
    """A loss is a mean over the minibatch's tokens, of which micro-batches have different numbers."""
    rows: list[Any] = []
    for size in (None, 3):
        made = learner(name, folder, tmp_path / str(size), size)
        rows.append(made.iterate(0) | {"beta": 0.1})
    half = len(followed) // 2
    assert half == (4 if name.startswith("ppo") else 1)  # of ppo the value model's, in the value-only phase
    assert apart(followed[0], followed[half]) <= CLOSE[kind_of(folder)]
    assert rows[1] == pytest.approx(rows[0], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["rloo", "dpo"])
def test_what_is_left_between_them_is_float32s_own(
    name: str, folder: Path, tmp_path: Path, followed: Gradients
) -> None:
    """In float64 micro-batches have the gradients of the whole batch; in float32 neither is the nearer one to those."""
    for dtype in (torch.float32, torch.float64):
        for size in (None, 3):
            learner(name, folder, tmp_path / f"{dtype}{size}", size, dtype).iterate(0)
    whole, parts, exact, same = followed
    assert apart(same, exact) < 1e-14
    assert apart(parts, exact) < 2 * apart(whole, exact) < 1e-5


@pytest.mark.parametrize("name", ["ppo", "ppo shared"])
def test_micro_batches_of_the_policys_own_updates(name: str, folder: Path, tmp_path: Path, followed: Gradients) -> None:
    for size in (None, 1):
        learner(name, folder, tmp_path / str(size), size).iterate(1)
    half = len(followed) // 2
    assert half == 8
    for i in (0, 1):  # of the first minibatch: later ones start from weights that differ in the last digits
        assert apart(followed[i], followed[half + i]) <= CLOSE[kind_of(folder)]


@pytest.mark.parametrize("name", ["ppo", "rloo", "dpo"])
def test_no_more_than_a_micro_batch_is_read_at_once(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By policy, reference and value model; a pair is two responses."""
    rows: list[int] = []
    read = states.hidden_states

    def noted(model: Any, batch: dict[str, Tensor]) -> Tensor:
        rows.append(len(batch["input_ids"]))
        return read(model, batch)

    made = learner(name, folder, tmp_path / name, 2)
    monkeypatch.setattr(states, "hidden_states", noted)
    made.iterate(1)
    assert max(rows) == (4 if name == "dpo" else 2) and len(rows) >= 4


@pytest.mark.parametrize("trainer", ["sft", "reward", "ppo", "rloo", "dpo"])
def test_memory_does_not_grow_with_the_batch(trainer: str, tmp_path: Path) -> None:
    """From two micro-batches on; of bytes of tensors, which are the same each time."""
    model = trainings.saved(tmp_path / "model", "llama", width=64, layers=2, vocabulary=1000)
    few, many = (
        trainings.peak(trainings.Case(trainer, batch=batch, micro=4, prompt=16, response=16), model)
        for batch in (8, 32)
    )
    assert few > 0 and many <= 1.02 * few


@pytest.mark.parametrize("kind", [rloo, grpo])
def test_trls_trainers_make_the_same_step_of_micro_batches(kind: Any, tiny_folder: Path, tmp_path: Path) -> None:
    found: list[tuple[Any, Any]] = []
    for size in (None, 2):
        problem = problem_of(tiny_folder, tmp_path / str(size), 2)
        kind.train(problem, kind.Settings(k=4, micro_batch_size=size, **FEW))
        found.append((weights(problem.policy), problem.watch.curve))
    (one, curve), (other, again) = found
    assert [row["reward"] for row in again] == pytest.approx([row["reward"] for row in curve], abs=1e-6)
    assert again[0]["gradient_norm"] == pytest.approx(curve[0]["gradient_norm"], rel=1e-5)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-2 and not same(one, other)


def test_micro_batches_that_trl_cannot_make_are_refused(tiny_folder: Path) -> None:
    from xling.config.policies import LanguageModel
    from xling.rewards.bag_of_words import Settings as BagOfWords

    settings = grpo.Settings(batch_size=8, micro_batch_size=3)
    with pytest.raises(ConfigError, match=r"micro_batch_size=3 does not divide optimizer\.batch_size=8"):
        grpo.check(settings, LanguageModel(str(tiny_folder)), BagOfWords())


# --- layers computed again ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ppo", "rloo", "dpo"])
def test_layers_are_computed_again_and_the_weights_are_the_same(name: str, folder: Path, tmp_path: Path) -> None:
    found, passes = [], []
    for wanted in (False, True):
        made = learner(name, folder, tmp_path / str(wanted), None, gradient_checkpointing=wanted)
        layer = next(part for part in made.policy.modules() if isinstance(part, GradientCheckpointingLayer))
        count = [0]
        linear = next(part for part in layer.modules() if isinstance(part, torch.nn.Linear))
        linear.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))  # noqa: B023
        with checkpointed(made.policy, wanted):
            run(made)
        assert not layer.training and not layer.gradient_checkpointing
        found.append(weights(made.policy))
        passes.append(count[0])
    assert same(*found)
    assert passes[1] > passes[0]


def test_the_value_model_computes_again_too(folder: Path, tmp_path: Path) -> None:
    problem = bandit(folder, tmp_path, lambda ids: float(ids.count(2)), 2, 4, gradient_checkpointing=True)
    seen: list[bool] = []
    made = ppo.Learner
    layers = lambda net: [part for part in net.modules() if isinstance(part, GradientCheckpointingLayer)]  # noqa: E731

    class Noted(made):  # type: ignore[misc,valid-type]
        def iterate(self, number: int) -> Any:
            seen.append(all(layer.gradient_checkpointing for layer in layers(self.value)))
            return super().iterate(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "Learner", Noted)
        ppo.train(problem, ppo.Settings(value_only_steps=1, **FEW))
    assert seen == [True] * 3


def test_trls_trainers_compute_again(tiny_folder: Path, tmp_path: Path) -> None:
    found = []
    for wanted in (False, True):
        problem = problem_of(tiny_folder, tmp_path / str(wanted), 2)
        problem.gradient_checkpointing = wanted
        with checkpointed(problem.policy, wanted):
            grpo.train(problem, grpo.Settings(k=4, **FEW))
        found.append(weights(problem.policy))
    assert same(*found)


# --- chunks of tokens ---------------------------------------------------------------------------------------


def rows_of_logits(model: Any, seen: list[int]) -> None:
    model.get_output_embeddings().register_forward_hook(
        lambda _, args, out: seen.append(out.numel() // out.shape[-1]) if torch.is_grad_enabled() else None
    )


@pytest.mark.parametrize("name", ["ppo", "rloo", "dpo"])
def test_chunks_of_tokens_have_the_gradients_of_the_whole(
    name: str, folder: Path, tmp_path: Path, followed: Gradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = []
    for at_once in (WIDE, 3 * 10):  # three tokens of a vocabulary of ten
        made, seen = learner(name, folder, tmp_path / str(at_once), 4), list[int]()
        monkeypatch.setattr(states, "VOCABULARY_AT_ONCE", at_once)
        rows_of_logits(made.policy, seen)
        made.iterate(1)
        largest.append(max(seen))
    half = len(followed) // 2
    assert apart(followed[0], followed[half]) <= CLOSE[kind_of(folder)]
    assert largest[0] > 3 and largest[1] <= 3


def test_losses_of_fine_tuning_in_chunks_of_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xling.models.load import load_policy

    model, _ = load_policy(folder)
    loss = seq2seq_loss if model.config.is_encoder_decoder else causal_loss
    rows = [([2, 3, 4], [5, 6 + i % 3, 1][: 2 + i % 2]) for i in range(6)]
    batch, found = labelled_batch(model.config, rows, 0), list[dict[int, Tensor]]()
    values, seen = [], list[int]()
    for at_once in (WIDE, 4 * 10):
        monkeypatch.setattr(states, "VOCABULARY_AT_ONCE", at_once)
        if at_once < WIDE:
            rows_of_logits(model, seen)
        model.zero_grad()
        value = loss(model, batch)
        value.backward()
        values.append(float(value.detach()))
        found.append({i: p.grad.clone() for i, p in enumerate(model.parameters()) if p.grad is not None})
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    assert apart(*found) <= CLOSE[kind_of(folder)] and max(seen) <= 4


def test_no_reader_makes_the_logits_of_more_than_a_chunk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-ratios, frozen models' statistics, KL and entropy of validation: not of one long response either."""
    from xling.models.architecture import trunk_of
    from xling.models.load import load_policy
    from xling.models.states import each_response, in_parts, kl_along, log_likelihood
    from xling.rewards.frozen_lm import likelihood_features
    from xling.stages.align import entropies

    model, _ = load_policy(folder)
    other, _ = load_policy(folder)
    disturb(other)
    prompts, said, widest = [[2, 3, 4]] * 2, [[5, 6, 7, 8, 9, 2, 3, 1], [4, 1]], [0]

    def found() -> dict[str, Any]:
        statistics = in_parts(model, lambda states: likelihood_features(model, states))
        return {
            "likelihood": log_likelihood(model, prompts, [[ids] for ids in said], 0),
            "statistics": each_response(trunk_of(model), prompts, [[ids] for ids in said], 0, statistics),
            "kl": kl_along(model, other, prompts, said, 0),
            "entropy": entropies(model, prompts, said, 0),
        }

    whole = found()
    for one in (model, other):
        one.get_output_embeddings().register_forward_hook(
            lambda _, args, out: widest.append(out.numel() // out.shape[-1])
        )
    monkeypatch.setattr(states, "VOCABULARY_AT_ONCE", 3 * 10)  # three tokens of a vocabulary of ten
    for name, values in found().items():
        assert np.ravel(values) == pytest.approx(np.ravel(whole[name]), rel=1e-5, abs=1e-6), name
    assert max(widest) == 3


def test_a_chunk_is_made_again_for_its_gradients() -> None:
    made: list[int] = []

    def value(x: Tensor) -> tuple[Tensor]:
        made.append(len(x))
        return (x.exp(),)

    x = torch.randn(7, requires_grad=True)
    in_chunks(value, 3, x)[0].sum().backward()
    assert made == [3, 3, 1, 1, 3, 3] and torch.allclose(x.grad, x.detach().exp())  # type: ignore[arg-type]


# --- adapters, and precision --------------------------------------------------------------------------------


def adapted(folder: Path, scratch: Path) -> tuple[Any, Problem]:
    """A policy with adapters that is its own reference."""
    torch.manual_seed(0)
    whole, _ = trainable(folder, "lora", Lora(r=2, alpha=4), 0.0)
    policy = core(whole).eval()
    return whole, bandit(folder, scratch, lambda ids: float(ids.count(2)), 2, 4, policy=policy, reference=policy)


@pytest.mark.parametrize("name", ["ppo", "rloo", "dpo", "grpo"])
def test_a_policy_with_adapters_is_its_own_reference(name: str, folder: Path, tmp_path: Path) -> None:
    """To the last bit what a second model would be."""
    if name == "grpo" and kind_of(folder) == "mt5":
        pytest.skip("trl's trainers take decoder-only policies")
    found = []
    for own in (False, True):
        _, problem = adapted(folder, tmp_path / str(own))
        if own:
            problem.reference = bandit(folder, tmp_path / "other", lambda ids: 0.0, 2, 4).reference
        settings = FEW | {"beta": 0.5, "steps": 3}
        if name == "dpo":
            run(dpo.Learner(problem, dpo.Settings(**settings), [dpo.Pair(0, [2 + i % 8, 1], [3, 4]) for i in range(8)]))
        elif name == "ppo":
            ppo.train(problem, ppo.Settings(value_only_steps=0, **settings))
        elif name == "grpo":
            grpo.train(problem, grpo.Settings(**settings))
        else:
            rloo.train(problem, rloo.Settings(trainer="own", **settings))
        adapters = [w for n, w in problem.policy.named_parameters() if "lora_" in n]
        assert adapters and all(weight.requires_grad for weight in adapters)
        assert any(bool(w.any()) for n, w in problem.policy.named_parameters() if "lora_B" in n)
        found.append(weights(problem.policy))
    assert same(*found)


def test_adapters_are_off_for_the_moment(folder: Path, tmp_path: Path) -> None:
    whole, problem = adapted(folder, tmp_path)
    disturb(whole, 0.5)
    ids = torch.tensor([[2, 3, 4]])
    read = lambda model: model(input_ids=ids, decoder_input_ids=ids).logits if encoder else model(ids).logits  # noqa: E731
    encoder = problem.policy.config.is_encoder_decoder
    with torch.no_grad():
        on = read(problem.policy)
        with without_adapters(problem.policy) as model:
            off = read(model)
        assert torch.equal(read(problem.policy), on) and not torch.allclose(on, off)


@pytest.mark.parametrize("name", ["ppo", "ppo shared", "rloo", "dpo"])
def test_in_bfloat16_weights_and_losses_stay_float32(name: str, folder: Path, tmp_path: Path) -> None:
    """Matrices are multiplied in bfloat16 by policy, reference and value model."""
    seen: set[torch.dtype] = set()
    made = learner(name, folder, tmp_path, 4, precision="bfloat16")
    for model in (made.policy, made.problem.reference, getattr(made, "value", None)):
        for part in model.modules() if model is not None else ():
            if isinstance(part, torch.nn.Linear) and part.out_features > 1:
                part.register_forward_hook(lambda _, args, out: seen.add(out.dtype))
    before = weights(made.policy)
    run(made, 1 if name.startswith("ppo") else 0)
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in made.policy.state_dict().values()} == {torch.float32}
    moved = [name for name, value in made.policy.state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) // 2
