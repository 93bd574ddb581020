"""A stage's data: the rows that it reads stand in the key, where they lie does not; and they must stay what they were.

The digest is over what the task gives the stage: its languages, its use of them (demonstrations, feedback, prompts),
after splitting and choosing, as a set. Rows of another language or use, other columns, another order or format of the
file change nothing. What a template puts around a text is a setting, and no part of the digest.

A checkpoint in a folder stands in the key as what is in it, in the same way.

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
from typing import Any

import msgspec
from msgspec import Struct

from xling import config, tasks
from xling.digests import file_digest, recalled
from xling.errors import ConfigError, DataError
from xling.grid.stage import DATA, WHERE, Context, Json, canonical_json
from xling.measures import language
from xling.models.hub import checkpoint_digest, is_repository
from xling.tasks.options import Task, source_of, task_module
from xling.tasks.records import Offer, Split, Use
from xling.tasks.render import bare

PATHS = ("path", "articles")  # settings of tasks that say where something lies

# Settings that name checkpoints, in a spec, its reward model or what that reads; words among their values; and how a
# folder's content begins that stands there in place of the folder.
NAMING = ("checkpoint", "init", "policy", "reference", "encoder", "remote_code")
WORDS = ("", "packaged", "pretrain", "sft", "base", "local")
LOCAL = "local:"
MODELS = "models"  # in `where`: where such content lies

# What the stages of a use ask the task for. `recorded`, `crossfitted` and `texts` are what people rated, of which the
# last leaves the ratings out. The length rule that a score is compared with is learnt from training ratings.
READS: dict[Use, tuple[tuple[Offer, Split], ...]] = {
    "demonstrations": (("demonstrations", "train"), ("demonstrations", "validation")),
    "pointwise": (("ratings", "train"), ("ratings", "validation")),
    "pairwise": (("pairs", "train"), ("pairs", "validation")),
    "prompts": (("prompts", "test"),),
    "held_out_pointwise": (("prompts", "test"), ("ratings", "test"), ("ratings", "train")),
    "held_out_pairwise": (("prompts", "test"), ("pairs", "test")),
}


class Part(Struct, frozen=True, array_like=True):
    """Rows read of one language, as `de ratings, train` names them: their number and digest."""

    rows: int
    digest: str


Parts = dict[str, Part]


class Read(Struct, frozen=True):
    """All that a stage reads."""

    parts: Parts


def data_spec(narrowed: Task, langs: Sequence[str], use: Use) -> dict[str, Json]:
    """The part of a spec that says which data a stage reads: a narrowed task, its digest, and where it lies.

    What is read, part by part, stands beside the paths: for the comparison, and for the plan to say what has changed.
    """
    task = msgspec.to_builtins(narrowed)
    where: dict[str, Json] = {name: task[name] for name in PATHS if task.get(name)}
    spec: dict[str, Json] = {"task": {**task, **dict.fromkeys(where, "")}}
    module = task_module(narrowed)
    if digest := module.digest(narrowed):
        spec["digest"] = digest
    else:
        parts = read_parts(narrowed, tuple(langs), use)
        spec["digest"] = _digest_of(parts)
        where |= {"use": use, "langs": list(langs), DATA: msgspec.to_builtins(parts)}
    return spec | {WHERE: where} if where else spec


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


def located(spec: Mapping[str, Json]) -> dict[str, Json]:
    """The spec with the paths of its task and its checkpoints."""
    task, models = spec.get("task"), spec.get(WHERE, {}).get(MODELS)
    found = _renamed(spec, models) if models else dict(spec)
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
        found, before = _digest_of(parts), msgspec.convert(where[DATA], Parts)
        changed = ", ".join(name for name, part in parts.items() if before.get(name) != part)
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
    request = [code_digest(task), platform.python_version(), settings, langs, use, files]
    name = hashlib.sha256(canonical_json(request)).hexdigest()
    return recalled(name, Read, lambda: Read(dict(part for lang in langs for part in _parts(task, lang, use)))).parts


def _parts(task: Task, lang: str, use: Use) -> Iterable[tuple[str, Part]]:
    module = task_module(task)
    if use not in READS:
        recorded = module.recorded(task, lang)
        rows = ((p, s, r, None if use == "texts" else rating) for p, s, r, rating in recorded.flat())
        yield f"{lang} {'texts' if use == 'texts' else 'recorded'}", _part(rows)
        return
    for what, split in READS[use]:
        yield f"{lang} {what}, {split}", _part(getattr(module, what)(task, lang, split))


def _part(rows: Iterable[Any]) -> Part:
    """Of rows in any order."""
    digests = sorted(hashlib.sha256(msgspec.msgpack.encode(row)).digest() for row in rows)
    return Part(len(digests), hashlib.sha256(b"".join(digests)).hexdigest())


def _digest_of(parts: Parts) -> str:
    return hashlib.sha256(canonical_json(msgspec.to_builtins(parts))).hexdigest()


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
