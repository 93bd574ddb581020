"""features[l]: what the frozen base sees of a language's texts, once for every reward model of rm_backbone=frozen_lm.

For training the language's feedback, for scoring the samples of the target's policy and its held-out feedback. A row a
response, in the order in which the reward and score stages ask for them.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from xling.config import Task
from xling.errors import StageError
from xling.grid.stage import Context
from xling.models.ridge import Array
from xling.stages.files import read_samples
from xling.tasks import task_module
from xling.tasks.records import Split


class FeaturesSpec(Struct, frozen=True):
    """What determines features besides the model and, with the parents pool and baseline, the samples."""

    task: Task
    digest: str
    lang: str
    features: str
    objective: str


def run(context: Context) -> None:
    """Writes feedback.npz, or samples.npz and heldout.npz: a block an array, (rows, columns) float64."""
    from xling.models.frozen_lm import read
    from xling.models.load import load_policy

    spec = msgspec.convert(context.spec, FeaturesSpec)
    model, tokenizer = load_policy(context.parents["lm"])
    if "pool" not in context.parents:
        write_blocks(context.out / "feedback.npz", read(model, tokenizer, *_feedback(spec, "train"), spec.features))
    else:
        write_blocks(context.out / "heldout.npz", read(model, tokenizer, *_feedback(spec, "test"), spec.features))
        context.progress(1, 2)
        prompts = {p.id: p.reward_text for p in task_module(spec.task).prompts(spec.task, spec.lang, "test")}
        pool, baseline = (read_samples(context.parents[role]) for role in ("pool", "baseline"))
        responses = [[*a.responses, *b.responses] for a, b in zip(pool, baseline, strict=True)]
        blocks = read(model, tokenizer, [prompts[s.prompt] for s in pool], responses, spec.features)
        write_blocks(context.out / "samples.npz", blocks)


def _feedback(spec: FeaturesSpec, split: Split) -> tuple[list[str], list[list[str]]]:
    """Prompts and responses of a split's ratings (one each) or pairs (chosen, rejected)."""
    module = task_module(spec.task)
    if spec.objective == "pairwise":
        pairs = module.pairs(spec.task, spec.lang, split)
        return [p.prompt.reward_text for p in pairs], [[p.chosen, p.rejected] for p in pairs]
    ratings = module.ratings(spec.task, spec.lang, split)
    return [r.prompt.reward_text for r in ratings], [[r.response] for r in ratings]


def write_blocks(path: Path, blocks: Sequence[Array]) -> None:
    """Blocks in order."""
    np.savez(path, *blocks)


def read_blocks(path: Path) -> list[Array]:
    """What `write_blocks` wrote; StageError for numbers that are not finite."""
    with np.load(path) as stored:
        blocks = [stored[f"arr_{i}"] for i in range(len(stored.files))]
    if not all(np.isfinite(block).all() for block in blocks):
        raise StageError(f"{path.name} holds numbers that are not finite: the model overflows on some text.")
    return blocks
