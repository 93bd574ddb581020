"""report.html shows what models said and what errors were, whatever they are, and runs none of it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import Browser, needs_browser
from grids import HOSTILE, recorded_grid
from pages import READY, opened

from xling.analysis.matrix.types import read_matrix
from xling.analysis.tidy.finding import Finding
from xling.console import shown
from xling.report.files import reduce_grid
from xling.report.page.data import Document
from xling.report.page.stages import Sample, Selection
from xling.report.page.write import page_bytes

TURNING = "a\u2066b\u2069 c\u202ed\u200fe"  # isolates, an override, a mark
TEXTS = "[...document.querySelectorAll('#sample-list .text')].map((box) => [box.textContent, box.dir, box.lang])"


def sample(text: str, target: str = "en", prompt: str = "p0", **changed: Any) -> Sample:
    made = Sample(0, "de", target, prompt, text, text, f"baseline of {text}", (0.25, None), (1.0, 0.125), 1.0, 0.75)
    return replace(made, **changed)


@pytest.fixture
def hostile(with_controls: Path, tmp_path: Path) -> Path:
    """A page in which every text is hostile."""
    texts = [*HOSTILE, TURNING]
    matrix = read_matrix(with_controls)
    bad = " ".join(HOSTILE)
    matrix = type(matrix)(
        **{name: getattr(matrix, name) for name in matrix.__struct_fields__} | {"name": bad, "left_out": HOSTILE}
    )
    table = pd.DataFrame({"source_lang": HOSTILE, "note": HOSTILE, "x": range(len(HOSTILE))})
    found = Finding("bad", bad, table, bad, tuple(HOSTILE))
    selection = Selection([sample(text, prompt=f"{n} {text}") for n, text in enumerate(texts)], len(texts), HOSTILE)
    page = tmp_path / "report.html"
    page.write_bytes(page_bytes(Document(matrix, "0" * 64, selection, findings=[found])))
    return page


@needs_browser
def test_hostile_texts_are_shown_and_never_run(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    browser.run(READY)
    title = browser.run("document.title")
    assert title.startswith("<script>document.title = 'pwned'</script> </script>")
    browser.run("asked.shown = 99; drawAll()")
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    seen = {text for text, *_ in browser.run(TEXTS)}
    for text in HOSTILE:
        assert shown(text) in seen and f"baseline of {shown(text)}".strip() in {text.strip() for text in seen}
    assert "a<U+2066>b<U+2069> c<U+202E>d\u200fe" in seen
    everything = browser.run("document.body.innerText")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", everything)
    assert "␛[31mred" in everything
    assert browser.run("[document.title, document.scripts.length, document.images.length]") == [title, 2, 0]
    assert browser.run("document.querySelectorAll('main b, main i, main img').length") == browser.run(
        "document.querySelectorAll('.scores b, summary b').length"
    ) - browser.run("document.querySelectorAll('#bar summary b').length") + browser.run(
        "document.querySelectorAll('main #bar b').length"
    )
    browser.pdf()
    assert browser.complaints() == [] and browser.requests() == [hostile.as_uri()]


def test_the_page_is_one_file_that_asks_for_nothing(with_controls: Path) -> None:
    text = (with_controls / "report.html").read_text(encoding="utf-8")
    code = text.split('id="data">')[0] + text.split("</script>", 1)[1]
    assert not re.search(r"\b(?:src|srcset|action)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)", code)
    assert re.search(r"default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'; base-uri 'none'", text)
    assert len(re.findall("<script", text)) == len(re.findall("</script>", text)) == 2
    assert re.findall("(?:innerHTML|outerHTML|insertAdjacentHTML|document.write|eval|new Function)", code) == []
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["panels"][0]["sources"] == ["de", "en"]


@needs_browser
def test_the_policy_stops_what_is_put_in_by_force(browser: Browser, with_controls: Path) -> None:
    opened(browser, with_controls)
    browser.run(
        """(() => { const s = document.createElement("script"); s.textContent = "document.title = 'pwned'";
        document.body.append(s); const d = document.createElement("div");
        d.innerHTML = "<img src='http://127.0.0.1:9/x' onerror=\\"document.title = 'pwned'\\">";
        document.body.append(d); })()"""
    )
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.run("document.title") != "pwned"
    refused = [event["params"]["entry"]["text"] for event in browser.complaints()]
    assert sum("Content Security Policy" in text for text in refused) >= 2


# --- samples --------------------------------------------------------------------------------------------------


@needs_browser
def test_samples_are_searched_filtered_and_put_together(browser: Browser, with_controls: Path, tmp_path: Path) -> None:
    found = [sample(f"text {n}", prompt=f"p{n}", verdict=(1.0, 0.5, 0.0)[n % 3]) for n in range(30)]
    found += [replace(one, source="en") for one in found[:3]]  # the same response from another source
    found += [sample("Ein Hund <b>bellt</b>", target="de", prompt="hund", panel=0)]
    page = tmp_path / "report.html"
    page.write_bytes(
        page_bytes(Document(read_matrix(with_controls), "0" * 64, Selection(found, 30, ["x is damaged."])))
    )
    browser.open(page)
    browser.run(READY)
    browser.key("/")
    count = "document.getElementById('sample-count').textContent"
    assert browser.run("document.activeElement.id") == "search"
    assert browser.run(count) == "34 of 34 samples, to 31 prompts; the first 10 prompts are shown"
    assert browser.run("document.querySelectorAll('.sample').length") == 10
    assert (
        browser.run("document.querySelectorAll('.sample')[0].querySelectorAll('.sources span').length") == 3
    )  # de, en, verdict
    assert "hund" in browser.run(
        "document.querySelectorAll('.sample')[1].textContent"
    )  # the first of every target first
    assert "x is damaged." in browser.run("document.getElementById('samples').textContent")
    browser.click("button.more")
    assert browser.run("document.querySelectorAll('.sample').length") == 30
    browser.type("#search", "HUND <B>")
    assert browser.run(count) == "1 of 34 samples, to 1 prompts"
    assert browser.run("[...document.querySelectorAll('mark')].map((m) => m.textContent)") == ["Hund <b>"] * 3
    browser.key("m")  # a letter of the search, no shortcut
    assert browser.run(count).startswith("0 of 34")
    browser.key("Escape")
    browser.key("m")
    assert browser.run("state.map") == 1
    browser.run("asked.text = ''; drawSection('samples')")
    for verdict, number in (("1", 12), ("0.5", 11), ("0", 11)):
        select = "document.querySelector('select:has(option[value=\"0.5\"])')"
        browser.run(f"{select}.value = '{verdict}'; {select}.dispatchEvent(new Event('change'))")
        assert browser.run(count).startswith(f"{number} of 34")
    assert browser.complaints() == []


@needs_browser
def test_a_cell_leads_to_its_samples(browser: Browser, with_controls: Path, tmp_path: Path) -> None:
    found = [
        sample(f"{source} {target}", target=target, source=source) for source in ("de", "en") for target in ("de", "en")
    ]
    page = tmp_path / "report.html"
    page.write_bytes(page_bytes(Document(read_matrix(with_controls), "0" * 64, Selection(found, 1))))
    browser.open(page)
    browser.run(READY)
    browser.run('document.querySelector(\'#matrix td[data-source="1"][data-target="0"]\').focus()')
    browser.key("Enter")
    assert browser.run(TEXTS) == [["en de", "ltr", "de"], ["baseline of en de", "ltr", "de"], ["en de", "ltr", "de"]]
    scores = browser.run("[...document.querySelectorAll('#sample-list .scores')].map((p) => p.textContent)")
    assert scores == ["judge 0.13", "reward 0.25judge 1.00win rate 75 %"]


@needs_browser
def test_a_real_grid_reads_from_right_to_left(browser: Browser, tmp_path: Path) -> None:
    """Arabic and English responses with traps in them, by the real stages, to the page and its texts."""
    recorded_grid(tmp_path)
    reduce_grid(tmp_path, "g")
    opened(browser, tmp_path / "grids" / "g")
    browser.run("asked.shown = 99; drawAll()")
    boxes = browser.run(
        "[...document.querySelectorAll('#sample-list .text')].map((box) => { const r = document.createRange(); "
        "r.selectNodeContents(box); const t = r.getBoundingClientRect(), b = box.getBoundingClientRect(); "
        "return [box.textContent, box.dir, box.lang, Math.abs(b.right - t.right) < Math.abs(t.left - b.left)]; })"
    )
    arabic = [box for box in boxes if re.match("[\u0600-\u06ff]", box[0])]
    latin = [box for box in boxes if re.match("[A-Z]", box[0])]
    assert arabic and latin
    assert all(direction == "rtl" and lang == "ar" for _, direction, lang, _ in arabic)
    assert all(direction == "ltr" for _, direction, *_ in latin)
    assert any(to_the_right for *_, to_the_right in arabic if to_the_right) and not any(box[3] for box in latin)
    assert any(box[0].endswith("<i>&amp;</i>") for box in latin)
    assert browser.run("data.samples.left_out") == []
    assert browser.complaints() == []
