"""docs/human_judgements.md: run its sweeps, fold their matrices, and fill in the page's tables between its markers.

    make human-judgements DATA=FOLDER        # or: python benchmarks/human_judgements.py FOLDER

FOLDER holds the releases, as checkouts or as JSONL (`DATA` below has the names); what is not there is skipped. Finished
stages are not run again. The words of the page are written by hand; all matrices, controls and learning curves stand in
`<root>/human_judgements.md`.
"""

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import PERCENT, Block, Entry, Matrix, Panel
from xling.analysis.statistics.bootstrap import Floats, Sample, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import ConfigError
from xling.grid.stage import OTHERS
from xling.grid.store import Store
from xling.report.tables.markdown import table_lines
from xling.report.tables.panel import panel_tables
from xling.report.tables.table import signed_span, span
from xling.results.items import Pairs, read_heldout, read_json
from xling.results.plan import Results, planned_entries, read_plan

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "human_judgements.md"
LONG = "human_judgements.md"  # in the root of results: every table
DATA = {  # task -> names below the data folder, the first that is there
    "multi_summeval": ("multi_summeval.jsonl.gz", "multi_summeval.jsonl", "Multi_SummEval"),
    "beyond_ngrams": ("beyond_ngrams.jsonl.gz", "beyond_ngrams.jsonl", "Beyond_ngrams"),
    "oasst_excerpts": ("oasst_small.jsonl.gz", "oasst.jsonl", "oasst"),
}
ENCODER = ("rm_backbone=sentence_encoder", "source_lang=glob(*)")
APART = "task.corrupted=without,only"
DIALOG = "task.languages=[en,zh]"
SHOWN = ("Agreement with people on pairs", "Trained minus cosine, agreement")  # tables of a panel


@dataclass(frozen=True)
class Part:
    """A grid of the study."""

    task: str
    sweep: str
    overrides: tuple[str, ...] = ()


PARTS = {
    "summaries": Part("multi_summeval", "human_judgements"),
    "criteria": Part("multi_summeval", "human_judgements", ("task.rating_field=focus,coverage", *ENCODER)),
    "controls": Part("multi_summeval", "human_controls"),
    "curve": Part("multi_summeval", "human_curve"),
    "articles": Part("beyond_ngrams", "human_judgements", (APART,)),
    "articles_criteria": Part(
        "beyond_ngrams", "human_judgements", ("task.rating_field=coherence,consistency", APART, *ENCODER)
    ),
    "articles_controls": Part("beyond_ngrams", "human_controls", (APART,)),
    "dialog": Part("oasst_excerpts", "human_judgements", (DIALOG,)),
    "dialog_controls": Part("oasst_excerpts", "human_controls", (DIALOG,)),
    "dialog_curve": Part("oasst_excerpts", "human_curve", (DIALOG, "task.documents=20,60,200,null")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what there is data for, then write the page. Exit code 1 if a grid did not finish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--root", type=Path, default=ROOT / "outputs", help="of all results")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    matrices, failed = {}, []
    for name, part in PARTS.items():
        path = next((given.data / one for one in DATA[part.task] if (given.data / one).exists()), None)
        if path is None:
            print(f"{name}: {given.data} has none of {', '.join(DATA[part.task])}; skipped.", file=sys.stderr)
            continue
        if run_part(name, part, path.absolute(), given.root, given.workers):
            failed.append(name)
        else:
            matrices[name] = fold_grid(Store(given.root), grid_of(name))
    if not matrices and not failed:
        parser.error(f"{given.data} holds none of the releases. Type make human-judgements DATA=FOLDER, above them.")
    if matrices:
        headline, rivals = headline_lines(matrices, Store(given.root))
        sums = together_lines(matrices, Store(given.root))
        found = {"headline": headline, "rivals": rivals, "together": sums}
        given.page.write_text(filled(given.page.read_text("utf-8"), found), "utf-8")
        long = long_lines(matrices, [*headline, "", *rivals, "", *sums], Store(given.root))
        (given.root / LONG).write_text("\n".join(long), "utf-8")
    if failed:
        print(f"Not finished: {', '.join(failed)}. Type the same command again.", file=sys.stderr)
    return int(bool(failed))


def grid_of(name: str) -> str:
    return f"human_{name}"


def run_part(name: str, part: Part, data: Path, root: Path, workers: int) -> int:
    """The exit code of its command line."""
    sweep = [f"sweeps={part.sweep}", f"task={part.task}", f"task.path='{data}'", *part.overrides]
    where = [f"name={grid_of(name)}", f"root='{root.absolute()}'", "tracking.mode=off"]
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *sweep, *where, f"hydra.launcher.workers={workers}"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode


# --- the page -----------------------------------------------------------------------------------------------


def filled(page: str, found: Mapping[str, Sequence[str]]) -> str:
    """The page with each body between its markers; ConfigError for a marker that is missing."""
    for name, lines in found.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, there, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not there or not closed:
            raise ConfigError(f"The page has no lines '{begin.strip()}' and '{end}' for the results of {name}.")
        page = before + begin + "\n".join(lines).strip("\n") + "\n" + end + after
    return page


def long_lines(matrices: Mapping[str, Matrix], headline: Sequence[str], store: Store) -> list[str]:
    """Every table of the grids that there are, as Markdown, a section a part."""
    lines = ["# Human judgements, all tables", "", *headline, ""]
    for name, matrix in matrices.items():
        lines += [f"## {name}", ""]
        if name.endswith("controls"):
            lines += [line for block in matrix.blocks for line in control_lines(block)]
        elif name.endswith("curve"):
            lines += [*curve_lines(matrix, store), ""]
        else:
            lines += [line for block in matrix.blocks for p in block.panels for line in panel_lines(block, p)]
    return lines


def panel_lines(block: Block, panel: Panel) -> list[str]:
    """The matrix of agreement, what it adds to the cosine, and the counts."""
    tables = [table for table in panel_tables(block, panel) if table.title.startswith(SHOWN)]
    lines = [f"#### {title(panel)}", ""]
    for table in tables:
        lines += [f"{table.title}:", "", *table_lines(table)[2:]]
    return [*lines, *agreement_counts(panel), numbers(panel.entries), ""]


def agreement_counts(panel: Panel) -> list[str]:
    """How many cells of single sources lie above and below each rival in agreement, each interval by itself."""
    lines = []
    for rival in RIVALS:
        found = [
            (source == target, difference.estimate)
            for source, targets in panel.pairs_versus.get(rival, {}).items()
            for target, difference in targets.items()
            if source != OTHERS
        ]
        for where, at_home in (("abroad", False), ("at home", True)):
            there = [estimate for home, estimate in found if home == at_home]
            if there:
                above, below = sum(one.above(0) for one in there), sum(one.below(0) for one in there)
                lines.append(f"- {where}: {above} of {len(there)} cells above {rival}, {below} below it")
    return lines


def numbers(entries: Sequence[Entry]) -> str:
    """`Pairs: de 135, en 135; 3 seeds.`"""
    there = [(entry.target, entry.pairwise) for entry in entries if entry.pairwise is not None]
    pairs = {target: estimate.n for target, estimate in there}
    seeds = max((estimate.seeds for _, estimate in there), default=0)
    counted = ", ".join(f"{target} {n}" for target, n in pairs.items())
    return f"\nPairs of responses: {counted}. Seeds: {seeds}."


def title(panel: Panel) -> str:
    """`sentence_encoder, corrupted=only, rating_field=focus`"""
    settings = [
        f"{axis.removeprefix('task.')}={value}" for axis, value in panel.axes.items() if axis.startswith("task.")
    ]
    return ", ".join([panel.axes["rm_backbone"], *settings])


def control_lines(block: Block) -> list[str]:
    """Agreement a target: trained heads, heads on permuted labels, system identity, references; one seed."""
    panels = {panel.axes["rm_backbone"]: panel for panel in block.panels}
    trained = next(panel for name, panel in panels.items() if name != "system")
    rows: dict[str, Callable[[str], Sequence[Entry]]] = {
        "trained, home": lambda t: [e for e in trained.entries if e.target == t and e.home],
        "trained, abroad": lambda t: [e for e in trained.entries if e.target == t and e.abroad],
        "permuted labels": lambda t: [e for e in block.shuffled if e.target == t],
    }
    if "system" in panels:
        rows["system identity, abroad"] = lambda t: [e for e in panels["system"].entries if e.target == t and e.abroad]
    lines = [f"#### {title(trained)}", "", f"| agreement, % | {' | '.join(trained.targets)} |"]
    lines.append("|---|" + "---:|" * len(trained.targets))
    for label, pick in rows.items():
        cells = [_mean_and_range([e.pairwise for e in pick(t) if e.pairwise]) for t in trained.targets]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for control in block.controls:
        own = {e.target: e.pairwise for e in control.entries}
        cells = [f"{e.value:.1f} <sub>{span(e)}</sub>" if (e := own.get(t)) else "" for t in trained.targets]
        lines.append(f"| {control.name} | {' | '.join(cells)} |")
    abroad = [e for e in trained.entries if e.abroad and e.pairwise]
    null = [(e.target, e.pairwise.value) for e in block.shuffled if e.pairwise]
    above = sum(e.pairwise.value > max(v for t, v in null if t == e.target) for e in abroad if e.pairwise)
    lines += [
        "",
        f"- {above} of {len(abroad)} cells abroad agree more than every head on permuted labels of their target",
    ]
    return [*lines, numbers(trained.entries), ""]


def _mean_and_range(estimates: Sequence[Estimate]) -> str:
    values = [estimate.value for estimate in estimates]
    if len(values) < 2:
        return f"{values[0]:.1f} <sub>{span(estimates[0])}</sub>" if values else ""
    return f"{np.mean(values):.1f} <sub>{min(values):.1f} to {max(values):.1f}, {len(values)}</sub>"


# --- means over cells ---------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Entry], bool]] = {
    "home": lambda entry: entry.home,
    "abroad": lambda entry: entry.abroad and entry.source != OTHERS,
    "others": lambda entry: entry.source == OTHERS,
}
RIVALS = ("cosine", "length", "shorter", "consensus", "system")  # system: by its mean rating in all other languages
OPTIONS = ("others", "combined", "rival")  # what one can take for a target without ratings in it
MEASURED = (*KINDS, "combined", "chosen")
SUMS = ("heads", "heads + rival", "heads + consensus")  # of the scores of `others` under all kinds of heads
TOGETHER = (*SUMS, "chosen")
HINDSIGHT = "best in hindsight"


@dataclass(frozen=True)
class Drawn:
    """The pairs of a target under one seed: agreement of each column, 0 to 1; margins, better rated minus worse."""

    groups: list[str]
    right: dict[str, Floats]  # (pairs,)
    margins: dict[str, Floats]

    def summed(self, *names: str) -> Floats:
        """Agreement of the sum of scores, each over its root mean square of margins, which needs no ratings."""
        if not set(names) <= self.margins.keys():
            return np.full(len(self.groups), np.nan)
        parts = [self.margins[name] for name in dict.fromkeys(names)]
        return np.asarray((np.sign(sum(one / (np.sqrt((one**2).mean()) or 1.0) for one in parts)) + 1) / 2)


@dataclass(frozen=True)
class Averages:
    """Means over targets by column, and what was taken for each target by what the other targets say."""

    estimates: dict[str, Estimate]
    rivals: dict[str, str]
    chosen: dict[str, str]
    hindsight: str  # the rival with the highest mean over all targets, chosen on these very ratings


def averages(store: Store, block: Block, panel: Panel, scores: Mapping[str, str]) -> Averages:
    """Agreement averaged over targets (abroad: over sources too), and the same minus the best rival, paired.

    The best rival, and the best of OPTIONS, are those with the highest mean over the other targets. Intervals:
    documents drawn within each target, together with the seeds. scores: the key of a cell's score by its judge's.
    """
    pairs = {target: _drawn(store, block, panel, target, scores) for target in panel.targets}
    pairs = {target: drawn for target, drawn in pairs.items() if drawn}
    rivals = _best_elsewhere(pairs, RIVALS)
    for target, drawn in pairs.items():
        for one in drawn.values():
            one.right["rival"] = one.right[rivals[target]]
            one.right["combined"] = one.summed("others", rivals[target])
    return _averages(pairs, rivals, OPTIONS, MEASURED)


def together(store: Store, block: Block, scores: Mapping[str, str]) -> Averages:
    """The same of all kinds of heads of a block as one: SUMS, and the best of these and of the rival elsewhere."""
    pairs: dict[str, dict[int, Drawn]] = {}
    for number, panel in enumerate(block.panels):
        for target in panel.targets:
            for seed, found in _drawn(store, block, panel, target, scores).items():
                one = pairs.setdefault(target, {}).setdefault(seed, found)
                assert one.groups == found.groups
                one.margins[f"others {number}"] = found.margins["others"]
    rivals = _best_elsewhere(pairs, RIVALS)
    heads = [f"others {number}" for number in range(len(block.panels))]
    for target, drawn in pairs.items():
        for one in drawn.values():
            one.right["rival"] = one.right[rivals[target]]
            for name, more in zip(SUMS, ((), (rivals[target],), ("consensus",)), strict=True):
                one.right[name] = one.summed(*heads, *more)
    return _averages(pairs, rivals, (*SUMS, "rival"), TOGETHER)


def _averages(
    pairs: Mapping[str, Mapping[int, Drawn]], rivals: dict[str, str], options: Sequence[str], measured: Sequence[str]
) -> Averages:
    """Estimates of what is measured, of each rival and of differences; `chosen`: the best of the options elsewhere.

    Differences are to the target's rival, and to the HINDSIGHT one: the best over all targets, their own ratings seen.
    """
    there = _known(pairs, RIVALS)
    means = {name: np.mean([one.right[name].mean() for d in pairs.values() for one in d.values()]) for name in there}
    columns = (
        *measured,
        "rival",
        *RIVALS,
        *(f"{name} - {other}" for other in ("rival", HINDSIGHT) for name in measured),
    )
    chosen, hindsight = _best_elsewhere(pairs, options), max(means, key=lambda name: float(means[name]))
    samples: dict[int, list[Sample]] = {}
    for target, drawn in pairs.items():
        for seed, one in drawn.items():
            one.right["chosen"] = one.right[chosen[target]]
            values = {
                name: one.right.get(name, np.full(len(one.groups), np.nan)) for name in (*measured, "rival", *RIVALS)
            }
            against = {"rival": values["rival"], HINDSIGHT: values[hindsight]}
            values |= {f"{name} - {other}": values[name] - own for other, own in against.items() for name in measured}
            stacked = np.stack([values[name] for name in columns], axis=1) * PERCENT
            clusters = draw([(one.groups, [""] * len(one.groups))])[0]
            samples.setdefault(seed, []).append(resample(clusters, stacked))
    folded = fold([_over_targets(found, str(seed)) for seed, found in samples.items()])
    named = zip(columns, folded, strict=True)
    return Averages({name: estimate for name, estimate in named if estimate is not None}, rivals, chosen, hindsight)


def _drawn(store: Store, block: Block, panel: Panel, target: str, scores: Mapping[str, str]) -> dict[int, Drawn]:
    """Pairs by seed; nothing where there are none."""
    picked = {kind: [e for e in panel.entries if e.target == target and holds(e)] for kind, holds in KINDS.items()}
    for control in block.controls:
        if control.name in RIVALS:
            picked[control.name] = [e for e in control.entries if e.target == target]
    found: dict[int, Drawn] = {}
    for seed in range(max(len(e.keys) for entries in picked.values() for e in entries)):
        records = {name: [_pairs(store, e.keys[seed]) for e in entries] for name, entries in picked.items() if entries}
        groups = next(record.group for own in records.values() for record in own)
        if groups:
            alone = {name: entries[0] for name, entries in picked.items() if len(entries) == 1}
            right = {name: np.mean([record.correct for record in own], axis=0) for name, own in records.items()}
            margins = {name: _margins(store, scores[entry.keys[seed]]) for name, entry in alone.items()}
            found[seed] = Drawn(groups, right, margins)
    return found


def _best_elsewhere(pairs: Mapping[str, Mapping[int, Drawn]], names: Sequence[str]) -> dict[str, str]:
    """Target -> the one of `names` with the highest mean over the other targets (of one target: its first)."""

    def elsewhere(name: str, target: str) -> float:
        means = [np.mean([one.right[name].mean() for one in pairs[t].values()]) for t in pairs if t != target]
        return float(np.nan_to_num(np.mean(means), nan=-1.0)) if means else 0.0

    known = _known(pairs, names)
    return {target: max(known, key=lambda name: elsewhere(name, target)) for target in pairs}


def _known(pairs: Mapping[str, Mapping[int, Drawn]], names: Sequence[str]) -> list[str]:
    """Those that every target has."""
    return [name for name in names if all(name in one.right for drawn in pairs.values() for one in drawn.values())]


def _pairs(store: Store, key: str) -> Pairs:
    return read_json(store.load("judge", key) / "pairs.json", Pairs)


def _margins(store: Store, key: str) -> Floats:
    record = read_heldout(store.load("score", key))
    return np.array(record.chosen) - np.array(record.rejected) if record else np.empty(0)


def scores_of(store: Store, name: str) -> dict[str, str]:
    """The key of each cell's score by that of its judge, of a grid."""
    plan = read_plan(store.grid_folder(name))
    cells = (cell for entry in planned_entries(plan, Results(store, plan)) for cell in entry.cells)
    return {cell.judge.key: cell.stages["score"].key for cell in cells}


def _over_targets(samples: Sequence[Sample], label: str) -> Sample:
    """The mean over targets, each with draws of its own."""
    return Sample(
        np.mean([sample.means for sample in samples], axis=0),
        np.mean([sample.resamples for sample in samples], axis=0),
        sum(sample.prompts for sample in samples),
        sum(sample.clusters for sample in samples),
        label,
        crossed=True,
    )


def headline_lines(matrices: Mapping[str, Matrix], store: Store) -> tuple[list[str], list[str]]:
    """A row a grid's panel: what was trained or combined against the best rival; then each rival by itself."""
    shown = [*MEASURED, "rival", *(f"{name} - rival" for name in MEASURED)]
    lines = [f"| judgements, heads | {' | '.join(shown)} | pairs | seeds |", "|---|" + "---:|" * (len(shown) + 2)]
    columns = [*RIVALS, *(f"{name} - {HINDSIGHT}" for name in MEASURED)]
    more = [f"| judgements, heads | {' | '.join(columns)} | rival of the targets | {HINDSIGHT} | chosen for them |"]
    more.append("|---|" + "---:|" * len(columns) + "---|---|---|")
    for name in ("summaries", "criteria", "articles", "articles_criteria", "dialog"):
        scores = scores_of(store, grid_of(name)) if name in matrices else {}
        for block in matrices[name].blocks if name in matrices else ():
            for panel in block.panels:
                found = averages(store, block, panel, scores)
                label = f"| {panel.axes['task']}: {title(panel)} | "
                lines.append(
                    label + " | ".join(_cell(found.estimates, one) for one in shown) + " |" + _n(found.estimates)
                )
                said = [
                    *(_cell(found.estimates, one) for one in columns),
                    _counted(found.rivals),
                    found.hindsight,
                    _counted(found.chosen),
                ]
                more.append(f"{label}{' | '.join(said)} |")
    return lines, more


def together_lines(matrices: Mapping[str, Matrix], store: Store) -> list[str]:
    """A row a block of the grids in question: all kinds of heads as one, alone and with what learns nothing."""
    against = (f"{name} - {other}" for other in ("rival", HINDSIGHT) for name in TOGETHER)
    shown = [*TOGETHER, "rival", *against]
    lines = [f"| judgements | {' | '.join(shown)} | chosen for the targets |", "|---|" + "---:|" * len(shown) + "---|"]
    for name in ("summaries", "articles", "dialog"):
        scores = scores_of(store, grid_of(name)) if name in matrices else {}
        for block in matrices[name].blocks if name in matrices else ():
            found = together(store, block, scores)
            first = block.panels[0]
            settings = title(first).partition(", ")[2]
            cells = " | ".join(_cell(found.estimates, one) for one in shown)
            said = f"{first.axes['task']}{f': {settings}' if settings else ''}"
            lines.append(f"| {said} | {cells} | {_counted(found.chosen)} |")
    return lines


def _counted(taken: Mapping[str, str]) -> str:
    """`cosine 7, length 1`"""
    return ", ".join(f"{name} {number}" for name, number in Counter(taken.values()).most_common())


def curve_lines(matrix: Matrix, store: Store) -> list[str]:
    """A row a number of rated documents."""
    shown = ["home", "abroad", "home - rival", "abroad - rival"]
    lines = [f"| documents a source | {' | '.join(shown)} | pairs | seeds |", "|---|" + "---:|" * (len(shown) + 2)]
    blocks = sorted(matrix.blocks, key=lambda block: int(block.axes["task.documents"] or 10**9))
    scores = scores_of(store, matrix.name)
    for block in blocks:
        found = averages(store, block, block.panels[0], scores).estimates
        cells = " | ".join(_cell(found, one) for one in shown)
        lines.append(f"| {block.axes['task.documents'] or 'all'} | {cells} |" + _n(found))
    return lines


def _cell(found: Mapping[str, Estimate], name: str) -> str:
    estimate = found.get(name)
    if estimate is None:
        return ""
    if "-" in name:
        return f"{estimate.value:+.1f} <sub>{signed_span(estimate)}</sub>"
    return f"{estimate.value:.1f} <sub>{span(estimate)}</sub>"


def _n(found: Mapping[str, Estimate]) -> str:
    first = next(iter(found.values()))
    return f" {first.n} | {first.seeds} |"


if __name__ == "__main__":
    sys.exit(main())
