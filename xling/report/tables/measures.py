"""What stands beside every win rate: length control, language, length, endings, repetition, KL, reward, quality."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from xling.analysis.matrix.types import CHANCE, Block, Entry, Opponent, Panel
from xling.analysis.statistics.intervals import Estimate
from xling.report.tables.table import Cell, Table, against, by_entry, quiet_cell
from xling.report.tables.wording import span

MOST_ROWS = 12  # of a terminal's first view; larger matrices are averaged over targets
Shown = Callable[[float], str]


def _plain(value: float) -> str:
    return f"{value:.1f}"


def _precise(value: float) -> str:
    return f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


MEASURES: dict[str, tuple[str, Shown]] = {  # of an Entry, and some of an Opponent: the column's name, how it is written
    "win": ("win", _plain),
    "win_lc": ("LC win", _plain),
    "win_soft": ("soft", _plain),
    "win_hard": ("hard", _plain),
    "inconsistent": ("order decides", _plain),
    "unanswered": ("unanswered", _plain),
    "share_in_language": ("lang.", _plain),
    "length": ("length", _plain),
    "eos": ("ended", _plain),
    "repetition": ("rep.", _plain),
    "reward": ("reward", _signed),
    "quality": ("quality", _signed),
    "kl": ("KL", _precise),
}
RATES_TITLE = "The language detector on the task's own references, %"
NOTES = [
    "LC win: length-controlled (one logistic regression for all cells of a judge and optimizer); all shares in %",
    "lang.: responses in the target language; length: tokens; ended: not cut off; rep.: word bigrams said before",
    "reward, quality: increase over the baseline by the reward model (in its standard deviations over the baseline's "
    "responses) and by the judge's score; KL: nats a response from SFT_t, of best-of-n at most",
]


def measure_tables(block: Block, panel: Panel) -> list[Table]:
    """The brief table of the terminal, the same with intervals, and length-controlled win rates as a matrix."""
    names = [name for name in MEASURES if any(_value(entry, name) is not None for entry in panel.entries)]
    if not names:
        return []
    told = [rates_table(panel)] if "share_in_language" in names and panel.language_rates else []
    return [_brief(panel, names), _whole(panel, names), *told, *_length_controlled(block, panel)]


def _value(of: Entry | Opponent, name: str) -> float | None:
    """The value; of best-of-n the bound of the KL."""
    found = getattr(of, name, None)
    if found is None and name == "kl":
        return getattr(of, "kl_bound", None)
    return found.value if isinstance(found, Estimate) else None


def measure_cell(of: Entry | Opponent, name: str, interval: bool) -> Cell:
    """A measure of MEASURES, with its interval if wanted."""
    value: float | None = _value(of, name)
    found: Estimate | None = getattr(of, name, None)
    if value is None:
        return Cell()
    text = MEASURES[name][1](value)
    if name == "kl" and found is None:
        text = f"≤{text}"
    digits = 1 if MEASURES[name][1] is _plain else 2
    home = isinstance(of, Entry) and of.home
    return Cell(text, span(found, digits) if interval and found else "", "" if home else "quiet", home, found)


def _whole(panel: Panel, names: Sequence[str]) -> Table:
    """A row a cell, under that of the baseline."""
    return _rows(panel, names, True)


def _brief(panel: Panel, names: Sequence[str]) -> Table:
    if len(panel.entries) <= MOST_ROWS:
        return _rows(panel, names, False)
    rows = [("baseline", _means(panel.opponents, names))]
    rows += [(s, _means([entry for entry in panel.entries if entry.source == s], names)) for s in panel.sources]
    heads = [MEASURES[name][0] for name in names]
    return Table("Beside the win rates, means over targets", "source", heads, rows, NOTES, frozenset({1}), brief=True)


def _rows(panel: Panel, names: Sequence[str], interval: bool) -> Table:
    rows: list[tuple[str, list[Cell]]] = []
    breaks = set()
    opponents = {opponent.target: opponent for opponent in panel.opponents}
    for target in panel.targets:
        breaks.add(len(rows))
        if target in opponents:
            rows.append((f"baseline {target}", [measure_cell(opponents[target], name, interval) for name in names]))
        there = [entry for entry in panel.entries if entry.target == target and entry.win is not None]
        rows += [(f"{e.source} -> {target}", [measure_cell(e, name, interval) for name in names]) for e in there]
    heads = [MEASURES[name][0] for name in names]
    title = "Beside the win rates" + (", with intervals" if interval else "")
    return Table(title, "", heads, rows, NOTES, frozenset(breaks - {0}), detail=interval, brief=not interval)


def rates_table(panel: Panel) -> Table:
    """How far `lang.` is to be believed: the same share of texts whose language is known."""
    by_target = {one.target: one for one in panel.language_rates}
    there = [by_target.get(target) for target in panel.targets]
    rows = []
    for label, number, name in (("recognised", "n", "recognised"), ("others taken for it", "n of others", "mistaken")):
        estimates: list[Estimate | None] = [getattr(one, name, None) for one in there]
        rows.append((label, [quiet_cell(estimate) for estimate in estimates]))
        rows.append((number, [Cell(str(one.n) if one else "", look="quiet") for one in estimates]))
    by_detector: dict[str, list[str]] = {}
    for one in panel.language_rates:
        by_detector.setdefault(one.detector, []).append(f"{one.target}: {', '.join(one.labels) or 'none'}")
    notes = ["recognised: of the text of references in the language; others: of those in the task's other languages"]
    notes += [f"told by {name}, labels: {'; '.join(labels)}" for name, labels in by_detector.items()]
    return Table(RATES_TITLE, "", list(panel.targets), rows, notes, frozenset({2}), shared=True)


def _means(of: Sequence[Entry | Opponent], names: Sequence[str]) -> list[Cell]:
    cells = []
    for name in names:
        values = [value for one in of if (value := _value(one, name)) is not None]
        bound = name == "kl" and all(getattr(one, "kl", None) is None for one in of)
        text = MEASURES[name][1](sum(values) / len(values)) if values else ""
        cells.append(Cell(f"≤{text}" if bound and text else text))
    return cells


def _length_controlled(block: Block, panel: Panel) -> list[Table]:
    if not any(entry.win_lc for entry in panel.entries):
        return []
    table = by_entry("Length-controlled win rate, %", panel, [], _lc_cell, detail=True)
    slope = block.length_slope
    if slope is not None:
        words = f"{slope.value:+.2f} ({span(slope, 2)})" if slope.low is not None else f"{slope.value:+.2f}"
        table.notes.append(f"log-odds of a win for tanh of one standard deviation of extra length: {words}")
    return [table]


def _lc_cell(entry: Entry) -> Cell:
    win = entry.win_lc
    return Cell() if win is None else Cell(_plain(win.value), span(win), against(win, CHANCE), entry.home, win)


def judge_table(block: Block, panel: Panel) -> Table | None:
    """How far the judge itself is to be believed (paper, Table 5)."""
    if not block.judge_accuracy:
        return None
    found = {one.target: one for one in block.judge_accuracy}
    accuracy = [found[t].accuracy if t in found else None for t in panel.targets]
    rows = [("accuracy", [replace(quiet_cell(e), look=against(e, CHANCE)) if e else Cell() for e in accuracy])]
    turned = [found[t].inconsistent if t in found else None for t in panel.targets]
    if any(turned):
        rows.append(("order decides", [quiet_cell(e) for e in turned]))
    return Table("The judge on held-out human preferences, %", "", list(panel.targets), rows, shared=True)
