"""features[l]: what a frozen model sees of a language's texts, once for every reward model with a linear head on it.

The frozen model is the policy's base (rm_backbone=frozen_lm) or a sentence encoder. For training it reads the
language's feedback, for scoring the samples of the target's policy and its held-out feedback. A row a response, in
the order in which the reward and score stages ask for them; a file for each block of prompts. And embed[l]: vectors
of recorded texts under a sentence encoder.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from xling.errors import StageError
from xling.grid.stage import Context
from xling.jsonfiles import write_json
from xling.models.ridge import Array, pair_text, write_rows
from xling.models.text import Limits, count_cut, language_model_rooms
from xling.results.specs import FeaturesSpec, ScoreSpec
from xling.results.translations import given
from xling.rewards import TextsRead, encoder_of
from xling.stages.blocks import PROMPTS, blocks_of, both_samples, kept_arrays, read_arrays
from xling.tasks.options import task_module
from xling.tasks.records import Recorded, Split

FEEDBACK = 4096  # prompts a block of feedback, which has a response or two each
Texts = tuple[str, list[str]]  # a prompt and its responses
Cut = dict[str, int]  # cut_prompts and cut_responses: how many texts are longer than what is read of them


@dataclass(frozen=True)
class Reader:
    """A frozen model that reads texts: `blocks` of (prompts, responses), and `cut`, how many distinct ones were cut."""

    blocks: Callable[[Sequence[str], Sequence[Sequence[str]]], list[Array]]
    cut: Callable[[Iterable[str], Iterable[str]], Cut]


def run(context: Context) -> None:
    """Writes the folders feedback, or heldout and samples; or recorded.npz. And cut.json: what was cut, by part."""
    spec = msgspec.convert(context.spec, FeaturesSpec)
    if spec.recorded:
        return _run_recorded(context, spec)
    reader, cut = reader_of(context.parents.get("lm"), context.spec), dict[str, Cut]()
    if "pool" not in context.parents:
        texts = _feedback(context, spec, "train")
        cut["feedback"] = _write(context, reader, "feedback", lambda: texts, len(texts), FEEDBACK)
    else:
        texts = _feedback(context, spec, "test")
        cut["heldout"] = _write(context, reader, "heldout", lambda: texts, len(texts), FEEDBACK)
        prompts = {p.id: p.reward_text for p in task_module(spec.task).prompts(spec.task, spec.lang, "test")}
        cut["samples"] = _write(context, reader, "samples", lambda: _samples(context, prompts), len(prompts), PROMPTS)
    write_json(context.out / "cut.json", cut)
    return None


def _run_recorded(context: Context, spec: FeaturesSpec) -> None:
    """Writes recorded.npz: what the frozen language model sees of each (document, response), within its limits."""
    recorded, reader = (
        task_module(spec.task).recorded(spec.task, spec.lang),
        reader_of(context.parents["lm"], context.spec),
    )
    found: dict[str, dict[str, None]] = {}  # of a document, each text once
    for prompt, _, response, _ in recorded.flat():
        found.setdefault(prompt.reward_text, {})[response] = None
    answers = {document: sorted(found[document]) for document in sorted(found)}  # whatever ids and systems are called
    texts = [pair_text(document, response) for document, row in answers.items() for response in row]
    write_rows(context.out / "recorded.npz", texts, reader.blocks(list(answers), list(answers.values())))
    _write_cut(context, recorded, reader.cut)


def run_embed(context: Context) -> None:
    """embed[l]: writes texts.npz, unit vectors of a language's recorded documents and responses, each text once."""
    from xling.models.encoder import cut_counter, load_encoder, located

    spec = msgspec.convert(context.spec, ScoreSpec)
    recorded, folder = task_module(spec.task).recorded(spec.task, spec.lang), located(encoder_of(spec.rm), spec.encoder)
    texts = sorted({text for prompt, _, response, _ in recorded.flat() for text in (prompt.reward_text, response)})
    write_rows(context.out / "texts.npz", texts, [load_encoder(folder)(texts)])
    _write_cut(context, recorded, cut_counter(folder))


def _write_cut(context: Context, recorded: Recorded, cut: Callable[[Iterable[str], Iterable[str]], Cut]) -> None:
    prompts, said = (p.reward_text for p in recorded.prompts), (text for row in recorded.responses for text in row)
    write_json(context.out / "cut.json", {"recorded": cut(prompts, said)})


def reader_of(lm: Path | None, reading: Mapping[str, Any]) -> Reader:
    """The frozen model that `reading` describes, as beside a FeaturesSpec; `lm`: the folder of a language model."""
    if reading.get("encoder"):
        from xling.models.encoder import cut_counter, load_encoder, located, pair_features

        folder = located(reading["encoder"], reading["identity"])
        encode = load_encoder(folder)
        return Reader(lambda prompts, responses: pair_features(encode, prompts, responses), cut_counter(folder))
    from xling.models.load import load_policy
    from xling.rewards.frozen_lm import read

    assert lm is not None  # a parent of every stage whose reading names no encoder
    model, tokenizer = load_policy(lm)
    kept = msgspec.convert(reading, TextsRead)
    limits = Limits(kept.max_prompt_tokens, kept.max_response_tokens, kept.truncation_side)
    rooms = language_model_rooms(tokenizer, limits, model.config.is_encoder_decoder)
    return Reader(
        lambda prompts, responses: read(model, tokenizer, prompts, responses, kept.features, limits),
        lambda prompts, responses: count_cut(tokenizer, prompts, responses, rooms),
    )


def _write(
    context: Context, reader: Reader, name: str, texts: Callable[[], Iterable[Texts]], total: int, size: int
) -> Cut:
    """Features of all texts in a folder `name`; what of them was cut."""

    def make(block: list[Texts]) -> list[Array]:
        return reader.blocks([prompt for prompt, _ in block], [responses for _, responses in block])

    paths = kept_arrays(context, name, blocks_of(texts(), size), make, total)
    (context.out / name).mkdir()
    for path in paths:
        shutil.copyfile(path, context.out / name / path.name)
    return reader.cut((prompt for prompt, _ in texts()), (text for _, row in texts() for text in row))


def _feedback(context: Context, spec: FeaturesSpec, split: Split) -> list[Texts]:
    """Prompts and responses of a split's ratings (one each) or pairs (chosen, rejected)."""
    if spec.objective == "pairwise":
        [pairs] = given(context, spec.task, (spec.lang,), "pairs", split)
        return [(p.prompt.reward_text, [p.chosen, p.rejected]) for p in pairs]
    [ratings] = given(context, spec.task, (spec.lang,), "ratings", split)
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
