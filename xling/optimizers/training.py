"""Training by optimizers of our own: sampled responses, how models read them, and steps down a gradient.

An optimizer extends `Learner` with `iterate`, and `run` calls it once an iteration, with checkpoints in between. All
gradients come from `follow`, the one place of backward passes and optimizer steps.

Several processes share the work: each samples and scores its part of the prompts, after which all know all responses,
and reads its part of each update's responses, after which all know what was read. So they agree on advantages, and on
the numbers that are recorded; gradients add up in `follow`.

(B, R): B responses, padded on the right to R tokens; a `mask` is True on a response's own tokens, eos included.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from xling.errors import StageError
from xling.grid.stage import Interrupted
from xling.models.text import Ids
from xling.optimizers import PolicyTraining, learning_rate
from xling.optimizers.problem import Problem, Row, prompts_of_step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xling.models.resuming import Checkpoints
    from xling.models.states import Responses
    from xling.models.training import Descent

ROWS_TOGETHER = 128  # responses that are decoded together


# --- iterations and checkpoints -----------------------------------------------------------------------------

S = TypeVar("S", bound=PolicyTraining)


class Learner(Generic[S]):
    """The policy with its gradient optimizer: all that goes from one iteration to the next."""

    def __init__(self, problem: Problem, settings: S) -> None:
        self.problem, self.settings, self.policy = problem, settings, problem.policy
        self.descent = self.descending("policy", problem.reached(problem.policy), "learning_rate")

    def descending(self, what: str, model: nn.Module, setting: str) -> Descent:
        """Without weight decay: the policy is drawn to SFT_t by its KL penalty, not to zero."""
        from xling.models.training import Descent

        return Descent(what, model, self.settings.optimizer, f"optimizer.{setting}")

    def iterate(self, number: int) -> Row:
        """Iteration `number`, from 0: new responses and the updates by them; returns the row to record of it."""
        raise NotImplementedError

    def rate(self, number: int) -> float:
        """The policy's learning rate in iteration `number`."""
        its = self.settings
        return learning_rate(its.learning_rate, number, its.steps, its.warmup_steps, its.schedule)

    def descents(self) -> dict[str, Descent]:
        """By the names that they have in a checkpoint."""
        return {"policy": self.descent}

    def numbers(self) -> dict[str, Any]:
        """What else goes on, plain."""
        return {}

    def restore(self, numbers: Mapping[str, Any]) -> None:
        """Go on from what `numbers` gave."""


def run(learner: Learner[Any], before: int = 0) -> None:
    """Train the policy to its end, and leave it at the checkpoint that is kept.

    before: iterations ahead of step 1, which leave the policy alone and are not recorded.
    A checkpoint is written to the scratch folder whenever the policy has been measured, every `eval_every` iterations
    before step 1, and once `problem.stopping` is true; then Interrupted is raised. A run that goes on from one ends
    with the same bits, unless the number of processes has changed.
    """
    from xling.models.resuming import Checkpoints

    settings, problem, checkpoints = learner.settings, learner.problem, Checkpoints(learner.problem.scratch)
    watch, total = problem.watch, before + settings.steps
    for number in range(_restored(learner, checkpoints), total):
        row, made = learner.iterate(number), number + 1
        step, done = made - before, made * settings.steps // total
        if step > 0:
            watch.after_step(problem.policy, step, row, done)
        else:
            watch.progress(done, settings.steps)
        stopped = made < total and problem.stopping()
        if stopped or made == total or (watch.measures(step) if step > 0 else made % settings.eval_every == 0):
            numbers = {"watch": watch.state(), "learner": learner.numbers(),
                       "steps": {name: descent.steps for name, descent in learner.descents().items()}}  # fmt: skip
            checkpoints.save(made, _tensors(learner), numbers, before + watch.kept)
        if stopped:
            raise Interrupted(f"after step {made} of {total}, with a checkpoint")
    if watch.keep == "best" and watch.kept < settings.steps:
        checkpoints.load(before + watch.kept, _named("policy", learner.descent.weights()))


def _restored(learner: Learner[Any], checkpoints: Checkpoints) -> int:
    """Iterations that are done."""
    state = checkpoints.newest()
    if state is None:
        return 0
    checkpoints.load(state["step"], _tensors(learner))
    for name, descent in learner.descents().items():
        descent.restored(state["steps"][name])
    learner.restore(state["learner"])
    learner.problem.watch.restore(state["watch"])
    return int(state["step"])


def _tensors(learner: Learner[Any]) -> dict[str, Tensor]:
    every = (_named(role, descent.tensors()) for role, descent in learner.descents().items())
    return {name: value for one in every for name, value in one.items()}


def _named(role: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{role}.{name}": value for name, value in tensors.items()}


# --- steps down a gradient ----------------------------------------------------------------------------------

Part = tuple["Tensor", Row]  # the loss of a part of a batch, and numbers that are summed over the parts


def follow(parts: Sequence[Callable[[], Part]], descents: Mapping[Descent, float]) -> tuple[Row, list[float]]:
    """One update by a batch: returns the sums of the parts' rows, and each descent's gradient norm before clipping.

    parts: of this process; computed one after the other, so that memory holds the graph of one. All processes have as
    many. The losses of all parts of all processes add up to the batch's, and so do their rows.
    descents: with their learning rates.
    """
    from xling.models import parallel

    sums: Row = {}
    for number, part in enumerate(parts, 1):
        with contextlib.ExitStack() as adding:
            for descent in descents:
                adding.enter_context(parallel.summing(descent.model, number == len(parts)))
            loss, row = part()
            # Gradients are averaged over the processes.
            (loss * parallel.world_size() if parallel.world_size() > 1 else loss).backward()
        sums = {name: sums.get(name, 0.0) + value for name, value in row.items()}
    norms = [descent.step(rate) for descent, rate in descents.items()]
    return parallel.added(sums), norms


# --- sampled responses --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollout:
    """Responses of the policy as it is, those to one prompt side by side."""

    prompts: list[Ids]  # one a response
    responses: list[Ids]  # eos last where it came
    rewards: Tensor  # (B,) standardised

    def mask(self) -> Tensor:
        """(B, R)"""
        import torch

        lengths = torch.tensor([len(response) for response in self.responses])
        return (torch.arange(int(lengths.max())) < lengths[:, None]).to(self.rewards.device)

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

    from xling.models import parallel
    from xling.models.sampling import sample_chunk

    chosen = prompts_of_step(len(problem.prompts), prompts, problem.seed, number)
    own, names = parallel.share(chosen), parallel.share(_stream_names(problem, chosen))
    how, together = problem.sampling(f"rollout/{number}", n), max(1, ROWS_TOGETHER // n)

    def sampled() -> list[list[Ids]]:
        groups: list[list[Ids]] = []
        for start in range(0, len(own), together):
            part = slice(start, start + together)
            rows = [problem.prompts[i] for i in own[part]]
            with problem.computing():
                groups += sample_chunk(problem.policy, problem.tokenizer, names[part], rows, how)
        return groups

    groups = parallel.apart([problem.reached(problem.policy)], sampled)
    paid = parallel.joined(problem.reward(own, groups))
    groups = parallel.joined(groups)
    rewards = torch.tensor(paid, dtype=torch.float32, device=problem.policy.device).flatten()
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
    from xling.models.states import of_tokens

    def scores(every: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """every: (t, V) log-probabilities of all tokens."""
        log_p, fixed = every.gather(-1, ids[:, None])[:, 0], every.detach()
        return log_p, -(fixed.exp() * fixed).sum(-1) if entropy else log_p.new_zeros(len(ids))

    log_p, entropies = of_tokens(model, scores, states, batch.ids[batch.mask])
    return spread(log_p, batch.mask), spread(entropies, batch.mask)


def reference_scores(problem: Problem, rollout: Rollout, order: Sequence[Sequence[int]]) -> Tensor:
    """(B, R) log-probabilities in nats of the responses' tokens under SFT_t, read part by part; 0 on padding."""
    from xling.models.states import predicting_states

    def read(model: Any, batch: Responses) -> Tensor:
        return token_scores(model, batch, predicting_states(model, batch)[batch.mask])[0]

    with problem.held_to() as model:
        batches = (rollout.batch(model, problem.pad, rows) for rows in order)
        found = [problem.through(model, partial(read, batch=batch)) for batch in batches]
    return together(found, order, rollout)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """(T,) numbers of the tokens of `mask` (B, R) -> (B, R), 0 on padding."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def micro_batches(rows: Sequence[int], size: int | None) -> list[list[int]]:
    """Numbers of responses, of this process's share, in parts that are read at once; size None: in one."""
    from xling.models import parallel

    own = parallel.share(rows)
    size = size or len(own)
    return [list(own[start : start + size]) for start in range(0, len(own), size)]


def together(parts: Sequence[Tensor], order: Sequence[Sequence[int]], rollout: Rollout) -> Tensor:
    """Parts' (b, r), of all processes, as one (B, R) without gradients, in the rollout's order; padding is 0."""
    from xling.models import parallel

    whole = parts[0].new_zeros(len(rollout.responses), max(map(len, rollout.responses)))
    for part, rows in zip(parts, order, strict=True):
        whole[list(rows), : part.shape[1]] = part.detach()
    return parallel.summed(whole)


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
