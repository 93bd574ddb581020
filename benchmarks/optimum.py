"""Every optimizer on a small problem whose optimum is known: how far from it they end, on an equal budget.

    python benchmarks/optimum.py [--seeds 3] [--write]     # --write: into docs/optimizers.md

One prompt, ten tokens, responses of at most two of them: 91 in all, so that a policy's whole distribution can be read.
Policies are tiny and random, decoder-only and encoder-decoder; a reward of each response is drawn, of mean 0 and
standard deviation 1 under SFT_t. What is to be found is pi* ~ SFT_t exp(reward / beta) with a beta of 0.5, which has
the greatest E[reward] - beta KL(pi || SFT_t). A seed decides weights, rewards and samples. All have STEPS steps and at
most SAMPLES samples; learning rates are the best of RATES on seeds of their own. `exact` follows the gradient of the
objective itself, which says what the policy can express in as many steps. Seeds are passed over with which SFT_t is not
START nats from the optimum, or `exact` ends more than REACHED away: there the reward or the policy is the limit.
Best-of-n is computed, not sampled.
"""

import argparse
import itertools
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import datasets
import msgspec
import torch
import transformers
from human_judgements import filled
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "optimizers"))

import problems

from xling.models.text import Ids
from xling.models.training import Descent
from xling.optimizers import OPTIMIZERS, PolicyTraining, learning_rate
from xling.optimizers.dpo import Settings as DPO
from xling.optimizers.dpo import dpo_loss, ranked_pairs
from xling.optimizers.grpo import Settings as GRPO
from xling.optimizers.grpo_shao import Settings as SHAO
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.problem import prompts_of_step
from xling.optimizers.rloo import Settings as RLOO

PAGE = Path(__file__).parents[1] / "docs" / "optimizers.md"
KINDS = {"llama": "decoder-only", "mt5": "encoder-decoder"}
BETA, WIDTH, TOKENS = 0.5, 32, 2
STEPS, BATCH, K = 60, 64, 4  # updates; responses an update; responses a prompt
SAMPLES = STEPS * BATCH
TABLE_RATES = (1e-2, 3e-2, 1e-1)  # of a policy that is a table
RATES, TUNING = (3e-4, 1e-3, 3e-3), 1  # learning rates, and how many seeds they are chosen on
START, REACHED = (1.2, 2.0), 0.1  # nats to the optimum: of SFT_t, and at most after the exact gradient
LONG = 4  # times as many steps, and samples


# --- the problem and its optimum ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A policy, the reward of each response there is, and what is best."""

    folder: Path
    said: list[Ids]
    start: Tensor  # (91,) probabilities, as all below
    rewards: Tensor  # mean 0, standard deviation 1 under `start`
    best: Tensor

    def reward(self, p: Tensor) -> float:
        return float((p * self.rewards).sum())

    def objective(self, p: Tensor) -> float:
        """E[reward] - beta KL(p || start)."""
        return self.reward(p) - BETA * kl(p, self.start)

    def tilted(self, scores: Tensor) -> Tensor:
        """start exp(scores), normalised."""
        return (self.start.log() + scores).softmax(0)


def known(folder: Path, kind: str, seed: int) -> Known:
    folder, said = problems.saved(folder / f"{kind}{seed}", kind, WIDTH, seed), problems.outcomes(TOKENS)
    model, _ = problems.load_policy(folder)
    start = problems.distribution(model, said).double()
    start = start / start.sum()
    drawn = torch.tensor(problems.table(len(said), seed), dtype=torch.float64)
    centred = drawn - (start * drawn).sum()
    rewards = centred / (start * centred.square()).sum().sqrt()
    return Known(folder, said, start, rewards, problems.optimum(start, rewards, BETA))


def kl(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats."""
    return float(torch.special.xlogy(p, p / q).sum())


def best_of(n: int, its: Known) -> Tensor:
    """The distribution of the best of n samples: a response is picked if it is the best, and no better one is there."""
    order = its.rewards.argsort()
    below = its.start[order].cumsum(0)
    lower = torch.cat([torch.zeros(1, dtype=below.dtype), below[:-1]])
    picked = torch.zeros_like(its.start)
    picked[order] = below**n - lower**n
    return picked


def frontier(its: Known, nats: float) -> float:
    """The greatest reward of any policy so many nats from SFT_t: that of the pi* whose beta has them, by bisection."""
    low, high = 1e-3, 1e3
    for _ in range(80):
        beta = math.sqrt(low * high)
        low, high = (beta, high) if kl(its.tilted(its.rewards / beta), its.start) > nats else (low, beta)
    return its.reward(its.tilted(its.rewards / high))


def by_group(its: Known, beta: float) -> Tensor:
    """What GRPO aims at: rewards stand in deviations of the policy's own samples, so that beta counts in those.

    pi ~ SFT_t exp(r / (beta s)) with s the standard deviation of r under pi itself, found step by step from SFT_t's;
    groups as large as can be. Where s shrinks without end that is one response.
    """
    spread = 1.0
    for _ in range(500):
        p = its.tilted(its.rewards / (beta * spread))
        own = math.sqrt(max(0.0, float((p * its.rewards.square()).sum()) - its.reward(p) ** 2))
        spread = max(1e-6, 0.9 * spread + 0.1 * own)
    return its.tilted(its.rewards / (beta * spread))


def by_preference(its: Known, beta: float) -> Tensor:
    """What IPO aims at: the probability of being preferred to a sample of SFT_t, in place of the reward."""
    wins = torch.sigmoid(its.rewards[:, None] - its.rewards)
    return its.tilted((wins * its.start).sum(1) / beta)


# --- trainings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A line of the table."""

    name: str
    settings: PolicyTraining | None  # None: the exact gradient
    kinds: tuple[str, ...] = tuple(KINDS)
    own: Callable[[Known, float], Tensor] | None = None  # what it aims at by its beta, if not at the optimum


COMMON: dict[str, Any] = {"steps": STEPS, "beta": BETA, "schedule": "linear", "eval_every": 10**6}
GROUPS = COMMON | {"batch_size": BATCH, "k": K}


def dpo(**changes: Any) -> DPO:
    """Pairs read as many responses an update as the others, and the pool has all samples."""
    return DPO(**COMMON | {"batch_size": BATCH // 2, "n": K, "prompts": SAMPLES // K} | changes)


def in_rounds(rounds: int, **changes: Any) -> DPO:
    """As many samples in all, two to a prompt."""
    return dpo(rounds=rounds, n=2, prompts=SAMPLES // rounds // 2, **changes)


DECODER, EXACT = ("llama",), Case("exact gradient", None)
CASES = [
    EXACT,
    Case("ppo", PPO(**COMMON, batch_size=BATCH)),
    Case("rloo (ours)", RLOO(trainer="own", **GROUPS)),
    Case("rloo (trl)", RLOO(trainer="trl", **GROUPS), DECODER),
    Case("grpo", GRPO(**GROUPS), DECODER),
    Case("grpo_shao", SHAO(**GROUPS), DECODER),
    Case("dpo", dpo()),
    Case("dpo preferences=sampled", dpo(preferences="sampled")),
    Case("dpo preferences=soft", dpo(preferences="soft")),
    Case("dpo rounds=6 n=2", in_rounds(6), DECODER),
    Case("dpo rounds=6 n=2 preferences=sampled", in_rounds(6, preferences="sampled"), DECODER),
    Case("dpo rounds=6 n=2 preferences=soft", in_rounds(6, preferences="soft")),
    Case("dpo loss=ipo", dpo(loss="ipo"), DECODER),
    Case("dpo loss=ipo preferences=soft pairs=all", dpo(loss="ipo", preferences="soft", pairs="all"), DECODER,
         by_preference),
    Case("the same, beta=0.1", dpo(loss="ipo", preferences="soft", pairs="all", beta=0.1), DECODER, by_preference),
    Case("dpo loss=hinge", dpo(loss="hinge"), DECODER),
    Case("dpo per_token=true", dpo(per_token=True), DECODER),
]  # fmt: skip

# What decides how near DPO comes: preferences, loss, steps; and how many samples there are.
GRID = [
    dpo(preferences=preferences, loss=loss, steps=steps, prompts=samples // K, pairs="all")
    for preferences in ("ranked", "sampled", "soft")
    for loss in ("sigmoid", "ipo")
    for steps in (STEPS, LONG * STEPS)
    for samples in (
        (SAMPLES, LONG * SAMPLES) if (preferences, loss, steps) == ("sampled", "sigmoid", LONG * STEPS) else (SAMPLES,)
    )
]


def trained(its: Known, case: Case, rate: float, seed: int) -> Tensor:
    """(91,) probabilities of the trained policy; those of SFT_t where it diverged."""
    look_up = dict(zip(map(tuple, its.said), its.rewards.tolist(), strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        steps = STEPS if case.settings is None else case.settings.steps
        problem = problems.bandit(
            its.folder, Path(scratch), lambda ids: look_up[tuple(ids)], steps, TOKENS, 10**6, seed=seed
        )
        if case.settings is None:
            _exactly(problem.policy, its, rate)
        else:
            changes: dict[str, Any] = {"learning_rate": rate}
            if isinstance(case.settings, PPO):
                changes["value_learning_rate"] = rate
            settings = msgspec.structs.replace(case.settings, **changes)
            if isinstance(settings, DPO):
                assert settings.prompts is not None
                problems.with_pool(problem, its.said, its.start, its.rewards.tolist(), settings.prompts, settings.n)
            OPTIMIZERS.of(settings).train(problem, settings)
        p = problems.distribution(problem.policy, its.said).double()
        return p / p.sum()


def _exactly(policy: Any, its: Known, rate: float) -> None:
    descent = Descent("policy", policy, "adamw", "")
    for step in range(STEPS):
        log_p = problems.log_distribution(policy, its.said).double()
        (-(log_p.exp() * (its.rewards - BETA * (log_p - its.start.log()))).sum()).backward()  # type: ignore[no-untyped-call]
        descent.step(learning_rate(rate, step, STEPS, 5, "linear"))


def by_table(its: Known, settings: DPO, rate: float, seed: int) -> Tensor:
    """(91,) probabilities of a policy that is a table of 91 logits, trained by DPO: nothing but DPO is the limit."""
    assert settings.prompts is not None
    generator = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(its.start, settings.prompts * settings.n, True, generator=generator).view(-1, settings.n)
    rewards = its.rewards[rows].tolist()
    pairs = ranked_pairs(rewards, rows[..., None].tolist(), settings.pairs, settings.preferences, seed=(seed, 0)).pairs
    ends = torch.tensor([pair.chosen + pair.rejected for pair in pairs])
    sure = torch.tensor([pair.sure for pair in pairs], dtype=torch.float64)
    logits = its.start.log().requires_grad_()
    adam = torch.optim.Adam([logits])
    for step in range(settings.steps):
        adam.param_groups[0]["lr"] = learning_rate(rate, step, settings.steps, 0, "linear")
        some = prompts_of_step(len(pairs), settings.batch_size, seed, step)
        ratios = (logits.log_softmax(0) - its.start.log())[ends[some]]
        loss, _ = dpo_loss(ratios[:, 0], ratios[:, 1], settings.beta, settings.loss, sure[some])
        adam.zero_grad()
        (loss / len(some)).backward()  # type: ignore[no-untyped-call]
        adam.step()
    return logits.detach().softmax(0)


# --- tables -------------------------------------------------------------------------------------------------


@cache
def within_reach(folder: Path, kind: str, count: int) -> list[int]:
    """The first seeds, so many, whose optimum is neither near nor out of reach."""

    def fits(seed: int) -> bool:
        its = known(folder, kind, seed)
        if not START[0] <= kl(its.start, its.best) <= START[1]:
            return False
        return min(kl(trained(its, EXACT, rate, seed), its.best) for rate in RATES) <= REACHED

    return list(islice(filter(fits, itertools.count()), count))


def measured(folder: Path, kind: str, case: Case, seeds: Sequence[int]) -> list[str]:
    """A line: case, learning rate; what HEAD says. The first TUNING of `seeds` choose the learning rate."""
    found: list[list[float]] = []

    def left(rate: float) -> float:
        every = ((known(folder, kind, seed), seed) for seed in seeds[:TUNING])
        return sum(kl(trained(its, case, rate, seed), its.best) for its, seed in every)

    rate = min(RATES, key=left)
    for seed in seeds[TUNING:]:
        its = known(folder, kind, seed)
        p = trained(its, case, rate, seed)
        own = kl(p, case.own(its, case.settings.beta)) if case.own and case.settings else math.nan
        share = 100 * its.objective(p) / its.objective(its.best)
        row = [kl(p, its.best), own, problems.total_variation(p, its.best), share, its.reward(p), kl(p, its.start)]
        found.append(row)
        print(f"{kind} {case.name} {rate:g} seed {seed}: " + " ".join(f"{value:.3f}" for value in row), flush=True)
    columns = list(zip(*found, strict=True))
    cells = [spread(column, digits) for column, digits in zip(columns, (2, 2, 2, 0, 2, 2), strict=True)]
    return [case.name, f"{rate:g}", *cells]


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, with the least and the greatest."""
    if math.isnan(values[0]):
        return ""
    middle, low, high = (round(value, digits) + 0.0 for value in (mean(values), min(values), max(values)))  # no -0
    return f"{middle:.{digits}f} <sub>{low:.{digits}f}..{high:.{digits}f}</sub>"


PARTS = ["picked", *KINDS, "why"]  # tables of the page
HEAD = [
    "learning rate",
    "KL to the optimum",
    "KL to its own aim",
    "total variation",
    "objective, %",
    "reward",
    "KL from SFT_t",
]
WHY = ["preferences", "loss", "steps", "samples", *HEAD[:4], HEAD[-1]]  # without the objective and the reward
PICKED = ["", "policy", "KL to the optimum", "total variation", "objective, %", "reward", "frontier", "KL from SFT_t"]


def why(folder: Path, count: int) -> list[list[str]]:
    """Lines of GRID: the first half of `count` problems choose a learning rate, the others are shown."""
    fitting = (its for its in (known(folder, "llama", seed) for seed in itertools.count())
               if START[0] <= kl(its.start, its.best) <= START[1])  # fmt: skip
    every = list(islice(fitting, count))
    rows = []
    for its in GRID:

        def left(rate: float, its: DPO = its) -> float:
            return sum(kl(by_table(one, its, rate, seed), one.best) for seed, one in enumerate(every[: count // 2]))

        rate = min(TABLE_RATES, key=left)
        found = []
        for seed, one in enumerate(every[count // 2 :], count):
            p = by_table(one, its, rate, seed)
            own = kl(p, by_preference(one, BETA)) if its.loss == "ipo" and its.preferences != "ranked" else math.nan
            found.append([kl(p, one.best), own, problems.total_variation(p, one.best), kl(p, one.start)])
        cells = [spread(column, 2) for column in zip(*found, strict=True)]
        assert its.prompts is not None
        rows.append([its.preferences, its.loss, f"{its.steps}", f"{its.prompts * K}", f"{rate:g}", *cells])
        print(" ".join(rows[-1]), flush=True)
    return rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def picked(folder: Path, kind: str, seeds: Sequence[int]) -> list[list[str]]:
    """Lines of what is computed: SFT_t, the optimum, other aims and best-of-n."""
    rows: list[list[str]] = []
    every = [known(folder, kind, seed) for seed in seeds]
    cases: list[tuple[str, Callable[[Known], Tensor]]] = [
        ("SFT_t", lambda its: its.start),
        ("the optimum", lambda its: its.best),
        ("what grpo aims at", lambda its: by_group(its, BETA)),
        ("what dpo loss=ipo preferences=soft aims at", lambda its: by_preference(its, BETA)),
        ("the same, beta=0.1", lambda its: by_preference(its, 0.1)),
    ]
    cases += [(f"best_of_n n={n}", lambda its, n=n: best_of(n, its)) for n in (2, 4, 8, 16, 64)]  # type: ignore[misc]
    for name, of in cases:
        found = [
            (kl(p, its.best), problems.total_variation(p, its.best), 100 * its.objective(p) / its.objective(its.best),
             its.reward(p), frontier(its, kl(p, its.start)), kl(p, its.start))
            for its in every for p in [of(its)]
        ]  # fmt: skip
        cells = [spread(column, d) for column, d in zip(zip(*found, strict=True), (2, 2, 0, 2, 2, 2), strict=True)]
        rows.append([KINDS[kind], name, *cells])
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=3, help="of the table of DPO alone")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", default="", help="lines whose names contain this")
    parser.add_argument("--write", action="store_true", help="into docs/optimizers.md")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    found = dict[str, list[str]]()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        count = TUNING + given.seeds
        for part in given.parts:
            if part == "why":
                found[part] = table(WHY, why(folder, 2 * given.problems))
            elif part == "picked":
                rows = [
                    row for kind in KINDS for row in picked(folder, kind, within_reach(folder, kind, count)[TUNING:])
                ]
                found[part] = table(PICKED, rows)
            else:
                cases = [case for case in CASES if part in case.kinds and given.only in case.name]
                rows = [measured(folder, part, case, within_reach(folder, part, count)) for case in cases]
                found[part] = table(["optimizer", *HEAD], rows)
            print("\n".join(found[part]), flush=True)
    if given.write:
        PAGE.write_text(filled(PAGE.read_text("utf-8"), found), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
