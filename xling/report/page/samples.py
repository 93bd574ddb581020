"""Which responses the page shows, and what is known of them.

The selection is not made by anybody's eye: of each target the first prompts in the order of the sha256 of language and
prompt, the same for all cells of the column; of each cell its first finished seed; best-of-n's pick, or the first
sample of a trained policy; the first response of the baseline. As many prompts as fit into a budget of bytes.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from xling.analysis.matrix.types import Matrix
from xling.analysis.statistics.intervals import Floats
from xling.errors import StoreError, XlingError
from xling.grid.planfile import Ref
from xling.grid.store import Store
from xling.jsonfiles import decode
from xling.judges.asking import points
from xling.results.plan import NO_SOURCE, PlannedEntry, SeedCell
from xling.results.reading import prompt_texts
from xling.results.samples import Samples
from xling.results.verdicts import Asked

MOST_PROMPTS = 24  # of a target
BUDGET = 1_200_000  # bytes of all texts and rows together
LONGEST = 4_000  # characters of a text; what is beyond is cut, and said
ROW = 60  # bytes of a sample beside its texts
MOST_TROUBLES = 8  # that are told one by one


@dataclass(frozen=True, slots=True)
class Sample:
    """One response beside one of the baseline. Scores are None where nobody scored responses one by one."""

    panel: int
    source: str
    target: str
    prompt: str
    text: str
    response: str
    baseline: str
    reward: tuple[float | None, float | None]  # by the reward model: the response's, the baseline's
    score: tuple[float | None, float | None]  # by the judge
    verdict: float | None  # 1 the response is better than this baseline response, 0.5 a tie, 0 worse
    win: float | None  # share of all baseline responses to the prompt that it beats


@dataclass(frozen=True, slots=True)
class Selection:
    """What is shown, and what is not and why."""

    samples: list[Sample]
    prompts: int  # of each target, at most
    left_out: list[str] = field(default_factory=list)


class _Row(Struct, frozen=True):
    """What is read of items.json."""

    prompt: list[str]
    win: list[float | None]
    index: list[int] = []


class _Files:
    """The files of finished stages, each checked and read once; targets come one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.prompts = lru_cache(maxsize=4)(partial(prompt_texts, store))
        self.lines = lru_cache(maxsize=4)(self._lines)
        self.array = lru_cache(maxsize=8)(self._array)
        self.asked = lru_cache(maxsize=2)(self._asked)

    def items(self, ref: Ref) -> _Row:
        return decode(self._store.content(ref.kind, ref.key, "items.json"), type=_Row)

    def has(self, ref: Ref, name: str) -> bool:
        done = self._store.check(ref.kind, ref.key).done
        return done is not None and name in done.files

    def _lines(self, ref: Ref) -> list[bytes]:
        """samples.jsonl, a line a prompt, not decoded."""
        return self._store.content(ref.kind, ref.key, "samples.jsonl").splitlines()

    def _array(self, ref: Ref, name: str) -> Floats:
        return np.asarray(np.load(io.BytesIO(self._store.content(ref.kind, ref.key, name)), allow_pickle=False))

    def _asked(self, ref: Ref) -> Asked:
        return decode(self._store.content(ref.kind, ref.key, "verdicts.json"), type=Asked)


def select(matrix: Matrix, store: Store, entries: Sequence[PlannedEntry]) -> Selection:
    """Samples of every finished cell with a source, as many as the budget holds."""
    panels = {
        tuple(sorted(panel.axes.items())): number
        for number, panel in enumerate(panel for block in matrix.blocks for panel in block.panels)
    }
    files, found, troubles = _Files(store), list[Sample](), dict[str, None]()
    wanted = [(panels[place], entry) for entry in entries if (place := panel_place(entry.axes)) in panels]
    wanted.sort(key=lambda pair: (pair[1].axes["target_lang"], pair[0]))
    for number, entry in wanted:
        cell = next((cell for cell in entry.cells if cell.status == "done"), None)
        if cell is not None and entry.axes["source_lang"] != NO_SOURCE:
            try:
                found += _samples_of(number, entry, cell, files)
            except (XlingError, msgspec.DecodeError, OSError, ValueError, KeyError, IndexError) as error:
                troubles[str(error)] = None
    told = list(troubles)[:MOST_TROUBLES]
    if len(troubles) > MOST_TROUBLES:
        told.append(f"and {len(troubles) - MOST_TROUBLES} more.")
    return within(found, told)


def panel_place(axes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The axes of an entry that are its panel's."""
    return tuple(sorted((axis, value) for axis, value in axes.items() if axis not in ("source_lang", "target_lang")))


def _samples_of(panel: int, entry: PlannedEntry, cell: SeedCell, files: _Files) -> Iterator[Sample]:
    for role in ("pool", "baseline", "score"):
        if role not in cell.stages:
            raise StoreError(f"A cell of the plan names no {role}. Run the grid's command again to write it anew.")
    target, items = entry.axes["target_lang"], files.items(cell.judge)
    pool, baseline = files.lines(cell.stages["pool"]), files.lines(cell.stages["baseline"])
    texts = files.prompts(cell.stages["baseline"])
    compare = _comparer(cell, files)
    every = len(items.prompt) == len(pool)  # judge=llm may have been asked of fewer
    places = {p: n for n, p in enumerate(items.prompt)} if every else _places(pool)
    for prompt in chosen(target, items.prompt):
        row, place = items.prompt.index(prompt), places[prompt]
        said, opposed = (decode(lines[place], type=Samples) for lines in (pool, baseline))
        if not said.prompt == opposed.prompt == prompt:
            raise StoreError(f"The prompts of judge {cell.judge.key[:12]} are not those of its pool and baseline.")
        first = items.index[row] if items.index else 0
        other = _opponent(said.responses[first], opposed.responses, cell.stages["baseline"].kind == "recorded")
        rewards = _scores(cell.stages["score"], files, place, first, other)
        scores, verdict = compare(prompt, place, first, other)
        yield Sample(panel, entry.axes["source_lang"], target, prompt, cut(texts.get(prompt, "")),
                     cut(said.responses[first]), cut(opposed.responses[other]),
                     rewards, scores, verdict, items.win[row])  # fmt: skip


def chosen(target: str, prompts: Sequence[str]) -> list[str]:
    """The first prompts of a target in an order that is nobody's choice."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(f"{target}/{prompt}".encode()).digest())[:MOST_PROMPTS]


def _places(lines: Sequence[bytes]) -> dict[str, int]:
    return {decode(line, type=Samples).prompt: place for place, line in enumerate(lines)}


def _opponent(said: str, responses: Sequence[str], recorded: bool) -> int:
    """The first; where people's recorded systems are compared, the first that is not the very same."""
    different = [place for place, response in enumerate(responses) if response != said] if recorded else []
    return different[0] if different else 0


def _scores(ref: Ref, files: _Files, place: int, first: int, other: int) -> tuple[float | None, float | None]:
    pool, baseline = files.array(ref, "pool.npy"), files.array(ref, "baseline.npy")
    return _finite(pool[place, first]), _finite(baseline[place, other])


def _finite(value: Any) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


_Compare = Callable[[str, int, int, int], tuple[tuple[float | None, float | None], float | None]]


def _comparer(cell: SeedCell, files: _Files) -> _Compare:
    """(prompt, place, response, opponent) -> the judge's scores of both, and its verdict on them."""
    nothing = (None, None)
    if "verdict" not in cell.stages:
        return lambda prompt, place, first, other: (nothing, None)
    ref = cell.stages["verdict"]
    if files.has(ref, "verdicts.json"):
        said = files.asked(ref).preferences()

        def asked(prompt: str, place: int, first: int, other: int) -> Any:
            preference = said.get((prompt, first), {}).get(other)
            return nothing, None if preference is None else points(preference)

        return asked

    def scored(prompt: str, place: int, first: int, other: int) -> Any:
        ours, theirs = _scores(ref, files, place, first, other)
        verdict = None if ours is None or theirs is None else float((np.sign(ours - theirs) + 1) / 2)
        return (ours, theirs), verdict

    return scored


def cut(text: str) -> str:
    """A text of at most LONGEST characters, and how many are missing."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [... {len(text) - LONGEST:,} more characters]"


def within(samples: Sequence[Sample], left_out: Sequence[str] = (), budget: int = BUDGET) -> Selection:
    """As many prompts of every target as fit, the same number of each; one at least."""
    ranks: dict[str, dict[str, int]] = {}  # a target's prompts in their order
    costs: dict[int, int] = {}
    seen: set[str] = set()
    of: list[int] = []
    for sample in samples:
        known = ranks.setdefault(sample.target, {})
        of.append(known.setdefault(sample.prompt, len(known)))
        new = {sample.text, sample.response, sample.baseline} - seen
        seen |= new
        costs[of[-1]] = costs.get(of[-1], 0) + ROW + sum(len(text.encode(errors="replace")) for text in new)
    prompts, left = 0, budget
    for rank in range(len(costs)):
        left -= costs[rank]
        if left < 0 and prompts:
            break
        prompts += 1
    kept = [sample for sample, rank in zip(samples, of, strict=True) if rank < prompts]
    return Selection(kept, prompts, list(left_out))
