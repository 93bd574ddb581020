"""The pairs that dpo learns from: samples of SFT_t to training prompts, ranked by the source's reward model.

The samples are a pool of their own, drawn once a target whatever the source: nothing is sampled for a cell.
"""

from collections.abc import Sequence
from typing import Any

from xling.config.optimizers import DPO
from xling.errors import StageError
from xling.grid.stage import Context
from xling.models.text import Ids, response_ids
from xling.optimizers import dpo
from xling.optimizers.problem import Problem
from xling.results.samples import Samples, iterate_samples, ragged
from xling.stages.blocks import PROMPTS, blocks_of, kept_arrays, read_arrays
from xling.stages.scorers import Score
from xling.tasks.records import Prompt


def train_on_ranked(
    context: Context, problem: Problem, settings: DPO, prompts: Sequence[Prompt], score: Score
) -> dict[str, Any]:
    """Rank the parent pool's samples, train on the pairs; returns how many there were and how many were no pairs."""
    number = {prompt.id: i for i, prompt in enumerate(prompts)}
    pool = list(iterate_samples(context.parents["pool"]))
    rewards = _rewards(context, pool, [prompts[number[s.prompt]] for s in pool], score)
    ids = [_ids(problem.tokenizer, s, problem.eos) for s in pool]
    ranked = dpo.ranked_pairs(rewards, ids, settings.pairs)
    if len(ranked.pairs) < settings.batch_size:
        raise StageError(
            f"The reward model tells {len(ranked.pairs)} pairs of samples apart, and a batch has optimizer.batch_size="
            f"{settings.batch_size}. Raise optimizer.n or optimizer.prompts, or lower optimizer.batch_size."
        )
    pairs = [(number[pool[i].prompt], chosen, rejected) for i, chosen, rejected in ranked.pairs]
    dpo.train(problem, settings, pairs)
    return {"pairs": len(pairs), "tied": ranked.ties, "identical": ranked.identical}


def _rewards(context: Context, pool: Sequence[Samples], prompts: Sequence[Prompt], score: Score) -> list[list[float]]:
    def make(block: list[tuple[Prompt, Samples]]) -> list[Any]:
        return [ragged(score([p for p, _ in block], [s.responses for _, s in block]))]

    asked = zip(prompts, pool, strict=True)
    paths = kept_arrays(context, "ranking", blocks_of(asked, PROMPTS), make, len(pool))
    rows = [row for path in paths for row in read_arrays(path)[0].tolist()]
    return [row[: len(s.responses)] for row, s in zip(rows, pool, strict=True)]


def _ids(tokenizer: Any, samples: Samples, eos: int) -> list[Ids]:
    """Token ids of the samples; one that was cut has no eos."""
    read = response_ids(tokenizer, samples.responses, 1 << 20)
    return [ids if ended else ids[:-1] or [eos] for ids, ended in zip(read, samples.eos, strict=True)]
