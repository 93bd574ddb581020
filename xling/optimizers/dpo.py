"""optimizer=dpo: direct preference optimisation (Rafailov et al. 2023) of decoder-only and encoder-decoder policies.

Nothing is sampled while it trains: the pairs come from a pool of SFT_t's samples of training prompts, drawn once a
target whatever the source, and ranked by the reward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from xling.config.common import Positive, PositiveFloat
from xling.config.policies import LanguageModel
from xling.errors import ConfigError, StageError
from xling.grid.stage import Stage, Work
from xling.models.checkpoints import TRAINING
from xling.models.text import Ids
from xling.optimizers import AtLeastTwo, Costs, Held, PolicyTraining, Stages, training
from xling.optimizers.problem import Problem, Row, prompts_of_step
from xling.optimizers.training import Part, follow, run
from xling.rewards.settings import RewardModel

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[int, Ids, Ids]  # number of the prompt, chosen response, rejected response


class Settings(PolicyTraining, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="dpo"):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs that the reward model ranks.

    The pairs are of a pool of the training prompts, sampled once a target.
    """

    learning_rate: PositiveFloat = 1e-4
    beta: PositiveFloat = 0.5  # also bounds how far the policy may go
    n: AtLeastTwo = 4  # samples a training prompt
    prompts: Positive | None = 1000  # training prompts in the pool; None: all
    pairs: Literal["extremes", "all"] = "extremes"  # a prompt's best and worst sample, or all with different rewards


# --- what planning asks -------------------------------------------------------------------------------------


def check(settings: Settings, policy: LanguageModel, rm: RewardModel) -> None:
    """The pool must be able to give a batch of pairs."""
    if settings.prompts is not None:
        _check_pairs(settings, settings.prompts, f"optimizer.prompts={settings.prompts}", "Raise optimizer.prompts")


def stages(settings: Settings, plan: Stages) -> Stage:
    """A training pool, and the training on it. What decides the pool is in its own spec, and not in the training's."""
    if (there := plan.training_prompts()) is not None:
        _check_pairs(settings, there, f"The task's {there} training prompts", "Give it more demonstrations")
    pool = plan.training_pool(settings.n, settings.prompts)
    return plan.aligned(msgspec.structs.replace(settings, n=Settings().n, prompts=None), pool=pool)


def _check_pairs(settings: Settings, prompts: int, named: str, instead: str) -> None:
    """ConfigError where so many prompts cannot give a batch; `instead`: what would."""
    pairs = prompts * (1 if settings.pairs == "extremes" else settings.n * (settings.n - 1) // 2)
    if pairs < settings.batch_size:
        raise ConfigError(
            f"{named} give at most {pairs} pairs, and a batch has optimizer.batch_size={settings.batch_size}. "
            f"{instead} or lower optimizer.batch_size."
        )


def work(settings: Settings, costs: Costs) -> Work:
    """Two responses a pair, read by policy and reference; the policy learns."""
    rows = settings.batch_size * settings.steps
    flops = {"training": 2 * TRAINING * rows * costs.whole, "reading": 2 * rows * costs.whole}
    return Work(flops, {"pairs learnt from": rows})


def held(settings: Settings) -> Held:
    """Pairs; nothing is sampled but on validation prompts."""
    return Held(settings.batch_size, settings.batch_size, rows=2, samples=False, tables=True)


# --- pairs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """Pairs, and how many comparisons gave none."""

    pairs: list[Pair]
    ties: int  # different responses with the same reward
    identical: int  # the same response twice


def ranked_pairs(rewards: Sequence[Sequence[float]], ids: Sequence[Sequence[Ids]], how: str) -> Ranked:
    """Pairs of each prompt's responses `ids`, by their `rewards`.

    how: `extremes`, a prompt's best against its worst (of equals the first and the last), or `all`, every two.
    """
    pairs: list[Pair] = []
    ties = identical = 0
    for prompt, (values, responses) in enumerate(zip(rewards, ids, strict=True)):
        for i, j in combinations(range(len(values)), 2) if how == "all" else [_extremes(values)]:
            better, worse = (i, j) if values[i] > values[j] else (j, i)
            if responses[i] == responses[j]:
                identical += 1
            elif values[i] == values[j]:
                ties += 1
            else:
                pairs.append((prompt, responses[better], responses[worse]))
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
    ranked = ranked_pairs(problem.pool.rewards, problem.pool.responses, settings.pairs)
    if len(ranked.pairs) < settings.batch_size:
        raise StageError(
            f"The reward model tells {len(ranked.pairs)} pairs of samples apart, and a batch has optimizer.batch_size="
            f"{settings.batch_size}. Raise optimizer.n or optimizer.prompts, or lower optimizer.batch_size."
        )
    pairs = [(problem.pool.prompts[i], chosen, rejected) for i, chosen, rejected in ranked.pairs]
    run(Learner(problem, settings, pairs))
    return {"pairs": len(pairs), "tied": ranked.ties, "identical": ranked.identical}


class Learner(training.Learner[Settings]):
    """One update a batch of pairs, whose log-probabilities under the reference are computed once."""

    def __init__(self, problem: Problem, settings: Settings, pairs: Sequence[Pair]) -> None:
        super().__init__(problem, settings)
        self.pairs, self.anchors = pairs, _anchored(problem, pairs, settings.micro_batch_size)

    def iterate(self, number: int) -> Row:
        """Update the policy once; each pass over the pairs has an order of its own."""
        size = self.settings.batch_size
        chosen = prompts_of_step(len(self.pairs), size, self.problem.seed, number)
        batch, micro = [(self.pairs[i], self.anchors[i]) for i in chosen], self.settings.micro_batch_size
        parts = losses(self.problem, batch, self.settings.beta, micro)
        sums, [norm] = follow(parts, {self.descent: self.rate(number)})
        return {name: value / size for name, value in sums.items()} | {"gradient_norm": norm}


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

    prompts = [problem.prompts[prompt] for prompt, _, _ in pairs] * 2
    responses = [chosen for _, chosen, _ in pairs] + [rejected for _, _, rejected in pairs]
    batch = responses_of(model, prompts, responses, problem.pad)
    tokens = log_probabilities(model, predicting_states(model, batch), batch.ids)
    chosen, rejected = tokens.masked_fill(~batch.mask, 0.0).sum(1).chunk(2)
    return chosen, rejected


def losses(
    problem: Problem, batch: Sequence[tuple[Pair, tuple[float, float]]], beta: float, micro: int | None = None
) -> list[Callable[[], Part]]:
    """The mean loss over `batch` (pairs with the reference's log-probabilities), in parts of `micro` pairs.

    None: of as many as memory holds the tables of. Of this process's share; rows are sums over the pairs.
    """
    from xling.models import parallel
    from xling.models.states import batches

    def loss(part: Sequence[tuple[Pair, tuple[float, float]]]) -> Part:
        read = partial(_log_probabilities, problem=problem, pairs=[pair for pair, _ in part])
        with problem.computing():
            chosen, rejected = problem.through(problem.policy, read)
        anchors = chosen.new_tensor([anchor for _, anchor in part])
        loss, row = dpo_loss(chosen - anchors[:, 0], rejected - anchors[:, 1], beta)
        return loss / len(batch), {name: len(part) * mean for name, mean in row.items()}

    own = list(parallel.share(batch))
    size = micro or _pairs_at_once(problem.policy, [pair for pair, _ in batch], len(own))
    return [partial(loss, part) for part in batches(own, size)]


def _pairs_at_once(model: Any, pairs: Sequence[Pair], limit: int) -> int:
    """Pairs whose tables of log-probabilities over the vocabulary are not too large, `limit` at most."""
    from xling.models.sizes import VOCABULARY_AT_ONCE

    width = max(max(len(chosen), len(rejected)) for _, chosen, rejected in pairs)
    vocabulary: int = model.get_output_embeddings().weight.shape[0]
    return max(1, min(limit, VOCABULARY_AT_ONCE // (2 * width * vocabulary)))


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> tuple[Tensor, Row]:
    """Eq. 7 of Rafailov et al. (2023): the sum over pairs of -log sigmoid(beta (chosen - rejected)); and what to log.

    chosen, rejected: (B,) log ratios of policy and reference, in nats of whole responses. beta times a log ratio is
    the implicit reward; the row has its means over the pairs, and the share of pairs whose order is right.
    """
    from torch.nn.functional import logsigmoid

    margins = beta * (chosen - rejected)
    losses = -logsigmoid(margins)
    row = {
        "loss": losses.mean(),
        "accuracy": (margins > 0).float().mean(),
        "margin": margins.mean(),
        "reward_chosen": beta * chosen.mean(),
        "reward_rejected": beta * rejected.mean(),
    }
    return losses.sum(), {name: float(value.detach()) for name, value in row.items()}
