"""What judge=llm's stages do, and what the judge stage makes of the answers (planned in xling/judges/llm.py).

llm[s, t]: what the model says of the cell's responses and their opponents. It is asked in both orders (or one, by a
seeded coin), a pair of texts at a time, in blocks that a killed stage keeps; each answer is in the root's cache besides
(xling/judges/cache.py), so that nothing is asked twice: not by this stage and not by another source whose pick is the
same. judge_accuracy[t]: how good it is as a judge, by the target's held-out human preferences.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from xling.config.common import TEMPLATE_DATE
from xling.errors import StageError
from xling.grid import joined
from xling.grid.stage import Context
from xling.jsonfiles import decode, read_json, write_json
from xling.judges import Array, Folded, Places
from xling.judges.asking import (
    Compared,
    EndpointSettings,
    How,
    PromptKind,
    Request,
    Verdict,
    capped,
    coin,
    compare,
    mean_of_known,
    points,
)
from xling.judges.cache import Cache
from xling.optimizers import answers
from xling.results.reading import held_out_pairs, pair_ids, read_verdicts, verdicts_of
from xling.results.samples import Samples, read_samples
from xling.tasks.options import Task, task_module

PAIRS = 128  # a block
HOPELESS = 64  # pairs of which none was answered: no others are asked

# --- their specs --------------------------------------------------------------------------------------------


class FoldSpec(Struct, frozen=True):
    """The part of the judge stage's spec that judge=llm reads."""

    win: str  # soft, hard
    max_unanswered: float  # share of the pairs that it was asked about


class Where(Struct, frozen=True):
    """The part of a spec that is in no key, here the endpoint; None: the model is the `lm` parent."""

    endpoint: EndpointSettings | None = None


class AskSpec(Struct, frozen=True):
    """Spec of both stages that ask. `identity` names the model: {"endpoint": its name} or {"local": its stage}."""

    task: Task
    digest: str
    lang: str
    language: str  # in English
    identity: dict[str, str]
    prompt: PromptKind
    max_instances: int | None
    max_characters: int | None
    truncation_side: str
    seed: int
    min_mass: float = 0.0
    request: Request = Request()  # of an endpoint
    template_date: str = TEMPLATE_DATE  # of a local model
    where: Where = Where()

    def how(self) -> How:
        """The question, as `compare` takes it."""
        return How(self.prompt, self.language, self.max_characters, self.truncation_side, self.min_mass)


class LlmSpec(AskSpec, frozen=True, kw_only=True):
    """And which responses are judged: `n` of the pool are picked from, `opponents` a response."""

    n: int | None
    opponents: int
    orders: str  # both, random
    trained: bool = False  # the pool is what a trained policy said: all of it is judged
    optimizer: dict[str, Any] | None = None  # which picks; None: best_of_n


# --- verdicts -----------------------------------------------------------------------------------------------


def run(context: Context) -> None:
    """Writes verdicts.json: the columns of `Asked`."""
    spec = msgspec.convert(context.spec, LlmSpec)
    texts = {p.id: p.reward_text for p in task_module(spec.task).prompts(spec.task, spec.lang, "test")}
    pool, baseline = (read_samples(context.parents[role]) for role in ("pool", "baseline"))
    chosen = capped([s.prompt for s in pool], [s.dataset for s in pool], spec.max_instances, spec.seed)
    judged = responses_judged(context, spec, [s.prompt for s in pool])
    places = [
        (i, sample, opponent)
        for i in chosen
        for sample in judged[i]
        for opponent in range(min(spec.opponents, len(baseline[i].responses)))
    ]
    pairs = [
        Compared(
            texts[pool[i].prompt],
            pool[i].responses[sample],
            baseline[i].responses[opponent],
            *_orders(spec, pool[i], opponent),
        )
        for i, sample, opponent in places
    ]
    verdicts = _asked(context, spec, pairs)
    columns = {
        "prompt": [pool[i].prompt for i, _, _ in places],
        "sample": [sample for _, sample, _ in places],
        "opponent": [opponent for _, _, opponent in places],
    }
    write_json(context.out / "verdicts.json", columns | _columns(verdicts))


def responses_judged(context: Context, spec: LlmSpec, prompts: Sequence[str]) -> list[list[int]]:
    """A prompt's samples that the cell answers with: best-of-n's pick, or all that a trained policy said."""
    reward = np.load(joined.opened(context.parents["score"] / "pool.npy"))[:, : spec.n]
    places: list[list[int]] = answers(reward, prompts, spec.trained, spec.optimizer).tolist()
    return places


def _orders(spec: LlmSpec, samples: Samples, opponent: int) -> tuple[bool, bool]:
    """Whether the response is shown first, and second: the same for all cells of a target."""
    if spec.orders == "both":
        return True, True
    heads = coin(spec.seed, "order", spec.lang, samples.prompt, opponent)
    return heads, not heads


def _asked(context: Context, spec: AskSpec, pairs: Sequence[Compared]) -> list[Verdict]:
    """Verdicts of all pairs, asked block after block."""
    from xling.judges.asker import asker  # httpx takes a while, and planning imports this module
    from xling.stages.blocks import blocks_of, kept_lines

    cache = Cache((context.cache or context.scratch) / "judges")
    local, endpoint = context.parents.get("lm"), spec.where.endpoint
    with asker(spec.identity, endpoint, local, cache, context.stopping, spec.request, spec.template_date) as ask:

        def block(items: Sequence[int]) -> list[bytes]:
            verdicts = compare(ask, spec.how(), [pairs[i] for i in items])
            if items[0] == 0 and sum(not verdict.identical for verdict in verdicts) >= HOPELESS:
                check_answered(verdicts, None, "first pairs")  # the others would cost as much, and say as little
            return [msgspec.json.encode(verdict) for verdict in verdicts]

        blocks = list(blocks_of(range(len(pairs)), PAIRS))
        return [Verdict(*decode(line)) for line in kept_lines(context, "verdicts", blocks, block)]


def _columns(verdicts: Sequence[Verdict]) -> dict[str, list[Any]]:
    return {name: [getattr(verdict, name) for verdict in verdicts] for name in Verdict._fields}


# --- what the judge stage makes of them ---------------------------------------------------------------------


def fold(context: Context, reward: Array, responses: Places, items: Mapping[str, list[Any]]) -> Folded:
    """All columns of items.json for the prompts that it was asked about; the rest of the pool was not judged."""
    spec = msgspec.convert(context.spec, FoldSpec)
    files = {"verdict": ("verdicts.json", "pairs"), "accuracy": ("accuracy.json", "pairs that people have judged")}
    for role, (name, about) in files.items():
        if role in context.parents:
            given = verdicts_of(read_json(context.parents[role] / name))
            check_answered(given, spec.max_unanswered, about)
            if role == "verdict":  # without a single answer the ties of equal texts would be all that is left
                check_answered(given, None, about)
    judged = by_prompt(context.parents["verdict"], items["prompt"], spec.win)
    rows = judged.pop("row")
    columns = {name: [values[row] for row in rows] for name, values in items.items()}
    return Folded(columns | judged, np.empty((len(rows), 0)))


def by_prompt(verdicts: Path, prompts: Sequence[str], win: str) -> dict[str, list[Any]]:
    """Columns of items.json, an entry a prompt that was judged, in the order of `prompts`, the test's.

    win_soft, win_hard: mean over the pairs whose every order was answered, of the preference and of 1, 0.5, 0; null
    where there is no such pair. win: the one that judge.win names. Of the pairs that were asked about, which those of
    two equal texts are not, unanswered: share with an order that was not answered; inconsistent: share, of those
    answered in both orders, that the two decide differently; null where there is none. mass: the mean probability of
    the two digits together, of the answers that have one. And `row`, the prompt's place in `prompts`.
    """
    stored = read_verdicts(verdicts)
    judged: dict[str, list[Verdict]] = {}
    for prompt, verdict in zip(stored.prompt, stored.verdicts(), strict=True):
        judged.setdefault(prompt, []).append(verdict)
    rows = [row for row, prompt in enumerate(prompts) if prompt in judged]
    each = [judged[prompts[row]] for row in rows]
    wins = {kind: [mean_of_known(_points(v, kind) for v in some) for some in each] for kind in ("soft", "hard")}
    return {
        "row": rows,
        "win": wins[win],
        "win_soft": wins["soft"],
        "win_hard": wins["hard"],
        "unanswered": [mean_of_known(v.unanswered for v in some) for some in each],
        "mass": [mean_of_known(v.mass for v in some) for some in each],
        "inconsistent": [mean_of_known(v.inconsistent for v in some) for some in each],
    }


HINTS = {  # what helps, by what the reason of an unanswered request has in it
    "cut off": "For a model that thinks first type judge.max_tokens=4096, or more.",
    "nothing said": "For a model that thinks first type judge.max_tokens=4096, or more.",
    "of the probability": "Name an instruction-tuned model, or lower judge.min_mass.",
    "too long": "Shorten the documents with judge.max_characters=NUMBER.",
    "longer than": "Shorten the documents with judge.max_characters=NUMBER.",
}


def check_answered(verdicts: Sequence[Verdict], most: float | None, about: str) -> None:
    """StageError where more than the share `most` of the pairs that were asked about have an order without an answer.

    None: where all have.
    """
    asked = [verdict for verdict in verdicts if not verdict.identical]
    silent = [verdict for verdict in asked if verdict.unanswered]
    if not silent or (len(silent) < len(asked) if most is None else len(silent) <= most * len(asked)):
        return
    reasons = Counter(why for verdict in silent for why in {verdict.why_first, verdict.why_second} if why)
    listed = "; ".join(f"{count} {why}" for why, count in reasons.most_common(3)) or "no reason was kept"
    hints = dict.fromkeys(hint for part, hint in HINTS.items() if any(part in why for why in reasons))
    allowed = "" if len(silent) == len(asked) else f"; judge.max_unanswered={most:g}"
    raise StageError(
        f"The judge left {len(silent)} of {len(asked)} {about} unanswered "
        f"({100 * len(silent) / len(asked):.0f} %{allowed}): {listed}. {' '.join(hints)}".rstrip()
    )


def _points(verdict: Verdict, win: str) -> float | None:
    preference = verdict.preference
    return preference if preference is None or win == "soft" else points(preference)


# --- accuracy -----------------------------------------------------------------------------------------------


def run_accuracy(context: Context) -> None:
    """judge_accuracy[t]: the judge on the target's held-out human preferences. Writes accuracy.json.

    Columns, an entry a pair of responses that people told apart (asked in both orders, whatever judge.orders says):
    group, dataset    of the prompt: what bootstrap clusters and macro-averages go by
    correct           1: it prefers what people prefer, by the mean of both orders; 0.5: neither; 0; null: not answered
    inconsistent      whether the two orders prefer different responses; null: not answered
    p_first, p_second           P(what people prefer), shown first and second; null: no answer
    unanswered_first, unanswered_second      the answer was neither 1 nor 2
    """
    spec = msgspec.convert(context.spec, AskSpec)
    held_out = held_out_pairs(spec.task, spec.lang)
    chosen = capped(pair_ids(held_out), [pair.prompt.dataset for pair in held_out], spec.max_instances, spec.seed)
    pairs = [held_out[i] for i in chosen]
    compared = [Compared(pair.prompt.reward_text, pair.chosen, pair.rejected, True, True) for pair in pairs]
    verdicts = _asked(context, spec, compared)
    columns = {
        "group": [pair.prompt.group for pair in pairs],
        "dataset": [pair.prompt.dataset for pair in pairs],
        "correct": [_points(verdict, "hard") for verdict in verdicts],
        "inconsistent": [verdict.inconsistent for verdict in verdicts],
    }
    write_json(context.out / "accuracy.json", columns | _columns(verdicts))
