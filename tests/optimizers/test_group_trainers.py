"""RLOO and GRPO by trl: what it is given and what it makes of it, by hand; learning; going on after a kill."""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from problems import TOKENS, disturb, measure_with, problem_of, same, weights
from torch import Tensor
from transformers import GenerationConfig
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from xling.config.policies import Lora
from xling.errors import StageError
from xling.grid.stage import Interrupted
from xling.models.states import log_probabilities, predicting_states, responses_of
from xling.models.text import Ids
from xling.models.training import core, trainable
from xling.optimizers import OPTIMIZERS, dpo
from xling.optimizers.dpo import Settings as DPO
from xling.optimizers.grpo import Settings as GRPO
from xling.optimizers.grpo_shao import Settings as SHAO
from xling.optimizers.problem import Problem, Reward, prompts_of_step
from xling.optimizers.rloo import Settings as RLOO
from xling.optimizers.trl_trainers import CHECKPOINTING

SHORT: dict[str, Any] = {"steps": 6, "batch_size": 8, "k": 4, "learning_rate": 1e-2, "warmup_steps": 1, "eval_every": 2}
BOTH = pytest.mark.parametrize("kind", [RLOO, GRPO])
Settings = RLOO | GRPO | SHAO


def train(problem: Problem, settings: Settings) -> None:
    OPTIMIZERS.of(settings).train(problem, settings)


@dataclass
class Recorded:
    """A reward that remembers what it was asked."""

    inner: Reward
    asked: list[tuple[list[int], list[list[Ids]]]] = field(default_factory=list)
    paid: list[list[list[float]]] = field(default_factory=list)

    def __call__(self, numbers: Sequence[int], responses: Sequence[Sequence[Ids]]) -> list[list[float]]:
        self.asked.append((list(numbers), [list(group) for group in responses]))
        self.paid.append(self.inner(numbers, responses))
        return self.paid[-1]


def recorded(problem: Problem) -> Recorded:
    """Training's rewards, not those of the watch."""
    problem.watch.measure = measure_with(dataclasses.replace(problem))
    problem.reward = Recorded(problem.reward)
    return problem.reward


def run(kind: Any, sft: Path, scratch: Path, stopping: Callable[[], bool] = lambda: False, **changes: Any) -> Problem:
    settings = kind(**{**SHORT, **changes})
    problem = problem_of(
        sft, scratch, settings.steps, settings.eval_every, settings.beta, settings.keep, stopping=stopping
    )
    train(problem, settings)
    return problem


# --- what trl is given --------------------------------------------------------------------------------------


@BOTH
def test_the_model_reads_our_prompts_token_by_token(kind: Any, tiny_folder: Path, tmp_path: Path) -> None:
    texts = ["Who  saw <eos> the sea ?", "A", " two dogs\n\n", "Who saw the old red boat on the hill by the sea?"]
    problem = problem_of(tiny_folder, tmp_path, 2, texts=texts)
    tokenizer, reward = problem.tokenizer, recorded(problem)
    again = tokenizer([tokenizer.decode(ids, skip_special_tokens=True) for ids in problem.prompts])["input_ids"]
    assert again != problem.prompts, "these texts would not show it if they were tokenised again"
    read: list[list[Ids]] = []

    generating = problem.policy.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"].bool()
        read.append([row[kept].tolist() for row, kept in zip(ids, mask, strict=True)])
        return generating(*args, **kwargs)

    problem.policy.generate = generate
    train(problem, kind(**{**SHORT, "steps": 2}))
    numbers = [prompts_of_step(4, 2, problem.seed, step) for step in range(2)]
    assert [asked for asked, _ in reward.asked] == numbers
    assert read == [[problem.prompts[i] for i in step for _ in range(4)] for step in numbers]


@pytest.mark.parametrize("kind", [RLOO, GRPO, SHAO])
def test_a_step_by_hand(kind: Any, tiny_folder: Path, tmp_path: Path) -> None:
    """What is logged, and the gradient; the learning rate is too small to change the weights."""
    problem = problem_of(tiny_folder, tmp_path, 1)
    disturb(problem.reference, 0.2)  # so far that GRPO's two ways with the KL penalty differ
    reward = recorded(problem)
    settings = kind(**{**SHORT, "steps": 1, "beta": 0.5, "learning_rate": 1e-12})
    train(problem, settings)
    [row], [(numbers, groups)], [paid] = problem.watch.curve, reward.asked, reward.paid
    responses = [ids for group in groups for ids in group]
    assert all(problem.ends[0] not in ids[:-1] for ids in responses)
    assert all(len(ids) == TOKENS or ids[-1] == problem.ends[0] for ids in responses)

    rewards = torch.tensor(paid)
    prompts = [problem.prompts[i] for i in numbers for _ in range(4)]
    norm, kl = by_hand(problem, settings, prompts, responses, rewards)
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-3) and norm > 0.1
    assert row["kl"] == pytest.approx(kl, rel=1e-3) and abs(kl) > 0.01
    if kind is not RLOO:
        otherwise = {GRPO: SHAO, SHAO: GRPO}[kind](beta=0.5)
        other, _ = by_hand(problem, otherwise, prompts, responses, rewards)
        assert abs(other / norm - 1) > 0.05, "this step would not tell the two apart"
    assert row["reward"] == pytest.approx(float(rewards.mean()), abs=1e-6)
    assert row["length"] == pytest.approx(sum(map(len, responses)) / 8)
    assert row["eos"] == pytest.approx(sum(ids[-1] == problem.ends[0] for ids in responses) / 8)
    assert row["groups_without_spread"] == pytest.approx(float((rewards.std(1) == 0).float().mean()))


def by_hand(
    problem: Problem, settings: Settings, prompts: list[Ids], responses: list[Ids], rewards: Tensor
) -> tuple[float, float]:
    """Norm of one step's gradient and the KL divergence in nats a response, from rewards (groups, k)."""
    loss, kl = loss_by_hand(problem, settings, prompts, responses, rewards)
    problem.policy.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(torch.nn.utils.get_total_norm([p.grad for p in problem.policy.parameters() if p.grad is not None])), kl


def loss_by_hand(
    problem: Problem, settings: Settings, prompts: list[Ids], responses: list[Ids], rewards: Tensor
) -> tuple[Tensor, float]:
    batch = responses_of(problem.policy, prompts, responses, problem.pad)
    ours, theirs = (
        log_probabilities(model, predicting_states(model, batch), batch.ids).masked_fill(~batch.mask, 0.0)
        for model in (problem.policy, problem.reference)
    )
    theirs = theirs.detach()
    beta = settings.beta
    if isinstance(
        settings, RLOO
    ):  # Ahmadian et al. (2024): the reward less beta log(policy / reference) against the others' mean
        kl = (ours - theirs).sum(1).detach()
        penalised = rewards - beta * kl.view_as(rewards)
        advantages = penalised - (penalised.sum(1, keepdim=True) - penalised) / (rewards.shape[1] - 1)
        return -(advantages.flatten() * ours.sum(1)).mean(), float(kl.mean())
    # Shao et al. (2024), eq. 3 and 4
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    ratio = (ours - ours.detach()).exp()
    tokens = ratio * advantages.flatten()[:, None]
    kl = (theirs - ours).exp() - (theirs - ours) - 1
    weighed = kl * ratio if isinstance(settings, GRPO) else kl  # arXiv 2512.02556, which corrects its gradient
    each = ((tokens - beta * weighed) * batch.mask).sum(1) / batch.mask.sum(1)
    return -each.mean(), float(kl.detach().sum(1).mean())


def test_the_models_own_habits_of_generating_are_left_out_and_left_alone(tiny_folder: Path, tmp_path: Path) -> None:
    problem = problem_of(tiny_folder, tmp_path, 1)
    habits = GenerationConfig(do_sample=True, top_k=1, repetition_penalty=1.3, eos_token_id=[problem.ends[0], 40])
    problem.policy.generation_config = habits
    config, reward = problem.policy.config.to_dict(), recorded(problem)
    train(problem, RLOO(**{**SHORT, "steps": 1, "batch_size": 64, "k": 32}))
    [(_, groups)] = reward.asked
    assert all(len({tuple(ids) for ids in group}) > 20 for group in groups), "the likeliest token alone was taken"
    assert problem.policy.generation_config is habits and problem.policy.config.to_dict() == config
    for model in (problem.policy, problem.reference):
        assert "forward" not in vars(model) and not model.training


# --- training -----------------------------------------------------------------------------------------------


@BOTH
def test_learns_what_is_rewarded(kind: Any, tiny_folder: Path, tmp_path: Path) -> None:
    settings = kind(steps=20, batch_size=32, k=4, learning_rate=1e-2, warmup_steps=2, beta=0.05)
    problem = problem_of(tiny_folder, tmp_path, settings.steps, every=20)
    before = measure_with(problem, 32)(problem.policy)["reward"]
    train(problem, settings)
    assert [row["step"] for row in problem.watch.curve] == list(range(1, 21))
    assert measure_with(problem, 32)(problem.policy)["reward"] > before + 0.3  # five standard errors
    assert same(weights(problem.reference), weights(problem_of(tiny_folder, tmp_path, 1).policy)), "the reference moved"


@BOTH
def test_goes_on_after_a_stop_as_if_nothing_had_been(kind: Any, tiny_folder: Path, tmp_path: Path) -> None:
    changes = {"schedule": "linear", "keep": "best", "optimizer": "adafactor" if kind is RLOO else "adamw"}
    whole = run(kind, tiny_folder, tmp_path / "whole", **changes)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        run(kind, tiny_folder, tmp_path / "cut", lambda: next(asked), **changes)
    torch.manual_seed(99)  # another process's random state
    cut = run(kind, tiny_folder, tmp_path / "cut", **changes)
    assert same(weights(whole.policy), weights(cut.policy)) and whole.watch.curve == cut.watch.curve


def test_goes_on_after_a_kill_from_the_last_whole_checkpoint(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while it saved step 6: what was watched is there, the Trainer's own state is not. Then the disk rots."""
    whole = run(RLOO, tiny_folder, tmp_path / "whole")
    with pytest.raises(Interrupted):
        asked = iter([False, False, False, True])
        run(RLOO, tiny_folder, tmp_path / "cut", lambda: next(asked))
    half = tmp_path / "cut" / "checkpoint-6"
    half.mkdir()
    (half / "watched.pt").write_bytes((tmp_path / "cut" / "checkpoint-4" / "watched.pt").read_bytes())
    cut = run(RLOO, tiny_folder, tmp_path / "cut")
    assert same(weights(whole.policy), weights(cut.policy)) and whole.watch.curve == cut.watch.curve
    [last] = (tmp_path / "cut").glob("checkpoint-*")
    optimizer = last / "optimizer.pt"  # which nothing but its hash tells from a whole one
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    again = run(RLOO, tiny_folder, tmp_path / "cut")
    assert f"{last} has changed since it was written" in capsys.readouterr().out
    assert same(weights(whole.policy), weights(again.policy)) and whole.watch.curve == again.watch.curve


def test_a_run_that_was_killed_at_its_end_trains_no_further(tiny_folder: Path, tmp_path: Path) -> None:
    first = run(RLOO, tiny_folder, tmp_path, keep="best")
    second = problem_of(tiny_folder, tmp_path, 6, 2, keep="best")
    reward = recorded(second)
    train(second, RLOO(**SHORT, keep="best"))
    assert not reward.asked and same(weights(first.policy), weights(second.policy))
    assert first.watch.curve == second.watch.curve


def test_adapters_learn_and_go_on_after_a_stop(tiny_folder: Path, tmp_path: Path) -> None:
    """policy.tuning=lora: the frozen weights stay as they are."""
    settings, ends = RLOO(**SHORT), []
    lora = Lora(r=2, alpha=4, dropout=0.0, target_modules=("q_proj", "v_proj"))
    for stops in (None, 3):
        scratch = tmp_path / str(stops)
        for stop in (stops, None):
            problem = problem_of(tiny_folder, scratch, 6, 2)
            torch.manual_seed(5)
            problem.policy = core(trainable(tiny_folder, "lora", lora, 0.0)[0]).eval()
            start = weights(problem.policy)
            asked = iter([step + 1 == stop for step in range(6)])
            problem.stopping = lambda asked=asked: next(asked)  # type: ignore[misc]
            with contextlib.nullcontext() if stop is None else pytest.raises(Interrupted):
                train(problem, settings)
        ends.append(weights(problem.policy))
    assert same(*ends)
    moved = {name for name, value in ends[0].items() if not torch.equal(value, start[name])}
    assert moved and all("lora" in name for name in moved)


# --- DPO ----------------------------------------------------------------------------------------------------


# trl's names of losses, as we set them
LOSSES: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "sigmoid_norm": {"per_token": True},
    "hinge": {"loss": "hinge"},
    "ipo": {"loss": "ipo", "per_token": True},
}


def test_the_losses_of_dpo_are_trls(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, on one batch of token ids; the learning rate is too small to change the weights."""
    monkeypatch.setenv("CI", "1")  # trl reports to nobody
    problem = problem_of(tiny_folder, tmp_path, 1)
    disturb(problem.reference)
    eos = problem.ends[0]
    pairs = [
        dpo.Pair(0, [9, 10, eos], [11, 12, 13, 14, 15, 16]),
        dpo.Pair(3, [20, eos], [21, 22, eos]),
        dpo.Pair(5, [eos], [30, 31, 32, eos]),
    ]
    ours: dict[str, float] = {}
    for name, changes in LOSSES.items():
        learner = dpo.Learner(problem, DPO(steps=1, batch_size=3, learning_rate=1e-12, beta=0.3, **changes), pairs)
        ours[name] = learner.iterate(0)["loss"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`is_gradient_checkpointing` is deprecated", FutureWarning)
        trainer = DPOTrainer(
            model=problem.policy,
            ref_model=problem.reference,
            args=DPOConfig(
                output_dir=str(tmp_path),
                beta=0.3,
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
                **{CHECKPOINTING: False},
            ),
            train_dataset=Dataset.from_list([{"prompt": "Who", "chosen": " sea", "rejected": " hill"}]),
            processing_class=problem.tokenizer,
        )
        features = [
            {"prompt_ids": problem.prompts[pair.prompt], "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
            for pair in pairs
        ]
        theirs: dict[str, float] = {}
        for name in LOSSES:
            trainer.loss_types = [name]
            loss = trainer.compute_loss(problem.policy, DataCollatorForPreference(problem.pad)(features))
            theirs[name] = float(loss.detach())
    assert ours == pytest.approx(theirs, rel=1e-4)
    apart = sorted([*ours.values(), math.log(2)])  # which is DPO's loss at the start, where all margins are 0
    assert min(high - low for low, high in pairwise(apart)) > 1e-3


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_divergence_comes_out_as_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    problem = problem_of(tiny_folder, tmp_path, 6, 2, kl_budget=1e-3)
    with pytest.raises(StageError, match=r"The policy diverged: .* step 2, above optimizer\.kl_budget=0\.001"):
        train(problem, GRPO(**SHORT))
    assert "forward" not in vars(problem.policy)


def test_a_reward_that_is_no_number_is_no_missing_reward(tiny_folder: Path, tmp_path: Path) -> None:
    problem = problem_of(tiny_folder, tmp_path, 6)
    problem.reward = lambda numbers, responses: [[math.nan] + [1.0] * (len(group) - 1) for group in responses]
    with pytest.raises(StageError, match="reward of a response is nan"):
        train(problem, RLOO(**SHORT))
