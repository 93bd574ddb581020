"""Data files as they come: what says the same is read the same, and what is damaged is refused in a sentence.

Tables are made, written in every form that means the same, damaged in every way that happens (bytes, encodings,
separators, quotes, nesting, types, Unicode forms, missing columns), and read by `task=files` and by the readers of the
releases. Nothing but an XlingError may come out, no error may be long, and no damage may change a rating in silence.
How many are tried: tests/fuzz/conftest.py.
"""

import csv
import gzip
import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oasst_files import tree
from own_files import jsonl, parquet
from releases import benchmark, beyond_ngrams, message, multi_summeval
from releases import rated as judged
from seahorse_files import plain_rows, write_ratings

from xling.errors import XlingError
from xling.planning.datacheck import check_data
from xling.tasks import files, m_rewardbench, oasst, seahorse_files
from xling.tasks.files import Settings as Files
from xling.tasks.layouts import read_release
from xling.tasks.m_rewardbench import Settings as MRewardBench
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.reading import read_rows
from xling.tasks.rows import Columns, Reading, Row
from xling.tasks.seahorse import Settings as Seahorse
from xling.tasks.tables import open_table

LONGEST = 6000  # characters of an error: ten bad rows, each with its reason
KNOWN = ["de", "en", "tr", "zh"]

FRESH = itertools.count()  # a name of its own for each file: what is read is remembered by name, size and time


def fresh(folder: Path, name: str) -> Path:
    """A path that no input had before."""
    below = folder / f"n{next(FRESH)}"
    below.mkdir()
    return below / name


# --- values -------------------------------------------------------------------------------------------------

# Letters that compose, join, show nothing or stand for others, what CSV and JSON are made of, and plain words.
PLAIN = "abzAZ019 .,;:|\t\n\r\"'\\/{}[]<>äöüßéñ"
ODD = ("e\u0301", "\u00a0", "\u200b", "\ufeff", "\u2028", "ﬁ", "Å", "中", "ع", "\u200d", "🙂", "\x0b", "\x1f", "\x85")
TEXTS = st.lists(st.sampled_from([*PLAIN, *ODD]), min_size=1, max_size=12).map("".join)
TOLD = ("nan", "None", "", " ", "1.0", "4,5", "1e999", "true", "de", "DE", "x" * 5000, 10**30, "a\0", "\u200b")
WRITTEN = ("[{'role': 'user', 'content': 'x'}]", '[{"role": "assistant", "content": "y"}]')
PARTS = st.sampled_from(["role", "content", "a"])
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | TEXTS
    | st.sampled_from(TOLD + WRITTEN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rated responses of two systems to a few prompts, in one language or two."""
    rows = []
    for number, prompt in enumerate(draw(st.lists(TEXTS, min_size=2, max_size=5))):
        for system in "ab":
            rows.append(
                {
                    "id": f"p{number}",
                    "lang": draw(st.sampled_from(["de", "en"])) if draw(st.booleans()) else "de",
                    "prompt": f"{number} {prompt}",
                    "system": system,
                    "response": f"{system} {draw(TEXTS)}",
                    "rating": draw(st.integers(0, 5) | st.sampled_from([0.5, -1.25, 1e-3])),
                }
            )
    return rows


# --- forms that say the same --------------------------------------------------------------------------------


def _cells(rows: list[dict[str, Any]], separator: str, quoting: Any, end: str, comma: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            [str(cell).replace(".", ",") if comma and isinstance(cell, float) else cell for cell in row.values()]
        )
    return text.getvalue()


def _lines(rows: list[dict[str, Any]], **how: Any) -> str:
    return "".join(json.dumps(row, **how) + "\n" for row in rows)


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "escaped.jsonl": lambda rows: _lines(rows).encode(),
    "reordered.jsonl": lambda rows: _lines([dict(reversed(row.items())) for row in rows], ensure_ascii=False).encode(),
    "mark.jsonl": lambda rows: _lines(rows, ensure_ascii=False).encode("utf-8-sig"),
    "wide.jsonl": lambda rows: _lines(rows, ensure_ascii=False).encode("utf-16"),
    "spaced.jsonl": lambda rows: _lines(rows, separators=(" ,\t", " :  ")).replace("\n", "\r\n \n").encode(),
    "zipped.jsonl.gz": lambda rows: gzip.compress(_lines(rows).encode()),
    "text.jsonl": lambda rows: _lines([row | {"rating": str(row["rating"])} for row in rows]).encode(),
    "array.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "comma.csv": lambda rows: _cells(rows, ",", csv.QUOTE_MINIMAL, "\r\n").encode(),
    "quoted.csv": lambda rows: _cells(rows, ",", csv.QUOTE_ALL, "\n").encode("utf-8-sig"),
    "excel.csv": lambda rows: _cells(rows, ";", csv.QUOTE_NONNUMERIC, "\r\n", comma=True).encode("utf-8-sig"),
    "told.csv": lambda rows: ("sep=|\r\n" + _cells(rows, "|", csv.QUOTE_ALL, "\r\n")).encode(),
    "unicode.csv": lambda rows: _cells(rows, "\t", csv.QUOTE_ALL, "\r\n").encode("utf-16"),
    "tabs.tsv": lambda rows: _cells(rows, "\t", csv.QUOTE_NONNUMERIC, "\n").encode(),
}  # fmt: skip
# What each says of a row, beside its place.
SAID = tuple(name for name in Row.__struct_fields__ if name != "place")


def said(path: Path, **settings: Any) -> tuple[set[tuple[Any, ...]], int]:
    """All good rows, and the number of bad ones."""
    rows = read_rows([path], Reading(**settings))
    return {tuple(getattr(row, name) for name in SAID) for own in rows.languages.values() for row in own}, rows.n_bad


@given(tables(), st.sampled_from(sorted(FORMS)), st.randoms(use_true_random=False))
def test_files_that_say_the_same_are_read_the_same(
    tmp_path: Path, rows: list[dict[str, Any]], form: str, how: Any
) -> None:
    plain = said(jsonl(tmp_path / "plain.jsonl", rows))
    path = tmp_path / form
    path.write_bytes(FORMS[form](rows))
    found = said(path)
    assert found[0] == plain[0] and found[1] == plain[1]
    how.shuffle(rows)
    if not plain[1]:  # of contradicting rows the first is kept
        assert said(jsonl(tmp_path / "other.jsonl", rows)) == plain
    if form == "array.json":  # the slowest of all to write
        assert said(parquet(tmp_path / "f.parquet", [row | {"rating": float(row["rating"])} for row in rows])) [0] == {
            tuple(getattr(row, name) for name in SAID)
            for own in read_rows([jsonl(tmp_path / "g.jsonl", rows)], Reading()).languages.values() for row in own
        }  # fmt: skip


# --- damage -------------------------------------------------------------------------------------------------


MARKS = (b'"', b",", b";", b"\n", b"\r", b"\0", b"{", b"}", b"[", b"-", b"\xe4", b"\xff\xfe", b"\xef\xbb\xbf")
WORDS = (b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"null", b"true", b'"id":"p0",', b"9" * 5000, b"[" * 3000)
PUT = MARKS + WORDS


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few bytes changed, cut, doubled or put in; or the whole in another encoding."""
    kind = draw(st.sampled_from(["flip", "cut", "put", "double", "drop", "encoding", "swap"]))
    where, more = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    put = draw(st.binary(min_size=1, max_size=4) | st.sampled_from(PUT))
    encoding = draw(st.sampled_from(["latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252", "utf-7"]))

    def damaged(content: bytes) -> bytes:
        a, b = sorted((int(where * len(content)), int(more * len(content))))
        if kind == "encoding":
            return content.decode(errors="replace").encode(encoding, errors="replace")
        if kind == "swap":
            lines = content.split(b"\n")
            return b"\n".join([lines[-1], *lines[1:-1], lines[0]])
        changed = {
            "flip": content[:a] + bytes([content[a] ^ (1 << int(more * 7))]) + content[a + 1 :]
            if a < len(content)
            else b"",
            "cut": content[:a],
            "put": content[:a] + put + content[a:],
            "double": content[:b] + content[a:],
            "drop": content[:a] + content[b:],
        }
        return changed[kind]

    return damaged


def refused(read: Callable[[], Any]) -> str:
    """What an XlingError says, which is short; nothing if it is read. Any other exception is the fault we look for."""
    try:
        read()
    except XlingError as error:
        assert 0 < len(str(error)) < LONGEST
        return str(error)
    return ""


@given(tables(), st.sampled_from(sorted(FORMS)), st.lists(damages(), min_size=1, max_size=3))
def test_damaged_files_are_refused_in_a_sentence_or_read(
    tmp_path: Path, rows: list[dict[str, Any]], form: str, damage: list[Callable[[bytes], bytes]]
) -> None:
    path, content = fresh(tmp_path, form), FORMS[form](rows)
    for one in damage:
        content = one(content)
    path.write_bytes(content)
    for bad_rows in ("refuse", "skip"):
        config = Files(path=str(path), languages=(), bad_rows=bad_rows, validation=0.2, test=0.2)  # type: ignore[arg-type]
        if not refused(lambda config=config: files.summary(config, KNOWN)):  # type: ignore[misc]
            for lang in files.languages(config):
                for use in ("recorded", "pairwise", "pointwise", "prompts"):
                    refused(lambda config=config, lang=lang, use=use: files.require(config, [lang], use))  # type: ignore[misc]


@given(
    tables(),
    st.floats(0, 1),
    st.sampled_from(["reorder", "null", "blank", "again", "cut"]),
    st.sampled_from(sorted(FORMS)),
)
def test_no_damage_changes_a_rating_in_silence(
    tmp_path: Path, rows: list[dict[str, Any]], where: float, kind: str, form: str
) -> None:
    """Whatever is left out, doubled or cut: a row that is read is one of the original's, rating and all."""
    path, at = tmp_path / form, min(int(where * len(rows)), len(rows) - 1)
    before, n_bad = said(jsonl(tmp_path / "plain.jsonl", rows))
    changed = [dict(row) for row in rows]
    if kind == "cut":
        content = FORMS[form](rows)
        path.write_bytes(content[: int(where * len(content))])
    else:
        changed = {
            "reorder": changed[::-1],
            "null": [row | ({"rating": ""} if n == at else {}) for n, row in enumerate(changed)],
            "blank": [row | ({"response": " \u200b"} if n == at else {}) for n, row in enumerate(changed)],
            "again": [*changed, changed[at]],
        }[kind]
        path.write_bytes(FORMS[form](changed))
    if n_bad:
        return  # of contradicting rows the first is kept
    try:
        after, _ = said(path)
    except XlingError:
        return
    known = {row[:-4] for row in before}
    extra = {(*row,) for row in after} - before
    if kind == "cut":  # the last cell of what no quote closes may be cut: a row of CSV has no end of its own
        assert len(extra) <= (1 if form.endswith((".csv", ".tsv")) else 0)
    elif kind == "blank":
        assert all(row[SAID.index("response")] == " \u200b" for row in extra) and len(extra) <= 1
    else:
        assert not extra, known


ROLES = ("id", "lang", "language", "prompt", "document", "messages", "response", "system", "chosen", "rejected")
COLUMNS = st.sampled_from((*ROLES, "group", "split", "dataset", "rating", "other", ""))
ROWS = st.lists(st.dictionaries(COLUMNS, ANYTHING, max_size=9), min_size=1, max_size=4)


@given(ROWS, st.booleans(), st.booleans())
def test_any_values_in_any_columns(tmp_path: Path, rows: list[dict[str, Any]], whole: bool, plain: bool) -> None:
    text = json.dumps(rows) if whole else _lines(rows)
    path = fresh(tmp_path, "f.json" if whole else "f.jsonl")
    path.write_text(text, encoding="utf-8")
    columns = Columns() if plain else Columns(id=None, group=None, response=None)
    config = Files(path=str(path), languages=() if plain else ("de",), bad_rows="skip", columns=columns)
    for known in (None, KNOWN):
        refused(lambda known=known: files.summary(config, known))  # type: ignore[misc]
    refused(lambda: check_data("files", config, []))
    rows_read = None
    if not refused(lambda: read_rows([path], Reading(columns=columns, lang="" if plain else "de"))):
        rows_read = read_rows([path], Reading(columns=columns, lang="" if plain else "de"))
        for row in (row for own in rows_read.languages.values() for row in own):
            for name in ("id", "lang", "prompt", "response", "other", "group", "system", "dataset"):
                value = getattr(row, name)
                assert "\0" not in value and value.encode().decode() == value
            assert abs(row.rating) < float("inf")


# --- the releases -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """name -> (a file of a small release, what reads it)."""
    root = tmp_path_factory.mktemp("releases")
    checkout = multi_summeval(root / "multi")
    ngrams = beyond_ngrams(
        root / "beyond", {"coherence/hebrew": [{"index": 1.0, "gemini": "['3', '4']", "gpt": "['1']"}]}
    )
    (root / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged(["de"], 3)))
    ranked = {"lang": "de", "tree": "t", "prompt": [{"role": "user", "content": "Hallo"}], "rank_chosen": 0}
    pairs = [ranked | {"chosen": f"gut {n}", "rejected": "x", "rank_rejected": 1} for n in range(3)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    told = {"labels": {"name": ["spam"], "value": [0.0]}}
    talk = [message("a", None, "Hi", **told), *(message(f"b{n}", "a", f"Hello {n}", rank=n, **told) for n in range(2))]
    (root / "messages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talk))
    (root / "trees.jsonl").write_text(
        json.dumps({"message_tree_id": "t", "tree_state": "x", "prompt": tree("en", 1)}) + "\n"
    )
    (root / "listed_de.json").write_text(json.dumps([{"instruction": "Wie?", "output": ["so", "anders"]}]))
    write_ratings(root / "seahorse", plain_rows(("de",), {"de": ("wikilingua",)}))
    bench = benchmark(root / "bench", "deu_Latn") / "deu_Latn" / "test-00000-of-00001.parquet"
    table = jsonl(root / "bench.jsonl", [row for _, row in open_table(bench).good_rows()])

    def replies(path: Path) -> Any:
        return read_release("oasst", path)

    def trees(path: Path) -> Any:
        return oasst.read(Oasst(str(path), states=()))

    def seahorse(path: Path) -> Any:
        folder = path.parent / "as_seahorse"
        folder.mkdir(exist_ok=True)
        for split in ("train", "validation"):
            (folder / f"{split}.tsv").write_bytes(path.read_bytes())
        return seahorse_files.read(Seahorse(str(folder), articles=str(folder)), "train")

    def rewardbench(path: Path) -> Any:
        folder = path.parent / "as_bench"
        (folder / "deu_Latn").mkdir(parents=True, exist_ok=True)
        (folder / "deu_Latn" / "test.jsonl").write_bytes(path.read_bytes())
        return m_rewardbench.recorded(MRewardBench(str(folder)), "de")

    def in_checkout(layout: str, below: str) -> Callable[[Path], Any]:
        top = checkout if layout == "multi_summeval" else ngrams

        def read(path: Path) -> Any:
            copy = path.parent / layout
            for file in top.rglob("*"):
                if file.is_file():
                    target = copy / file.relative_to(top)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(path.read_bytes() if str(file.relative_to(top)) == below else file.read_bytes())
            return read_release(layout, copy)

        return read

    score, gold = "resulting_data/DE/score.csv", "resulting_data/DE/gold/0"
    coherence = "data/coherence/hebrew.csv"
    return {
        "multi_summeval": (checkout / score, in_checkout("multi_summeval", score)),
        "multi_summeval text": (checkout / gold, in_checkout("multi_summeval", gold)),
        "beyond_ngrams": (ngrams / coherence, in_checkout("beyond_ngrams", coherence)),
        "judged": (root / "judged.jsonl", lambda path: read_release("multi_summeval", path)),
        "pairs": (root / "pairs.jsonl", replies),
        "messages": (root / "messages.jsonl", replies),
        "trees": (root / "trees.jsonl", replies),
        "lists": (root / "listed_de.json", replies),
        "oasst messages": (root / "messages.jsonl", trees),
        "oasst trees": (root / "trees.jsonl", trees),
        "seahorse": (root / "seahorse" / "train.tsv", seahorse),
        "m_rewardbench": (table, rewardbench),
        "parquet": (bench, lambda path: list(open_table(path).good_rows())),
    }  # fmt: skip


RELEASES = ["multi_summeval", "multi_summeval text", "beyond_ngrams", "judged", "pairs", "messages", "trees", "lists",
            "oasst messages", "oasst trees", "seahorse", "m_rewardbench", "parquet"]  # fmt: skip


@given(st.sampled_from(RELEASES), st.lists(damages(), min_size=1, max_size=3))
def test_damaged_releases_are_refused_in_a_sentence_or_read(
    tmp_path: Path, release: Any, name: str, damage: list[Callable[[bytes], bytes]]
) -> None:
    source, read = release[name]
    content = source.read_bytes()
    for one in damage:
        content = one(content)
    path = fresh(tmp_path, source.name)
    path.write_bytes(content)
    refused(lambda: read(path))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a value, the outer ones first."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from _objects(one)


@given(st.sampled_from(["judged", "pairs", "messages", "trees", "oasst messages", "oasst trees", "m_rewardbench"]),
       st.lists(st.tuples(st.integers(0, 30), ANYTHING), min_size=1, max_size=3))  # fmt: skip
def test_releases_with_other_values(tmp_path: Path, release: Any, name: str, changes: list[tuple[int, Any]]) -> None:
    source, read = release[name]
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    for place, value in changes:
        within = list(_objects(rows))
        at = within[place % len(within)]
        keys = sorted(at) or ["text"]
        at[keys[place % len(keys)]] = value
    path = fresh(tmp_path, source.name)
    path.write_text(_lines(rows), encoding="utf-8")
    refused(lambda: read(path))


@pytest.mark.parametrize("name", RELEASES)
def test_what_is_damaged_above_can_be_read_as_it_is(tmp_path: Path, release: Any, name: str) -> None:
    source, read = release[name]
    path = fresh(tmp_path, source.name)
    path.write_bytes(source.read_bytes())
    assert not refused(lambda: read(path))
