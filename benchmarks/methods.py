"""docs/methods.md: methods against over-optimisation compared on the same samples, and the page's tables filled in.

    python benchmarks/methods.py [--root FOLDER] [--workers N] [--rows implicit same_as_policy] [--parts also soft]
    python benchmarks/methods.py --data FOLDER --rows multi_summeval     # people's ratings, a release in FOLDER

What is chosen (n, tau, weights) is chosen by the source alone: by its own cell at home, on one half of the documents.
What is reported is on the other half. Finished stages are not run again; only what is there is in a table.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from human_judgements import filled
from scipy.stats import t as student

from xling.analysis.matrix.types import PERCENT
from xling.config.common import is_foreign
from xling.grid.records import Ref
from xling.grid.stage import NO_SOURCE, OTHERS
from xling.grid.store import Store
from xling.models.ridge import half_of
from xling.results.items import read_record
from xling.results.plan import Plan, Results, SeedCell, planned_entries, read_plan

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
PEOPLE = ("policy=recorded", "judge=human", "source_lang=glob(*)", "target_lang=glob(*)")
# as in sweeps=implicit
PAIRS = ("sweeps=embedded", "task.feedback=pairwise", "task.pairs=1280", "task.test_prompts=256")
ROWS = {  # the plain method
    "implicit": (*PAIRS, "rm_backbone=implicit"),
    "same_as_policy": ("sweeps=embedded", "rm_backbone=same_as_policy"),
    "frozen_lm": ("sweeps=embedded", "rm_backbone=frozen_lm"),
    "bag_of_words": (*PAIRS, "rm_backbone=bag_of_words"),  # a control, of the same pairs
    "multi_summeval": ("task=multi_summeval", *PEOPLE, "rm_backbone=sentence_encoder"),
}
UNTRAINED = ("consensus", "likelihood_sft", "likelihood_base")
REFERENCES = {name: UNTRAINED for name in ROWS} | {"multi_summeval": ("cosine", "length")}
PARTS = {  # a grid each; `also` has the plain method too
    "also": ("ensemble.also=[],[consensus],[REFERENCE]", "ensemble.weight=0.5,1,2"),
    "soft": ("optimizer=soft_best_of_n", "optimizer.tau=0.25,0.5,1"),
    "apart": (f"source_lang={OTHERS}", "ensemble.sources=apart", "ensemble.combine=mean,min"),
    "pooled": (f"source_lang={OTHERS}",),
    "seeds": ("ensemble.seeds=2", "ensemble.combine=mean,min"),
    "aligned": ("rm_backbone.alignment.weight=0.1,1",),
    "plain": (),
    "pairs": ("task.feedback=pairwise",),
    "references": (),
}
WORDS = {  # for those whose settings do not say it
    "apart": "the other sources, each a reward model",
    "pooled": "the other sources, pooled in one reward model",
    "seeds": "two seeds",
    "aligned": "parallel documents pulled together",
    "pairs": "learnt from pairs",
    "references": "alone:",
}
OF_PEOPLE = ("plain", "pairs", "apart", "pooled", "references")  # parts that go with two responses a prompt

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Cell:
    """Documents, and the percentage won of each prompt by a pick from 1 to n samples: (prompts, n)."""

    groups: list[str]
    curve: Array

    def of(self, half: str) -> "Cell":
        """On the documents of a half, or on all."""
        if half == "all":
            return self
        kept = [number for number, group in enumerate(self.groups) if half_of(group) == half]
        return Cell([self.groups[number] for number in kept], self.curve[kept])


@dataclass
class Method:
    """Cells that differ in languages alone, by source and target; kind and key of all stages that they needed."""

    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    stages: set[Ref] = field(default_factory=set)


Compared = tuple[Method, Mapping[str, int]]  # with the n of each source; of those that are not named, all samples


@dataclass
class Mean:
    """A mean over cells, each cell's over its prompts; and what each document adds to its error."""

    value: float
    by_document: Mapping[str, float]

    def minus(self, other: "Mean") -> "Mean":
        names = {**self.by_document, **other.by_document}
        apart = {name: self.by_document.get(name, 0.0) - other.by_document.get(name, 0.0) for name in names}
        return Mean(self.value - other.value, apart)

    @property
    def wide(self) -> float:
        """Half of the 95 % interval by Student's t over documents, the same ones in all languages."""
        count = len(self.by_document)
        error = np.sqrt(count / (count - 1) * sum(one**2 for one in self.by_document.values()))
        return float(student.ppf(0.975, count - 1) * error)

    def shown(self, sign: str = "") -> str:
        return f"{self.value:{sign}.1f} [{self.value - self.wide:{sign}.1f}, {self.value + self.wide:{sign}.1f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the grids, then write the page. Exit code 1 if a grid did not finish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT / "outputs", help="of all results")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, help="folder of multi_summeval.jsonl.gz")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=["implicit", "same_as_policy", "frozen_lm"])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[])
    parser.add_argument("--sources", nargs="*", default=[], help="of the embedded world, not all: de en tr")
    parser.add_argument("--set", nargs="*", default=[], help="more overrides: task.seed=2 task.test_prompts=128")
    parser.add_argument("--beside", choices=ROWS, help="a row, to compare each method with the same one of that")
    parser.add_argument("--whole", action="store_true", help="report on all documents: for methods that choose nothing")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    where = [f"root='{given.root.absolute()}'", "tracking.mode=off", f"hydra.launcher.workers={given.workers}"]
    failed, store, half = 0, Store(given.root), "all" if given.whole else "second"
    for row in given.rows:
        usual = OF_PEOPLE if row == "multi_summeval" else [p for p in PARTS if p not in ("plain", "pairs", "aligned")]
        path = (
            [f"task.path='{(given.data / row).absolute()}.jsonl.gz'"] if given.data and row == "multi_summeval" else []
        )
        for part in given.parts or usual:
            typed = [*ROWS[row], *asked(row, part, given.sources), *path, *where, f"name={grid_of(row, part)}"]
            command = [sys.executable, str(ROOT / "launch.py"), "-m", *typed, *given.set]
            failed += bool(subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode)
    tables = {row: table(store, row, half, given.beside) for row in given.rows}
    given.page.write_text(filled(given.page.read_text("utf-8"), tables), "utf-8")
    return int(bool(failed))


def grid_of(row: str, part: str) -> str:
    return f"methods_{row}_{part}"


def asked(row: str, part: str, sources: Sequence[str]) -> list[str]:
    """The overrides of a part, by some sources alone: ensembles are of them, and not of all others of a target."""
    if part == "references":
        return [f"rm_backbone={','.join(REFERENCES[row])}"]
    found = [override.replace("REFERENCE", REFERENCES[row][1]) for override in PARTS[part]]
    if not sources:
        return found
    joint = f"source_lang={OTHERS}" in found
    kept = [override for override in found if not override.startswith("source_lang=")]
    return [*kept, f"source_lang={('+' if joint else ',').join(sources)}"]


# --- reading ------------------------------------------------------------------------------------------------


def methods(store: Store, grid: str) -> dict[str, Method]:
    """The finished methods of a grid by the settings that tell them apart; empty: there is no such grid."""
    if not (store.grid_folder(grid) / "plan.json").exists():
        return {}
    plan = read_plan(store.grid_folder(grid))
    results, found = Results(store, plan), defaultdict[str, Method](Method)
    for entry in planned_entries(plan, results):
        for cell in entry.cells:
            if cell.status == "done":
                own, record = found[label(entry.axes)], read_record(results.folder(cell.judge))
                place = entry.axes["source_lang"], entry.axes["target_lang"]
                own.cells[place] = Cell(record.items.group, PERCENT * record.curve)
                own.stages |= needed(plan, cell)
    return dict(found)


def label(axes: Mapping[str, str]) -> str:
    """`ensemble.also=[consensus] ensemble.weight=1`; of a reference its name; empty: plain."""
    if axes["source_lang"] == NO_SOURCE:
        return axes["rm_backbone"]
    settings = {axis.removeprefix("rm_backbone."): value for axis, value in axes.items()}
    told = [f"{name}={value}" for name, value in settings.items() if name.startswith(("ensemble.", "alignment."))]
    if axes["optimizer"] != "best_of_n":
        told += [axes["optimizer"], *(f"{n}={v}" for n, v in settings.items() if n.startswith("optimizer."))]
    return "" if "ensemble.also=[]" in told else " ".join(told)


def needed(plan: Plan, cell: SeedCell) -> set[Ref]:
    """The stages of a cell and all below it, without the judge's exact quality."""
    place = {stage.key: number for number, stage in enumerate(plan.stages)}
    left, seen = [place[cell.judge.key]], set[int]()
    while left:
        number = left.pop()
        if number not in seen and plan.stages[number].kind != "gold":
            seen.add(number)
            left += plan.stages[number].parents
    return {Ref(plan.stages[number].kind, plan.stages[number].key) for number in seen}


def seconds(store: Store, stages: set[Ref]) -> float:
    """CPU seconds of stages, as their records have them."""
    found = [store.check(ref.kind, ref.key).done for ref in stages]
    return sum(done.run.cpu_seconds for done in found if done is not None)


# --- choosing and comparing ---------------------------------------------------------------------------------


def chosen(variants: Mapping[str, Method], source: str, first: bool) -> tuple[str, int]:
    """The variant and n with the most wins of one source at home, on the half for choosing; `first`: n is all."""
    at_home = {name: own.cells[source, source].of("first").curve.mean(axis=0) for name, own in variants.items()}
    best = {name: mean[-1] if first else mean.max() for name, mean in at_home.items()}
    name = max(best, key=lambda one: best[one])
    return name, len(at_home[name]) if first else int(at_home[name].argmax()) + 1


def abroad_at(own: Method, beside: Method) -> set[tuple[str, str]]:
    """Where `beside` is compared: in the cells abroad of `own`, or in all that it has abroad on their targets."""
    places = {place for place in own.cells if is_foreign(*place)}
    targets = {target for _, target in places}
    alike = {place for place in beside.cells if is_foreign(*place) and place[1] in targets}
    return places if places <= alike else alike


def mean(method: Method, n: Mapping[str, int], places: Collection[tuple[str, str]], half: str) -> Mean | None:
    """Over cells, on a half of the documents, of a pick from n samples (of each source)."""
    kept = [(source, cell.of(half)) for (source, target), cell in method.cells.items() if (source, target) in places]
    value, by_document = 0.0, defaultdict[str, float](float)
    for source, cell in kept:
        column = cell.curve[:, n.get(source, cell.curve.shape[1]) - 1]
        value += float(column.mean()) / len(kept)
        for group, one in zip(cell.groups, column - column.mean(), strict=True):
            by_document[group] += float(one) / (len(kept) * len(column))
    return Mean(value, by_document) if kept else None


def above(method: Method, n: Mapping[str, int], places: Collection[tuple[str, str]], half: str) -> str:
    """Of how many cells the whole interval lies above 50."""
    found = [mean(method, n, [place], half) for place in places]
    return f"{sum(one.value - one.wide > 50.0 for one in found if one)} of {len(places)}"


def beyond(method: Method, half: str) -> str:
    """The mean win rate abroad at its best n, minus that at all samples; and that n."""
    kept = [cell.of(half).curve.mean(axis=0) for (s, t), cell in method.cells.items() if is_foreign(s, t)]
    curve = np.mean(kept, axis=0)
    return f"{curve.max() - curve[-1]:.1f} (n = {int(curve.argmax()) + 1})"


def by_source(plain: Method, also: Mapping[str, Method], soft: Mapping[str, Method], row: str) -> dict[str, Compared]:
    """The methods of which each source chooses n, a weight or a tau, by what they are called."""
    sources = sorted({source for source, _ in plain.cells})
    rows: dict[str, Compared] = {
        "n by the source": (plain, {source: chosen({"": plain}, source, False)[1] for source in sources})
    }
    families = {f"+ {name}": {k: v for k, v in also.items() if f"[{name}]" in k} for name in REFERENCES[row]}
    for name, tried in {**families, "soft best-of-n": soft}.items():
        variants = {setting: own for setting, own in tried.items() if own.cells.keys() >= plain.cells.keys()}
        for first in (True, False) if variants else ():
            picks = {source: chosen(variants, source, first) for source in sources}
            joint = Method({place: variants[picks[place[0]][0]].cells[place] for place in plain.cells})
            joint.stages = next(iter(variants.values())).stages
            told = f"{name}, {'tau' if 'soft' in name else 'weight'}{'' if first else ' and n'} by the source"
            rows[told] = joint, {} if first else {source: n for source, (_, n) in picks.items()}
    return rows


def rows_of(store: Store, row: str, half: str) -> dict[str, Compared]:
    """The methods of a row by what they are called, the plain one first; on all documents none that chooses."""
    found = {part: methods(store, grid_of(row, part)) for part in PARTS}
    also = {**found["plain"], **found["also"]}
    if "" not in also:
        return {}
    plain = also.pop("")
    rows: dict[str, Compared] = {"plain": (plain, {})}
    if half != "all":
        rows |= by_source(plain, also, found["soft"], row)
    for part, words in WORDS.items():
        rows |= {f"{words} {name}".strip(): (own, {}) for name, own in found[part].items()}
    return rows


def table(store: Store, row: str, half: str, beside: str | None = None) -> list[str]:
    """A line a method, of those that there are, on a half of the documents.

    Each minus the plain one, minus each untrained reference, and minus the same method of the row `beside`.
    """
    rows = rows_of(store, row, half)
    if not rows:
        return ["Not run."]
    plain, alone = rows["plain"], f"{WORDS['references']} "
    rivals: dict[str, Mapping[str, Compared]] = {"plain": dict.fromkeys(rows, plain)}
    rivals |= {name.removeprefix(alone): dict.fromkeys(rows, rows[name]) for name in rows if name.startswith(alone)}
    if beside:
        rivals[f"{beside} alike"] = rows_of(store, beside, half)
    named = ["method", "win abroad", "win at home", "above 50 abroad", "over-optimised by", "CPU"]
    named += [f"minus {rival}" for rival in rivals]
    out = [f"| {' | '.join(named)} |", f"|---|---|---|---|---|---:|{'---|' * len(rivals)}"]
    cost = seconds(store, plain[0].stages)
    for name, (own, n) in rows.items():
        places = {place for place in own.cells if is_foreign(*place)}
        abroad, home = mean(own, n, places, half), mean(own, n, own.cells.keys() - places, half)
        words = [name, abroad.shown() if abroad else "", home.shown() if home else "", above(own, n, places, half)]
        words += ["" if n else beyond(own, half), f"{seconds(store, own.stages) / cost:.2f}"]
        for alike in rivals.values():
            other, theirs = alike.get(name, (Method(), {}))
            against = mean(other, theirs, abroad_at(own, other), half)
            words += [abroad.minus(against).shown("+") if abroad and against else ""]
        out.append(f"| {' | '.join(words)} |")
    count = len({group for cell in plain[0].cells.values() for group in cell.of(half).groups})
    chosen_n = ", ".join(f"{source} {n}" for source, n in rows.get("n by the source", plain)[1].items())
    told = f" n by the source: {chosen_n}." if chosen_n else ""
    return [*out, "", f"{len(plain[0].cells)} cells, {count} documents to report on.{told}"]


if __name__ == "__main__":
    sys.exit(main())
