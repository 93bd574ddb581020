"""Which responses the page shows, and what is known of them.

The selection is not made by anybody's eye: of each target the first prompts in the order of the sha256 of language and
prompt, the same for all cells of the column; of each cell its first finished seed; best-of-n's pick, or the first
sample of a trained policy; the first response of the baseline. As many prompts as fit into a budget of bytes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from xling.analysis.matrix.names import panel_place
from xling.analysis.matrix.types import Matrix
from xling.errors import XlingError
from xling.grid.store import Store
from xling.results.plan import NO_SOURCE, PlannedEntry, SeedCell
from xling.results.reading import SampleReader

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


def select(matrix: Matrix, store: Store, entries: Sequence[PlannedEntry]) -> Selection:
    """Samples of every finished cell with a source, as many as the budget holds."""
    panels = {
        tuple(sorted(panel.axes.items())): number
        for number, panel in enumerate(panel for block in matrix.blocks for panel in block.panels)
    }
    files, found, troubles = SampleReader(store), list[Sample](), dict[str, None]()
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


def _samples_of(panel: int, entry: PlannedEntry, cell: SeedCell, files: SampleReader) -> Iterator[Sample]:
    source, target, judged = entry.axes["source_lang"], entry.axes["target_lang"], files.cell(cell.judge, cell.stages)
    for prompt in chosen(target, judged.items.prompt):
        one = judged.read(prompt)
        other = _opponent(one.response, one.opponents, cell.stages["baseline"].kind == "recorded")
        text, response, baseline = (cut(text) for text in (one.text or "", one.response, one.opponents[other]))
        rewards, scores = ((_short(own), _short(theirs[other])) for own, theirs in (one.rewards, one.scores))
        verdict = None if one.points is None else one.points.get(other)
        yield Sample(panel, source, target, prompt, text, response, baseline, rewards, scores, verdict, one.win)


def chosen(target: str, prompts: Sequence[str]) -> list[str]:
    """The first prompts of a target in an order that is nobody's choice."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(f"{target}/{prompt}".encode()).digest())[:MOST_PROMPTS]


def _opponent(said: str, responses: Sequence[str], recorded: bool) -> int:
    """The first; where people's recorded systems are compared, the first that is not the very same."""
    different = [place for place, response in enumerate(responses) if response != said] if recorded else []
    return different[0] if different else 0


def _short(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


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
