"""optimizer=dpo: direct preference optimisation (Rafailov et al. 2023) of decoder-only and encoder-decoder policies.

The pairs come from a pool of SFT_t's samples of training prompts, drawn once a target whatever the source, and the
reward says which is preferred, or how probably. With optimizer.rounds nothing else changes for the first of them; each
that follows has pairs of the policy as it is then.

A minimum of the loss is the KL-regularised optimum pi* ~ pi_SFT exp(r / beta) only if a response is preferred as often
as Bradley and Terry's model says of r, and not whenever its reward is higher (docs/optimizers.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np

from xling.config.common import Positive, PositiveFloat
from xling.config.policies import LanguageModel
from xling.errors import ConfigError, StageError
from xling.grid.stage import Stage, Work
from xling.models.checkpoints import TRAINING
from xling.models.text import Ids
from xling.optimizers import AtLeastTwo, Costs, Held, PolicyTraining, Stages, training
from xling.optimizers.problem import Problem, Row, prompts_of_step
from xling.optimizers.training import Part, follow, roll_out, run
from xling.rewards.settings import RewardModel

if TYPE_CHECKING:
    from torch import Tensor


class Pair(NamedTuple):
    """Two responses to a prompt."""

    prompt: int  # its number
    chosen: Ids
    rejected: Ids
    sure: float = 1.0  # the probability that the chosen one is preferred


class Settings(PolicyTraining, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="dpo"):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs that the reward model ranks.

    The pairs are of a pool of the training prompts, sampled once a target.
    """

    learning_rate: PositiveFloat = 1e-4
    beta: PositiveFloat = 0.5  # also bounds how far the policy may go
    n: AtLeastTwo = 4  # samples a training prompt
    prompts: Positive | None = 1000  # training prompts in the pool; None: all
    pairs: Literal["extremes", "all"] = "extremes"  # a prompt's best and worst sample, or all with different rewards
    preferences: Literal["ranked", "sampled", "soft"] = "ranked"  # `ranked_pairs` says what they are
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    per_token: bool = False  # log ratios are means over a response's tokens
    rounds: Positive = 1  # equal parts of `steps`; after the first on pairs of the policy's own samples

    def in_key(self) -> dict[str, Any]:
        """Without those that are younger than keys, where they are as things were before."""
        younger = ("preferences", "loss", "per_token", "rounds")
        plain = Settings()
        return {
            name: value
            for name, value in super().in_key().items()
            if name not in younger or value != getattr(plain, name)
        }


# --- what planning asks -------------------------------------------------------------------------------------


def check(settings: Settings, policy: LanguageModel, rm: RewardModel) -> None:
    """The pool must be able to give a batch of pairs, and rounds are equal."""
    steps, rounds = settings.steps, settings.rounds
    if steps % rounds:
        fitting = max(count for count in range(1, min(rounds, steps) + 1) if steps % count == 0)
        raise ConfigError(
            f"optimizer.rounds={rounds} does not divide optimizer.steps={steps}. Type optimizer.rounds={fitting} or "
            f"optimizer.steps={rounds * max(1, steps // rounds)}."
        )
    if settings.prompts is not None:
        _check_pairs(settings, settings.prompts, f"optimizer.prompts={settings.prompts}", "Raise optimizer.prompts")


def stages(settings: Settings, plan: Stages) -> Stage:
    """A training pool, and the training on it. What decides nothing but the pool is in its own spec alone."""
    if (there := plan.training_prompts()) is not None:
        _check_pairs(settings, there, f"The task's {there} training prompts", "Give it more demonstrations")
    pool = plan.training_pool(settings.n, settings.prompts)
    n = settings.n if settings.rounds > 1 else Settings().n
    return plan.aligned(msgspec.structs.replace(settings, n=n, prompts=None), pool=pool)


def _check_pairs(settings: Settings, prompts: int, named: str, instead: str) -> None:
    """ConfigError where so many prompts cannot give a batch; `instead`: what would."""
    pairs = prompts * _pairs_of_a_prompt(settings)
    if pairs < settings.batch_size:
        raise ConfigError(
            f"{named} give at most {pairs} pairs, and a batch has optimizer.batch_size={settings.batch_size}. "
            f"{instead} or lower optimizer.batch_size."
        )


def _pairs_of_a_prompt(settings: Settings) -> int:
    """At most."""
    return 1 if settings.pairs == "extremes" else settings.n * (settings.n - 1) // 2


def work(settings: Settings, costs: Costs) -> Work:
    """Two responses a pair, read by policy and reference; the policy learns, and writes for rounds after the first."""
    rows = settings.batch_size * settings.steps
    flops = {"training": 2 * TRAINING * rows * costs.whole, "reading": 2 * rows * costs.whole}
    if later := settings.rounds - 1:
        prompts = later * _prompts_of_a_round(settings)
        flops["reading"] += prompts * (costs.prompt + settings.n * costs.reward)
        flops["sampling"] = prompts * settings.n * costs.response
    return Work(flops, {"pairs learnt from": rows})


def held(settings: Settings) -> Held:
    """Pairs; but for rounds after the first nothing is sampled but on validation prompts."""
    return Held(settings.batch_size, settings.batch_size, rows=2, samples=settings.rounds > 1, tables=True)


def _prompts_of_a_round(settings: Settings) -> int:
    """As many as its steps need, at least."""
    pairs = settings.steps // settings.rounds * settings.batch_size
    return -(-pairs // _pairs_of_a_prompt(settings))


# --- pairs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """Pairs, and how many comparisons gave none."""

    pairs: list[Pair]
    ties: int  # different responses with the same reward, where that decides
    identical: int  # the same response twice


def ranked_pairs(
    rewards: Sequence[Sequence[float]],
    ids: Sequence[Sequence[Ids]],
    how: str,
    preferences: str = "ranked",
    spread: float = 1.0,
    seed: Sequence[int] = (0,),
) -> Ranked:
    """Pairs of each prompt's responses `ids`, by their `rewards`; a pair's `prompt` is its place among them.

    how: `extremes`, a prompt's best against its worst (of equals the first and the last), or `all`, every two.
    preferences: `ranked`, the higher reward wins. By the model of Bradley and Terry (1952) a response with reward r is
    preferred to one with r' with probability sigmoid((r - r') / spread): `sampled`, one draw a pair decides, as if
    somebody had been asked; `soft`, the pair has the probability itself, which is what endless draws would say.
    spread: the standard deviation of rewards that beta is meant for. seed: of the draws.
    """
    pairs: list[Pair] = []
    ties = identical = 0
    draws = np.random.default_rng(seed)
    for prompt, (values, responses) in enumerate(zip(rewards, ids, strict=True)):
        for i, j in combinations(range(len(values)), 2) if how == "all" else [_extremes(values)]:
            better, worse = (i, j) if values[i] > values[j] else (j, i)
            sure = 1 / (1 + math.exp((values[worse] - values[better]) / spread))
            if preferences == "sampled":
                better, worse = (better, worse) if draws.random() < sure else (worse, better)
            if responses[i] == responses[j]:
                identical += 1
            elif values[i] == values[j] and preferences == "ranked":
                ties += 1
            else:
                own = sure if preferences == "soft" else 1.0
                pairs.append(Pair(prompt, responses[better], responses[worse], own))
    return Ranked(pairs, ties, identical)


def _extremes(values: Sequence[float]) -> tuple[int, int]:
    """Where the greatest and the smallest value stand; with two values or more never at the same place."""
    places = range(len(values))
    return max(places, key=lambda i: (values[i], -i)), min(places, key=lambda i: (values[i], -i))


# --- training -----------------------------------------------------------------------------------------------


def train(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Train the policy in place on pairs of `problem.pool`; returns how many there were and how many were no pairs.

    Raises StageError if there are not enough for a batch and where training diverges, and Interrupted, with a
    checkpoint in the scratch folder, soon after `problem.stopping` has become true.
    """
    assert problem.pool is not None  # `stages` asks for it
    how, spread = (settings.pairs, settings.preferences), problem.standardised[1]
    ranked = ranked_pairs(problem.pool.rewards, problem.pool.responses, *how, spread, (problem.seed, 0))
    if len(ranked.pairs) < settings.batch_size:
        raise StageError(
            f"The reward model tells {len(ranked.pairs)} pairs of samples apart, and a batch has optimizer.batch_size="
            f"{settings.batch_size}. Raise optimizer.n or optimizer.prompts, or lower optimizer.batch_size."
        )
    pairs = [pair._replace(prompt=problem.pool.prompts[pair.prompt]) for pair in ranked.pairs]
    run(Learner(problem, settings, pairs))
    return {"pairs": len(pairs), "tied": ranked.ties, "identical": ranked.identical}


class Learner(training.Learner[Settings]):
    """One update a batch of pairs, whose log-probabilities under the reference are computed once."""

    def __init__(self, problem: Problem, settings: Settings, pairs: Sequence[Pair]) -> None:
        super().__init__(problem, settings)
        self._begin(0, pairs)

    def _begin(self, number: int, pairs: Sequence[Pair]) -> None:
        """Round `number`, with its pairs."""
        self.round, self.pairs = number, pairs
        self.anchors = _anchored(self.problem, pairs, self.settings.micro_batch_size)

    def iterate(self, number: int) -> Row:
        """Update the policy once; each pass over a round's pairs has an order of its own."""
        settings, size = self.settings, self.settings.batch_size
        rounds, step = divmod(number, settings.steps // settings.rounds)
        if rounds != self.round:
            self._begin(rounds, own_pairs(self.problem, settings, rounds))
        chosen = prompts_of_step(len(self.pairs), size, self.problem.seed, step)
        batch = [(self.pairs[i], self.anchors[i]) for i in chosen]
        sums, [norm] = follow(losses(self.problem, batch, settings), {self.descent: self.rate(number)})
        return {name: value / size for name, value in sums.items()} | {"gradient_norm": norm}

    def numbers(self) -> dict[str, Any]:
        """The pairs of a round after the first, for they are of a policy that has gone on since."""
        return {"round": self.round, "pairs": self.pairs} if self.round else {}

    def restore(self, numbers: Mapping[str, Any]) -> None:
        if numbers:
            self._begin(numbers["round"], [Pair(*pair) for pair in numbers["pairs"]])


def own_pairs(problem: Problem, settings: Settings, number: int) -> list[Pair]:
    """Pairs of the policy's own samples, for round `number`: of as many prompts as its steps need.

    StageError if there is none.
    """
    count, n = _prompts_of_a_round(settings), settings.n
    rollout = roll_out(problem, number, count, n)
    values = rollout.rewards.view(-1, n).tolist()
    said = [rollout.responses[start : start + n] for start in range(0, len(rollout.responses), n)]
    ranked = ranked_pairs(values, said, settings.pairs, settings.preferences, seed=(problem.seed, number))
    if not ranked.pairs:
        raise StageError(
            f"Round {number + 1} of optimizer.rounds={settings.rounds}: the reward tells none of the policy's samples "
            f"apart; {ranked.identical} pairs of them are identical. Raise optimizer.n or optimizer.beta, or lower "
            "optimizer.learning_rate."
        )
    prompts = prompts_of_step(len(problem.prompts), count, problem.seed, number)
    return [pair._replace(prompt=prompts[pair.prompt]) for pair in ranked.pairs]


def _anchored(problem: Problem, pairs: Sequence[Pair], micro: int | None = None) -> list[tuple[float, float]]:
    """Log-probabilities of each pair's responses under the reference, in nats."""
    from xling.models import parallel
    from xling.models.states import batches

    most = -(-len(pairs) // parallel.world_size())  # all processes read as many: the reference is shared out
    own, out = list(parallel.share(pairs)), list[tuple[float, float]]()
    with problem.held_to() as reference:
        filled = own + [pairs[-1]] * (most - len(own))
        for part in batches(filled, micro or _pairs_at_once(reference, pairs, 32)):
            chosen, rejected = problem.through(reference, partial(_log_probabilities, problem=problem, pairs=part))
            out += zip(chosen.tolist(), rejected.tolist(), strict=True)
    return parallel.joined(out[: len(own)])


def _log_probabilities(model: Any, problem: Problem, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """(B,) log-probabilities in nats of the chosen and of the rejected responses, eos included, read together."""
    from xling.models.states import log_probabilities, predicting_states, responses_of

    prompts = [problem.prompts[pair.prompt] for pair in pairs] * 2
    responses = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    batch = responses_of(model, prompts, responses, problem.pad)
    tokens = log_probabilities(model, predicting_states(model, batch), batch.ids)
    chosen, rejected = tokens.masked_fill(~batch.mask, 0.0).sum(1).chunk(2)
    return chosen, rejected


def losses(
    problem: Problem, batch: Sequence[tuple[Pair, tuple[float, float]]], settings: Settings
) -> list[Callable[[], Part]]:
    """The mean loss over `batch` (pairs with the reference's log-probabilities), in parts of micro_batch_size pairs.

    None: of as many as memory holds the tables of. Of this process's share; rows are sums over the pairs.
    """
    from xling.models import parallel
    from xling.models.states import batches

    def loss(part: Sequence[tuple[Pair, tuple[float, float]]]) -> Part:
        read = partial(_log_probabilities, problem=problem, pairs=[pair for pair, _ in part])
        with problem.computing():
            chosen, rejected = problem.through(problem.policy, read)
        anchors = chosen.new_tensor([anchor for _, anchor in part])
        chosen, rejected = chosen - anchors[:, 0], rejected - anchors[:, 1]
        if settings.per_token:
            tokens = chosen.new_tensor([(len(pair.chosen), len(pair.rejected)) for pair, _ in part])
            chosen, rejected = chosen / tokens[:, 0], rejected / tokens[:, 1]
        sure = chosen.new_tensor([pair.sure for pair, _ in part])
        loss, row = dpo_loss(chosen, rejected, settings.beta, settings.loss, sure)
        return loss / len(batch), {name: len(part) * mean for name, mean in row.items()}

    own = list(parallel.share(batch))
    size = settings.micro_batch_size or _pairs_at_once(problem.policy, [pair for pair, _ in batch], len(own))
    return [partial(loss, part) for part in batches(own, size)]


def _pairs_at_once(model: Any, pairs: Sequence[Pair], limit: int) -> int:
    """Pairs whose tables of log-probabilities over the vocabulary are not too large, `limit` at most."""
    from xling.models.sizes import VOCABULARY_AT_ONCE

    width = max(max(len(pair.chosen), len(pair.rejected)) for pair in pairs)
    vocabulary: int = model.get_output_embeddings().weight.shape[0]
    return max(1, min(limit, VOCABULARY_AT_ONCE // (2 * width * vocabulary)))


def dpo_loss(
    chosen: Tensor, rejected: Tensor, beta: float, kind: str = "sigmoid", sure: Tensor | None = None
) -> tuple[Tensor, Row]:
    """The sum of losses over pairs, by the margin h = chosen - rejected; and what to log.

    chosen, rejected: (B,) log ratios of policy and reference, in nats a response (or a token, with `per_token`).
    sure: (B,) probabilities that the chosen one is preferred, None: 1; the loss is then what its draws would have on
    average. beta times a log ratio is the implicit reward; the row has its means over the pairs, and the share of pairs
    whose order is right.

    sigmoid: -log sigmoid(beta h), eq. 7 of Rafailov et al. (2023). hinge: max(0, 1 - beta h), Zhao et al. (2023, SLiC)
    with a reference. ipo: (h - 1 / (2 beta))^2, eq. 17 of Azar et al. (2023), whose tau is beta; trl's `ipo` has means
    over tokens.
    """
    from torch.nn.functional import logsigmoid

    def of(margin: Tensor) -> Tensor:
        if kind == "ipo":
            return (margin - 1 / (2 * beta)).square()
        return -logsigmoid(beta * margin) if kind == "sigmoid" else (1 - beta * margin).relu()

    margins = chosen - rejected
    losses = of(margins) if sure is None else sure * of(margins) + (1 - sure) * of(-margins)
    row = {
        "loss": losses.mean(),
        "accuracy": (margins > 0).float().mean(),
        "margin": (beta * margins).mean(),
        "reward_chosen": beta * chosen.mean(),
        "reward_rejected": beta * rejected.mean(),
    }
    return losses.sum(), {name: float(value.detach()) for name, value in row.items()}
