"""A matrix in counts and sentences: numbers that documents quote are made here, nowhere else.

`counts` and `verdicts` are of a panel; `headline` is the one to three sentences of a matrix that people read first, and
`answers` has a line a target on what people ask: which source to take, and is it better than the target's own language.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from xling.analysis.matrix.fold_column import belongs, panel_key
from xling.analysis.matrix.names import varying, worded
from xling.analysis.matrix.types import CHANCE, Arm, Control, Count, Entry, Matrix, Panel
from xling.analysis.statistics.decisions import MOST_PROMPTS, MOST_SEEDS, Difference
from xling.config.common import CEILINGS, SYSTEM, is_foreign

_IF_SO = " with 80 % power, if they are as large as they look"
NO_RIVALS = (*CEILINGS, "random")
AGREEMENT = " in agreement with people"


def counts(panel: Panel, controls: Sequence[Control]) -> list[Count]:
    """k of N for every claim about a panel; N counts finished cells. Intervals are 95 %, not corrected."""
    abroad = [entry for entry in panel.entries if entry.abroad and not entry.own_judge]
    finished = [entry for entry in abroad if entry.win is not None]
    home = [entry for entry in panel.entries if entry.home and not entry.own_judge]
    there = [entry for entry in home if entry.win is not None]
    result = []
    if abroad:
        text = "cells abroad whose interval lies above 50"
        result.append(_count("above_50", text, abroad, finished, _above_chance, _below_chance))
    if home:
        text = "cells at home whose interval lies above 50"
        result.append(_count("home_above_50", text, home, there, _above_chance, _below_chance))
    result += [_random(control) for control in controls if control.name == "random"]
    result += _bands(panel, abroad, finished)
    result += _references(panel, abroad, finished)
    result += _of_rivals(panel, controls, abroad)
    return result + _accuracy(panel, [entry for entry in panel.entries if entry.abroad])


def _above_chance(entry: Entry) -> bool:
    return entry.win is not None and entry.win.above(CHANCE)


def _below_chance(entry: Entry) -> bool:
    return entry.win is not None and entry.win.below(CHANCE)


def _count(
    name: str,
    text: str,
    planned: Sequence[Entry],
    finished: Sequence[Entry],
    holds: Callable[[Entry], bool],
    below: Callable[[Entry], bool] | None = None,
) -> Count:
    under = None if below is None else sum(below(entry) for entry in finished)
    return Count(name, text, sum(holds(entry) for entry in finished), len(finished), len(planned), below=under)


def _random(control: Control) -> Count:
    finished = [entry for entry in control.entries if entry.win is not None]
    return _count(
        "random_contains_50",
        "targets where the random control has 50 in its interval",
        control.entries,
        finished,
        lambda entry: entry.win is not None and entry.win.contains(CHANCE),
    )


def _bands(panel: Panel, abroad: Sequence[Entry], finished: Sequence[Entry]) -> list[Count]:
    bands = {(band.source, band.target): band for band in panel.bands}
    banded = [entry for entry in finished if (entry.source, entry.target) in bands]
    if not banded:
        return []
    return [
        _count(
            "beats_band",
            "cells abroad above every shuffled-label reward model",
            abroad,
            banded,
            lambda entry: bands[entry.source, entry.target].beaten,
        )
    ]


def _references(panel: Panel, abroad: Sequence[Entry], finished: Sequence[Entry]) -> list[Count]:
    beaten = {(band.source, band.target) for band in panel.bands if band.beaten}
    banded = {(band.source, band.target) for band in panel.bands}
    result = []
    for name, sources in panel.versus.items():
        if name in NO_RIVALS:
            continue
        found = [
            (entry, difference)
            for entry in finished
            if (difference := sources.get(entry.source, {}).get(entry.target)) is not None
        ]
        above = [entry for entry, difference in found if difference.estimate.above(0)]
        text = f"cells abroad above {name} by paired difference"
        result.append(_of_differences(f"beats_{name}", text, [difference for _, difference in found], len(abroad)))
        both = [entry for entry, _ in found if (entry.source, entry.target) in banded]
        if both and name.startswith("likelihood"):
            k = sum((entry.source, entry.target) in beaten for entry in above)
            text = f"cells abroad above both the shuffled band and {name}"
            result.append(Count(f"beats_band_and_{name}", text, k, len(both), len(abroad)))
    return result


def _of_differences(name: str, text: str, found: Sequence[Difference], planned: int) -> Count:
    """Of paired differences those above 0, and those below."""
    above, below = (sum(getattr(one.estimate, side)(0) for one in found) for side in ("above", "below"))
    return Count(name, text, above, len(found), planned, sum(one.estimate.value > 0 for one in found), below)


def _of_rivals(panel: Panel, controls: Sequence[Control], abroad: Sequence[Entry]) -> list[Count]:
    """Of recorded responses agreement with people against each rival; of all grids the best rival of each target."""
    counts = []
    for name, sources in panel.pairs_versus.items():
        if name not in NO_RIVALS:
            found = [one for e in abroad if (one := sources.get(e.source, {}).get(e.target)) is not None]
            text = f"cells abroad above {name} by paired difference{AGREEMENT}"
            counts.append(_of_differences(f"agrees_more_than_{name}", text, found, len(abroad)))
    best, hindsight = best_rivals(panel, controls), hindsight_rivals(panel, controls)
    for name, rivals, where in (
        ("beats_best_rival", best, "of the other targets"),
        ("beats_best_rival_in_hindsight", hindsight, "in hindsight, chosen on the target's own data"),
    ):
        if rivals:
            text = f"cells abroad above the best untrained rival {where} ({_rival_names(rivals)})"
            text += AGREEMENT if panel.pairs_versus else ""
            counts.append(_of_differences(name, text, against_rivals(panel, rivals, abroad), len(abroad)))
    return counts


def best_rivals(panel: Panel, controls: Sequence[Control]) -> dict[str, str]:
    """Target -> the untrained rival with the highest mean over the *other* targets; nothing without others.

    So that none is chosen on the target: the best of several on the same data looks better than it is. What is compared
    is agreement with people, where responses are recorded, else win rates. Rivals that are not in all targets are none.
    """
    value = {name: own for name, own in _untrained(panel, controls).items() if set(panel.targets) <= set(own)}
    if not value or len(panel.targets) < 2:
        return {}

    def elsewhere(name: str, target: str) -> float:
        return sum(value[name][other] for other in panel.targets if other != target)

    return {target: max(sorted(value), key=lambda name: elsewhere(name, target)) for target in panel.targets}


def hindsight_rivals(panel: Panel, controls: Sequence[Control]) -> dict[str, str]:
    """Target -> the untrained rival that does best on the target itself: a harder one, which nobody could have picked.

    Where rivals are nearly equal, leaving out the target that likes one least makes that one look best elsewhere.
    """
    value = _untrained(panel, controls)
    there = {target: [name for name in sorted(value) if target in value[name]] for target in panel.targets}
    return {t: max(names, key=lambda name: value[name][t]) for t, names in there.items() if names}


def _untrained(panel: Panel, controls: Sequence[Control]) -> dict[str, dict[str, float]]:
    """Rival -> target -> agreement with people, where responses are recorded, else the win rate.

    SYSTEM is none: it has learnt from ratings, and at other targets from those of the one that a rival is chosen for.
    """
    measure = "pairwise" if panel.pairs_versus else "win"
    return {
        control.name: {e.target: one.value for e in control.entries if (one := getattr(e, measure)) is not None}
        for control in controls
        if control.name not in (*NO_RIVALS, SYSTEM)
    }


def against_rivals(panel: Panel, rivals: Mapping[str, str], entries: Sequence[Entry]) -> list[Difference]:
    """Paired differences of entries to the rivals of their targets."""
    versus = panel.pairs_versus or panel.versus
    found = (versus.get(rivals[e.target], {}).get(e.source, {}).get(e.target) for e in entries if e.target in rivals)
    return [one for one in found if one is not None]


def _rival_names(rivals: Mapping[str, str]) -> str:
    """`cosine`, `cosine; for zh length`"""
    of: dict[str, list[str]] = {}
    for target, name in rivals.items():
        of.setdefault(name, []).append(target)
    first, *rest = sorted(of, key=lambda name: -len(of[name]))
    return "; ".join([first, *(f"for {_listed(of[name])} {name}" for name in rest)])


def _accuracy(panel: Panel, abroad: Sequence[Entry]) -> list[Count]:
    measured = [found for found in panel.accuracy if is_foreign(found.source, found.target)]
    if not measured or all(m.versus_majority is None and m.versus_length is None for m in measured):
        return []
    by_value = sum(
        all(d.estimate.value > 0 for d in (m.versus_majority, m.versus_length) if d is not None) for m in measured
    )
    text = "cells abroad whose reward model is more accurate than majority and length, by paired difference"
    if all(m.versus_majority is None for m in measured):
        text = "cells abroad whose reward model is more accurate than length, by paired difference"
    k = sum(m.beats_baselines for m in measured)
    return [Count("accuracy_beats_baselines", text, k, len(measured), len(abroad), by_value)]


# --- sentences --------------------------------------------------------------------------------------------


def verdicts(panel: Panel) -> list[str]:
    """Which differences are settled, and what would settle the rest: one line for home, one for the best."""
    lines = []
    home = [(entry, entry.versus_home) for entry in panel.entries if entry.versus_home is not None]
    if home:
        lines.append(_home_line(home))
    there = [entry for entry in panel.entries if entry.win is not None]
    columns = [[entry for entry in there if entry.target == target] for target in panel.targets]
    rivals = [column for column in columns if len(column) > 1 and any(entry.best for entry in column)]
    if rivals:
        lines.append(_best_line(rivals, len(panel.targets)))
    return lines


def _home_line(found: Sequence[tuple[Entry, Difference]]) -> str:
    worse = [entry for entry, difference in found if difference.estimate.below(0)]
    better = [entry for entry, difference in found if difference.estimate.above(0)]
    after_holm = sum(d.settled and d.p_holm is not None and d.p_holm <= 0.05 for _, d in found)
    settled = len(worse) + len(better)
    parts = [f"Source against home: the difference is settled in {settled} of {many(len(found), 'cell')}"]
    if settled:
        parts[0] += f" (95 % intervals, each by itself; {after_holm} after Holm's correction)"
        sides = [f"worse than home: {_by_target(worse)}"] if worse else []
        sides += [f"better: {_by_target(better)}"] if better else []
        parts[0] += ": " + "; ".join(sides)
    unsettled = [difference for _, difference in found if not difference.settled]
    if unsettled:
        parts.append(_of_them("other", "", unsettled))
    return ". ".join(parts) + "."


def _best_line(columns: Sequence[Sequence[Entry]], targets: int) -> str:
    """columns: a target's finished cells each, at least two."""
    alone, words, unsettled, apart = 0, [], [], 0
    for column in columns:
        best = next(entry for entry in column if entry.best)
        rivals = [entry for entry in column if not entry.best]
        tied = [entry.source for entry in rivals if entry.tied]
        lost = [entry.source for entry in rivals if entry.versus_best is None]
        alone += not tied and not lost
        apart += len(lost)
        words.append(f"{best.target}: {' = '.join([best.source, *tied])}")
        unsettled += [d for entry in rivals if entry.tied and (d := entry.versus_best) is not None]
    among = many(len(columns), "target") + (" with two sources or more" if len(columns) < targets else "")
    line = f"Best source is settled for {alone} of {among} ({'; '.join(words)}), 95 % for all of a target"
    if unsettled:
        line += ". " + _of_them("", " tied with the best of its target", unsettled)
    if apart:
        have = "has" if apart == 1 else "have"
        line += f". {many(apart, 'cell')} {have} no seed in common with the best of the target"
    return line + "."


def _by_target(entries: Sequence[Entry]) -> str:
    """`de->tr, vi->tr` as `tr from de, vi`; targets apart by bars."""
    targets: dict[str, list[str]] = {}
    for entry in entries:
        targets.setdefault(entry.target, []).append(entry.source)
    return " | ".join(f"{target} from {', '.join(sources)}" for target, sources in targets.items())


def _of_them(before: str, after: str, unsettled: Sequence[Difference]) -> str:
    """`Of the other 2 cells, ...`, `The cell tied with the best of its target ...`"""
    said, count = what_settles(unsettled), len(unsettled)
    if count == 1:
        return " ".join(["The", *([before] if before else []), f"cell{after}", said.removeprefix("1 ")])
    after = after.replace("its target", "their target")
    return " ".join(["Of the", *([before] if before else []), f"{many(count, 'cell')}{after},", said])


def what_settles(unsettled: Sequence[Difference]) -> str:
    """How many more prompts or seeds unsettled differences need for a power of 80 %; what none would settle."""
    parts = []
    for unit in ("prompts", "seeds"):
        needs = sorted(one.more for one in unsettled if one.more is not None and one.more_unit == unit)
        if needs:
            span = f"{needs[0]:,}" if needs[0] == needs[-1] else f"{needs[0]:,} to {needs[-1]:,}"
            more = f"more {unit[:-1] if needs[-1] == 1 else unit}" + (" a target" if unit == "prompts" else "")
            middle = f" (median {int(median(needs)):,})" if len(needs) > 1 else ""
            parts.append(f"{len(needs)} would be settled by {span} {more}{middle}")
    chance = " with 80 % power, if as large as it looks" if len(unsettled) == 1 else _IF_SO
    parts[-1:] = [parts[-1] + chance] if parts else []
    limits = {"prompts": f"{MOST_PROMPTS:,} more prompts a target", "seeds": f"{MOST_SEEDS:,} more seeds"}
    for unit, limit in limits.items():
        absurd = sum(one.absurd and one.more_unit == unit for one in unsettled)
        parts += [f"{absurd} would need more than {limit}"] if absurd else []
    for name, words in (("identical", "equal on every prompt"), ("level", "level"), ("unknown", "without an interval")):
        count = sum(getattr(one, name) for one in unsettled)
        parts += [f"{count} {'is' if count == 1 else 'are'} {words}"] if count else []
    return ", ".join(parts)


def many(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`, `0 cells`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


# --- a line a target -----------------------------------------------------------------------------------------


def answers(matrix: Matrix, most: int = 8) -> list[str]:
    """`For tr: en and de are not told apart (76.0 to 77.2 %); ...`, a line a target of every panel, `most` of them."""
    panels = [panel for block in matrix.blocks for panel in block.panels]
    apart = varying([panel.axes for panel in panels])
    lines = list[str]()
    for panel in panels:
        title = ", ".join(worded(panel.axes, apart, panel.entries))
        for target in panel.targets:
            column = [entry for entry in panel.entries if entry.target == target and entry.win is not None]
            if column:
                lines.append(f"For {target}{f' ({title})' if title else ''}: {_answer(column)}.")
    left = len(lines) - most
    return lines if left <= 0 else [*lines[:most], f"And {many(left, 'target')} more, in matrix.md."]


def _answer(column: Sequence[Entry]) -> str:
    """column: a target's finished cells."""
    ranked = sorted(column, key=lambda entry: -_won(entry))
    best = next((entry for entry in ranked if entry.best), ranked[0])
    among = [best, *(entry for entry in ranked if entry.tied and entry is not best)]
    if not any(_above_chance(entry) for entry in column):
        which = "the only source" if len(column) == 1 else f"none of {many(len(column), 'source')}"
        said = "does not beat" if len(column) == 1 else "beats"
        return f"{which} {said} the baseline with its whole interval ({_span(ranked)})"
    if len(column) == 1:
        return f"{best.source}, the only source, beats the baseline ({_span(column)})"
    parts = [_first(best, among, ranked), _against_home(best, among, column)]
    akin = [entry.source for entry in among if entry.akin]
    parts += [f"the judge has learnt from {_listed(akin)}, too, which favours it"] if akin else []
    unsettled = [entry.versus_best for entry in among[1:] if entry.versus_best is not None]
    return "; ".join(part for part in (*parts, _would_settle(unsettled)) if part)


def _won(entry: Entry) -> float:
    return entry.win.value if entry.win is not None else 0.0


def _span(entries: Sequence[Entry]) -> str:
    low, high = min(map(_won, entries)), max(map(_won, entries))
    return f"{low:.1f} %" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f} %"


def _first(best: Entry, among: Sequence[Entry], ranked: Sequence[Entry]) -> str:
    lost = [entry.source for entry in ranked if entry is not best and entry.versus_best is None]
    apart = f"; {_listed(lost)} cannot be compared with it: no seed in common" if lost else ""
    if len(among) > 1:
        return f"{_listed([entry.source for entry in among])} are not told apart ({_span(among)}){apart}"
    if lost:
        return f"{best.source} has most ({_won(best):.1f} %){apart}"
    return f"{best.source} is the best source ({_won(best):.1f} %, the next has {_won(ranked[1]):.1f} %)"


def _listed(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _against_home(best: Entry, among: Sequence[Entry], column: Sequence[Entry]) -> str:
    """Whether the target's own language would be worth collecting preferences in."""
    home = next((entry for entry in column if entry.home), None)
    foreign = [entry.versus_home for entry in column if entry.abroad and entry.versus_home is not None]
    if home is None or not foreign:
        return ""
    if any(difference.estimate.above(0) for difference in foreign):
        return f"home is worse than {many(sum(d.estimate.above(0) for d in foreign), 'foreign source')}"
    if all(difference.estimate.below(0) for difference in foreign):
        return "" if home is best else "home is better than every foreign source"
    return "home is not shown to be better" if home in among else "home is not told from some foreign source"


def _would_settle(unsettled: Sequence[Difference]) -> str:
    """What would tell the best from all that are tied with it, at 80 % power; nothing where that is not known."""
    if any(one.absurd for one in unsettled):
        return "no number of prompts or seeds worth having would settle all of it"
    needs = [one.more for one in unsettled if one.more is not None]
    units = {one.more_unit for one in unsettled}
    if len(needs) < len(unsettled) or len(units) != 1:  # some are equal, or have no interval
        return ""
    unit, more = units.pop(), max(needs)
    return (
        f"{more:,} more {unit[:-1] if more == 1 else unit} would settle it at 80 % power, if it is as large as it looks"
    )


# --- the headline --------------------------------------------------------------------------------------------


def headline(matrix: Matrix) -> str:
    """One to three sentences; what is missing is said first."""
    panels = [panel for block in matrix.blocks for panel in block.panels]
    asked = [entry for panel in panels for entry in panel.entries]
    if not asked:
        return "No cell with a source language was asked for: only references."
    entries = [entry for entry in asked if not entry.own_judge]
    if not entries:
        return f"No evidence: {_own(len(asked), len(asked))}"
    finished = [entry for entry in entries if entry.win is not None]
    if not finished:
        return f"No cell is finished yet: {len(entries)} {_are(len(entries))} planned."
    missing = len(entries) - len(finished)
    said = [_wins(finished, len(panels))] if any(entry.win for entry in finished) else []
    said += [_agreement(finished)] if any(entry.pairwise for entry in finished) else []
    said += [_rivals(matrix)]
    said += [_home(panels)]
    said += [favoured([(entry.source, entry.target, entry.akin) for entry in finished])]
    said += [_arms(matrix)]
    said += [f"Left out of all this: {_own(len(asked) - len(entries), len(asked))}"] if entries != asked else []
    said += [f"{missing} of {many(len(entries), 'cell')} {_are(missing)} not there."] if missing else []
    return " ".join(sentence for sentence in said if sentence)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _own(k: int, n: int) -> str:
    cells = f"{k} of {many(n, 'cell')} {_are(k)}"
    return f"{cells} judged by the very reward model whose reward was optimised (docs/judges.md)."


def _wins(finished: Sequence[Entry], panels: int) -> str:
    among, whose = _evidence(finished)
    above = sum(entry.win is not None and entry.win.above(CHANCE) for entry in among)
    over = f" of {panels} matrices" if panels > 1 else ""
    cells = f"{above} of {many(len(among), 'cell')}{over}"
    return f"Reward models {whose} beat the baseline in {cells} (whole interval above 50 %)."


def _evidence(finished: Sequence[Entry]) -> tuple[Sequence[Entry], str]:
    """The cells that a grid is judged by, those abroad if there are any; what their reward models were trained on."""
    abroad, home = ([e for e in finished if e.abroad], [e for e in finished if e.home])
    if abroad:
        return abroad, "trained in another language"
    if home:
        return home, "trained in the target's language"
    return finished, "trained in the target's language and others"


def _agreement(finished: Sequence[Entry]) -> str:
    told = [entry.pairwise for entry in finished if entry.pairwise is not None]
    above = sum(estimate.above(CHANCE) for estimate in told)
    cells = f"{above} of {many(len(told), 'cell')}"
    return f"Reward models agree with people on pairs within a prompt more often than chance in {cells}."


def _rivals(matrix: Matrix) -> str:
    """How cells abroad stand to the best of what learnt nothing: the best elsewhere; and in hindsight, a harder one."""
    elsewhere, hindsight = _to_rivals(matrix, best_rivals), _to_rivals(matrix, hindsight_rivals)
    said = [f"The best untrained rival, chosen for each target on the others, is {elsewhere}"] if elsewhere else []
    if elsewhere and elsewhere == hindsight:
        return f"The best untrained rival, chosen for each target on the others, and in hindsight, is {elsewhere}"
    if hindsight:
        said.append(f"The best untrained rival in hindsight, chosen on each target's own data, is {hindsight}")
    return " ".join(said)


def _to_rivals(matrix: Matrix, choose: Callable[[Panel, Sequence[Control]], dict[str, str]]) -> str:
    """`cosine: of 6 cells abroad 1 lies above it, 2 below (paired differences).`; nothing where there are none."""
    found, names, single, recorded = list[Difference](), dict[str, None](), dict[str, None](), False
    for block in matrix.blocks:
        for panel in block.panels:
            own = panel_key(panel.axes)
            rivals = choose(panel, [c for c in block.controls if belongs(panel_key(c.axes), own)])
            abroad = [entry for entry in panel.entries if entry.abroad and not entry.own_judge]
            found += against_rivals(panel, rivals, abroad)
            names |= {_rival_names(rivals): None} if rivals else {}
            single |= dict.fromkeys(rivals.values())
            recorded |= bool(rivals and panel.pairs_versus)
    if not found:
        return ""
    above, below = (sum(getattr(one.estimate, side)(0) for one in found) for side in ("above", "below"))
    which = next(iter(names)) if len(names) == 1 else f"by matrix and target {_listed(sorted(single), 'or')}"
    words = f"above it{AGREEMENT if recorded else ''}, {below} below (paired differences)"
    return f"{which}: of {many(len(found), 'cell')} abroad {above} {_lie(above)} {words}."


def favoured(cells: Iterable[tuple[str, str, str]]) -> str:
    """Which rows a judge favours, having learnt from the same language as they have; nothing where it does not.

    cells: source, target, and the languages that both learnt from (`Entry.akin`).
    """
    shared: dict[str, dict[str, None]] = {}
    for source, target, langs in cells:
        if langs:
            rows = shared.setdefault("the target" if langs == target else langs, {})
            rows["home" if source == target else source] = None
    whose = [f"{langs}'s (rows: {', '.join(rows)})" for langs, rows in shared.items()]
    said = "The judge has learnt from the same people's preferences as some rows, which favours them"
    return f"{said}: {'; '.join(whose)}." if whose else ""


def _lie(count: int) -> str:
    return "lies" if count == 1 else "lie"


def _home(panels: Sequence[Panel]) -> str:
    """How often the target's own language is the best source, or cannot be told from it."""
    columns = [
        home
        for panel in panels
        for target in panel.targets
        if (home := panel.at().get((target, target))) is not None
        and home.win is not None
        and sum(entry.target == target and entry.win is not None for entry in panel.entries) > 1
    ]
    if not columns:
        return ""
    best = sum(entry.best or entry.tied for entry in columns)
    where = (
        many(len(columns), "target")
        if len(panels) == 1
        else f"{many(len(columns), 'column')} of {len(panels)} matrices"
    )
    return f"The target's own language is the best source, or tied with it, in {best} of {where}."


def _arms(matrix: Matrix) -> str:
    """Of grids with several optimizers: which wins most."""
    if len(matrix.optimizers) != 1:
        return ""
    table = matrix.optimizers[0]
    there = [arm for arm in table.arms if arm.mean is not None]
    if len(there) < 2:
        return ""
    first = max(there, key=_mean)
    versus = ""
    if first.versus is not None and first.name != table.reference:
        settled = "settled" if first.versus.settled else "not settled"
        versus = f", {first.versus.estimate.value:+.1f} points over {table.reference} ({settled})"
    return f"Of {len(there)} optimizers {first.name} wins most, {_mean(first):.1f} % on average{versus}."


def _mean(arm: Arm) -> float:
    return arm.mean.value if arm.mean is not None else 0.0
