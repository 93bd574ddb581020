"""Releases of people's judgements, each read in its own layout from a local checkout, or as JSONL of the same rows.

multi_summeval  Koto, Lau, Baldwin 2021: resulting_data/LANG/score.csv, gold/ID, pred_BERT/ID, pred_PG/ID
beyond_ngrams   Mondshine et al. 2025: data/coherence/LANGUAGE.csv and data/consistency/LANGUAGE.csv
oasst           Open Assistant: pairs, messages or trees as JSONL, ranked lists as NAME_LANG.json; one file or a folder

Knows no config and no torch; xling/tasks/released.py makes a task of it.
"""

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import msgspec
from msgspec import Struct

from xling.errors import ConfigError, DataError, shown
from xling.tasks.render import SIDES, dialog
from xling.tasks.tables import SHOWN, Row, bad_rows, open_table, text_of
from xling.tasks.texts import Texts, blank

# --- responses that people judged, and what was wrong with others -------------------------------------------

DIGITS = 4  # of a mean rating


class Judged(NamedTuple):
    """One response with people's mean ratings, by criterion."""

    lang: str
    prompt: str  # id of the document or prompt: the same for all its responses
    group: str  # what is never split: a conversation tree; empty until `settle`: prompts with the same text
    text: str
    system: str
    response: str
    ratings: Mapping[str, float]
    corrupted: bool = False  # degraded on purpose before people saw it


@dataclass(slots=True)
class Release:
    """All rows of a release. `bad` names the first bad ones, `notes` counts by language what was left out, and why."""

    rows: list[Judged] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    n_bad: int = 0
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def reject(self, place: str, reason: str) -> None:
        """Note a bad row."""
        self.n_bad += 1
        if len(self.bad) < SHOWN:
            self.bad.append(f"{place}: {reason}")

    def add(self, place: str, row: Judged) -> None:
        """Add a complete row; one without a text or a rating is a bad row."""
        empty = [name for name in ("lang", "prompt", "text", "system", "response") if blank(getattr(row, name))]
        infinite = [f"{name}={value}" for name, value in row.ratings.items() if not -1e9 < value < 1e9]
        broken = [
            name for name in ("lang", "prompt", "group", "text", "system", "response") if "\0" in getattr(row, name)
        ]
        if empty or infinite:
            self.reject(place, f"{empty[0]} is empty" if empty else f"{infinite[0]} is no rating")
        elif broken:
            self.reject(place, f"{broken[0]} has a NUL character")
        elif not row.ratings:
            self.reject(place, "it has no rating")
        else:
            self.rows.append(row)

    def settle(self) -> None:
        """Keep responses whose text is surely the one that was rated, each once; group prompts by their text."""
        texts: dict[tuple[str, str, str], set[str]] = {}
        for row in self.rows:
            texts.setdefault((row.lang, row.prompt, row.system), set()).add(row.response)
        kept: dict[tuple[str, str, str], Judged] = {}
        for row in self.rows:
            key = (row.lang, row.prompt, row.system)
            if len(texts[key]) > 1:
                self.notes[row.lang, "responses whose rating may be that of another text of the same system"] += 1
            elif key in kept:
                self.notes[row.lang, "responses that are there twice"] += 1
            else:
                kept[key] = row
        first, texts_of = dict[tuple[str, str], str](), Texts()  # prompts are one in any Unicode form, case and spacing
        for row in sorted(kept.values(), key=lambda row: row.prompt):
            first.setdefault((row.lang, texts_of.matched(row.text)), row.prompt)
        self.rows = [
            row._replace(group=row.group or first[row.lang, texts_of.matched(row.text)]) for row in kept.values()
        ]


def read_rows(path: Path, release: Release, columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """(place, row) of a table; rows that cannot be read are rejected. With `columns`, these alone, as text.

    DataError if one of them is missing.
    """
    table = open_table(path, strict=False)
    table.require(columns)
    for number, row in table.rows():
        place = f"{path.parent.name}/{path.name} {table.unit} {number}"
        if isinstance(row, str):
            release.reject(place, row)
        else:
            yield place, {name: text_of(row.get(name)) for name in columns} if columns else row


def read_text(path: Path) -> str:
    """A whole file, white space normalised; DataError if it is not UTF-8."""
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}). Copy it again.") from error


# --- ranked replies of Open Assistant: pairs, messages, trees, lists in rank order --------------------------

# A prompt is a conversation up to the user's turn; its replies are its responses, rated minus their rank (0 is best).
# Köpf et al. 2023 (oasst1); Apache-2.0.

Turns = tuple[tuple[str, str], ...]  # (role, text)
ROLES = {"prompter": "user"}  # Open Assistant's word


class _Turn(Struct):
    role: str
    content: str


class _Message(Struct):
    message_id: str
    text: str
    role: str
    lang: str
    parent_id: str | None = None
    message_tree_id: str | None = None
    rank: int | None = None
    deleted: bool | None = False
    review_result: bool | None = True
    replies: "list[_Message]" = []


class _Tree(Struct):
    prompt: _Message
    message_tree_id: str = ""


class _Pair(Struct):
    lang: str
    tree: str
    prompt: list[_Turn]
    chosen: str
    rejected: str
    rank_chosen: int
    rank_rejected: int


class _List(Struct):
    """One prompt of an `instruction, input, output, history` file, replies in the order of their rank."""

    instruction: str
    output: list[str]
    input: str = ""
    history: list[tuple[str, str]] = []


class Replies:
    """Gathers ranks by conversation and reply; `finish` makes rows of them."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._ranks: dict[tuple[str, str, Turns], dict[str, set[int]]] = {}
        self._messages: dict[str, _Message] = {}

    def read(self, path: Path) -> None:
        """One file: JSONL of pairs, messages or trees; or a JSON list whose name ends with its language."""
        lang = path.stem.rpartition("_")[2] if path.suffix == ".json" else ""
        for place, row in read_rows(path, self._release):
            try:
                if lang:
                    self._list(lang, msgspec.convert(row, _List))
                else:
                    self._line(row)
            except msgspec.ValidationError as error:
                self._release.reject(place, str(error))

    def _line(self, row: Row) -> None:
        """A pair has `chosen`, a tree a message as `prompt`; what has neither is a message."""
        if row.get("chosen") or row.get("rejected"):
            pair = msgspec.convert(row, _Pair)
            turns = tuple((turn.role, turn.content) for turn in pair.prompt)
            self._rank(pair.lang, pair.tree, turns, pair.chosen, pair.rank_chosen)
            self._rank(pair.lang, pair.tree, turns, pair.rejected, pair.rank_rejected)
        elif isinstance(row.get("prompt"), dict):
            tree = msgspec.convert(row, _Tree)
            self._messages |= {one.message_id: one for one in _walk(tree.prompt, None, tree.message_tree_id)}
        else:
            message = msgspec.convert(row, _Message)
            self._messages[message.message_id] = message

    def _list(self, lang: str, one: _List) -> None:
        asked = "\n".join(text for text in (one.instruction, one.input) if text)
        turns = [(role, text) for pair in one.history for role, text in zip(SIDES, pair, strict=True)]
        first = turns[0][1] if turns else asked
        for rank, reply in enumerate(one.output):
            self._rank(lang, _short(first), (*turns, ("user", asked)), reply, rank)

    def _rank(self, lang: str, tree: str, turns: Turns, reply: str, rank: int) -> None:
        self._ranks.setdefault((lang, tree, turns), {}).setdefault(reply, set()).add(rank)

    def finish(self) -> None:
        """Add the rows. A text that was ranked twice, differently, under one prompt is left out."""
        for message in self._messages.values():
            self._message(message)
        for (lang, tree, turns), replies in self._ranks.items():
            for reply, ranks in replies.items():
                if len(ranks) > 1:
                    self._release.notes[lang, "replies that were ranked twice, differently"] += 1
                elif not reply.strip():
                    self._release.notes[lang, "empty replies"] += 1
                else:
                    text, ratings = _text(turns), {"rating": -float(min(ranks))}
                    name, system = f"{tree}/{_short(text)}", f"reply-{_short(reply)}"  # no name tells the rank
                    self._release.add(name, Judged(lang, name, tree, text, system, reply, ratings))

    def _message(self, message: _Message) -> None:
        """A ranked, reviewed reply in the language of its prompt."""
        if message.role != "assistant" or message.rank is None or message.deleted or message.review_result is False:
            return
        turns: list[tuple[str, str]] = []
        above = self._messages.get(message.parent_id or "")
        lang, seen = above.lang if above else "", {message.message_id}
        while above is not None:
            if above.message_id in seen:
                raise DataError(f"The message {shown(above.message_id)} is its own ancestor.")
            seen.add(above.message_id)
            turns.append((ROLES.get(above.role, above.role), above.text))
            above = self._messages.get(above.parent_id or "")
        if not turns or lang != message.lang:
            reason = "replies without their prompt" if not turns else "replies in another language than their prompt's"
            self._release.notes[message.lang, reason] += 1
            return
        self._rank(lang, message.message_tree_id or "", tuple(reversed(turns)), message.text, message.rank)


def _walk(message: _Message, parent: str | None, tree: str) -> Iterator[_Message]:
    yield msgspec.structs.replace(message, parent_id=parent, message_tree_id=tree, replies=[])
    for reply in message.replies:
        yield from _walk(reply, message.message_id, tree)


def _text(turns: Turns) -> str:
    """A single question as it is, else a paragraph a turn."""
    return turns[0][1] if len(turns) == 1 else dialog(turns, SIDES, between="\n\n", cue=False)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- the layouts --------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """A release of ratings: its kind, the files of a checkout that are read, and how; `scale` bounds every rating."""

    criteria: tuple[str, ...]  # the first is their mean
    expected: str  # what a checkout has, in words
    files: Callable[[Path], list[Path]]
    checkout: Callable[[list[Path], Release], None]
    scale: tuple[float, float] = (-1e9, 1e9)


def files_of(layout: str, path: Path) -> list[Path]:
    """The files that are read, in order; ConfigError if there are none."""
    found = [path] if path.is_file() else LAYOUTS[layout].files(path) if path.is_dir() else []
    if not found:
        raise ConfigError(
            f"task.path={path} is neither a file nor a folder with {LAYOUTS[layout].expected}. "
            f"Name a local checkout of {layout}, or its JSONL, with task.path=PATH."
        )
    return found


def read_release(layout: str, path: Path) -> Release:
    """All rows below `path`; DataError with the first ten bad ones, ConfigError as `files_of`."""
    release, files = Release(), files_of(layout, path)
    if path.is_file() and layout != "oasst":
        _jsonl(layout, path, release)
    else:
        LAYOUTS[layout].checkout(files, release)
    if release.bad:
        raise DataError(bad_rows(f"{path} has {release.n_bad} bad rows (layout {layout})", release.bad, release.n_bad))
    release.settle()
    return release


# --- JSONL of rated summaries -------------------------------------------------------------------------------


class _Line(Struct):
    """`inner_index` is Beyond N-Grams' name of the document; its `id` names the response."""

    lang: str
    system: str
    document: str
    response: str
    rating: float
    id: str | int | float = ""
    inner_index: str | int | float = ""
    corrupted: bool = False
    focus: float | None = None
    coverage: float | None = None
    coherence: float | None = None
    consistency: float | None = None


def _jsonl(layout: str, path: Path, release: Release) -> None:
    criteria, (low, high) = LAYOUTS[layout].criteria, LAYOUTS[layout].scale
    for place, found in read_rows(path, release):
        try:
            row = msgspec.convert(found, _Line)
        except msgspec.ValidationError as error:
            release.reject(place, str(error))
            continue
        ratings = {one: value for one in criteria if (value := getattr(row, one)) is not None}
        if outside := [f"{one}={value:g}" for one, value in ratings.items() if not low <= value <= high]:
            release.reject(place, f"{outside[0]} is outside the scale {low:g} to {high:g}")
            continue
        name = f"{row.lang}-{text_of(row.inner_index)}" if row.inner_index else text_of(row.id)
        judged = Judged(row.lang, name, "", row.document, row.system, row.response, ratings, row.corrupted)
        release.add(place, judged)


# --- Multi_SummEval -----------------------------------------------------------------------------------------

SYSTEMS = {"BERT": "bert-sum", "PG": "pointer-generator"}
FILE = re.compile(r"(?!\.+$)[\w.-]{1,100}", re.ASCII)  # an id names a file of the folder, and none that is too long


def _multi_summeval_files(path: Path) -> list[Path]:
    root = path / "resulting_data" if (path / "resulting_data").is_dir() else path
    tables = sorted(root.glob("??/score.csv"))
    kinds = ("gold", *(f"pred_{model}" for model in SYSTEMS))
    return [
        file for table in tables for file in (table, *(f for k in kinds for f in sorted(table.parent.glob(f"{k}/*"))))
    ]


def _multi_summeval(files: list[Path], release: Release) -> None:
    for table in (file for file in files if file.name == "score.csv"):
        for place, row in read_rows(table, release, ("id", "model", "focus", "coverage")):
            if not FILE.fullmatch(row["id"]) or row["model"] not in SYSTEMS:
                release.reject(place, f"no text of id {row['id']!r:.60} and model {row['model']!r:.60}")
                continue
            texts = [table.parent / kind / row["id"] for kind in ("gold", f"pred_{row['model']}")]
            missing = [f"{text.parent.name}/{text.name}" for text in texts if not text.is_file()]
            try:
                focus, coverage = float(row["focus"]), float(row["coverage"])
            except ValueError:
                release.reject(place, f"focus {shown(row['focus'])}, coverage {shown(row['coverage'])}")
                continue
            if missing:
                release.reject(place, f"there is no {missing[0]}")
                continue
            ratings = {"rating": (focus + coverage) / 2, "focus": focus, "coverage": coverage}
            ratings = {name: round(value, DIGITS) for name, value in ratings.items()}
            lang, (document, response) = table.parent.name, map(read_text, texts)
            name, system = f"{lang}-{row['id']}", SYSTEMS[row["model"]]
            release.add(place, Judged(lang.lower(), name, "", document, system, response, ratings))


# --- Beyond N-Grams -----------------------------------------------------------------------------------------

LANGUAGES = {
    "arabic": "ar",
    "chinese": "zh",
    "hebrew": "he",
    "indonesian": "id",
    "japanese": "ja",
    "spanish": "es",
    "turkish": "tr",
    "ukrainian": "uk",
    "yoruba": "yo",
}
SCORES = {"coherence": "coherence_{}", "consistency": "{}_grade"}  # criterion -> column of a system's scores


def _beyond_ngrams_files(path: Path) -> list[Path]:
    root = path / "data" if (path / "data").is_dir() else path
    tables = [root / criterion / f"{language}.csv" for criterion in SCORES for language in LANGUAGES]
    return [table for table in tables if table.is_file()]


def _beyond_ngrams(files: list[Path], release: Release) -> None:
    """A text is rated for coherence, for consistency or for both, each in its own table."""
    means: dict[tuple[str, str, str, str, str, bool], dict[str, float]] = {}
    for table in files:
        criterion, lang = table.parent.name, LANGUAGES[table.stem]
        for system in ("gemini", "gpt"):
            score = SCORES[criterion].format(system)
            shown, original = f"{system}_corrupted_summary", f"orig_{system}_prediction"
            for place, row in read_rows(table, release, ("inner_index", "text", score, shown, original)):
                scores = _scores(row[score])
                if scores is None:
                    release.reject(place, f"{score} is {row[score]!r:.60}, which is no list of scores from 1 to 4")
                elif scores:
                    name, text = f"{lang}-{row['inner_index'].removesuffix('.0')}", row["text"].strip()
                    degraded = bool(row[original].strip())  # what it was before is there
                    key = (lang, name, text, system, row[shown].strip(), degraded)
                    means.setdefault(key, {})[criterion] = fmean(scores)
    for (lang, name, text, system, response, degraded), found in means.items():
        ratings = {"rating": fmean(found.values()), **found}
        ratings = {criterion: round(mean, DIGITS) for criterion, mean in ratings.items()}
        release.add(f"{lang} {name} {system}", Judged(lang, name, "", text, system, response, ratings, degraded))


def _scores(cell: str) -> list[float] | None:
    """`['4', '3']` as numbers, nothing for an empty cell, None for what is neither."""
    if cell.strip().lower() in ("", "nan"):
        return []
    try:
        values = [float(value) for value in ast.literal_eval(cell)]
    except (ValueError, SyntaxError, TypeError):
        return None
    return values if all(1 <= value <= 4 for value in values) else None


# --- Open Assistant -----------------------------------------------------------------------------------------


def _oasst_files(path: Path) -> list[Path]:
    named = re.compile(r".*\.jsonl(\.gz)?|.*_[a-z]{2}\.json")
    return sorted(file for file in path.iterdir() if file.is_file() and named.fullmatch(file.name))


def _oasst(files: list[Path], release: Release) -> None:
    replies = Replies(release)
    for file in files:
        replies.read(file)
    replies.finish()


LAYOUTS = {
    "multi_summeval": Layout(
        ("rating", "focus", "coverage"), "resulting_data/LANG/score.csv", _multi_summeval_files, _multi_summeval
    ),
    "beyond_ngrams": Layout(
        ("rating", "coherence", "consistency"),
        "data/coherence/LANGUAGE.csv",
        _beyond_ngrams_files,
        _beyond_ngrams,
        (1.0, 4.0),
    ),
    "oasst": Layout(("rating",), "NAME.jsonl or NAME_LANG.json", _oasst_files, _oasst),
}
