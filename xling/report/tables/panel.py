"""The tables of a panel, without a medium: the terminal, Markdown, LaTeX and the page draw the same ones.

Rows are source languages (or references), columns target languages. First the win rates, then what they are compared
with, what the reward model itself is worth, and what was measured beside every win rate.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from xling.analysis.matrix.column import belongs, panel_key
from xling.analysis.matrix.types import (
    CHANCE,
    MEASURES,
    OF_CHANCE,
    OF_POINTS,
    Accuracy,
    Block,
    Control,
    Entry,
    Mean,
    Opponent,
    Panel,
    Scale,
)
from xling.analysis.statistics.intervals import Estimate
from xling.config.common import members
from xling.report.tables.table import (
    BEST,
    HOME,
    SETTLED,
    TIED,
    UNKNOWN,
    Cell,
    Look,
    Table,
    against,
    by_entry,
    by_source,
    difference_cell,
    quiet_cell,
)
from xling.report.tables.wording import hole_marks, hole_text, span

BESIDE = [name for name, measure in MEASURES.items() if measure.head]
MOST_ROWS = 12  # of measures in a terminal's first view; larger matrices are averaged over targets


def panel_tables(block: Block, panel: Panel) -> list[Table]:
    """Everything about one panel, the result first. Recorded responses: agreement with people before win rates."""
    controls = controls_of(block, panel)
    recorded = any(entry.pairwise is not None for entry in panel.entries)
    agreement = [pairwise_table(panel, controls), spearman_table(panel, controls)] if recorded else []
    tables = [
        *agreement,
        win_table(panel),
        difference_table(panel),
        reference_table(panel, controls),
        None if recorded else accuracy_table(panel),  # recorded: the pairs above are the held-out pairs
        curve_table(panel),
        *measure_tables(block, panel),
        *own_tables(panel),
        judge_table(block, panel),
        *versus_tables(panel),
        band_table(panel),
        auc_table(panel, controls),
    ]
    return [_marked(table, panel.unknown_languages) for table in tables if table is not None]


def controls_of(block: Block, panel: Panel) -> list[Control]:
    """The references of a block that belong beside a panel."""
    return [control for control in block.controls if belongs(panel_key(control.axes), panel_key(panel.axes))]


def _marked(table: Table, unknown: Sequence[str]) -> Table:
    """Mark the languages that the reward model's encoder does not know."""
    if not unknown:
        return table
    columns = [column + UNKNOWN if column in unknown else column for column in table.columns]
    rows = [(label + UNKNOWN if set(members(label)) & set(unknown) else label, row) for label, row in table.rows]
    note = f"{UNKNOWN} the encoder was not made for this language"
    return replace(table, columns=columns, rows=rows, notes=[*table.notes, note])


# --- the matrix -------------------------------------------------------------------------------------------


def win_table(panel: Panel) -> Table:
    """Win rates with intervals, means of rows and columns, holes numbered."""
    cells, marks = panel.at(), hole_marks(panel)
    rows = by_source(panel, lambda source, target: _win_cell(cells.get((source, target)), marks))
    for source, row in rows:
        row += [_mean_cell(panel.row_means.get(source)), _mean_cell(panel.row_means_abroad.get(source))]
    breaks = {len(rows)}
    for label, means in (("mean", panel.column_means), ("abroad", panel.column_means_abroad)):
        if means:
            row = [_mean_cell(means.get(target)) for target in panel.targets]
            rows.append((label, [*row, Cell(), Cell()]))
    return Table(
        "win_rate",
        MEASURES["win"].title,
        "source",
        [*panel.targets, "mean", "abroad"],
        rows,
        [f"({number}) {reason}" for reason, number in marks.items()],
        frozenset(breaks),
        section="maps",
        scale=MEASURES["win"].scale,
        kind="matrix",
        tab="win rate",
    )


def _win_cell(entry: Entry | None, marks: dict[str, int]) -> Cell:
    if entry is None:
        return Cell(look="quiet")
    note = "" if entry.status == "done" else f"({marks[hole_text(entry)]})"
    if entry.win_own and entry.win is None:
        own = entry.win_own
        return Cell(f"[{own.value:.1f}]", span(own), "hole", entry.home, own, note=note)
    if entry.win is None:
        return Cell("hole", look="hole", home=entry.home, note=note)
    signs = (HOME if entry.home else "") + (BEST if entry.best else TIED if entry.tied else "")
    return Cell(
        f"{entry.win.value:.1f}", span(entry.win), against(entry.win, CHANCE), entry.home, entry.win, signs, note
    )


def _mean_cell(mean: Mean | None) -> Cell:
    if mean is None:
        return Cell()
    missing = "" if mean.entries == mean.of else f"({mean.entries}/{mean.of})"
    return Cell(f"{mean.estimate.value:.1f}", span(mean.estimate), "quiet", value=mean.estimate, note=missing)


def difference_table(panel: Panel) -> Table | None:
    """Source minus home, paired by prompt."""
    if not any(entry.versus_home for entry in panel.entries):
        return None
    return Table(
        "source_minus_home",
        "Source minus home, points, paired by prompt",
        "source",
        list(panel.targets),
        by_entry(panel, [], _versus_home),
        section="maps",
        scale=OF_POINTS,
        tab="minus home",
    )


def _versus_home(entry: Entry) -> Cell:
    return Cell(look="quiet", home=True, marks=HOME) if entry.home else difference_cell(entry.versus_home)


# --- references and controls ------------------------------------------------------------------------------


def reference_table(panel: Panel, controls: Sequence[Control]) -> Table | None:
    """Win rates of what has no source: controls, references, and what the judge's own scores allow."""
    rows = []
    for control in controls:
        entries = {entry.target: entry for entry in control.entries}
        rows.append((control.name, [_reference_cell(entries.get(target)) for target in panel.targets]))
    if panel.bands:
        rows.append(("shuffled labels", [_all_bands(panel, target) for target in panel.targets]))
    breaks = {len(rows)} if rows else set()
    bounds = {bound.target: bound for bound in panel.bounds}
    if bounds:
        for label, pick in (("best pick", "ceiling"), ("worst pick", "floor")):
            estimates = [getattr(bounds[t], pick) if t in bounds else None for t in panel.targets]
            rows.append((label, [quiet_cell(estimate) for estimate in estimates]))
    if not rows:
        return None
    notes = ["shuffled labels: mean and range over sources and permutations"] if panel.bands else []
    notes += ["best and worst pick: by the judge's own scores, from the same pool"] if bounds else []
    return Table(
        "controls_and_references",
        "Controls and references, win rate, %",
        "",
        list(panel.targets),
        rows,
        notes,
        frozenset(breaks),
        section="controls",
        scale=OF_CHANCE,
    )


def _all_bands(panel: Panel, target: str) -> Cell:
    values = [value for band in panel.bands if band.target == target for value in band.values]
    if not values:
        return Cell()
    return Cell(f"{sum(values) / len(values):.1f}", f"{min(values):.1f}-{max(values):.1f}")


def _reference_cell(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell()
    if entry.win is None:
        return Cell(entry.status, look="hole")
    return Cell(f"{entry.win.value:.1f}", span(entry.win), against(entry.win, CHANCE), value=entry.win)


def versus_tables(panel: Panel) -> list[Table]:
    """The trained reward model minus each reference, paired: agreement with people, if any, and win rates."""
    tables = []
    for of, words, differences in (("_agreement", "agreement on pairs, ", panel.pairs_versus), ("", "", panel.versus)):
        for reference, by_places in differences.items():
            if reference in ("random", "gold", "human"):
                continue
            rows = by_source(panel, lambda s, t, by=by_places: difference_cell(by.get(s, {}).get(t)))  # type: ignore[misc]
            tables.append(
                Table(
                    f"trained_minus_{reference}{of}",
                    f"Trained minus {reference}, {words}points, paired",
                    "source",
                    list(panel.targets),
                    rows,
                    section="controls",
                    scale=OF_POINTS,
                    kind="detail",
                )
            )
    return tables


def band_table(panel: Panel) -> Table | None:
    """Win rates of reward models trained on shuffled labels, and whether the real one beats all of them."""
    if not panel.bands:
        return None
    bands = {(band.source, band.target): band for band in panel.bands}

    def cell(source: str, target: str) -> Cell:
        band = bands.get((source, target))
        if band is None:
            return Cell()
        between = f"{min(band.values):.1f}-{max(band.values):.1f}"
        star = SETTLED if band.beaten else ""
        return Cell(f"{band.mean:.1f}", between, "above" if band.beaten else "", source == target, marks=star)

    most = max(len(band.values) for band in panel.bands)
    return Table(
        "shuffled_labels",
        f"Shuffled labels: mean and range of {most} permutations, win rate, %",
        "source",
        list(panel.targets),
        by_source(panel, cell),
        [f"{SETTLED} the real reward model lies above every permutation"],
        section="controls",
        scale=OF_CHANCE,
        kind="detail",
    )


# --- the curve -----------------------------------------------------------------------------------


def curve_table(panel: Panel) -> Table | None:
    """Best-of-k from the same pools: means over cells at home and abroad."""
    there = [entry for entry in panel.entries if entry.curve is not None and entry.curve.value]
    n = min((len(entry.curve.value) for entry in there if entry.curve), default=0)
    if n < 3:
        return None
    ks = sorted({*(2**power for power in range(n.bit_length()) if 2**power <= n), n})
    rows = []
    sides = (("home", [e for e in there if e.home]), ("abroad", [e for e in there if e.abroad]))
    for label, entries in sides:
        curves = [entry.curve.value for entry in entries if entry.curve is not None]
        if curves:
            means = [sum(curve[k - 1] for curve in curves) / len(curves) for k in ks]
            rows.append((label, [Cell(f"{mean:.1f}") for mean in means]))
    rows.append(("KL at most", [Cell(f"{math.log(k) - (k - 1) / k:.2f}", look="quiet") for k in ks]))
    title = "Best-of-k win rate, %, mean over cells"
    return Table("best-of-k_win_rate", title, "k", [str(k) for k in ks], rows, section="curves")


# --- the reward model and the judge -----------------------------------------------------------------------


def accuracy_table(panel: Panel) -> Table | None:
    """Accuracy on held-out preferences, majority and length below."""
    if not panel.accuracy:
        return None
    measured = {(a.source, a.target): a for a in panel.accuracy}
    rows = by_source(panel, lambda source, target: _accuracy_cell(measured.get((source, target))))
    breaks = frozenset({len(rows)})
    baselines = {baseline.target: baseline for baseline in panel.accuracy_baselines}
    for label in ("majority", "length"):
        estimates = [getattr(baselines[t], label) if t in baselines else None for t in panel.targets]
        if any(estimates):
            rows.append((label, [quiet_cell(estimate) for estimate in estimates]))
    notes = [f"{SETTLED} above every baseline by paired difference"] if baselines else []
    home = [entry for entry in panel.entries if entry.home]
    if any(entry.own_judge for entry in home) and not any(entry.win for entry in home):
        notes.append("the judge is the target's own reward model: its accuracy is that of the cell at home")
    return Table(
        "reward_model_accuracy_on_held-out_preferences",
        "Reward model accuracy on held-out preferences, %",
        "source",
        list(panel.targets),
        rows,
        notes,
        breaks,
        section="rewards",
        scale=OF_CHANCE,
        shared=True,
        tab="RM accuracy",
    )


def _accuracy_cell(of: Accuracy | None) -> Cell:
    if of is None:
        return Cell()
    star = SETTLED if of.beats_baselines else ""
    home = of.source == of.target
    signs = (HOME if home else "") + star
    return Cell(f"{of.accuracy.value:.1f}", span(of.accuracy), "above" if star else "", home, of.accuracy, signs)


def auc_table(panel: Panel, controls: Sequence[Control]) -> Table | None:
    """Area under the ROC curve, which needs no threshold: references can be compared."""
    if not any(a.auc for a in panel.accuracy):
        return None
    rows = []
    for source in panel.sources:
        rows.append(_auc_row(source, [a for a in panel.accuracy if a.source == source], panel))
    breaks = frozenset({len(rows)})
    rows += [_auc_row(c.name, c.accuracy, panel) for c in controls if any(a.auc for a in c.accuracy)]
    return Table(
        "reward_model_auc_x_100_on_held-out_preferences",
        "Reward model AUC x 100 on held-out preferences",
        "source",
        list(panel.targets),
        rows,
        [],
        breaks,
        section="rewards",
        scale=OF_CHANCE,
        kind="detail",
        tab="RM AUC",
    )


def _auc_row(label: str, accuracies: Sequence[Accuracy], panel: Panel) -> tuple[str, list[Cell]]:
    values = {a.target: a.auc for a in accuracies}
    return label, [_against_chance(values.get(target)) for target in panel.targets]


def _against_chance(estimate: Estimate | None, home: bool = False) -> Cell:
    if estimate is None:
        return Cell()
    return Cell(f"{estimate.value:.1f}", span(estimate), against(estimate, CHANCE), home, estimate)


def pairwise_table(panel: Panel, controls: Sequence[Control]) -> Table:
    """Of recorded responses: share of pairs within a prompt on which the reward model and the people agree."""
    return Table(
        "agreement_with_people_on_pairs_within_a_prompt",
        MEASURES["pairwise"].title,
        "source",
        list(panel.targets),
        by_entry(panel, controls, lambda entry: _against_chance(entry.pairwise, entry.home)),
        breaks=frozenset({len(panel.sources)}),
        section="rewards",
        scale=MEASURES["pairwise"].scale,
        tab="agrees with people",
    )


def spearman_table(panel: Panel, controls: Sequence[Control]) -> Table:
    """Rank correlation with the people's ratings over all responses of a target."""

    def cell(entry: Entry) -> Cell:
        return Cell() if entry.spearman is None else Cell(f"{entry.spearman:.2f}", home=entry.home)

    return Table(
        "spearman_correlation_with_people_s_ratings",
        "Spearman correlation with people's ratings",
        "source",
        list(panel.targets),
        by_entry(panel, controls, cell),
        breaks=frozenset({len(panel.sources)}),
        section="rewards",
    )


def judge_table(block: Block, panel: Panel) -> Table | None:
    """How far the judge itself is to be believed (paper, Table 5)."""
    if not block.judge_accuracy:
        return None
    by_target = {one.target: one for one in block.judge_accuracy}
    accuracy = [by_target[t].accuracy if t in by_target else None for t in panel.targets]
    rows = [("accuracy", [_against_chance(estimate) for estimate in accuracy])]
    turned = [by_target[t].inconsistent if t in by_target else None for t in panel.targets]
    if any(turned):
        rows.append(("order decides", [quiet_cell(e) for e in turned]))
    return Table(
        "the_judge_on_held-out_human_preferences",
        "The judge on held-out human preferences, %",
        "",
        list(panel.targets),
        rows,
        section="judges",
        shared=True,
    )


# --- beside every win rate --------------------------------------------------------------------------------


def measure_tables(block: Block, panel: Panel) -> list[Table]:
    """The brief table of the terminal, the same with intervals, and length-controlled win rates as a matrix."""
    names = [name for name in BESIDE if any(_value(entry, name) is not None for entry in panel.entries)]
    if not names:
        return []
    rates = [rates_table(panel)] if "share_in_language" in names and panel.language_rates else []
    brief = _measure_rows(panel, names, False) if len(panel.entries) <= MOST_ROWS else _over_targets(panel, names)
    return [brief, _measure_rows(panel, names, True), *rates, *_length_controlled(block, panel)]


def measure_table(panel: Panel, controls: Sequence[Control], name: str) -> Table | None:
    """One measure by source and target, with references and the baseline; None where nothing has it."""
    if not any(_value(entry, name) is not None for entry in panel.entries):
        return None
    measure = MEASURES[name]
    rows = by_entry(panel, controls, lambda entry: measure_cell(entry, name, True))
    opponents = {opponent.target: opponent for opponent in panel.opponents}
    baseline = [measure_cell(opponents[t], name, True) if t in opponents else Cell() for t in panel.targets]
    if any(cell.text for cell in baseline):
        rows.append(("baseline", baseline))
    breaks, tab = frozenset({len(panel.sources)}), _TABS.get(name, measure.head)
    columns = list(panel.targets)
    return Table(name, measure.title, "source", columns, rows, [], breaks, "maps", measure.scale, tab=tab)


def own_tables(panel: Panel) -> list[Table]:
    """Measures of the user's own by source and target, with the baseline."""

    def shown(of: Entry | Opponent | None, name: str, digits: int) -> Cell:
        estimate = of.own.get(name) if of is not None else None
        if estimate is None:
            return Cell()
        home = isinstance(of, Entry) and of.home
        text, look = f"{estimate.value:.{digits}f}", "" if home else "quiet"
        return Cell(text, span(estimate, digits), cast(Look, look), home, estimate, HOME if home else "")

    found, opponents = [], {opponent.target: opponent for opponent in panel.opponents}
    for own in panel.own_measures:
        values = [abs(entry.own[own.name].value) for entry in panel.entries if own.name in entry.own]
        of = partial(shown, name=own.name, digits=1 if max(values, default=0) >= 10 else 2)
        rows = [*by_entry(panel, [], of), ("baseline", [of(opponents.get(target)) for target in panel.targets])]
        breaks, columns = frozenset({len(rows) - 1}), list(panel.targets)
        if values:
            found.append(Table(f"own_{own.name}", own.title, "source", columns, rows, [], breaks, "maps", Scale(),
                               "matrix", tab=own.name))  # fmt: skip
    return found


_TABS = {"share_in_language": "language", "repetition": "repetition"}  # where the head of a column is a shorter one


def _value(of: Entry | Opponent, name: str) -> float | None:
    """The value; of best-of-n the bound of the KL."""
    estimate = getattr(of, name, None)
    if estimate is None and name == "kl":
        return getattr(of, "kl_bound", None)
    return estimate.value if isinstance(estimate, Estimate) else None


def measure_cell(of: Entry | Opponent, name: str, interval: bool) -> Cell:
    """A measure of MEASURES, with its interval if wanted."""
    value: float | None = _value(of, name)
    estimate: Estimate | None = getattr(of, name, None)
    if value is None:
        return Cell()
    text = MEASURES[name].written(value)
    if name == "kl" and estimate is None:
        text = f"≤{text}"
    home = isinstance(of, Entry) and of.home
    between = span(estimate, MEASURES[name].digits) if interval and estimate else ""
    return Cell(text, between, "" if home else "quiet", home, estimate)


def _heads(names: Sequence[str]) -> list[str]:
    return [MEASURES[name].head for name in names]


def _notes(names: Sequence[str]) -> list[str]:
    """What the heads mean, of those that need it."""
    return ["; ".join(f"{MEASURES[name].head}: {note}" for name in names if (note := MEASURES[name].note))]


def _over_targets(panel: Panel, names: Sequence[str]) -> Table:
    """Of a large matrix: a row a source, means over targets."""
    rows = [("baseline", _means(panel.opponents, names))]
    rows += [(s, _means([entry for entry in panel.entries if entry.source == s], names)) for s in panel.sources]
    title, breaks = "Beside the win rates, means over targets", frozenset({1})
    return Table("beside_the_win_rates", title, "source", _heads(names), rows, _notes(names), breaks, kind="brief")


def _means(of: Sequence[Entry | Opponent], names: Sequence[str]) -> list[Cell]:
    cells = []
    for name in names:
        values = [value for one in of if (value := _value(one, name)) is not None]
        bound = name == "kl" and all(getattr(one, "kl", None) is None for one in of)
        text = MEASURES[name].written(sum(values) / len(values)) if values else ""
        cells.append(Cell(f"≤{text}" if bound and text else text))
    return cells


def _measure_rows(panel: Panel, names: Sequence[str], interval: bool) -> Table:
    """A row a cell, under that of the baseline."""
    rows: list[tuple[str, list[Cell]]] = []
    breaks = set()
    opponents = {opponent.target: opponent for opponent in panel.opponents}
    for target in panel.targets:
        breaks.add(len(rows))
        if target in opponents:
            rows.append((f"baseline {target}", [measure_cell(opponents[target], name, interval) for name in names]))
        there = [entry for entry in panel.entries if entry.target == target and entry.win is not None]
        rows += [(f"{e.source} -> {target}", [measure_cell(e, name, interval) for name in names]) for e in there]
    return Table(
        "beside_the_win_rates",
        "Beside the win rates" + (", with intervals" if interval else ""),
        "",
        _heads(names),
        rows,
        _notes(names),
        frozenset(breaks - {0}),
        kind="detail" if interval else "brief",
    )


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
    return Table(
        "the_language_detector_on_the_task_s_own_references",
        "The language detector on the task's own references, %",
        "",
        list(panel.targets),
        rows,
        notes,
        frozenset({2}),
        shared=True,
    )


def _length_controlled(block: Block, panel: Panel) -> list[Table]:
    if not any(entry.win_lc for entry in panel.entries):
        return []
    slope, notes = block.length_slope, []
    if slope is not None:
        words = f"{slope.value:+.2f} ({span(slope, 2)})" if slope.low is not None else f"{slope.value:+.2f}"
        notes.append(f"log-odds of a win for tanh of one standard deviation of extra length: {words}")
    return [
        Table(
            "length-controlled_win_rate",
            MEASURES["win_lc"].title,
            "source",
            list(panel.targets),
            by_entry(panel, [], lambda entry: _against_chance(entry.win_lc, entry.home)),
            notes,
            frozenset({len(panel.sources)}),
            section="maps",
            scale=MEASURES["win_lc"].scale,
            kind="detail",
            tab="length-controlled",
        )
    ]
