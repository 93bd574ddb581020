"""Sampled tokens a second over a whole step: our PPO and RLOO against trl's RLOOTrainer, in one process and in turns.

    python benchmarks/ppo.py [STEPS]     # of each, 12 unless given; a minute or two

The packaged base, its German, English and Turkish prompts, 64 responses a step of up to 32 tokens, KL to the base, and
one reward for all: a frozen model reads each text, a fixed linear head decides (rm_backbone=frozen_lm), so that scoring
costs what it costs in a grid. All learning rates are next to nothing: every policy goes on sampling like the base. PPO
has 64 prompts with one response each, RLOO 16 with four. One thread; medians over the steps, by processor time and by
wall clock. Exit code 1 if PPO of one pass (which updates as often as trl's RLOO) is slower than trl by processor time,
or if scoring and the reference take more than 35 % of a step of PPO at its defaults.
"""

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import torch
from transformers import TrainerCallback

from xling.models.hub import BASE_FOLDER
from xling.models.load import load_policy
from xling.models.text import Ids, decode_response, prompt_ids
from xling.optimizers import ppo, rloo
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.problem import Problem, Watch
from xling.optimizers.rloo import Settings as RLOO
from xling.rewards import frozen_lm
from xling.tasks import micro_summarization
from xling.tasks.micro_summarization import Settings as MicroSummarization

RESPONSES, K, NEW_TOKENS, STILL, MOST = 64, 4, 32, 1e-12, 0.35
DEFAULTS = f"PPO, defaults ({PPO().epochs} x {PPO().minibatches} updates)"


@dataclass
class Clock:
    """Processor and wall seconds of what is called through it."""

    seconds: float = 0.0
    wall: float = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            processor, start = time.process_time(), time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - processor
                self.wall += time.perf_counter() - start

        return timed


@dataclass
class Steps:
    """What was measured of one optimizer, a number a step."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    scoring: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    def add(self, tokens: int, whole: Clock, scoring: Clock, reference: Clock | None) -> None:
        self.tokens.append(tokens)
        self.seconds.append(whole.seconds)
        self.wall.append(whole.wall)
        self.scoring.append(scoring.seconds / whole.seconds)
        if reference is not None:
            self.reference.append(reference.seconds / whole.seconds)

    def rate(self, seconds: Sequence[float]) -> float:
        return median(tokens / one for tokens, one in zip(self.tokens, seconds, strict=True))


class Scorer:
    """A frozen model and a linear head of random weights; remembers how many tokens it was given."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.model, self.tokenizer = load_policy(BASE_FOLDER)
        self.texts, self.tokens, self.clock = texts, 0, Clock()
        self.weight: np.ndarray[Any, Any] | None = None

    def score(self, numbers: Sequence[int], said: Sequence[Sequence[Ids]]) -> list[list[float]]:
        return self.clock.around(self._score)(numbers, said)  # type: ignore[no-any-return]

    def _score(self, numbers: Sequence[int], said: Sequence[Sequence[Ids]]) -> list[list[float]]:
        self.tokens = sum(len(ids) for row in said for ids in row)
        answers = [[decode_response(self.tokenizer, ids) for ids in row] for row in said]
        texts = [self.texts[i] for i in numbers]
        features = np.concatenate(frozen_lm.read(self.model, self.tokenizer, texts, answers, "both"), 1)
        if self.weight is None:
            self.weight = np.random.default_rng(0).standard_normal(features.shape[1]) / features.shape[1]
        rewards = iter((features @ self.weight).tolist())
        return [[next(rewards) for _ in row] for row in said]


def ours(texts: Sequence[str], scorer: Scorer, module: Any, settings: PPO | RLOO) -> Callable[[int, Steps], None]:
    """A function that makes one step and adds what it cost."""
    policy, tokenizer = load_policy(BASE_FOLDER)
    watch = Watch(lambda _: {}, settings.steps, 10**9, 0.1, "last", None, lambda done, total: None)
    problem = Problem(
        policy,
        load_policy(BASE_FOLDER)[0].requires_grad_(False),
        tokenizer,
        [str(i) for i in range(len(texts))],
        prompt_ids(tokenizer, texts),
        scorer.score,
        NEW_TOKENS,
        0,
        watch,
        Path(tempfile.gettempdir()),
        lambda: False,
        {"sft": BASE_FOLDER},
    )
    learner = module.Learner(problem, settings)

    def step(number: int, steps: Steps) -> None:
        whole, reference, scorer.clock = Clock(), Clock(), Clock()
        read = module.reference_scores
        module.reference_scores = reference.around(read)
        whole.around(learner.iterate)(number + 100)  # past the value-only phase
        module.reference_scores = read
        steps.add(scorer.tokens, whole, scorer.clock, reference)

    return step


class InTurns(TrainerCallback):
    """Times trl's steps, and after each of them makes one of each of ours."""

    def __init__(self, scorer: Scorer, theirs: Steps, ours: Callable[[int], None]) -> None:
        self.scorer, self.theirs, self.ours = scorer, theirs, ours

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.scorer.clock = Clock()
        self.start = time.process_time(), time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        whole = Clock(time.process_time() - self.start[0], time.perf_counter() - self.start[1])
        self.theirs.add(self.scorer.tokens, whole, self.scorer.clock, None)
        self.ours(state.global_step)


def run_trl(texts: Sequence[str], scorer: Scorer, steps: int, theirs: Steps, ours: Callable[[int], None]) -> None:
    """trl's RLOO for some steps."""
    from trl import RLOOConfig, RLOOTrainer

    model, tokenizer = load_policy(BASE_FOLDER)
    place = {text: i for i, text in enumerate(texts)}

    def reward(prompts: list[str], completion_ids: list[Ids], **_: Any) -> list[float]:
        rows = scorer.score(
            [place[text] for text in prompts[::K]], [completion_ids[i : i + K] for i in range(0, len(prompts), K)]
        )
        return [value for row in rows for value in row]

    with tempfile.TemporaryDirectory() as folder:
        config = RLOOConfig(
            folder,
            max_steps=steps,
            per_device_train_batch_size=RESPONSES,
            num_generations=K,
            max_completion_length=NEW_TOKENS,
            beta=0.1,
            learning_rate=STILL,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
        )
        data = datasets.Dataset.from_dict({"prompt": list(texts)})
        RLOOTrainer(
            model, reward, config, data, processing_class=tokenizer, callbacks=[InTurns(scorer, theirs, ours)]
        ).train()


def report(found: dict[str, Steps]) -> None:
    print(f"{'':32}{'tokens/s of':>12}{'':>12}{'tokens':>8}{'share of':>10}{'':>11}{'':>6}")
    print(f"{'':32}{'processor':>12}{'wall clock':>12}{'a step':>8}{'scoring':>10}{'reference':>11}{'both':>6}")
    for name, steps in found.items():
        parts = f"{median(steps.reference):11.0%}{both(steps):6.0%}" if steps.reference else ""
        print(
            f"{name:32}{steps.rate(steps.seconds):12,.0f}{steps.rate(steps.wall):12,.0f}{median(steps.tokens):8.0f}"
            f"{median(steps.scoring):10.0%}{parts}"
        )


def both(steps: Steps) -> float:
    """The share of scoring and of the reference, which the KL is computed from."""
    return median(map(sum, zip(steps.scoring, steps.reference, strict=True)))


def main() -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="?", type=int, default=12)
    steps = parser.parse_args().steps
    task = MicroSummarization(languages=("de", "en", "tr"))
    texts = list(
        dict.fromkeys(p.text for lang in task.languages for p in micro_summarization.prompts(task, lang, "train")[:200])
    )
    scorer, still = Scorer(texts), {"learning_rate": STILL, "batch_size": RESPONSES}
    kinds: dict[str, tuple[Any, PPO | RLOO]] = {
        "PPO, 1 pass": (ppo, PPO(epochs=1, minibatches=1, value_learning_rate=STILL, **still)),
        "PPO, 1 pass, shared trunk": (ppo, PPO(epochs=1, minibatches=1, value="shared", **still)),
        DEFAULTS: (ppo, PPO(value_learning_rate=STILL, **still)),
        "RLOO, ours": (rloo, RLOO(trainer="own", k=K, **still)),
    }
    found = {"RLOO, trl": Steps()} | {name: Steps() for name in kinds}
    made = {name: ours(texts, scorer, module, settings) for name, (module, settings) in kinds.items()}

    def each(number: int) -> None:
        for name, step in made.items():
            step(number, found[name])

    print(f"load {os.getloadavg()[0]:.1f} at the start")
    run_trl(texts, scorer, steps + 1, found["RLOO, trl"], each)
    found = {name: Steps(*(column[1:] for column in vars(one).values())) for name, one in found.items()}  # warm
    report(found)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    rates = {name: one.rate(one.seconds) for name, one in found.items()}
    for name in kinds:
        print(f"{name} against trl's RLOO: {rates[name] / rates['RLOO, trl']:.2f}")
    return int(rates["PPO, 1 pass"] < rates["RLOO, trl"] or both(found[DEFAULTS]) > MOST)


if __name__ == "__main__":
    sys.exit(main())
