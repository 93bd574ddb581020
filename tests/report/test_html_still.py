"""What report.html has without its script, and what people take along from it."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from browser import Browser, needs_browser
from pages import CELLS, opened
from PIL import Image
from synthetic import SyntheticGrid
from test_html_page import expected, panels_of

from xling.analysis.matrix.types import MEASURES, read_matrix
from xling.report.page.about import ABOUT
from xling.report.page.data import Document, encode
from xling.report.page.stages import Origin
from xling.report.page.still import ran

SHEET = (1032, 703)  # pixels of a landscape A4 within its margins


class Tables(HTMLParser):
    """Rows of every table outside scripts: texts of cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


def test_the_matrix_stands_in_the_html(five_panels: Path) -> None:
    """Every panel, every number with its interval; the first outside of noscript."""
    page = (five_panels / "report.html").read_text()
    seen = Tables(page)
    panels = panels_of(five_panels)
    assert len(seen.tables) == len(panels) == 5 and page.index("<noscript><figure") > page.index("</table>")
    for table, panel in zip(seen.tables, panels, strict=True):
        assert table[0][1:4] == panel["targets"]
        for (source, target), (value, low, high) in expected(panel, "win").items():
            text = table[1 + source][1 + target]
            assert f"{value:.1f}" in text and f"{low:.1f}-{high:.1f}" in text
    hole = next(row for row in seen.tables[3] if row[0] == "vi")
    assert "hole" in hole[1] and "(1) blocked: reward[vi] failed: ValueError: <img src=x" in seen.words
    assert "\x1b" not in page and "\u202e" not in page


def test_one_line_says_what_was_run(five_panels: Path, with_controls: Path) -> None:
    settings = {"baseline": {"n": ["4"]}}
    origin = Origin([], {}, 1, "2026-11-29T10:00:00+00:00", "2026-11-30T01:15:30+00:00", [], settings)
    said = ran(read_matrix(with_controls), origin)
    assert said.startswith("Best-of-") and said.endswith("against 4 fresh samples a prompt; 30 November 2026")
    assert " of policy " in said and "reward model " in said and ", judged by gold" in said
    assert ran(read_matrix(five_panels), None).startswith("Best-of-4, DPO, GRPO, PPO and RLOO of policy micro, ")


def test_a_name_that_is_reward_model_and_judge_stands_once(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    grid.cell("en", "de", [1.0, 0.5] * 20, rm_backbone="gold", judge="gold")
    said = ran(grid.folded(), None)
    assert "reward model and judge gold against" in said and said.count("gold") == 1


def test_every_table_says_what_it_is(five_panels: Path, with_controls: Path) -> None:
    told = dict[str, str]()
    for folder in (five_panels, with_controls):
        data = encode(Document(read_matrix(folder), "0" * 64))
        for sections in (*(panel["tables"] for panel in data["panels"]), {"across": data["across"]}):
            told |= {table["name"]: table["about"] for tables in sections.values() for table in tables}
    assert len(told) > 20 and [name for name, words in told.items() if not words] == []
    assert set(MEASURES) <= set(ABOUT) | {"win"}
    assert not [text for text in ABOUT.values() if re.search(r"[a-z]- [a-z]|  ", text)]  # where its lines were joined


@needs_browser
def test_without_a_script_and_on_the_first_sheet(browser: Browser, five_panels: Path, with_controls: Path) -> None:
    """A mail's preview; and a page that is printed before, or after, its script has run."""
    rect = "(([a]) => [a.width, a.bottom])([...document.querySelectorAll('%s')].map((t) => t.getBoundingClientRect()))"
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(five_panels / "report.html")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        assert sum(node["role"]["value"] == "table" for node in nodes if "role" in node) == 5
        assert browser.pdf().count(b"/Type /Page\n") >= 2
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.media("print")
    browser.size(*SHEET)
    opened(browser, with_controls)
    browser.run("toPaper()")
    width, bottom = browser.run(rect % "#matrix .paper table")
    assert 0 < width < SHEET[0] and bottom < SHEET[1]


@needs_browser
def test_the_matrix_can_be_taken_along(browser: Browser, five_panels: Path) -> None:
    opened(browser, five_panels)
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.call("Emulation.setFocusEmulationEnabled", enabled=True)
    browser.click("#filter-targets summary")
    browser.click("#filter-targets input[value=en]")
    for number in (1, 2, 3):
        browser.click(f".take button:nth-child({number})")
    wanted = expected(panels_of(five_panels)[0], "win")
    rows = list(csv.DictReader(browser.downloaded().read_text().splitlines()))
    at = {"de": 0, "en": 1, "tr": 2}
    taken = {(at[row["source"]], at[row["target"]]): tuple(float(row[name]) for name in ("win_rate", "low", "high"))
             for row in rows if row["source"] in at and row["target"] in at}  # fmt: skip
    assert taken == {place: numbers for place, numbers in wanted.items() if place[1] != 1} and taken
    with Image.open(browser.downloaded(".png")) as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
    copied = [line.split("\t") for line in browser.run("navigator.clipboard.readText()").splitlines()]
    assert copied[0] == ["", "de", "tr", "mean", "abroad"]
    assert copied[1][:3] == ["de", f"{wanted[0, 0][0]:.1f}", f"{wanted[0, 2][0]:.1f}"]
    assert browser.complaints() == [] and len(browser.requests()) == 1 + sum(
        "blob:" in url for url in browser.requests()
    )


@needs_browser
def test_what_a_filter_hid_comes_back_in_its_place(browser: Browser, five_panels: Path) -> None:
    opened(browser, five_panels)
    before = browser.run(CELLS)
    browser.run("window.old = document.querySelector('#matrix td[data-source]')")
    for lists in ("targets", "sources"):
        browser.click(f"#filter-{lists} summary")
        for code in ("de", "en", "de", "en"):
            browser.click(f"#filter-{lists} input[value={code}]")
        browser.click(f"#filter-{lists} summary")
    assert browser.run(CELLS) == before
    assert browser.run("old === document.querySelector('#matrix td[data-source]')")  # nothing was drawn anew


@needs_browser
def test_heads_of_rows_and_columns_stay_in_sight(browser: Browser, five_panels: Path) -> None:
    browser.size(390, 500)
    opened(browser, five_panels)
    corner = """(() => { const box = document.querySelector('#matrix .explorer .scroll'); box.style.maxHeight = '9rem';
        box.scrollTo({ left: 200, top: 80, behavior: 'instant' });
        const at = (e) => e.getBoundingClientRect(), frame = at(box), corner = at(box.querySelector('th.corner'));
        return [box.scrollLeft > 20, box.scrollTop > 20,
                Math.abs(corner.left - frame.left) < 4, Math.abs(corner.top - frame.top) < 4]; })()"""
    assert browser.run(corner) == [True] * 4
    assert browser.complaints() == []
