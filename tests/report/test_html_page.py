"""report.html in a real browser: its numbers are those of matrix.json, and what people do with it works."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, needs_browser
from pages import CELLS, narrow, opened

MEASURES = {  # heat maps by the words on their tabs -> fields of an entry
    "win rate": "win",
    "minus home": "versus_home",
    "minus best": "versus_best",
    "equal length": "win_equal_length",
    "language": "share_in_language",
    "length": "length",
    "ended": "eos",
    "repetition": "repetition",
    "reward": "reward",
    "quality": "quality",
    "KL": "kl",
}
TABS = "[...document.querySelectorAll('input[name=map]')].map((input) => input.labels[0].textContent)"
SHOWN = "document.querySelector('input[name=map]:checked').labels[0].textContent"


def panels_of(folder: Path) -> list[dict[str, Any]]:
    matrix = json.loads((folder / "matrix.json").read_bytes())
    return [panel for block in matrix["blocks"] for panel in block["panels"]]


def expected(panel: dict[str, Any], field: str) -> dict[tuple[int, int], tuple[float, float, float]]:
    """Place -> value and interval of every entry that has the measure."""
    found = {}
    for entry in panel["entries"]:
        place = tuple(panel[f"{end}s"].index(entry["axes"][f"{end}_lang"]) for end in ("source", "target"))
        estimate = entry[field] and entry[field].get("estimate", entry[field])
        if estimate:
            found[place] = (estimate["value"], estimate["low"], estimate["high"])
    return found


def shown(browser: Browser) -> dict[tuple[int, int], tuple[float, float, float]]:
    """The same of the heat map on the page."""
    cells = [cell for cell in browser.run(CELLS) if "value" in cell]
    return {
        (int(cell["source"]), int(cell["target"])): tuple(float(cell[name]) for name in ("value", "low", "high"))
        for cell in cells
    }


@needs_browser
def test_every_number_of_every_panel_is_that_of_matrix_json(browser: Browser, five_panels: Path) -> None:
    opened(browser, five_panels)
    panels = panels_of(five_panels)
    assert browser.run("data.panels.length") == len(panels) == 5
    compared = 0
    for number, panel in enumerate(panels):
        assert browser.run("[panel().axes, panel().sources, panel().targets]") == [
            panel["axes"], panel["sources"], panel["targets"]]  # fmt: skip
        tabs = browser.run(TABS)
        fields = [MEASURES[tab] for tab in tabs]
        assert {"win", "versus_home", "versus_best", "length"} <= set(fields)
        for field in fields:
            wanted = expected(panel, field)
            if field == "kl" and panel["axes"]["optimizer"] == "best_of_n":
                assert shown(browser) == {} and browser.run(CELLS)[0]["text"].startswith("≤")
            else:
                assert shown(browser) == wanted and wanted
                compared += len(wanted)
            browser.key("m")
        assert browser.run(SHOWN) == "win rate"  # once around
        browser.key("p")
        assert browser.run("state.panel") == (number + 1) % len(panels)
    assert compared > 300
    assert browser.complaints() == [] and browser.requests() == [(five_panels / "report.html").as_uri()]


@needs_browser
def test_numbers_are_written_as_in_the_terminal(browser: Browser, five_panels: Path) -> None:
    opened(browser, five_panels)
    for cell in browser.run(CELLS):
        assert cell["text"] == f"{float(cell['value']):.1f}"
        assert cell["span"] == f"{float(cell['low']):.1f}-{float(cell['high']):.1f}"
    browser.key("m")
    for cell in (cell for cell in browser.run(CELLS) if "value" in cell):
        assert cell["text"] == f"{float(cell['value']):+.1f}"


@needs_browser
def test_a_hole_says_why_and_runs_nothing(browser: Browser, five_panels: Path) -> None:
    opened(browser, five_panels)
    title = browser.run("document.title")
    browser.click("label[for=axis-optimizer-3]")
    place = {
        name: panels_of(five_panels)[3][f"{name}s"].index(code) for name, code in (("source", "vi"), ("target", "de"))
    }
    cell = f"td[data-source='{place['source']}'][data-target='{place['target']}']"
    assert browser.run(f'document.querySelector("{cell}").className') == "hole"
    browser.click(cell)
    card = browser.run("document.getElementById('card').textContent")
    assert "blocked: reward[vi] failed: ValueError: <img src=x onerror=" in card
    assert "␛[31mred␀ <U+202E>gnorw" in card
    assert "</script>" in browser.run("document.querySelector('#matrix .notes').textContent")
    assert browser.run("document.title") == title and browser.run("document.images.length") == 0
    assert browser.complaints() == []


@needs_browser
def test_languages_can_be_left_out(browser: Browser, five_panels: Path) -> None:
    opened(browser, five_panels)
    heads = "[...document.querySelectorAll('#matrix .heat thead th')].slice(1).map((th) => th.textContent)"
    rows = "[...document.querySelectorAll('#matrix .heat tbody th')].map((th) => th.textContent)"
    assert browser.run(heads) == ["de", "en", "tr", "mean", "abroad"]
    browser.click("#filter-targets summary")
    browser.click("#filter-targets input[value=en]")
    assert browser.run(heads) == ["de", "tr", "mean", "abroad"]
    browser.click("#filter-sources summary")
    browser.click("#filter-sources input[value=de]")
    assert browser.run(rows)[:2] == ["en", "tr"]
    assert browser.run("document.querySelector('#filter-targets b').textContent") == "2 of 3"
    wanted = expected(panels_of(five_panels)[0], "win")
    assert shown(browser) == {place: numbers for place, numbers in wanted.items() if place[0] != 0 and place[1] != 1}
    browser.key("p")  # stays so in the next panel
    assert browser.run(heads)[:2] == ["de", "tr"]


@needs_browser
def test_the_keyboard_is_enough(browser: Browser, five_panels: Path) -> None:
    opened(browser, five_panels)
    focus = "document.activeElement"
    browser.run("document.querySelector('#matrix td[data-source]').focus()")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft"):  # the last one leads nowhere
        browser.key(key)
    assert browser.run(f"[{focus}.dataset.source, {focus}.dataset.target]") == ["2", "0"]
    assert browser.run("document.querySelector('#card h3').textContent") == "tr → de"
    assert browser.run("document.querySelectorAll('#matrix td[tabindex=\"0\"]').length") == 1
    assert browser.run(f"getComputedStyle({focus}).outlineStyle") == "solid"
    browser.key("?")
    assert browser.run("document.getElementById('help').open")
    assert "search the samples" in browser.run("document.getElementById('help').textContent")
    browser.key("m")  # goes to nothing behind it
    browser.key("Escape")
    assert not browser.run("document.getElementById('help').open") and browser.run("state.map") == 0
    order = []
    opened(browser, five_panels)
    for _ in range(9):
        browser.key("Tab")
        order.append(browser.run(f"{focus}.tagName + ({focus}.name || {focus}.getAttribute('href') || '')"))
    assert order[:2] == ["A#matrix", "A#matrix"]  # the link that skips, then the contents
    assert len(set(order)) == len(order) - 1


@needs_browser
def test_tables_can_be_read_by_a_screen_reader(browser: Browser, with_controls: Path) -> None:
    opened(browser, with_controls)
    browser.run("drawAll()")
    assert browser.run("[...document.querySelectorAll('table')].every((t) => t.querySelector(':scope > caption'))")
    assert browser.run("[...document.querySelectorAll('th')].every((th) => th.scope)")
    assert browser.run("[...document.querySelectorAll('svg[role=img]')].every((s) => s.getAttribute('aria-label'))")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node}
    assert ("grid", "Win rate, %") in named and ("gridcell", "◆") not in named
    assert ("image", "home") in named or ("img", "home") in named
    assert {"The matrix", "Controls", "Costs"} <= {name for role, name in named if role == "heading"}
    assert {"Measure"} <= {name for role, name in named if role in ("group", "radiogroup")}
    levels = browser.run("[...document.querySelectorAll('main h2, main h3, main h4')].map((h) => Number(h.tagName[1]))")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = browser.run("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_every_shade(browser: Browser, with_controls: Path, scheme: str) -> None:
    """Contrast of at least 4.5 (WCAG AA), from the palest to the strongest colour of each scale."""
    browser.media(prefers_color_scheme=scheme)
    opened(browser, with_controls)
    contrasts = browser.run(CONTRASTS)
    assert len(contrasts) == 33 and min(contrasts) >= 4.5
    assert browser.run("getComputedStyle(document.body).backgroundColor") == {
        "light": "rgb(253, 253, 252)", "dark": "rgb(19, 21, 24)"}[scheme]  # fmt: skip
    quiet = browser.run(f"({CONTRAST})(document.querySelector('.intro'), document.body)")
    assert quiet >= 4.5


CONTRAST = """(text, ground) => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const luminance = (colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
      const linear = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
        .map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]; };
    const [a, b] = [luminance(getComputedStyle(text).color), luminance(getComputedStyle(ground).backgroundColor)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }"""
CONTRASTS = f"""(() => {{ const td = document.querySelector('#matrix td[data-source]'), found = [];
    for (const kind of ['hi', 'lo', 'seq']) for (let x = 0; x <= 1.001; x += 0.1) {{
      td.className = kind; td.style.setProperty('--x', x); found.push(({CONTRAST})(td.querySelector('.span'), td)); }}
    return found; }})()"""


@needs_browser
@pytest.mark.parametrize("width", [400, 760, 1900])
def test_no_width_makes_the_page_scroll_sideways(browser: Browser, with_controls: Path, width: int) -> None:
    browser.size(width, 800)
    opened(browser, with_controls)
    browser.run("drawAll()")
    assert browser.run("document.documentElement.scrollWidth") <= width


@needs_browser
def test_on_paper_all_panels_are_there(browser: Browser, five_panels: Path) -> None:
    opened(browser, five_panels)
    content = browser.pdf()
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page\n") >= 4
    assert browser.run("document.querySelectorAll('.paper').length") == 0  # gone again
    browser.media("print")
    browser.run("toPaper()")
    titles = browser.run("[...document.querySelectorAll('#matrix .paper h3')].map((h) => h.textContent)")
    assert len(titles) == 5 and all(optimizer in title for optimizer, title in zip(
        ("best_of_n", "dpo", "grpo", "ppo", "rloo"), titles, strict=True))  # fmt: skip
    assert browser.run("document.querySelectorAll('#matrix .paper td[data-source][data-value]').length") > 300
    hidden = "[...document.querySelectorAll('#bar, .contents, .choices, .explorer')].every((n) => !n.offsetHeight)"
    assert browser.run(hidden)
    wide = "[...document.querySelectorAll('.paper table')].every((t) => t.offsetWidth <= document.body.offsetWidth)"
    assert browser.run(wide)
    assert browser.complaints() == []


@needs_browser
@pytest.mark.parametrize("places", [[("en", "de"), ("en", "tr")], [("en", "de"), ("tr", "de")], [("en", "de")]])
def test_one_source_or_one_target_is_enough(browser: Browser, tmp_path: Path, places: list[tuple[str, str]]) -> None:
    folder = narrow(tmp_path, *places)
    opened(browser, folder)
    browser.run("drawAll()")
    browser.key("p")
    assert shown(browser) == expected(panels_of(folder)[0], "win")
    browser.pdf()
    assert browser.complaints() == []


@needs_browser
def test_a_grid_of_references_alone_has_its_costs(browser: Browser, tmp_path: Path) -> None:
    from synthetic import SyntheticGrid

    from xling.report.files import reduce_grid

    grid = SyntheticGrid(tmp_path)
    grid.untrained("en", "de", [1.0, 0.5, 0.0], rm_backbone="random")
    reduce_grid(tmp_path, grid.write().name)
    opened(browser, tmp_path / "grids" / grid.name)
    assert "only references" in browser.run("document.querySelector('.lead').textContent")
    assert "Costs" in browser.run("document.getElementById('contents').textContent")
    assert browser.complaints() == []


@needs_browser
def test_figures_show_what_the_matrix_has(browser: Browser, five_panels: Path, with_controls: Path) -> None:
    opened(browser, with_controls)
    browser.run("drawAll()")
    assert browser.run("document.querySelectorAll('#curves svg.chart').length") == 2  # targets
    dots = "[...document.querySelectorAll('#sources text.amount')].map((t) => Number(t.textContent)).sort()"
    wins = sorted(f"{numbers[0]:.1f}" for numbers in expected(panels_of(with_controls)[0], "win").values())
    assert [f"{value:.1f}" for value in browser.run(dots)] == wins
    browser.run("document.querySelector('#curves details.numbers').open = true")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    table = browser.run("[...document.querySelectorAll('#curves details.numbers td')].map((td) => td.textContent)")
    curve = panels_of(with_controls)[0]["entries"][0]["curve"]
    assert table[1] == str(round(curve["value"][0], 3)).removesuffix(".0")
    opened(browser, five_panels)
    browser.run("drawAll()")
    assert browser.run("document.querySelectorAll('#learning svg.chart').length") == 3
    assert browser.run("data.learning.map((one) => one.lines.quality.mean)") == [[0.0, 2.0, 4.0]] * 4
    assert browser.run("document.querySelectorAll('#frontier svg.chart').length") == 2


@pytest.mark.skipif(not os.environ.get("CI"), reason="says only that CI has a browser")
def test_ci_has_a_browser() -> None:
    from browser import CHROMIUM

    assert CHROMIUM is not None
