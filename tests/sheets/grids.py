"""Finished grids to export from, by the real planner, stages and store; and annotators that answer by a rule."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from small_grid import experiment

from xling.config.common import pooled
from xling.config.policies import Recorded
from xling.experiment import Experiment
from xling.grid.plan import make_plan
from xling.grid.records import Sheet
from xling.grid.store import Store
from xling.judges.human import Settings as Human
from xling.optimizers.best_of_n import Settings as BestOfN
from xling.planning import KINDS
from xling.planning.dag import cells_from
from xling.results.plan import ENTRY_AXES
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.runners.execute import Executor, Job
from xling.sheets.export import Asked, export, parse_filters
from xling.sheets.imports import Result, import_answers
from xling.sheets.key import csv_bytes, read_key
from xling.tasks.files import Settings as Files

Row = dict[str, str]
LANGS = ("ar", "en")
HOSTILE = [
    "<script>document.title = 'pwned'</script>",
    "</script><script>document.title = 'pwned'</script>",
    "<img src=x onerror=\"document.title = 'pwned'\"> and <b>bold</b>",
    "<!--<script>{{DATA}} &lt; \\u003c \u2028 a \u2029 b",
    "\x00nul \x1b[31mred\x07 \x7f and \u202eright to left",
    '=HYPERLINK("http://example.com", "click")',
    "+1-800 call",
    "@SUM(A1:A9)",
    "-2+3",
    "'quoted",
    "3/4",
    "00120",
    "two\r\nlines, a \"quote\"; a semicolon\tand a tab",
    "",
]  # fmt: skip


def rows_with_traps(prompts: int = 20) -> list[dict[str, Any]]:
    """Three systems answer in Arabic and English; system c with what breaks tables and pages."""
    begin = {"ar": "لخص المقال عن", "en": "Summarise the article on"}
    good = {"ar": "هذا ملخص جيد عن", "en": "This is a good summary of"}
    bad = {"ar": "لا أعرف شيئا", "en": "I do not know anything"}
    return [
        {
            "id": f"{lang}{d:03}",
            "lang": lang,
            "prompt": f"{begin[lang]} {d} <i>&amp;</i>",
            "response": {"a": f"{good[lang]} {d}", "b": bad[lang], "c": HOSTILE[d % len(HOSTILE)]}[system],
            "system": system,
            "rating": {"a": 2, "b": 1, "c": d % 3}[system],
        }
        for lang in LANGS
        for d in range(prompts)
        for system in "abc"
    ]


def recorded_grid(root: Path) -> Store:
    """Bag of words from Arabic and English on recorded responses, judged by people's ratings: 2x2, no torch."""
    data = root / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_with_traps()), encoding="utf-8")
    task = Files(path=str(data), languages=LANGS)

    def cell(source: str, target: str) -> Experiment:
        asked = experiment(Path("unused"), source, target, rm=BagOfWords())
        return msgspec.structs.replace(asked, task=task, policy=Recorded(), judge=Human(), optimizer=BestOfN())

    return run(root, [cell(source, target) for source in LANGS for target in LANGS])


def run(root: Path, asked: Sequence[Experiment], name: str = "g") -> Store:
    """All stages of the experiments, in this process, as a worker runs them."""
    store = Store(root)
    store.prepare()
    cells = cells_from([msgspec.structs.replace(one, axes=axes_of(one)) for one in asked])
    plan = make_plan(cells, store, name=name)
    plan.write()
    worker = Executor(store, KINDS)
    for stage in plan.to_run:
        report = worker.execute(Job(stage.key, Sheet.of(stage)))
        assert report.event == "done", report
    return store


def axes_of(asked: Experiment) -> Mapping[str, Any]:
    source = pooled(language.code for language in asked.source_langs)
    backbone = type(asked.rm_backbone).__name__.lower()
    values = ("toy", "toy", backbone, source, asked.target_lang.code, "best_of_n", asked.judge.name)
    return {**dict(zip(ENTRY_AXES, values, strict=True)), "seed": asked.seed}


# --- annotators ---------------------------------------------------------------------------------------------


def table(path: Path) -> list[Row]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def filled(sheet: Path, out: Path, answer: Callable[[int, Row], str], **columns: str) -> Path:
    """The sheet with a preference in each row, written as it is read."""
    rows = [row | {"preference": answer(number, row)} | columns for number, row in enumerate(table(sheet))]
    return written(out, rows)


def written(out: Path, rows: Sequence[Row]) -> Path:
    out.write_bytes(csv_bytes([list(rows[0]), *(list(row.values()) for row in rows)]))
    return out


def prefers_policy(folder: Path) -> Callable[[int, Row], str]:
    """Somebody who knows the key: always the aligned policy."""
    side = {row.id: row.policy for sheet in read_key(folder).sheets for row in sheet.rows}
    return lambda _, row: side[row["id"]]


# --- there and back -----------------------------------------------------------------------------------------


def with_sheets(original: Store, tmp_path: Path, asked: Asked, *cells: str) -> Store:
    shutil.copytree(original.root, tmp_path / "root")
    store = Store(tmp_path / "root")
    export(store, "g", parse_filters(cells), tmp_path / "sheets", asked)
    return store


def take(store: Store, *paths: Path, replace: bool = False) -> Result:
    return import_answers(store, store.root.parent / "sheets", paths, replace)


def sheet(store: Store, name: str = "sheet") -> Path:
    return store.root.parent / "sheets" / f"{name}.csv"
