"""Training by optimizers of our own: sampled responses, how models read them, and steps down a gradient.

An optimizer extends `Learner` with `iterate`, and `run` calls it once an iteration, with checkpoints in between. All
gradients come from `follow`, the one place of backward passes and optimizer steps.

(B, R): B responses, padded on the right to R tokens; a `mask` is True on a response's own tokens, eos included.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from xling.errors import StageError
from xling.grid.files import UNFINISHED, sync
from xling.grid.stage import Interrupted
from xling.models.text import Ids
from xling.optimizers import PolicyTraining, learning_rate
from xling.optimizers.problem import Problem, Row, prompts_of_step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xling.models.states import Responses

CHECKPOINT = "checkpoint.pt"
ROWS_TOGETHER = 128  # responses that are decoded together


# --- iterations and checkpoints -----------------------------------------------------------------------------

S = TypeVar("S", bound=PolicyTraining)


class Learner(Generic[S]):
    """The policy with its gradient optimizer: all that goes from one iteration to the next."""

    def __init__(self, problem: Problem, settings: S) -> None:
        self.problem, self.settings, self.policy = problem, settings, problem.policy
        self.descent = Descent("policy", self.policy.parameters(), settings.optimizer, "learning_rate")

    def iterate(self, number: int) -> Row:
        """Iteration `number`, from 0: new responses and the updates by them; returns the row to record of it."""
        raise NotImplementedError

    def rate(self, number: int) -> float:
        """The policy's learning rate in iteration `number`."""
        its = self.settings
        return learning_rate(its.learning_rate, number, its.steps, its.warmup_steps, its.schedule)

    def state(self) -> dict[str, Any]:
        """Plain numbers and tensors, for `restore`."""
        return {"policy": self.policy.state_dict(), "descent": self.descent.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.policy.load_state_dict(state["policy"])
        self.descent.restore(state["descent"])


def run(learner: Learner[Any], before: int = 0) -> None:
    """Train the policy to its end, and leave it at the checkpoint that is kept.

    before: iterations ahead of step 1, which leave the policy alone and are not recorded.
    A checkpoint is written to the scratch folder every `eval_every` iterations, after the last one, and once
    `problem.stopping` is true; then Interrupted is raised. A run that goes on from one ends with the same bits.
    """
    settings, problem = learner.settings, learner.problem
    total, file = before + settings.steps, problem.scratch / CHECKPOINT
    for number in range(_restored(learner, file), total):
        row, made = learner.iterate(number), number + 1
        step, done = made - before, made * settings.steps // total
        if step > 0:
            problem.watch.after_step(problem.policy, step, row, done)
        else:
            problem.watch.progress(done, settings.steps)
        stopped = made < total and problem.stopping()
        if stopped or made == total or made % settings.eval_every == 0:
            save(file, {"made": made, "learner": learner.state(), "watch": problem.watch.state()})
        if stopped:
            raise Interrupted(f"after step {made} of {total}, with a checkpoint")
    problem.watch.finish(problem.policy)


def _restored(learner: Learner[Any], file: Path) -> int:
    """Iterations that are done."""
    import torch

    if not file.exists():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    learner.restore(state["learner"])
    learner.problem.watch.restore(state["watch"])
    return int(state["made"])


def save(file: Path, state: dict[str, Any]) -> None:
    """Plain numbers and tensors to a file; a reader sees the old one or the new one, whole."""
    import torch

    partial = file.with_suffix(UNFINISHED)
    torch.save(state, partial)
    sync(str(partial))
    os.replace(partial, file)
    sync(str(file.parent))


# --- steps down a gradient ----------------------------------------------------------------------------------

Part = tuple["Tensor", Row]  # the loss of a part of a batch, and numbers that are summed over the parts


def follow(parts: Iterable[Part], descents: Mapping[Descent, float]) -> tuple[Row, list[float]]:
    """One update by a batch: returns the sums of the parts' rows, and each descent's gradient norm before clipping.

    parts: computed one after the other, so that memory holds the graph of one; their losses add up to the batch's.
    descents: with their learning rates.
    """
    sums: Row = {}
    for loss, row in parts:
        loss.backward()
        sums = {name: sums.get(name, 0.0) + value for name, value in row.items()}
    return sums, [descent.step(rate) for descent, rate in descents.items()]


class Descent:
    """AdamW or Adafactor on some parameters; settings mean what they mean in xling/models/training.py.

    what, setting: the model and the setting of its learning rate, which errors name.
    """

    def __init__(self, what: str, parameters: Iterable[nn.Parameter], optimizer: str, setting: str) -> None:
        self.what, self.setting, self.parameters = what, setting, list(parameters)
        from xling.models.training import gradient_optimizer

        # Without weight decay: the policy is drawn to SFT_t by its KL penalty, not to zero.
        self.optimizer = gradient_optimizer(optimizer, self.parameters)

    def step(self, learning_rate: float) -> float:
        """Follow the gradients, and forget them; returns their norm before clipping. StageError if it is no number."""
        from xling.models.training import descend

        return descend(self.optimizer, self.parameters, learning_rate, self.what, f"optimizer.{self.setting}")

    def state(self) -> dict[str, Any]:
        return dict(self.optimizer.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


# --- sampled responses --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollout:
    """Responses of the policy as it is, those to one prompt side by side."""

    prompts: list[Ids]  # one a response
    responses: list[Ids]  # eos last where it came
    rewards: Tensor  # (B,) standardised

    def batch(self, model: Any, pad: int, rows: Sequence[int]) -> Responses:
        """Some of them, ready to be read."""
        from xling.models.states import responses_of

        return responses_of(model, [self.prompts[i] for i in rows], [self.responses[i] for i in rows], pad)

    def row(self, ends: Sequence[int]) -> Row:
        """Mean reward, mean length in tokens (eos counted), and the share that ended by itself."""
        count = len(self.responses)
        return {
            "reward": float(self.rewards.mean()),
            "length": sum(map(len, self.responses)) / count,
            "eos": sum(response[-1] in ends for response in self.responses) / count,
        }


def roll_out(problem: Problem, number: int, prompts: int, n: int = 1) -> Rollout:
    """n responses to each of the prompts of iteration `number`, by pure sampling from streams of their own."""
    import torch

    from xling.models.sampling import sample_chunk

    chosen = prompts_of_step(len(problem.prompts), prompts, problem.seed, number)
    names, how = _stream_names(problem, chosen), problem.sampling(f"rollout/{number}", n)
    groups: list[list[Ids]] = []
    together = max(1, ROWS_TOGETHER // n)
    for start in range(0, len(chosen), together):
        part = slice(start, start + together)
        rows = [problem.prompts[i] for i in chosen[part]]
        with problem.computing():
            groups += sample_chunk(problem.policy, problem.tokenizer, names[part], rows, how)
    rewards = torch.tensor(problem.reward(chosen, groups), dtype=torch.float32, device=problem.policy.device).flatten()
    wrong = rewards[~rewards.isfinite()]
    if len(wrong):
        raise StageError(f"The reward of a response is {float(wrong[0])}. Train the reward model again (mode=force).")
    return Rollout(
        [problem.prompts[i] for i in chosen for _ in range(n)], [ids for group in groups for ids in group], rewards
    )


def _stream_names(problem: Problem, chosen: Sequence[int]) -> list[str]:
    """Names of random streams; a prompt that comes several times in one step has a stream each time."""
    seen: Counter[int] = Counter()
    names = []
    for i in chosen:
        names.append(f"{problem.names[i]}#{seen[i]}" if seen[i] else problem.names[i])
        seen[i] += 1
    return names


# --- how a model reads them ---------------------------------------------------------------------------------


def token_scores(model: Any, batch: Responses, states: Tensor, entropy: bool = False) -> tuple[Tensor, Tensor]:
    """(B, R) log-probabilities in nats of the responses' tokens, 0 on padding; (B, R) entropies, or 0 if not asked for.

    states: (T, D), of the T tokens of the mask alone: nothing is computed for padding. Entropies have no gradient.
    """
    from xling.models.lean import in_chunks
    from xling.models.states import all_log_probabilities, tokens_at_once

    def scores(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        every = all_log_probabilities(model, states)  # (t, V)
        log_p, fixed = every.gather(-1, ids[:, None])[:, 0], every.detach()
        return log_p, -(fixed.exp() * fixed).sum(-1) if entropy else log_p.new_zeros(len(ids))

    log_p, entropies = in_chunks(scores, tokens_at_once(model), states, batch.ids[batch.mask])
    return spread(log_p, batch.mask), spread(entropies, batch.mask)


def reference_scores(problem: Problem, parts: Iterable[Responses], order: Sequence[Sequence[int]]) -> Tensor:
    """(B, R) log-probabilities in nats of the responses' tokens under SFT_t, read part by part; 0 on padding."""
    from xling.models.states import predicting_states

    with problem.held_to() as model:
        return together(
            [token_scores(model, batch, predicting_states(model, batch)[batch.mask])[0] for batch in parts], order
        )


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """(T,) numbers of the tokens of `mask` (B, R) -> (B, R), 0 on padding."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def micro_batches(rows: Sequence[int], size: int | None) -> list[list[int]]:
    """Numbers of responses in parts that are read at once; size None: in one."""
    size = size or len(rows)
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def together(parts: Sequence[Tensor], order: Sequence[Sequence[int]]) -> Tensor:
    """Parts' (b, r) as one (B, R) without gradients, in the order of the rollout; padding is 0."""
    whole = parts[0].new_zeros(sum(map(len, order)), max(part.shape[1] for part in parts))
    for part, rows in zip(parts, order, strict=True):
        whole[list(rows), : part.shape[1]] = part.detach()
    return whole


# --- estimates ----------------------------------------------------------------------------------------------


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of `mask`: a scalar."""
    return (values * mask).sum() / mask.sum()


def kl_k1(log_p: Tensor, log_q: Tensor, mask: Tensor) -> Tensor:
    """(B,) nats a response: sum over tokens of log p - log q, for tokens drawn from p.

    The estimator k1 of KL(p || q) of Schulman (2020), "Approximating KL divergence": unbiased, negative at times.
    """
    return ((log_p - log_q) * mask).sum(1)


def kl_k3(log_p: Tensor, log_q: Tensor, mask: Tensor) -> Tensor:
    """(B,) nats a response: sum over tokens of (r - 1) - log r with r = q / p, for tokens drawn from p.

    The estimator k3 of Schulman (2020): unbiased too (the mean of r - 1 is 0), never negative.
    """
    log_r = log_q - log_p
    return ((log_r.exp() - 1 - log_r) * mask).sum(1)
