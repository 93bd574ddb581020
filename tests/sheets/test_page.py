"""sheet.html in a real browser: shows what the table has, runs nothing of a response, and gives the answers back."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, needs_browser
from grids import HOSTILE, table

from xling.console import shown
from xling.grid.store import Store
from xling.sheets.export import Asked, Question, export, make_sheets, page_bytes, parse_filters, sheet_csv, texts_of
from xling.sheets.imports import read_answers
from xling.sheets.key import Key, Pair, digest, identified, unguarded

DOM = """[...document.querySelectorAll("#prompt, #a, #b")].map(
    (box) => [box.textContent, box.dir, box.lang, box.children.length])"""


STATE = "[state.annotator, state.at, data.rows.slice(0, 3).map((row) => answer(row.id).preference).join()]"


def reopen(page: Browser, path: Path) -> None:
    """Chromium on a busy disk shows a page an empty storage now and then, for one load (3 of 225); the next has all."""
    for _ in range(5):
        page.open(path)
        if page.run("localStorage.length"):
            return


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as page:
        yield page


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Key]:
    """A sheet in which every text is hostile, and its key."""
    texts = list(map(shown, HOSTILE))
    pairs = [Question("en", f"p{n}", f"g{n}", "", text, text, f"fine {n}", 1.0) for n, text in enumerate(texts)]
    [sheet] = make_sheets(pairs, Asked(), "hidden")
    hidden = [Pair("en", q.prompt, q.group, "", *map(digest, (q.text, q.policy, q.baseline))) for q in pairs]
    key = identified(Key("", "g", 0, 14, "<b>Which</b> {{DATA}} is better?", hidden, [], [sheet]))
    rows = texts_of(sheet, pairs)
    (tmp_path / "sheet.html").write_bytes(page_bytes(key, "sheet", rows))
    (tmp_path / "sheet.csv").write_bytes(sheet_csv(rows))
    return tmp_path / "sheet.html", key


def test_the_page_is_one_file_that_asks_for_nothing(recorded: Store, tmp_path: Path) -> None:
    export(recorded, "g", parse_filters(["target=ar"]), tmp_path, Asked(n=5))
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert not re.search(r"\b(?:src|href)=|url\(|@import|https?:", text.replace(r"http://example.com", ""))
    assert "default-src 'none'; script-src 'sha256-" in text
    assert len(re.findall("<script", text)) == len(re.findall("</script>", text)) == 2
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [row["id"] for row in data["rows"]] == [row["id"] for row in table(tmp_path / "sheet.csv")]


@needs_browser
def test_the_rows_are_those_of_the_table_and_nothing_of_them_runs(browser: Browser, hostile: tuple[Path, Key]) -> None:
    path, key = hostile
    browser.open(path)
    title = browser.run("document.title")
    assert title == f"sheet {key.id}"
    assert browser.run("document.getElementById('question').textContent") == key.question
    seen = []
    for row in table(path.with_suffix(".csv")):
        texts = browser.run(DOM)
        assert [text[0] for text in texts] == [unguarded(row[n]) for n in ("prompt", "response_a", "response_b")]
        assert all(children == 0 for *_, children in texts)
        seen.append(row["id"])
        browser.key("ArrowRight")
    assert len(seen) == len(HOSTILE) == browser.run("data.rows.length")
    assert browser.run("document.title") == title  # what each hostile text would change
    assert browser.run("document.scripts.length") == 2 and browser.run("document.images.length") == 0
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []


@needs_browser
def test_the_policy_of_the_page_stops_scripts_and_requests(browser: Browser, hostile: tuple[Path, Key]) -> None:
    """Even if a text became markup: what is put in by force does not run and fetches nothing."""
    browser.open(hostile[0])
    browser.run(
        """(() => { const s = document.createElement("script"); s.textContent = "document.title = 'pwned'";
        document.body.append(s); const d = document.createElement("div");
        d.innerHTML = "<img src='http://127.0.0.1:9/x' onerror=\\"document.title = 'pwned'\\">";
        document.body.append(d); })()"""
    )
    browser.run("new Promise((done) => setTimeout(done, 300))")
    assert browser.run("document.title") != "pwned"
    refused = [e["params"]["entry"]["text"] for e in browser.events if e["method"] == "Log.entryAdded"]
    assert sum("Content Security Policy" in text for text in refused) >= 2


@needs_browser
def test_answering_by_keyboard_and_mouse_gives_the_file_that_is_imported(
    browser: Browser, hostile: tuple[Path, Key], tmp_path: Path
) -> None:
    path, key = hostile
    browser.open(path)
    keys = ["1", "2", "0"]
    said = {"1": "A", "2": "B", "0": "tie"}
    rows = table(path.with_suffix(".csv"))
    expected = [said[keys[n % 3]] for n in range(len(rows))]
    for number in range(len(rows) - 2):
        browser.key(keys[number % 3])
    browser.click(f"[data-preference={expected[-2]}]")
    assert browser.run("document.getElementById('progress').textContent") == f"{len(rows) - 1} of {len(rows)} answered"
    expected[-1] = ""  # the last one stays open
    browser.key("ArrowLeft")
    assert browser.run("document.querySelectorAll('[aria-pressed=true]').length") == 1
    browser.type("#comment", '=1+1, "he" said\nin 2 lines; 1 2 0')  # keys in a field are text
    browser.click("#download")
    assert "Type your name first" in browser.run("document.getElementById('notice').textContent")
    browser.type("#annotator", "Zoë 1")
    browser.click("#download")
    file = browser.downloaded()
    assert file.name == "sheet_Zoë-1.csv"
    found = table(file)
    comments = [""] * len(rows)
    comments[-2] = '\'=1+1, "he" said\nin 2 lines; 1 2 0'
    assert found == [
        row | {"preference": preference, "comment": comment, "annotator": "'Zoë 1"}
        for row, preference, comment in zip(rows, expected, comments, strict=True)
    ]
    answers = read_answers(file, key)
    assert answers.annotator == "Zoë 1" and answers.rows - len(answers.given) == 1
    assert [answer.preference for answer in answers.given] == expected[:-1]
    assert answers.given[-1].comment == '=1+1, "he" said\nin 2 lines; 1 2 0'


@needs_browser
def test_answers_survive_a_reload_and_can_be_changed(browser: Browser, hostile: tuple[Path, Key]) -> None:
    path, _ = hostile
    browser.open(path)
    for key in ("1", "2", "ArrowLeft", "2"):  # the same answer once more takes it away
        browser.key(key)
    browser.type("#annotator", "Ada")
    assert browser.run(STATE) == ["Ada", 1, "A,,"]
    reopen(browser, path)
    assert browser.run(STATE) == ["Ada", 1, "A,,"]
    assert browser.run("document.getElementById('annotator').value") == "Ada"
    browser.key("0")
    browser.click("#back")
    browser.click("#back")
    browser.key("2")
    browser.click("#open")
    assert browser.run(STATE) == ["Ada", 2, "B,tie,"]


@needs_browser
def test_a_page_that_was_shown_nothing_takes_no_answer_away(browser: Browser, hostile: tuple[Path, Key]) -> None:
    """As a browser does on a busy disk, now and then: for one load it says that nothing is kept."""
    path, _ = hostile
    browser.open(path)
    browser.key("1")
    browser.type("#annotator", "Ada")
    blind = browser.call("Page.addScriptToEvaluateOnNewDocument", source="Storage.prototype.getItem = () => null")
    browser.open(path)
    assert browser.run(STATE) == ["", 0, ",,"]
    for key in ("ArrowRight", "2"):
        browser.key(key)
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=blind["identifier"])
    reopen(browser, path)
    assert browser.run(STATE) == ["Ada", 2, "A,B,"]


@needs_browser
def test_two_tabs_keep_what_both_were_told(browser: Browser, hostile: tuple[Path, Key]) -> None:
    path, _ = hostile
    browser.open(path)
    first = browser.tab()
    browser.open(path)
    browser.key("1")
    browser.type("#annotator", "Ada")
    second = browser.tab(first)
    for _ in range(100):  # until the other tab has told it
        if browser.run(STATE)[0]:
            break
        browser.run("new Promise((done) => setTimeout(done, 100))")
    assert browser.run(STATE) == ["Ada", 0, "A,,"]
    for key in ("ArrowRight", "0"):
        browser.key(key)
    browser.tab(second)
    reopen(browser, path)
    assert browser.run(STATE) == ["Ada", 2, "A,tie,"]


@needs_browser
def test_answers_that_an_older_page_has_kept_are_found(browser: Browser, hostile: tuple[Path, Key]) -> None:
    path, _ = hostile
    browser.open(path)
    whole = """{ annotator: "Ada", at: 2, answers: { [data.rows[1].id]: { preference: "tie", comment: "so" } } }"""
    browser.run(f"localStorage.setItem(place, JSON.stringify({whole}))")
    reopen(browser, path)
    assert browser.run(STATE) == ["Ada", 2, ",tie,"]
    browser.key("2")
    reopen(browser, path)
    assert browser.run(STATE) == ["Ada", 3, ",tie,B"]
    assert browser.run("answer(data.rows[1].id).comment") == "so"


@needs_browser
def test_arabic_reads_from_right_to_left_and_colours_follow_the_system(
    browser: Browser, recorded: Store, tmp_path: Path
) -> None:
    export(recorded, "g", parse_filters(["target=ar"]), tmp_path / "s", Asked())
    browser.open(tmp_path / "s" / "sheet.html")
    seen = set()
    for row in table(tmp_path / "s" / "sheet.csv"):
        prompt, *responses = browser.run(DOM)
        assert prompt[1:3] == ["rtl", "ar"] and prompt[0] == unguarded(row["prompt"])
        seen |= {(direction, any("\u0600" <= c <= "\u06ff" for c in text)) for text, direction, *_ in responses}
        browser.key("ArrowRight")
    assert {("rtl", True), ("ltr", False)} <= seen and ("ltr", True) not in seen
    colours = []
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colours.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(22, 24, 27)"]
