"""Reads samples, prompts and verdicts of finished cells, by the references of a plan; held-out pairs of a task."""

import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from xling.errors import ConfigError, StoreError
from xling.grid.records import Ref
from xling.grid.store import Store
from xling.jsonfiles import decode, read_json
from xling.judges import tied
from xling.judges.asking import Verdict, points
from xling.results.items import Floats, finite
from xling.results.samples import Samples
from xling.results.specs import located, unchanged
from xling.tasks.options import Task, offers, task_module
from xling.tasks.records import GOOD, Pair, Prompt, Rating


class JudgedItems(Struct, frozen=True):
    """The part of a judge stage's items.json that says which responses were judged."""

    prompt: list[str]
    win: list[float | None]  # None: judge=llm got no answer
    group: list[str] = []
    dataset: list[str] = []
    # The pick of best-of-n, the first of those that tie; none of trained policies, all of whose samples are judged
    index: list[int] = []


@dataclass(frozen=True, slots=True)
class Judged:
    """All prompts of one finished cell in the order of its items.json, with what was compared for each."""

    prompts: list[str]
    pool: list[Samples]  # the policy's samples for each prompt
    # Which of them were judged: best-of-n's pick (all that tie, of recorded systems), or all of a trained policy
    places: list[list[int]]
    baseline: list[Samples]  # the opponents
    rows: list[int]  # the prompt's row in the files of score and verdict stages

    @property
    def responses(self) -> list[list[str]]:
        """The judged responses of each prompt."""
        return [[row.responses[n] for n in places] for row, places in zip(self.pool, self.places, strict=True)]


def reference_texts(store: Store, ref: Ref) -> dict[str, list[str]]:
    """Prompt id to the answers that people hold to be good; errors as below.

    Test demonstrations, ratings of GOOD and more, and the preferred of pairs that are of these very prompts. Recorded
    responses are what is judged, and no references.
    """
    task, lang = _data_of(store, ref)
    module, there, found = task_module(task), offers(task), dict[str, list[str]]()
    if ref.kind == "recorded":
        return found
    good: list[tuple[Prompt, str]] = []
    with suppress(ConfigError):  # a use that the task's settings do not allow
        if "demonstrations" in there:
            good += [(one.prompt, one.response) for one in module.demonstrations(task, lang, "test")]
    with suppress(ConfigError):
        if "ratings" in there:
            good += [(one.prompt, one.response) for one in module.ratings(task, lang, "test") if one.label >= GOOD]
    with suppress(ConfigError):
        if "pairs" in there:
            good += [(one.prompt, one.chosen) for one in module.pairs(task, lang, "test")]
    for prompt, text in good:
        if text not in found.setdefault(prompt.id, []):
            found[prompt.id].append(text)
    return found


def prompt_texts(store: Store, ref: Ref) -> dict[str, str]:
    """Prompt id to what the policy read, from the data that a stage's samples were drawn for.

    StoreError if the stage does not say which, DataError if the data have changed or are gone.
    """
    task, lang = _data_of(store, ref)
    module = task_module(task)
    if ref.kind == "recorded":
        return {p.id: str(p.text) for p in module.recorded(task, lang).prompts}
    return {p.id: str(p.text) for p in module.prompts(task, lang, "test")}


def _data_of(store: Store, ref: Ref) -> tuple[Task, str]:
    """The task and the language that a stage's samples are of, unchanged since."""
    sheet = store.sheet(ref.kind, ref.key)
    if sheet is None or not sheet.spec.get("task"):
        raise StoreError(f"The result {ref.kind}/{ref.key[:12]} does not say which data its prompts are from.")
    spec = located(sheet.spec)
    unchanged(spec)
    task: Task = msgspec.convert(spec["task"], Task)
    return task, spec["lang"]


def held_out_pairs(task: Task, lang: str) -> list[Pair]:
    """The target's held-out pairs, or those of its held-out ratings; the two texts of a pair differ."""
    module = task_module(task)
    if "pairs" in offers(task):
        return [pair for pair in module.pairs(task, lang, "test") if pair.chosen != pair.rejected]
    return pairs_of(module.ratings(task, lang, "test"))


def pairs_of(ratings: Sequence[Rating]) -> list[Pair]:
    """Pairs of responses to the same prompt whose labels differ, the higher one chosen (paper, Appendix C)."""
    by_prompt: dict[tuple[str, str], tuple[Prompt, dict[str, float]]] = {}
    for rating in ratings:
        # the same document is the same prompt, whatever its id
        place = (rating.prompt.dataset, rating.prompt.reward_text)
        by_prompt.setdefault(place, (rating.prompt, {}))[1].setdefault(rating.response, rating.label)
    return [
        Pair(prompt, one, other)
        for prompt, labels in by_prompt.values()
        for one in labels
        for other in labels
        if labels[one] > labels[other]
    ]


def pair_ids(pairs: Sequence[Pair]) -> list[str]:
    """Ids by which a cap chooses pairs."""
    return ["\0".join((pair.prompt.id, pair.chosen, pair.rejected)) for pair in pairs]


# --- response by response ---------------------------------------------------------------------------------


class Asked(Struct, frozen=True):
    """verdicts.json in rows: an entry a (response, opponent), by prompt, then sample, then opponent."""

    prompt: list[str]
    sample: list[int]  # index in the pool
    opponent: list[int]  # index in the baseline
    p_first: list[float | None]  # P(response preferred), shown first; None: not asked so, or no answer
    p_second: list[float | None]  # shown second
    unanswered_first: list[bool]  # asked so, and the answer was neither 1 nor 2
    unanswered_second: list[bool]
    identical: list[bool]  # the two texts are the same: a tie that nobody was asked about
    mass_first: list[float | None] = []  # probability on the two digits together; None: the text decided
    mass_second: list[float | None] = []
    why_first: list[str] = []  # there is no answer
    why_second: list[str] = []

    def verdicts(self) -> list[Verdict]:
        """One an entry; results of before there were masses have none."""
        return verdicts_of({name: getattr(self, name) for name in Verdict._fields})

    def preferences(self) -> dict[tuple[str, int], dict[int, float | None]]:
        """(prompt, sample) -> opponent -> preference for the sample, 0 to 1; None: not answered."""
        found: dict[tuple[str, int], dict[int, float | None]] = {}
        places = zip(self.prompt, self.sample, strict=True)
        for place, opponent, verdict in zip(places, self.opponent, self.verdicts(), strict=True):
            found.setdefault(place, {})[opponent] = verdict.preference
        return found


def verdicts_of(columns: Mapping[str, Sequence[Any]]) -> list[Verdict]:
    """The inverse of `_columns`, of verdicts.json and accuracy.json; results of before there were masses have none."""
    return list(map(Verdict, *(columns[name] for name in Verdict._fields if columns.get(name))))


def read_verdicts(folder: Path) -> Asked:
    """verdicts.json of an llm stage."""
    return msgspec.convert(read_json(folder / "verdicts.json"), Asked)


@dataclass(frozen=True, slots=True)
class JudgedPrompt:
    """A prompt, what the policy says to it (best-of-n's pick, or its first sample), and what it is compared with."""

    prompt: str
    group: str
    dataset: str
    text: str | None  # as the policy read it; None: it is not in the task's data any more
    response: str
    opponents: list[str]
    win: float | None  # share of the opponents that it beats, over all judged responses
    rewards: tuple[float | None, list[float | None]]  # by the cell's reward model: the response's, the opponents'
    scores: tuple[float | None, list[float | None]]  # by the judge; None where it scores no response by itself
    # opponent -> 1, 0.5 or 0 for the response, those it was compared with; None: not answered. None: nothing is known
    points: dict[int, float | None] | None


class SampleReader:
    """Reads prompts, responses, scores and verdicts of cells, each file's hash checked.

    Files that cells share are read once if the cells of a target come one after the other.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.texts = lru_cache(maxsize=4)(partial(prompt_texts, store))
        self.lines = lru_cache(maxsize=4)(self._lines)
        self.array = lru_cache(maxsize=8)(self._array)
        self.preferences = lru_cache(maxsize=2)(self._preferences)

    def cell(self, judge: Ref, stages: Mapping[str, Ref]) -> "CellSamples":
        """The prompts of a finished cell, by the roles of its stages. StoreError if a file is missing or damaged."""
        for role in ("pool", "baseline"):
            if role not in stages:
                raise StoreError(f"A cell of the plan names no {role}. Run the grid's command again to write it anew.")
        return CellSamples(self, judge, stages)

    def has(self, ref: Ref, name: str) -> bool:
        """A finished stage has written a file of this name."""
        done = self.store.check(ref.kind, ref.key).done
        return done is not None and name in done.digests

    def _lines(self, ref: Ref) -> list[bytes]:
        """samples.jsonl, a line a prompt, not decoded: of a large pool few are looked at."""
        return self.store.content(ref.kind, ref.key, "samples.jsonl").splitlines()

    def _array(self, ref: Ref, name: str) -> Floats:
        content = self.store.content(ref.kind, ref.key, name)
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False), dtype=np.float64)

    def _preferences(self, ref: Ref) -> dict[tuple[str, int], dict[int, float | None]]:
        return decode(self.store.content(ref.kind, ref.key, "verdicts.json"), type=Asked).preferences()


class CellSamples:
    """One finished cell; `read` decodes a prompt at a time, `all` every one."""

    def __init__(self, reader: SampleReader, judge: Ref, stages: Mapping[str, Ref]) -> None:
        self._reader, self._judge, self._stages = reader, judge, stages
        self.items = decode(reader.store.content(judge.kind, judge.key, "items.json"), type=JudgedItems)
        arrays = ("pool.npy", "baseline.npy")
        self._scored = {role: ref for role, ref in stages.items() if all(reader.has(ref, name) for name in arrays)}
        self._asked = "verdict" in stages and reader.has(stages["verdict"], "verdicts.json")
        self._rows = {prompt: row for row, prompt in enumerate(self.items.prompt)}
        self._pool, self._baseline = (reader.lines(stages[role]) for role in ("pool", "baseline"))
        every = len(self.items.prompt) == len(self._pool)  # judge=llm may have been asked of fewer prompts
        self._places = self._rows if every else {p: place for place, p in enumerate(_prompts(self._pool))}

    def all_prompts(self) -> list[str]:
        """Of the pool, judged or not. StoreError if pool, baseline and judge are not of the same prompts."""
        prompts = _prompts(self._pool)
        if prompts != _prompts(self._baseline) or not self._rows.keys() <= set(prompts):
            raise self._unfit()
        return prompts

    def all(self) -> Judged:
        """All prompts of items.json with their judged responses. StoreError if the files do not fit each other."""
        items, row_of = self.items, {prompt: row for row, prompt in enumerate(self.all_prompts())}
        if items.index and len(items.index) != len(items.prompt):
            raise self._unfit()
        rows = [row_of[prompt] for prompt in items.prompt]
        pool, baseline = ([decode(lines[row], type=Samples) for row in rows] for lines in (self._pool, self._baseline))
        places = self._picks(rows) or [list(range(len(row.responses))) for row in pool]
        return Judged(items.prompt, pool, places, baseline, rows)

    def _picks(self, rows: Sequence[int]) -> list[list[int]]:
        """Of each prompt of items.json, in these rows of the pool; nothing for a trained policy."""
        index, sheet = self.items.index, self._reader.store.sheet(self._judge.kind, self._judge.key)
        if not index or sheet is None or not sheet.spec.get("ties"):
            return [[one] for one in index]
        return tied(self._reader.array(self._stages["score"], "pool.npy")[list(rows)], np.array(index)[:, None])

    def _unfit(self) -> StoreError:
        return StoreError(f"The prompts of judge {self._judge.key[:12]} are not those of its pool and baseline.")

    def read(self, prompt: str) -> JudgedPrompt:
        """A judged prompt of items.json, with its texts: one response, of several that tie whichever their texts' hash
        says, and the first of a trained policy's.
        """
        row, place = self._rows[prompt], self._places.get(prompt, -1)
        if not self.items.index or len(self._answers[row]) == 1 or place < 0:
            return next(self.each(prompt))
        texts = decode(self._pool[place], type=Samples).responses
        names = [hashlib.sha256(f"{prompt}\0{texts[pick]}".encode()).digest() for pick in self._answers[row]]
        return next(itertools.islice(self.each(prompt), names.index(min(names)), None))

    def each(self, prompt: str) -> Iterator[JudgedPrompt]:
        """The same for every judged response: best-of-n's pick (all that tie), or all samples of a trained policy."""
        row, place = self._rows[prompt], self._places.get(prompt, -1)
        own, opposed = (decode(lines[place], type=Samples) for lines in (self._pool, self._baseline))
        if place < 0 or not own.prompt == opposed.prompt == prompt:
            raise self._unfit()
        items = self.items
        for pick in self._answers[row] if items.index else range(len(own.responses)):
            scores = self._scores("verdict", place, pick, len(opposed.responses))
            yield JudgedPrompt(
                prompt,
                items.group[row] if items.group else own.group,
                items.dataset[row] if items.dataset else own.dataset,
                self._reader.texts(self._stages["baseline"]).get(prompt),
                own.responses[pick],
                opposed.responses,
                items.win[row],
                self._scores("score", place, pick, len(opposed.responses)),
                scores,
                self._points(prompt, pick, scores),
            )

    @cached_property
    def _answers(self) -> list[list[int]]:
        return self._picks([self._places.get(prompt, -1) for prompt in self.items.prompt])

    def _scores(self, role: str, place: int, pick: int, opponents: int) -> tuple[float | None, list[float | None]]:
        ref = self._scored.get(role)
        if ref is None:
            return None, [None] * opponents
        pool, baseline = self._reader.array(ref, "pool.npy"), self._reader.array(ref, "baseline.npy")
        return finite(float(pool[place, pick])), [finite(float(score)) for score in baseline[place, :opponents]]

    def _points(
        self, prompt: str, pick: int, scores: tuple[float | None, list[float | None]]
    ) -> dict[int, float | None] | None:
        ref = self._stages.get("verdict")
        if ref is None:
            return None
        if self._asked:
            asked = self._reader.preferences(ref).get((prompt, pick))
            if not asked:
                raise StoreError(f"The verdicts of judge {self._judge.key[:12]} are not those of its picks.")
            return {opponent: None if p is None else points(p) for opponent, p in sorted(asked.items())}
        own, theirs = scores
        return {
            opponent: None if own is None or score is None else float((np.sign(own - score) + 1) / 2)
            for opponent, score in enumerate(theirs)
        }


class _Prompt(Struct, frozen=True):
    prompt: str


def _prompts(lines: Sequence[bytes]) -> list[str]:
    return [decode(line, type=_Prompt).prompt for line in lines]
