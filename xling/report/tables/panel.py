"""The tables of a panel, without a medium: the terminal, Markdown, LaTeX and the page draw the same ones.

Rows are source languages (or references), columns target languages. First the win rates, then what they are compared
with, what the reward model itself is worth, and what was measured beside every win rate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from xling.analysis.matrix.fold_column import belongs, panel_key
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
    doublings,
    measures_of,
)
from xling.analysis.matrix.verdicts import favoured
from xling.analysis.statistics.intervals import Estimate
from xling.config.common import members
from xling.report.tables.table import (
    BEST,
    HOME,
    SETTLED,
    TIED,
    UNKNOWN,
    Cell,
    Table,
    difference_cell,
    hole_marks,
    hole_text,
    number_cell,
    span,
)

BESIDE = [name for name, measure in MEASURES.items() if measure.head]
MOST_ROWS = 12  # of measures in a terminal's first view; larger matrices are averaged over targets
Rows = list[tuple[str, list[Cell]]]


def panel_tables(block: Block, panel: Panel) -> list[Table]:
    """Everything about one panel, the result first. Recorded responses: agreement with people before win rates."""
    controls = controls_of(block, panel)
    recorded = panel.recorded
    tables = [
        *(people_tables(panel, controls) if recorded else []),
        win_table(panel),
        versus_table(panel, "home"),
        reference_table(panel, controls),
        None if recorded else accuracy_table(panel),  # recorded: the pairs above are the held-out pairs
        curve_table(panel),
        *measure_tables(block, panel),
        *own_tables(panel),
        judge_table(block, panel),
        *trained_tables(panel),
        band_table(panel),
        *auc_tables(panel, controls),
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


def _table(panel: Panel, name: str, title: str, rows: Rows, notes: Sequence[str] = (), **more: Any) -> Table:
    """Sources down and targets across; what stands below the sources is set apart."""
    breaks = frozenset({len(panel.sources)} if len(rows) > len(panel.sources) else ())
    return Table(name, title, **{"corner": "source", "columns": list(panel.targets), "rows": rows,
                                 "notes": list(notes), "breaks": breaks, **more})  # fmt: skip


def by_source(panel: Panel, cell: Callable[[str, str], Cell]) -> Rows:
    return [(source, [cell(source, target) for target in panel.targets]) for source in panel.sources]


def by_entry(panel: Panel, controls: Sequence[Control], cell: Callable[[Entry], Cell]) -> Rows:
    """Sources and then controls; nothing where there is no entry."""
    entries = panel.at()

    def of(entry: Entry | None) -> Cell:
        return cell(entry) if entry else Cell()

    rows = by_source(panel, lambda source, target: of(entries.get((source, target))))
    for control in controls:
        own = {entry.target: entry for entry in control.entries}
        rows.append((control.name, [of(own.get(target)) for target in panel.targets]))
    return rows


# --- the matrix -------------------------------------------------------------------------------------------


def win_table(panel: Panel) -> Table:
    """Win rates with intervals, means of rows and columns, holes numbered."""
    cells, marks = panel.at(), hole_marks(panel)
    akin = favoured((entry.source, entry.target, entry.akin) for entry in panel.entries if entry.win)
    rows = by_source(panel, lambda source, target: _win_cell(cells.get((source, target)), marks))
    for source, row in rows:
        row += [_mean_cell(panel.row_means.get(source)), _mean_cell(panel.row_means_abroad.get(source))]
    for label, means in (("mean", panel.column_means), ("abroad", panel.column_means_abroad)):
        if means:
            rows.append((label, [*(_mean_cell(means.get(target)) for target in panel.targets), Cell(), Cell()]))
    return _table(
        panel,
        "win_rate",
        MEASURES["win"].title,
        rows,
        [*(f"({number}) {reason}" for reason, number in marks.items()), *([akin] if akin else [])],
        columns=[*panel.targets, "mean", "abroad"],
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
    return number_cell(entry.win, level=CHANCE, home=entry.home, marks=signs, note=note)


def _mean_cell(mean: Mean | None) -> Cell:
    if mean is None:
        return Cell()
    return number_cell(
        mean.estimate, look="quiet", note="" if mean.entries == mean.of else f"({mean.entries}/{mean.of})"
    )


def versus_table(panel: Panel, other: Literal["home", "best"]) -> Table | None:
    """Source minus home, or minus the best source of the column, paired by prompt."""

    def cell(entry: Entry) -> Cell:
        itself = entry.home if other == "home" else entry.best
        mark = HOME if other == "home" else BEST
        return Cell(look="quiet", home=entry.home, marks=mark) if itself else difference_cell(difference(entry))

    def difference(entry: Entry) -> Any:
        return entry.versus_home if other == "home" else entry.versus_best

    if not any(difference(entry) for entry in panel.entries):
        return None
    words = "home" if other == "home" else "best source"
    rows, title = by_entry(panel, [], cell), f"Source minus {words}, points, paired by prompt"
    return _table(panel, f"source_minus_{other}", title, rows, section="maps", scale=OF_POINTS, tab=f"minus {other}")


# --- references and controls ------------------------------------------------------------------------------


def reference_table(panel: Panel, controls: Sequence[Control]) -> Table | None:
    """Win rates of what has no source: controls, references, and what the judge's own scores allow."""
    rows: Rows = []
    for control in controls:
        entries = {entry.target: entry for entry in control.entries}
        rows.append((control.name, [_reference_cell(entries.get(target)) for target in panel.targets]))
    if panel.bands:
        rows.append(("shuffled labels", [_all_bands(panel, target) for target in panel.targets]))
    breaks = frozenset({len(rows)} if rows else ())
    bounds = {bound.target: bound for bound in panel.bounds}
    for label, pick in (("best pick", "ceiling"), ("worst pick", "floor")) if bounds else ():
        rows.append((label, [number_cell(getattr(bounds.get(t), pick, None), look="quiet") for t in panel.targets]))
    if not rows:
        return None
    notes = ["shuffled labels: mean and range over sources and permutations"] if panel.bands else []
    notes += ["best and worst pick: by the judge's own scores, from the same pool"] if bounds else []
    name, title = "controls_and_references", "Controls and references, win rate, %"
    return _table(panel, name, title, rows, notes, corner="", breaks=breaks, section="controls", scale=OF_CHANCE)


def _all_bands(panel: Panel, target: str) -> Cell:
    values = [value for band in panel.bands if band.target == target for value in band.values]
    return _range_cell(sum(values) / len(values), values) if values else Cell()


def _range_cell(mean: float, values: Sequence[float], **more: Any) -> Cell:
    return Cell(f"{mean:.1f}", f"{min(values):.1f}-{max(values):.1f}", **more)


def _reference_cell(entry: Entry | None) -> Cell:
    if entry is not None and entry.win is None:
        return Cell(entry.status, look="hole")
    return number_cell(entry.win if entry else None, level=CHANCE)


def trained_tables(panel: Panel) -> list[Table]:
    """The trained reward model minus each reference, paired: agreement with people, if any, and win rates."""
    tables = []
    for of, words, differences in (("_agreement", "agreement on pairs, ", panel.pairs_versus), ("", "", panel.versus)):
        for reference, by_places in differences.items():
            if reference in ("random", "gold", "human"):
                continue
            rows = by_source(panel, lambda s, t, by=by_places: difference_cell(by.get(s, {}).get(t)))  # type: ignore[misc]
            name, title = f"trained_minus_{reference}{of}", f"Trained minus {reference}, {words}points, paired"
            tables.append(_table(panel, name, title, rows, section="controls", scale=OF_POINTS, kind="detail"))
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
        look, marks = ("above", SETTLED) if band.beaten else ("", "")
        return _range_cell(band.mean, band.values, look=look, home=source == target, marks=marks)

    most = max(len(band.values) for band in panel.bands)
    title = f"Shuffled labels: mean and range of {most} permutations, win rate, %"
    rows, notes = by_source(panel, cell), [f"{SETTLED} the real reward model lies above every permutation"]
    return _table(panel, "shuffled_labels", title, rows, notes, section="controls", scale=OF_CHANCE, kind="detail")


# --- the curve -----------------------------------------------------------------------------------


def curve_table(panel: Panel) -> Table | None:
    """Best-of-k from the same pools: means over cells at home and abroad."""
    judged = [(entry, entry.curve.value) for entry in panel.entries if entry.curve is not None and entry.curve.value]
    n = min((len(curve) for _, curve in judged), default=0)
    if n < 3:
        return None
    ks = doublings(n)
    rows = []
    for label in ("home", "abroad"):
        curves = [curve for entry, curve in judged if getattr(entry, label)]
        if curves:
            rows.append((label, [Cell(f"{sum(curve[k - 1] for curve in curves) / len(curves):.1f}") for k in ks]))
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
    baselines = {baseline.target: baseline for baseline in panel.accuracy_baselines}
    for label in ("majority", "length"):
        estimates = [getattr(baselines.get(target), label, None) for target in panel.targets]
        if any(estimates):
            rows.append((label, [number_cell(estimate, look="quiet") for estimate in estimates]))
    notes = [f"{SETTLED} above every baseline by paired difference"] if baselines else []
    home = [entry for entry in panel.entries if entry.home]
    if any(entry.own_judge for entry in home) and not any(entry.win for entry in home):
        notes.append("the judge is the target's own reward model: its accuracy is that of the cell at home")
    notes += _within_note(panel)
    return _table(
        panel,
        "reward_model_accuracy_on_held-out_preferences",
        "Reward model accuracy on held-out preferences, %",
        rows,
        notes,
        section="rewards",
        scale=OF_CHANCE,
        shared=True,
        tab="RM accuracy",
    )


def _accuracy_cell(of: Accuracy | None) -> Cell:
    if of is None:
        return Cell()
    home, star = of.source == of.target, SETTLED if of.beats_baselines else ""
    return number_cell(of.accuracy, look="above" if star else "", home=home, marks=(HOME if home else "") + star)


def _within_note(panel: Panel) -> list[str]:
    """What accuracy says of responses to one prompt, among which rewards pick: of pairs all, of ratings a part."""
    rated = [(a.auc, a.auc_within, a.source == a.target) for a in panel.accuracy if a.auc is not None]
    if not rated:
        return []
    means = []
    for name, home in (("home", True), ("abroad", False)):
        both = [(auc.value, within.value) for auc, within, at in rated if within is not None and at == home]
        if both:
            over_all, inside = (sum(side) / len(both) for side in zip(*both, strict=True))
            means.append(f"{inside:.1f} {name} (over all {over_all:.1f})")
    if means:
        return [f"AUC x 100 within a document, which picking among responses to one prompt needs: {', '.join(means)}"]
    return [
        "these ratings are of different documents, and say nothing of responses to one prompt, among which rewards "
        "pick: `xling analyse --only within_prompt` does"
    ]


def auc_tables(panel: Panel, controls: Sequence[Control]) -> list[Table]:
    """Area under the ROC curve, which needs no threshold, so that references can be compared; and within documents."""
    return [
        table
        for measure, where, tab in (
            ("auc", "on held-out preferences", "RM AUC"),
            ("auc_within", "within a document", "RM AUC within"),
        )
        if (table := _auc_table(panel, controls, measure, where, tab)) is not None
    ]


def _auc_table(panel: Panel, controls: Sequence[Control], measure: str, where: str, tab: str) -> Table | None:
    if not any(getattr(a, measure) for a in panel.accuracy):
        return None
    rows = [(source, [a for a in panel.accuracy if a.source == source]) for source in panel.sources]
    rows += [(c.name, c.accuracy) for c in controls if any(getattr(a, measure) for a in c.accuracy)]
    values = [(label, _of_targets(panel, {a.target: getattr(a, measure) for a in found})) for label, found in rows]
    title = f"Reward model AUC x 100 {where}"
    name = title.lower().replace(" ", "_")
    return _table(panel, name, title, values, section="rewards", scale=OF_CHANCE, kind="detail", tab=tab)


def _of_targets(panel: Panel, values: dict[str, Estimate | None]) -> list[Cell]:
    return [number_cell(values.get(target), level=CHANCE) for target in panel.targets]


def people_tables(panel: Panel, controls: Sequence[Control]) -> list[Table]:
    """Of recorded responses: how far the reward model and the people who rated them agree.

    The share of pairs within a prompt, and the rank correlation over all responses of a target.
    """

    def correlation(entry: Entry) -> Cell:
        return Cell() if entry.spearman is None else Cell(f"{entry.spearman:.2f}", home=entry.home)

    name, title = "spearman_correlation_with_people_s_ratings", "Spearman correlation with people's ratings"
    pairs = _against_chance(
        panel,
        controls,
        "pairwise",
        "agreement_with_people_on_pairs_within_a_prompt",
        section="rewards",
        tab="agrees with people",
    )
    return [pairs, _table(panel, name, title, by_entry(panel, controls, correlation), section="rewards")]


def _against_chance(panel: Panel, controls: Sequence[Control], measure: str, name: str, **more: Any) -> Table:
    """One measure, coloured by which side of chance its interval is on."""
    rows = by_entry(panel, controls, lambda e: number_cell(getattr(e, measure), level=CHANCE, home=e.home))
    return _table(panel, name, MEASURES[measure].title, rows, scale=MEASURES[measure].scale, **more)


def judge_table(block: Block, panel: Panel) -> Table | None:
    """How far the judge itself is to be believed (paper, Table 5)."""
    if not block.judge_accuracy:
        return None
    by_target = {one.target: one for one in block.judge_accuracy}
    rows = [("accuracy", _of_targets(panel, {target: one.accuracy for target, one in by_target.items()}))]
    turned = [getattr(by_target.get(target), "inconsistent", None) for target in panel.targets]
    if any(turned):
        rows.append(("order decides", [number_cell(estimate, look="quiet") for estimate in turned]))
    name, title = "the_judge_on_held-out_human_preferences", "The judge on held-out human preferences, %"
    return Table(name, title, "", list(panel.targets), rows, section="judges", shared=True)


# --- beside every win rate --------------------------------------------------------------------------------


def measure_tables(block: Block, panel: Panel) -> list[Table]:
    """The brief table of the terminal, the same with intervals, and win rates at equal length as a matrix."""
    names = [name for name in BESIDE if any(_value(entry, name) is not None for entry in panel.entries)]
    if not names:
        return []
    rates = [rates_table(panel)] if "share_in_language" in names and panel.language_rates else []
    brief = _by_cell(panel, names, False) if len(panel.entries) <= MOST_ROWS else _over_targets(panel, names)
    return [brief, _by_cell(panel, names, True), *rates, *_on_these_prompts(panel), *_at_equal_length(block, panel)]


def measure_table(panel: Panel, controls: Sequence[Control], name: str) -> Table | None:
    """One measure by source and target, with references and the baseline; None where nothing has it."""
    if not any(_value(entry, name) is not None for entry in panel.entries):
        return None
    rows = by_entry(panel, controls, lambda entry: measure_cell(entry, name, True))
    opponents = {opponent.target: opponent for opponent in panel.opponents}
    baseline = [measure_cell(opponents.get(target), name, True) for target in panel.targets]
    if any(cell.text for cell in baseline):
        rows.append(("baseline", baseline))
    measure = measures_of(panel.recorded)[name]
    tab = {"share_in_language": "language", "repetition": "repetition"}.get(name, measure.head)  # heads are shorter
    return _table(panel, name, measure.title, rows, section="maps", scale=measure.scale, tab=tab)


def own_tables(panel: Panel) -> list[Table]:
    """Measures of the user's own by source and target, with the baseline."""
    tables, opponents = [], {opponent.target: opponent for opponent in panel.opponents}
    for own in panel.own_measures:
        values = [abs(entry.own[own.name].value) for entry in panel.entries if own.name in entry.own]
        digits = 1 if max(values, default=0) >= 10 else 2

        def cell(of: Entry | Opponent | None, name: str = own.name, digits: int = digits) -> Cell:
            estimate = of.own.get(name) if of else None
            if isinstance(of, Entry) and of.home:
                return number_cell(estimate, digits, home=True, marks=HOME)
            return number_cell(estimate, digits, look="quiet")

        rows = [*by_entry(panel, [], cell), ("baseline", [cell(opponents.get(target)) for target in panel.targets])]
        if values:
            name, tab = f"own_{own.name}", own.name
            tables.append(_table(panel, name, own.title, rows, section="maps", scale=Scale(), kind="matrix", tab=tab))
    return tables


def _value(of: Entry | Opponent, name: str) -> float | None:
    """The value; of best-of-n the bound of the KL."""
    estimate: Estimate | None = getattr(of, name, None)
    if estimate is None:
        return getattr(of, "kl_bound", None) if name == "kl" else None
    return estimate.value


def measure_cell(of: Entry | Opponent | None, name: str, interval: bool) -> Cell:
    """A measure of MEASURES, with its interval if wanted."""
    value = None if of is None else _value(of, name)
    if value is None:
        return Cell()
    estimate: Estimate | None = getattr(of, name, None)
    bound = "≤" if estimate is None else ""
    home = isinstance(of, Entry) and of.home
    between = span(estimate, MEASURES[name].digits) if interval else ""
    return Cell(bound + MEASURES[name].written(value), between, "" if home else "quiet", home, estimate)


def _beside(panel: Panel, title: str, names: Sequence[str], rows: Rows, **more: Any) -> Table:
    """A column a measure, and what the heads mean, of those that need it."""
    measures = measures_of(panel.recorded)
    heads = [measures[name].head for name in names]
    notes = ["; ".join(f"{measures[name].head}: {note}" for name in names if (note := measures[name].note))]
    return Table("beside_the_win_rates", title, columns=heads, rows=rows, notes=notes, **more)


def _over_targets(panel: Panel, names: Sequence[str]) -> Table:
    """Of a large matrix: a row a source, means over targets."""
    rows = [("baseline", _means(panel.opponents, names))]
    rows += [(s, _means([entry for entry in panel.entries if entry.source == s], names)) for s in panel.sources]
    title = "Beside the win rates, means over targets"
    return _beside(panel, title, names, rows, corner="source", breaks=frozenset({1}), kind="brief")


def _means(of: Sequence[Entry | Opponent], names: Sequence[str]) -> list[Cell]:
    cells = []
    for name in names:
        values = [value for one in of if (value := _value(one, name)) is not None]
        bound = "≤" if name == "kl" and all(getattr(one, "kl", None) is None for one in of) else ""
        cells.append(Cell(bound + MEASURES[name].written(sum(values) / len(values)) if values else ""))
    return cells


def _by_cell(panel: Panel, names: Sequence[str], interval: bool) -> Table:
    """A row a cell, under that of the baseline."""
    rows: Rows = []
    breaks = set()
    opponents = {opponent.target: opponent for opponent in panel.opponents}
    for target in panel.targets:
        breaks.add(len(rows))
        if target in opponents:
            rows.append((f"baseline {target}", [measure_cell(opponents[target], name, interval) for name in names]))
        judged = [entry for entry in panel.entries if entry.target == target and entry.win is not None]
        rows += [(f"{e.source} -> {target}", [measure_cell(e, name, interval) for name in names]) for e in judged]
    title = "Beside the win rates" + (", with intervals" if interval else "")
    kind = "detail" if interval else "brief"
    return _beside(panel, title, names, rows, corner="", breaks=frozenset(breaks - {0}), kind=kind)


def rates_table(panel: Panel) -> Table:
    """How far `lang.` is to be believed: the same share of texts whose language is known."""
    by_target = {one.target: one for one in panel.language_rates}
    rows: Rows = []
    for label, number, name in (("recognised", "n", "recognised"), ("others taken for it", "n of others", "mistaken")):
        rates: list[Estimate | None] = [getattr(by_target.get(target), name, None) for target in panel.targets]
        rows.append((label, [number_cell(rate, look="quiet") for rate in rates]))
        rows.append((number, [Cell(str(rate.n) if rate else "", look="quiet") for rate in rates]))
    by_detector: dict[str, list[str]] = {}
    for one in panel.language_rates:
        by_detector.setdefault(one.detector, []).append(f"{one.target}: {', '.join(one.labels) or 'none'}")
    notes = ["recognised: of the text of references in the language; others: of those in the task's other languages"]
    notes += [f"told by {name}, labels: {'; '.join(labels)}" for name, labels in by_detector.items()]
    title = "The language detector on the task's own references, %"
    name = "the_language_detector_on_the_task_s_own_references"
    return _table(panel, name, title, rows, notes, corner="", breaks=frozenset({2}), shared=True)


def _on_these_prompts(panel: Panel) -> list[Table]:
    if not any(entry.win_here for entry in panel.entries):
        return []
    name = "win_rate_on_these_very_prompts"
    return [_against_chance(panel, [], "win_here", name, section="maps", kind="detail", tab="these prompts")]


def _at_equal_length(block: Block, panel: Panel) -> list[Table]:
    if not any(entry.win_equal_length for entry in panel.entries):
        return []
    table = _against_chance(
        panel, [], "win_equal_length", "win_rate_at_equal_length", section="maps", kind="detail", tab="equal length"
    )
    slope = block.length_slope
    if slope is None:
        return [table]
    words = f"{slope.value:+.2f} ({span(slope, 2)})" if slope.low is not None else f"{slope.value:+.2f}"
    note = f"log-odds of a win for tanh of one standard deviation of extra length, of all trained cells: {words}"
    return [replace(table, notes=[note])]
