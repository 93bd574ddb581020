"""How large report.html gets, how long it takes to make, and how fast it opens and filters in Chromium.

    python benchmarks/report.py                         # 30 x 30 languages x 3 optimizers, made up
    python benchmarks/report.py --languages 6 --optimizers 1
    python benchmarks/report.py --root outputs embedded # a grid that is there

Times of the browser are its own: first paint, and that of the matrix (Element Timing), from the start of the
navigation, filters from the click until what it changed has been laid out and painted. Prints a line a measure; the
page stays in --out.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Browser

from xling.analysis.matrix.types import Accuracy, Block, Count, Curve, Entry, Matrix, Mean, Opponent, Panel
from xling.analysis.statistics.decisions import Difference
from xling.analysis.statistics.intervals import Estimate
from xling.analysis.tidy.finding import Finding
from xling.grid.store import Store
from xling.report.page.data import Document
from xling.report.page.stages import MOST_PROMPTS, Learning, Line, Sample, within
from xling.report.page.write import page_bytes, update

OPTIMIZERS = ("best_of_n", "ppo", "rloo", "grpo", "dpo")
WORDS = tuple("the a news of report about flood in Kenya May people 870 houses was very large and said that".split())  # noqa: SIM905
READY = """new Promise((done) => { const look = () => document.querySelector('#matrix .explorer td') ? done(true)
    : setTimeout(look, 10); look(); })"""
TIMED = """new Promise((done) => { const before = performance.now(); %s;
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - before))); })"""
PAINT = """new Promise((done) => new PerformanceObserver((seen) => done([
    ...performance.getEntriesByType('paint').map((one) => [one.name, one.startTime]),
    ...seen.getEntries().map((one) => ['matrix painted', one.renderTime])]))
    .observe({ type: 'element', buffered: true }))"""
MARKED = "<td class", '<td elementtiming="matrix" class'  # the first one of the page
SEARCH = "byId('search').value = '%s'; byId('search').dispatchEvent(new Event('input'))"
ACTIONS = {
    "leave a target out": "document.querySelectorAll('#filter-targets input')[1].click()",
    "leave a source out": "document.querySelectorAll('#filter-sources input')[2].click()",
    "another measure": "document.querySelectorAll('input[name=map]')[3].click()",
    "another panel": "choosePanel((state.panel + 1) % data.panels.length)",
    "search the samples": "drawSection('samples'); " + SEARCH % "flood",
    "search again": SEARCH % "kenya",
    "choose a cell": "[...document.querySelectorAll('#matrix td[data-source]')].at(-1).click()",
}


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(options.out or folder) / "report.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        if options.grid:
            store = Store(options.root)
            page = store.grid_folder(options.grid) / "report.html"
            page.unlink(missing_ok=True)
            seconds, _ = timed(lambda: update(store, options.grid))
        else:
            document = made_up(options.languages, OPTIMIZERS[: options.optimizers])
            seconds, content = timed(lambda: page_bytes(document))
            page.write_bytes(content)
        print(f"size: {page.stat().st_size / 1e6:.2f} MB; made in {seconds:.2f} s of processor time")
        measure(page, Path(folder), options.repeats)


def timed(work: object) -> tuple[float, bytes]:
    before = time.process_time()
    result = work()  # type: ignore[operator]
    return time.process_time() - before, result


def measure(page: Path, folder: Path, repeats: int) -> None:
    """Open it a few times; the median and the worst of each."""
    marked = folder / "marked.html"
    marked.write_text(page.read_text(encoding="utf-8").replace(*MARKED, 1), encoding="utf-8")
    found: dict[str, list[float]] = {}
    with Browser(folder) as browser:
        browser.size(1400, 900)
        for _ in range(repeats):
            browser.open(marked)
            browser.run(READY)
            for name, value in browser.run(PAINT):
                found.setdefault(name, []).append(value)
            found.setdefault("matrix drawn", []).append(browser.run("performance.now()"))
            for name, script in ACTIONS.items():
                found.setdefault(name, []).append(browser.run(TIMED % script))
            browser.run("new Promise((done) => setTimeout(done, 300))")
    for name, values in found.items():
        print(f"{name}: {np.median(values):.0f} ms (at most {max(values):.0f})")


# --- a made-up matrix ---------------------------------------------------------------------------------------


def made_up(languages: int, optimizers: tuple[str, ...]) -> Document:
    """Everything that a page can have, as large as it gets: seeded."""
    codes = [f"l{number:02d}" for number in range(languages)]
    random = np.random.default_rng(0)
    blocks = []
    for optimizer in optimizers:
        axes = {
            "task": "toy",
            "policy": "micro",
            "rm_backbone": "same_as_policy",
            "optimizer": optimizer,
            "judge": "gold",
        }
        panel = panel_of(axes, codes, random)
        blocks.append(Block(axes, [panel], [], []))
    provenance: dict[str, str | list[str] | int | None] = {"cells": languages**2, "cells_done": languages**2}
    matrix = Matrix("made-up", blocks, [], [], provenance, "95 % intervals over prompts only")
    learning = [
        Learning(
            number,
            languages**2,
            {name: Line([20, 40, 60], [0.1, 0.2, 0.3], [0.0] * 3, [1.0] * 3) for name in ("reward", "kl")},
        )
        for number in range(1, len(optimizers))
    ]
    return Document(matrix, "0" * 64, within(samples(codes, len(optimizers), random)), learning, None, findings(codes))


def panel_of(axes: dict[str, str], codes: list[str], random: np.random.Generator) -> Panel:
    entries = [entry_of({**axes, "source_lang": s, "target_lang": t}, random) for t in codes for s in codes]
    best = {t: max((e for e in entries if e.target == t), key=lambda e: e.win.value if e.win else 0) for t in codes}
    entries = [replace(e, best=True, versus_best=None) if best[e.target] is e else e for e in entries]
    means = {code: Mean(estimate(random, 60, 1), len(codes), len(codes)) for code in codes}
    accuracy = [
        Accuracy(s, t, estimate(random, 80, 3), estimate(random, 85, 3), difference(random), difference(random))
        for s in codes
        for t in codes
    ]
    opponents = [Opponent(t, *(estimate(random, 50, 2) for _ in range(4))) for t in codes]
    versus = {"likelihood_sft": {s: {t: difference(random) for t in codes} for s in codes}}
    counts = [Count("above_50", "cells abroad whose interval lies above 50", 800, 870, 870)]
    return Panel(axes, codes, codes, entries, means, means, means, means, [], accuracy, [], [], versus,
                 opponents=opponents, counts=counts, verdicts=["A sentence."])  # fmt: skip


def entry_of(axes: dict[str, str], random: np.random.Generator) -> Entry:
    curve = np.linspace(50, 60, 64) + random.normal(0, 0.2, 64)
    bands = [[float(x) for x in curve + shift] for shift in (0, -2, 2)]
    trained = axes["optimizer"] != "best_of_n"
    own = axes["source_lang"] == axes["target_lang"]
    return Entry(
        axes, "done", "", estimate(random, 60, 5), estimate(random, 58, 5),
        share_in_language=estimate(random, 97, 1), length=estimate(random, 30, 4), eos=estimate(random, 99, 0.3),
        repetition=estimate(random, 1, 0.2), reward=estimate(random, 0.7, 0.1), quality=estimate(random, 0.2, 0.1),
        kl=estimate(random, 3, 0.4) if trained else None, kl_bound=None if trained else 3.2,
        curve=None if trained else Curve(*bands), versus_home=None if own else difference(random),
        versus_best=difference(random), tied=bool(random.random() < 0.2), keys=["0" * 64],
    )  # fmt: skip


def estimate(random: np.random.Generator, around: float, spread: float) -> Estimate:
    value, half = float(random.normal(around, spread)), float(abs(random.normal(spread, spread / 4)))
    return Estimate(value, value - half, value + half, half / 2, 512, 512, 1)


def difference(random: np.random.Generator) -> Difference:
    found = estimate(random, 0, 3)
    return Difference(found, found.above(0) or found.below(0), 0.5, p_holm=0.5, more=1000)


def samples(codes: list[str], panels: int, random: np.random.Generator) -> list[Sample]:
    def text(words: int) -> str:
        return " ".join(random.choice(WORDS, words))

    found = []
    for target in codes:
        prompts = [(text(60), text(14)) for _ in range(MOST_PROMPTS)]
        for panel in range(panels):
            for source in codes:
                for number, (prompt, baseline) in enumerate(prompts):
                    found.append(
                        Sample(
                            panel,
                            source,
                            target,
                            f"test-{number:04d}",
                            prompt,
                            text(14),
                            baseline,
                            (0.5, 0.1),
                            (0.7, 0.2),
                            1.0,
                            0.75,
                        )
                    )
    return found


def findings(codes: list[str]) -> list[Finding]:
    import pandas as pd

    table = pd.DataFrame(
        {"source_lang": codes, "rank": range(len(codes)), "rank_low": range(len(codes)), "rank_high": range(len(codes))}
    )
    return [Finding("ranks", "Sources ranked", table, "Made up.")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", nargs="?", help="a grid below --root; default: a made-up one")
    parser.add_argument("--root", default="outputs")
    parser.add_argument("--languages", type=int, default=30)
    parser.add_argument("--optimizers", type=int, default=3, choices=range(1, 6))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", help="folder for the made-up page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
