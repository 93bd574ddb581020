"""`xling sheet export`: sheets of pairs for annotators, and the key that stays with the researcher.

    FOLDER/sheet.csv, sheet.html     what an annotator gets, one or the other; `sheet_LANG_K` where there are several
           key.json                  what they hide: never to be sent along

A pair that several cells share (two reward models that picked the same sample) is asked once. Languages have sheets
of their own, since few people read all; of several annotators each gets the same pairs in an order, with sides, of
their own. The same command gives the same bytes, since all is drawn by the seed and by what no annotator has: whose the
responses are, and what the judges said of them.
"""

import hashlib
import html
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from xling.analysis.matrix.verdicts import many
from xling.console import direction, shown
from xling.errors import ConfigError, StoreError, did_you_mean
from xling.grid.files import disk_error, is_plain, json_bytes, write_atomically
from xling.grid.records import PlannedCell
from xling.grid.store import Store
from xling.judges import judges_its_own
from xling.results.plan import Plan, Results, axes_text, read_plan
from xling.results.reading import SampleReader
from xling.sheets.key import (
    CELL_LIMIT,
    NAME,
    CellKey,
    Key,
    Pair,
    Row,
    SheetKey,
    Side,
    csv_bytes,
    digest,
    guarded,
    identified,
    key_bytes,
)
from xling.webpage import filled, json_in_html, policy

COLUMNS = ("id", "language", "prompt", "response_a", "response_b", "preference", "comment")
TEMPLATE = Path(__file__).with_name("page.html")
QUESTION = "Which response is better?"
SHORT = {"source": "source_lang", "target": "target_lang"}
Filters = Mapping[str, frozenset[str]]
_LETTERS = "bcdfghjklmnpqrstvwxz"  # ids that are no words, no numbers and no dates


@dataclass(frozen=True, slots=True)
class Chosen:
    """A finished cell that was asked for."""

    axes: dict[str, str]
    cell: PlannedCell


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of a cell, texts as they are shown."""

    lang: str
    prompt: str
    group: str
    dataset: str
    text: str
    policy: str
    baseline: str
    point: float  # what the cell's judge says: 1 the policy's response is better, 0.5 a tie, 0


@dataclass(frozen=True, slots=True)
class Texts:
    """One row of a sheet as people see it."""

    id: str
    lang: str
    prompt: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Options of `xling sheet export`."""

    n: int = 100  # prompts a cell
    seed: int = 0
    annotators: int = 1
    question: str = QUESTION

    def check(self) -> None:
        for name in ("n", "annotators"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)} does not fit: expected a whole number >= 1.")


@dataclass(frozen=True, slots=True)
class Exported:
    key: Key
    unfinished: int  # cells that were asked for and have no verdicts yet
    too_long: int  # pairs with a text that a cell of Excel does not hold


def export(store: Store, name: str, filters: Filters, folder: Path, asked: Asked) -> Exported:
    """Write the sheets of a grid's finished cells and their key into a folder.

    ConfigError: a cell or value that the grid has not, or a folder that holds another sheet.
    """
    asked.check()
    plan = read_plan(store.grid_folder(name))
    results = Results(store, plan)
    chosen, unfinished = choose(plan, results, filters)
    reader = Reader(store, asked.seed)
    drawn = [reader.questions(one, asked.n) for one in chosen]
    key, pairs = build_key(name, chosen, drawn, asked)
    if not any(sheet.rows for sheet in key.sheets):
        raise ConfigError("All responses of these cells are identical to the baseline's: there is nothing to ask.")
    rows = {sheet.name: texts_of(sheet, pairs) for sheet in key.sheets}
    files = {NAME: key_bytes(key)}
    for sheet, texts in rows.items():
        files[f"{sheet}.csv"] = sheet_csv(texts)
        files[f"{sheet}.html"] = page_bytes(key, sheet, texts)
    _write(folder, files)
    return Exported(key, unfinished, sum(map(_too_long, pairs)))


def build_key(
    grid: str, chosen: Sequence[Chosen], drawn: Sequence[Sequence[Question]], asked: Asked
) -> tuple[Key, list[Question]]:
    """The key, and the texts of its pairs: each different pair once, whichever cells share it."""
    place: dict[tuple[str, ...], int] = {}
    pairs: list[Question] = []
    cells = []
    for one, questions in zip(chosen, drawn, strict=True):
        found = []
        for q in questions:
            number = place.setdefault((q.lang, q.prompt, q.text, q.policy, q.baseline), len(pairs))
            if number == len(pairs):
                pairs.append(q)
            found.append(number)
        decided = one.cell.stages.get("verdict", one.cell.judge)
        points = [q.point for q in questions]
        cells.append(CellKey(one.axes, one.cell.judge.key, decided.key, found, points, judges_its_own(one.cell.stages)))
    hidden = [
        Pair(q.lang, q.prompt, q.group, q.dataset, digest(q.text), digest(q.policy), digest(q.baseline)) for q in pairs
    ]
    secret = hashlib.sha256(json_bytes([asked.seed, hidden, cells])).hexdigest()
    sheets = make_sheets(pairs, asked, secret)
    return identified(Key("", grid, asked.seed, asked.n, asked.question, hidden, cells, sheets)), pairs


def make_sheets(pairs: Sequence[Question], asked: Asked, secret: str) -> list[SheetKey]:
    """One sheet a language and annotator: rows shuffled, sides by a coin, ids by chance.

    All three are drawn by the secret, each apart: ids and order are seen, and must not tell of the coins.
    """
    by_lang: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        if pair.policy != pair.baseline:
            by_lang.setdefault(pair.lang, []).append(number)
    sheets = []
    taken: set[str] = set()
    for lang, numbers in sorted(by_lang.items()):
        for annotator in range(1, asked.annotators + 1):
            name = "_".join(
                ["sheet", *([lang] if len(by_lang) > 1 else []), *([str(annotator)] if asked.annotators > 1 else [])]
            )
            rows, ids, coins = (random.Random(f"{secret}/{name}/{what}") for what in ("rows", "ids", "coins"))
            order = list(numbers)
            rows.shuffle(order)
            sheets.append(SheetKey(name, lang, [Row(_new_id(ids, taken), i, _coin(coins)) for i in order]))
    return sheets


def _new_id(chance: random.Random, taken: set[str]) -> str:
    while (name := "".join(chance.choices(_LETTERS, k=8))) in taken:
        pass
    taken.add(name)
    return name


def _coin(chance: random.Random) -> Side:
    return "A" if chance.random() < 0.5 else "B"


def texts_of(sheet: SheetKey, pairs: Sequence[Question]) -> list[Texts]:
    """The rows as people see them."""
    rows = []
    for row in sheet.rows:
        pair = pairs[row.pair]
        a, b = (pair.policy, pair.baseline) if row.policy == "A" else (pair.baseline, pair.policy)
        rows.append(Texts(row.id, pair.lang, pair.text, a, b))
    return rows


def sheet_csv(rows: Sequence[Texts]) -> bytes:
    """The table to fill in: `preference` takes A, B or tie."""
    texts = [[row.id, row.lang, *map(guarded, (row.prompt, row.a, row.b)), "", ""] for row in rows]
    return csv_bytes([COLUMNS, *texts])


def summary(written: Exported, folder: Path) -> list[str]:
    """Sentences that are printed after an export."""
    key = written.key
    identical = sum(key.pairs[pair].identical for cell in key.cells for pair in cell.pairs)
    drawn = sum(len(cell.pairs) for cell in key.cells)
    rows = sum(not pair.identical for pair in key.pairs)
    lines = [
        f"Grid {key.grid}, {many(len(key.cells), 'cell')} with {many(drawn, 'prompt')} in all: {identical} "
        f"have identical responses (ties, nobody is asked), the other {drawn - identical} are "
        f"{many(rows, 'different pair')}."
    ]
    if written.unfinished:
        left = (
            "1 cell is left out: it is"
            if written.unfinished == 1
            else f"{written.unfinished} cells are left out: they are"
        )
        lines.append(f"{left} not finished.")
    short = [cell for cell in key.cells if sum(not key.pairs[pair].identical for pair in cell.pairs) < key.n]
    if short:
        lines.append(
            f"{len(short)} of the cells have fewer than {key.n} prompts with different responses: all are there."
        )
    if written.too_long:
        lines.append(
            f"{written.too_long} pairs are too long for a cell of Excel ({CELL_LIMIT} characters): use the page."
        )
    lines += [f"{folder / sheet.name}.html or .csv: {len(sheet.rows)} rows in {sheet.lang}" for sheet in key.sheets]
    return [*lines, f"{folder / NAME}: what they hide. Keep it, and send annotators the sheets alone."]


def _too_long(pair: Question) -> bool:
    return max(map(len, (pair.text, pair.policy, pair.baseline))) >= CELL_LIMIT


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Those that are missing, the key last. What is there stays: answers may be in it, or on their way."""
    try:
        for name in files:
            if not is_plain(name):
                raise StoreError(f"The grid's plan leads to a sheet '{name}', which would be written elsewhere.")
        folder.mkdir(parents=True, exist_ok=True)
        there = {name: (folder / name).read_bytes() for name in files if (folder / name).exists()}
        if there.get(NAME, files[NAME]) != files[NAME]:
            raise ConfigError(f"'{folder}' holds another sheet already. Name another folder with --out FOLDER.")
        for name, content in there.items():
            if content != files[name]:
                raise ConfigError(
                    f"'{folder / name}' was changed after the export, answers may be in it. Move it elsewhere, or "
                    "name another folder with --out FOLDER."
                )
        for name in sorted(files.keys() - there.keys(), key=lambda name: (name == NAME, name)):
            write_atomically(folder / name, files[name])
    except OSError as error:
        raise disk_error(error, folder) from error


# --- cells and their questions ------------------------------------------------------------------------------
# Read from finished stages by the roles that the plan gives them: `pool` has the policy's responses (best-of-n picks
# one of them; a trained policy has no pick, its first is taken), `baseline` the opponent's, `verdict` the judge's
# scores, or what a language model said of pairs: then people are asked about one of those.


def parse_filters(words: Sequence[str]) -> Filters:
    """`source=en,tr,target=de` -> axis to values; a word without `=` is one more value. ConfigError if it is none."""
    found: dict[str, set[str]] = {}
    axis = ""
    for word in map(str.strip, ",".join(words).split(",") if words else []):
        name, equals, value = word.partition("=")
        if equals:
            axis = SHORT.get(name, name)
        value = value if equals else word
        if not axis or not value:
            raise ConfigError(
                f"--cells {' '.join(words)}: '{word}' does not fit. Type axis=value, as in --cells source=en,target=de."
            )
        found.setdefault(axis, set()).add(value)
    return {name: frozenset(values) for name, values in found.items()}


def choose(plan: Plan, results: Results, filters: Filters) -> tuple[list[Chosen], int]:
    """The finished cells that the filters leave, by target, and how many of those asked for are not finished.

    ConfigError for an axis or a value that the grid has not, and where nothing is left.
    """
    cells = [Chosen(axes_text(cell.axes), cell) for cell in plan.cells]
    for axis, values in filters.items():
        known = sorted({one.axes.get(axis, "") for one in cells} - {""})
        if not known:
            axes = sorted({name for one in cells for name, value in one.axes.items() if value})
            raise ConfigError(
                f"--cells {axis}=...: grid {plan.name} has no axis '{axis}'.{did_you_mean(axis, axes)} "
                f"It has {', '.join(axes)}; source and target are short for source_lang and target_lang."
            )
        for value in sorted(values - set(known)):
            raise ConfigError(
                f"--cells {axis}={value}: grid {plan.name} has no such cell.{did_you_mean(value, known)} "
                f"Its values of {axis} are {', '.join(known)}."
            )
    asked = [one for one in cells if all(one.axes.get(axis, "") in values for axis, values in filters.items())]
    done = [one for one in asked if results.outcome(one.cell.judge)[0] == "done"]
    if not done:
        state = f"none of the {len(asked)} cells asked for is finished" if asked else "no cell fits all of --cells"
        raise ConfigError(f"Grid {plan.name}: {state}. `xling status {plan.name}` shows how it stands.")
    return sorted(done, key=lambda one: one.axes["target_lang"]), len(asked) - len(done)


class Reader:
    """Reads the questions of cells; prompts and samples that cells share are read once, in the order of targets."""

    def __init__(self, store: Store, seed: int) -> None:
        self._samples, self._seed = SampleReader(store), seed

    def questions(self, chosen: Chosen, n: int) -> list[Question]:
        """Prompts of a cell in a random order of its target's own, until n of them have different responses.

        The order and the baseline response follow from seed, language and prompt: cells of a target share both, as far
        as their judges compared with the same of the baseline's responses. Left out is what the judge did not answer.
        """
        cell, lang = chosen.cell, chosen.axes["target_lang"]
        samples = self._samples.cell(cell.judge, cell.stages)
        judged = {
            prompt for prompt, win in zip(samples.items.prompt, samples.items.win, strict=True) if win is not None
        }
        questions: list[Question] = []
        for prompt in self._order(lang, samples.all_prompts()):
            if prompt not in judged:
                continue
            one = samples.read(prompt)
            if one.text is None:
                raise StoreError(f"Prompt {prompt!r} of target {lang} is not in the task's data any more.")
            # of a judge that compares no two responses the prompt's win counts
            points = dict.fromkeys(range(len(one.opponents)), one.win) if one.points is None else one.points
            other, point = random.Random(f"{self._seed}/{lang}/{prompt}").choice(list(points.items()))
            if point is None:
                continue
            policy, opponent = shown(one.response), shown(one.opponents[other])
            identical = policy == opponent
            what = (lang, prompt, one.group, one.dataset)
            questions.append(Question(*what, shown(one.text), policy, opponent, 0.5 if identical else point))
            n -= not identical
            if n == 0:
                break
        return questions

    def _order(self, lang: str, prompts: Sequence[str]) -> list[str]:
        """All prompts of the target, so that none moves where a cell lacks another."""
        order = sorted(prompts)
        random.Random(f"{self._seed}/{lang}").shuffle(order)
        return order


# --- sheet.html -------------------------------------------------------------------------------------------
# The page is page.html; here the sheet's rows are put in (xling/webpage.py says how that is safe): one file that an
# annotator opens from the disk, without a network, and that nothing can get out of.


def page_bytes(key: Key, sheet: str, rows: Sequence[Texts]) -> bytes:
    """The page of a sheet, UTF-8."""
    data = {
        "key": key.id,
        "sheet": sheet,
        "question": key.question,
        "rows": [
            {"id": row.id, "lang": row.lang, "texts": [row.prompt, row.a, row.b], "directions": directions(row)}
            for row in rows
        ],
    }
    parts = {"POLICY": policy(_template()), "TITLE": html.escape(f"{sheet} {key.id}"), "DATA": json_in_html(data)}
    return filled(_template(), parts).encode()


def directions(row: Texts) -> list[str]:
    """Of prompt and responses: a response may be in another script than it should."""
    return [direction(text) for text in (row.prompt, row.a, row.b)]


@lru_cache(maxsize=1)
def _template() -> str:
    return TEMPLATE.read_text(encoding="utf-8")
