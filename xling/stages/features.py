"""features[l]: what a frozen model sees of a language's texts, once for every reward model with a linear head on it.

The frozen model is the policy's base (rm_backbone=frozen_lm) or a sentence encoder. For training it reads the
language's feedback, for scoring the samples of the target's policy and its held-out feedback. A row a response, in
the order in which the reward and score stages ask for them; a file for each block of prompts.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from xling.config import Task
from xling.errors import StageError
from xling.grid.stage import Context
from xling.models.ridge import Array
from xling.stages.blocks import PROMPTS, blocks_of, both_samples, kept_arrays, read_arrays
from xling.tasks import task_module
from xling.tasks.records import Split

if TYPE_CHECKING:
    from xling.models.truncation import Limits

FEEDBACK = 4096  # prompts a block of feedback, which has a response or two each
Texts = tuple[str, list[str]]  # a prompt and its responses
Read = Callable[[Sequence[str], Sequence[Sequence[str]]], list[Array]]


class FeaturesSpec(Struct, frozen=True):
    """What determines features besides the language model and, with the parents pool and baseline, the samples."""

    task: Task
    digest: str
    lang: str
    objective: str
    features: str = ""  # of the language model that is the parent `lm`; the next three are of what it reads
    max_prompt_tokens: int = 1024
    max_response_tokens: int = 512
    truncation_side: str = "right"
    encoder: str = ""  # or a sentence encoder's name
    identity: str = ""  # and what stands for its weights
    recorded: bool = False  # what recorded systems said


def run(context: Context) -> None:
    """Writes the folders feedback, or heldout and samples; or recorded.npz."""
    spec = msgspec.convert(context.spec, FeaturesSpec)
    if spec.recorded:
        from xling.models.load import load_policy
        from xling.models.recorded import read_texts

        recorded = task_module(spec.task).recorded(spec.task, spec.lang, spec.digest)
        return read_texts(recorded, *load_policy(context.parents["lm"]), spec.features, _limits(spec), context.out)
    read = _reader(context, spec)
    if "pool" not in context.parents:
        texts = _feedback(spec, "train")
        _write(context, read, "feedback", texts, len(texts), FEEDBACK)
    else:
        texts = _feedback(spec, "test")
        _write(context, read, "heldout", texts, len(texts), FEEDBACK)
        prompts = {p.id: p.reward_text for p in task_module(spec.task).prompts(spec.task, spec.lang, "test")}
        _write(context, read, "samples", _samples(context, prompts), len(prompts), PROMPTS)
    return None


def _reader(context: Context, spec: FeaturesSpec) -> Read:
    if spec.encoder:
        from xling.models.encoder import load_encoder, located, pair_features

        encode = load_encoder(located(spec.encoder, spec.identity))
        return lambda prompts, responses: pair_features(encode, prompts, responses)
    from xling.models.frozen_lm import read
    from xling.models.load import load_policy

    model, tokenizer = load_policy(context.parents["lm"])
    limits = _limits(spec)
    return lambda prompts, responses: read(model, tokenizer, prompts, responses, spec.features, limits)


def _limits(spec: FeaturesSpec) -> "Limits":
    from xling.models.truncation import Limits

    return Limits(spec.max_prompt_tokens, spec.max_response_tokens, spec.truncation_side)


def _write(context: Context, read: Read, name: str, texts: Iterable[Texts], total: int, size: int) -> None:
    def make(block: list[Texts]) -> list[Array]:
        return read([prompt for prompt, _ in block], [responses for _, responses in block])

    paths = kept_arrays(context, name, blocks_of(texts, size), make, total)
    (context.out / name).mkdir()
    for path in paths:
        shutil.copyfile(path, context.out / name / path.name)


def _feedback(spec: FeaturesSpec, split: Split) -> list[Texts]:
    """Prompts and responses of a split's ratings (one each) or pairs (chosen, rejected)."""
    module = task_module(spec.task)
    if spec.objective == "pairwise":
        pairs = module.pairs(spec.task, spec.lang, split)
        return [(p.prompt.reward_text, [p.chosen, p.rejected]) for p in pairs]
    ratings = module.ratings(spec.task, spec.lang, split)
    return [(r.prompt.reward_text, [r.response]) for r in ratings]


def _samples(context: Context, prompts: dict[str, str]) -> Iterator[Texts]:
    for pool, baseline in both_samples(context):
        yield prompts[pool.prompt], [*pool.responses, *baseline.responses]


def feature_blocks(folder: Path) -> Iterator[list[Array]]:
    """The feature blocks of each file in order; StageError for numbers that are not finite."""
    for path in sorted(folder.glob("*.npz")):
        blocks = read_arrays(path)
        if not all(np.isfinite(block).all() for block in blocks):
            raise StageError(f"{path} holds numbers that are not finite: the model overflows on some text.")
        yield blocks


def all_features(folders: Iterable[Path]) -> list[Array]:
    """The feature blocks of all files of several folders, row after row."""
    parts = [blocks for folder in folders for blocks in feature_blocks(folder)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]
