"""Figures for a paper: the matrix's numbers in them, the same bytes, the right size, or a reason why there is none."""

import io
import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image
from synthetic import SyntheticGrid, five, realistic

from xling.analysis.matrix.fold_grid import fold_grid
from xling.cli import main
from xling.errors import ConfigError
from xling.report.pictures.comparisons import forest, judges, ranked
from xling.report.pictures.curves import best_of_k
from xling.report.pictures.heatmaps import all_panels, scale_of, win_rates
from xling.report.pictures.look import (
    DPI,
    FORMATS,
    STYLES,
    WIDTHS,
    Names,
    Width,
    rendered,
    styled,
    text_width,
    widths_of,
)
from xling.report.pictures.write import FIGURES, Asked, paper_matrix, write_figures
from xling.report.tables.colours import LINES, PAGE

COLUMN = Width("column", WIDTHS["column"])
CODES = Names("code")


def folded(grid):
    return fold_grid(grid.write().store, grid.name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Three languages, a hole, a pooled source."""
    grid = realistic(tmp_path_factory.mktemp("plain"), ("de", "ru", "tr"), prompts=24, controls=False)
    grid.cell("fr", "de", fails="reward")
    grid.cell("de+ru", "tr", np.full(24, 0.75), prompts=[f"tr-{i}" for i in range(24)])
    return folded(grid)


@pytest.fixture(scope="module")
def optimizers(tmp_path_factory):
    return folded(five(tmp_path_factory.mktemp("five"), seeds=(0,), prompts=12))


def svg_texts(drawing, width=COLUMN, names=CODES):
    content = rendered(drawing, width, "svg", names.families)
    return ["".join(node.itertext()) for node in ET.fromstring(content).iter("{http://www.w3.org/2000/svg}text")]


def test_a_heat_map_says_every_number_and_every_hole(plain):
    (drawing,) = win_rates(plain, CODES)
    texts = svg_texts(drawing, Width("text", WIDTHS["text"]))
    (panel,) = plain.blocks[0].panels
    for entry in panel.entries:
        if entry.win is not None:
            assert any(re.fullmatch(f"{entry.win.value:.1f}[▲△]?", text) for text in texts)
            assert f"{entry.win.low:.1f}–{entry.win.high:.1f}" in texts
    assert "blocked" in texts and "(1)" in texts
    assert "(1) blocked: reward[fr] failed" in drawing.caption and "Outlined: home" in drawing.caption
    assert {"de", "ru", "tr", "fr", "de+ru", "reward model", "policy", "win rate, %"} <= set(texts)


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_bytes_the_right_size_and_no_date(plain, form):
    (drawing,) = win_rates(plain, CODES)
    first = rendered(drawing, COLUMN, form, CODES.families)
    assert rendered(drawing, COLUMN, form, CODES.families) == first
    assert not re.search(rb"CreationDate|<dc:date>|20\d\d-\d\d-\d\d", first)
    if form == "pdf":
        assert b"/FontFile2" in first and b"/Type3" not in first  # TrueType, as conferences ask
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", first)
        assert abs(float(box[1]) - 72 * COLUMN.inches) < 0.5
    elif form == "png":
        assert abs(Image.open(io.BytesIO(first)).width - DPI * COLUMN.inches) <= 1
    else:
        assert b"<text" in first and b'width="218.16pt"' in first


@pytest.mark.parametrize("values", [[50.2, 51.0], [68.7, 77.1], [12.0, 97.0], [99.0, 100.0], [1.0, 3.0], [44.0], []])
def test_a_scale_covers_its_values_and_its_colours_darken_away_from_50(values):
    scale, colours = scale_of(values)
    assert scale.vmax - scale.vmin >= 15
    assert all(scale.vmin <= value <= scale.vmax for value in values)
    assert scale.vmin >= 0 and scale.vmax <= 100
    at = np.linspace(scale.vmin, scale.vmax, 101)
    grey = colours(scale(at))[:, :3] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(grey[at >= 50]) <= 0).all() and (np.diff(grey[at <= 50]) >= 0).all() and grey.max() > 0.98
    blue = colours(scale(at))[:, 2] > colours(scale(at))[:, 0] + 0.05
    assert not blue[at <= 50].any() and blue[at > (max(50, scale.vmin) + scale.vmax) / 2].all()  # as on the page


def seen(colour, lost):
    """CIELAB of a colour as somebody sees it who lacks one kind of cone (Machado et al. 2009, severity 1)."""
    matrix = {"": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }[lost]  # fmt: skip
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        np.array(matrix) @ linear, 0, 1)  # fmt: skip
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("lost", ["", "protan", "deutan", "tritan"])
def test_blue_and_orange_are_two_colours_to_every_eye(lost):
    for theme in range(3):
        three = [seen(PAGE[name][theme], lost) for name in ("hi", "lo", "card")]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(three, 2)) > 20
    first = [seen(colour, lost) for colour in LINES[:4]]  # beyond, markers tell them apart
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(first, 2)) > 15


@pytest.mark.parametrize(("sources", "targets"), [("de", "de"), ("de en", "de en"), ("de en es", "tr")])
def test_titles_of_panels_side_by_side_do_not_overlap(tmp_path, sources, targets):
    """What all panels have in common stands once, in the caption; what is longer than its panel is in lines."""
    grid = SyntheticGrid(tmp_path)
    for documents, backbone in itertools.product(("", "en", "tr"), ("same_as_policy", "sentence_encoder")):
        for source, target in itertools.product(sources.split(), targets.split()):
            axes = {"task.document_lang": documents, "rm_backbone": backbone}
            grid.cell(source, target, [1.0, 0.5, 0.0], fails="" if source == "de" else "reward", **axes)
    drawing, width = all_panels(folded(grid))
    assert "gold" in drawing.caption and "same_as_policy" not in drawing.caption
    with styled(CODES.families):
        figure = drawing.draw(width)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for texts in ([a.title for a in figure.axes if a.title.get_text()], [a.xaxis.label for a in figure.axes[:6]]):
            boxes = [text.get_window_extent() for text in texts]
            assert len(boxes) == 6
            assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]
            assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_every_figure_is_drawn_or_says_why_not(plain, optimizers, tmp_path):
    made = {}
    for name, matrix in (("plain", plain), ("optimizers", optimizers)):
        asked = Asked.of(formats="svg", widths="column", only=",".join(FIGURES))
        made[name] = write_figures(matrix, [], tmp_path / name, asked)
        for path in (tmp_path / name).rglob("*.svg"):
            assert ET.parse(path).getroot().tag.endswith("svg")
    assert set(made["plain"].not_made) == {"learning", "frontier", "judges", "kl_win"}
    assert set(made["optimizers"].not_made) == {"judges", "accuracy", "accuracy_win"}
    files = {file.partition("/")[2] for file in made["optimizers"].files}
    assert {"heatmaps.svg", "heatmap-ppo.svg", "frontier.svg", "learning.svg", "kl_win.svg", "ranks-dpo.svg"} <= files
    lines = made["optimizers"].lines()
    assert "not made: judges: this grid has one judge." in lines


def test_a_hole_alone_and_a_single_cell_are_no_error(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "en", fails="reward")
    matrix = folded(grid)
    assert all(isinstance(make(matrix, CODES), str) for make in FIGURES.values())
    other = SyntheticGrid(tmp_path / "one")
    other.cell("de", "en", [1.0])
    written = write_figures(folded(other), [], tmp_path / "out", Asked.of("svg", "2.0"))
    assert "2in/heatmap.svg" in written.files


def test_large_grids_are_drawn_small_or_refused_in_a_sentence(tmp_path):
    grid = SyntheticGrid(tmp_path)
    languages = [f"l{number:02d}" for number in range(20)]
    for target in languages:
        for source in languages[:15]:
            prompts = [f"{target}-{i}" for i in range(3)]
            grid.cell(source, target, [1.0, 0.5, 0.0], prompts=prompts)
    matrix = folded(grid)
    (drawing,) = win_rates(matrix, CODES)
    texts = svg_texts(drawing)
    assert set(languages) <= set(texts) and sum("." in text for text in texts) < 12  # of the bar
    assert "are too many for a forest plot (at most 90)" in forest(matrix, CODES)
    assert "15 source languages are too many lines" in FIGURES["ranks"](matrix, CODES)
    (curves,) = best_of_k(matrix, CODES)
    assert any("mean of" in text for text in svg_texts(curves))


def test_long_names_in_a_narrow_figure_leave_room_for_the_axes(tmp_path):
    """matplotlib gives up its layout with a warning, which is an error here, where labels fill the figure."""
    grid = SyntheticGrid(tmp_path)
    for target in range(12):
        for source in range(3):
            names = [f"{target}-{i}" for i in range(4)]
            grid.cell(f"language_{source:02d}", f"language_{target:02d}", [1.0, 0.5, 0.0, 0.25], prompts=names)
    (drawing,) = FIGURES["ranks"](folded(grid), CODES)
    assert rendered(drawing, Width("2in", 2.0), "svg", CODES.families)


def test_names_are_drawn_as_they_are(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for name in ("a$b$", "c\x1b[2J/../d"):
        for source in ("de", "en"):
            grid.cell(source, "de", [1.0, 0.5, 0.0, 1.0], rm_backbone=name)
    written = write_figures(folded(grid), [], tmp_path / "out", Asked.of("svg", "column", "heatmap"))
    assert "column/heatmap-a_b.svg" in written.files and "column/heatmap-c_2J_.._d.svg" in written.files
    texts = "".join(ET.parse(tmp_path / "out" / "column" / "heatmaps.svg").getroot().itertext())
    assert "a$b$" in texts and "c?[2J/../d" in texts


def test_judges_stand_side_by_side(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for judge in ("gold", "target_rm"):
        for source in ("de", "en"):
            for target in ("de", "en"):
                names = [f"{target}{i}" for i in range(4)]
                grid.cell(source, target, [1.0, 0.5, 0.0, 1.0], prompts=names, judge=judge)
    (drawing,) = judges(folded(grid), CODES)
    assert {"gold", "target rm", "de", "en"} <= set(svg_texts(drawing))


# --- the paper --------------------------------------------------------------------------------------------

RANKS = {  # its Figure 6, best-of-n and PPO of summarization: sources down, targets de en es ru tr vi across
    "best_of_n": {"de": "342232", "en": "111111", "es": "434425", "ru": "566666", "tr": "223353", "vi": "655544"},
    "ppo": {"de": "222661", "en": "333432", "es": "645326", "ru": "454555", "tr": "566243", "vi": "111114"},
}


def test_the_papers_matrices_are_drawn_with_its_own_ranks():
    matrix = paper_matrix()
    panels = {tuple(panel.axes[a] for a in ("task", "optimizer", "judge")): panel
              for block in matrix.blocks for panel in block.panels}  # fmt: skip
    assert len(panels) == 11
    for optimizer, expected in RANKS.items():
        found = ranked(panels["summarization", optimizer, "palm_2_l"])
        wrong = {
            (source, target)
            for source, row in expected.items()
            for target, rank in zip(("de", "en", "es", "ru", "tr", "vi"), row, strict=True)
            if found[source, target] != int(rank)
        }
        assert wrong == ({("es", "es")} if optimizer == "ppo" else set())  # a tie with ru
    assert found["es", "es"] == found["ru", "es"] == 4  # as in xling/analysis/findings/sources.py
    assert len(FIGURES["kl_win"](matrix, CODES)) == 3  # a judge of summarization each
    assert {one.name for one in FIGURES["accuracy"](matrix, CODES)} == {"accuracy-summarization", "accuracy-dialog"}
    texts = svg_texts(next(one for one in win_rates(matrix, CODES) if one.name == "heatmap-dialog-ppo-palm_2_l"))
    assert {"53.1▲", "54.5▲", "47.5"} <= set(texts)


def test_paper_is_a_grid_to_the_command(tmp_path, capsys):
    words = ["figures", "paper", "--root", str(tmp_path), "--only", "ranks", "--width", "column", "--format", "svg"]
    assert main(words) == 0
    assert "11 files (svg) in" in capsys.readouterr().out
    assert len(list((tmp_path / "figures" / "paper" / "column").glob("ranks-*.svg"))) == 11


# --- names and options ------------------------------------------------------------------------------------


def test_languages_have_names_where_fonts_have_the_letters():
    native = Names("native")
    assert [native(code) for code in ("ru", "tr", "de+ru")] == ["русский", "Türkçe", "Deutsch+русский"]
    assert Names("english")("ru") == "Russian" and Names("code")("ru") == "ru"
    assert native("xx-unknown") == "xx-unknown"
    assert native("zh") in ("zh", "中文") and native("ar") in ("ar", "العربية")


def test_a_native_name_is_text_in_the_figure(plain):
    names = Names("native")
    (drawing,) = win_rates(plain, names)
    assert {"русский", "Türkçe", "Deutsch+русский"} <= set(svg_texts(drawing, names=names))


@pytest.mark.parametrize(("options", "said"), [
    (["--format", "jpg"], "--format jpg is unknown. Allowed: pdf, svg, png."),
    (["--only", "heatmaps"], "--only heatmaps is unknown. Allowed: heatmap, accuracy,"),
    (["--width", "page"], "--width page is no width. Allowed: column, text, or inches from 2 to 20"),
    (["--width", "0.1"], "--width 0.1 is no width."),
    (["--names", "natif"], f"--names natif is unknown. Allowed: {', '.join(STYLES)}. Did you mean 'native'?"),
])  # fmt: skip
def test_unknown_options_are_refused_in_a_sentence(options, said, tmp_path, capsys):
    assert main(["figures", "paper", "--root", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_grid_without_a_matrix_is_told_what_to_do(tmp_path, capsys):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0])
    grid.write()
    assert main(["figures", grid.name, "--root", str(tmp_path)]) == 2
    assert "xling reduce toy" in capsys.readouterr().err


def test_widths_and_how_wide_a_text_is():
    assert [(w.name, w.inches) for w in widths_of("column, 5.5in")] == [("column", 3.03), ("5.5in", 5.5)]
    with pytest.raises(ConfigError):
        widths_of("21")
    assert text_width("99.9▲", 10) == pytest.approx(10 * (3 * 0.64 + 0.32 + 0.77))
