"""From stage folders to the matrix: folding, holes, controls, recorded responses, and the bytes of matrix.csv."""

import json
import os
import shutil

import numpy as np
import pytest
from synthetic import LANGUAGES, SyntheticGrid, realistic

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.names import heading_of, panel_names
from xling.analysis.matrix.types import matrix_json, read_matrix
from xling.errors import ConfigError, StoreError
from xling.report.files import csv_bytes, reduce_grid

HEADER = (
    "task,policy,rm_backbone,source_lang,target_lang,optimizer,judge,win_rate,ci_low,ci_high,n,seeds,status,reason\n"
)


def only_panel(matrix):
    (block,) = matrix.blocks
    (panel,) = block.panels
    return panel


def reduced(grid):
    return fold_grid(grid.store, grid.name)


def count(panel, name):
    found = {c.name: c for c in panel.counts}[name]
    return found.k, found.of


# --- matrix.csv -------------------------------------------------------------------------------------------


def test_matrix_csv_by_hand(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "en", [1.0, 1.0, 1.0, 1.0])  # Wilson's with t(3) = 3.1824: 1 / (1 + t^2 / 4)
    grid.cell("de", "de", [0.5, 0.5, 0.5, 0.5])  # a win and a loss more: t sqrt(0.5 / 6 / 6) either side
    grid.cell("en", "de", fails="judge")
    grid.write()
    reduce_grid(tmp_path, "toy")
    assert (tmp_path / "grids/toy/matrix.csv").read_text() == HEADER + (
        "toy,micro,same_as_policy,de,de,best_of_n,gold,50.00,12.49,87.51,4,1,done,\n"
        "toy,micro,same_as_policy,de,en,best_of_n,gold,100.00,28.31,100.00,4,1,done,\n"
        "toy,micro,same_as_policy,en,de,best_of_n,gold,,,,0,0,failed,ValueError: loss is nan\n"
    )


def test_a_language_is_the_macro_average_of_its_datasets(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "en", [1.0, 1.0, 1.0, 0.0], datasets=["a", "a", "a", "b"])
    grid.write()
    assert only_panel(reduced(grid)).entries[0].win.value == 50.0


def test_the_same_bytes_whatever_the_order_of_cells_and_reruns(tmp_path):
    grid = realistic(tmp_path / "one", LANGUAGES[:3], prompts=40).write()
    reduce_grid(grid.root, grid.name)
    first = (grid.root / "grids/toy/matrix.csv").read_bytes()
    reduce_grid(grid.root, grid.name)
    assert (grid.root / "grids/toy/matrix.csv").read_bytes() == first
    other = realistic(tmp_path / "two", LANGUAGES[:3], prompts=40)
    other.cells.reverse()
    other.write()
    reduce_grid(other.root, other.name)
    for name in ("matrix.csv", "matrix.md"):
        assert (other.root / "grids/toy" / name).read_bytes() == (grid.root / "grids/toy" / name).read_bytes()


def test_other_swept_axes_are_columns_and_panels(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for tuning in ("full", "frozen"):
        grid.cell("de", "en", [1.0, 0.0], **{"rm_backbone.tuning": tuning})
    grid.write()
    matrix = reduced(grid)
    assert matrix.other_axes == ["rm_backbone.tuning"]
    assert [panel.axes["rm_backbone.tuning"] for panel in matrix.blocks[0].panels] == ["frozen", "full"]
    lines = csv_bytes(matrix).decode().splitlines()
    assert lines[0].split(",")[7] == "rm_backbone.tuning"
    assert [line.split(",")[7] for line in lines[1:]] == ["frozen", "full"]


def test_documents_of_a_language_are_a_panel_beside_those_of_the_summaries_own(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for documents, wins in ((None, [1.0, 1.0]), ("en", [1.0, 0.0]), ("tr", [0.0, 0.0])):
        grid.cell("de", "tr", wins, **{"task.document_lang": documents})
    grid.write()
    matrix = reduced(grid)
    panels = [panel for block in matrix.blocks for panel in block.panels]  # a block each: opponents differ as well
    assert [panel.axes["task.document_lang"] for panel in panels] == ["", "en", "tr"]
    assert [panel.entries[0].win.value for panel in panels] == [100.0, 50.0, 0.0]
    assert panel_names([panel.axes for panel in panels]) == ["none", "en", "tr"]
    assert heading_of(panels[1].axes) == "same_as_policy, best_of_n, judge gold, policy micro, task.document_lang=en"
    assert [line.split(",")[7] for line in csv_bytes(matrix).decode().splitlines()] == [
        "task.document_lang", "", "en", "tr"
    ]  # fmt: skip


def test_nothing_of_times_hosts_or_paths_is_in_the_files(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "en", [1.0, 0.0])
    grid.write()
    reduce_grid(tmp_path, "toy")
    for name in ("matrix.csv", "matrix.json", "matrix.md"):
        content = (tmp_path / "grids/toy" / name).read_text()
        assert str(tmp_path) not in content and os.uname().nodename not in content and "2026" not in content


# --- holes ------------------------------------------------------------------------------------------------


def reasons(grid):
    panel = only_panel(reduced(grid))
    return {(e.source, e.target): (e.status, e.reason) for e in panel.entries if e.status != "done"}


def test_holes_say_why(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.0])
    grid.cell("en", "de", fails="judge")
    grid.cell("ru", "de", fails="sft")
    grid.cell("tr", "de")
    grid.left_out.append({"axes": {**grid.cells[0].axes, "source_lang": "vi"}, "reason": "the task has no vi"})
    grid.write()
    assert reasons(grid) == {
        ("en", "de"): ("failed", "ValueError: loss is nan"),
        ("ru", "de"): ("blocked", "sft[ru] failed: ValueError: loss is nan"),
        ("tr", "de"): ("not run", ""),
        ("vi", "de"): ("left out", "the task has no vi"),
    }


def test_languages_without_cells_are_a_note_not_a_hole(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.0])
    for axis in ("source_lang", "target_lang"):
        left = {"axes": {"task": "toy", axis: "ar, fr"}, "reason": "task toy has no data in them"}
        grid.left_out.append(left)
    matrix = reduced(grid.write())
    assert matrix.left_out == ["source_lang, target_lang ar, fr: task toy has no data in them"]
    assert len(matrix.entries()) == 1


def test_a_damaged_result_is_a_hole_and_is_never_read(tmp_path):
    grid = SyntheticGrid(tmp_path)
    judge = grid.cell("de", "de", [1.0, 0.0])["judge"]
    grid.cell("en", "de", [1.0, 0.0])
    grid.write()
    items = grid.store.folder("judge", judge.key) / "items.json"
    items.write_bytes(items.read_bytes().replace(b"0.0", b"1.0"))
    ((where, (status, reason)),) = reasons(grid).items()
    assert where == ("de", "de") and status == "damaged" and "items.json" in reason


@pytest.mark.parametrize(
    ("wins", "kwargs", "said"),
    [
        ([1.0, 3.0], {}, "outside 0..1"),
        ([1.0, 0.0], {"curve": np.zeros((3, 2))}, "curve.npy"),
        ([1.0, 0.0], {"groups": ["only one"]}, "unequal lengths"),
        ([1.0, 0.0], {"prompts": ["p0", "px"]}, "prompts are not those"),
    ],
)
def test_records_that_do_not_fit_are_holes(tmp_path, wins, kwargs, said):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.0])
    grid.cell("en", "de", wins, **kwargs)
    grid.write()
    ((where, (status, reason)),) = reasons(grid).items()
    assert where == ("en", "de") and status == "damaged" and said in reason


def test_a_grid_without_any_result_is_all_holes(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "en")
    grid.write()
    matrix = reduce_grid(tmp_path, "toy")
    assert csv_bytes(matrix).decode().endswith(",,,,0,0,not run,\n")


def test_a_grid_that_is_not_there_names_those_that_are(tmp_path):
    SyntheticGrid(tmp_path, "mine").write()
    with pytest.raises(ConfigError, match=r"no grid 'yours'.*Grids here: mine"):
        reduce_grid(tmp_path, "yours")
    (tmp_path / "grids/mine/plan.json").write_text("{}")
    with pytest.raises(StoreError, match="is no plan"):
        reduce_grid(tmp_path, "mine")


# --- seeds ------------------------------------------------------------------------------------------------


def test_seeds_are_points_and_a_missing_one_makes_the_entry_partial(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for seed, wins in enumerate(([0.5, 0.5], [1.0, 0.5], [1.0, 1.0])):
        grid.cell("de", "de", wins, seed=seed)
    grid.cell("en", "de", [0.5, 0.5], seed=0)
    grid.cell("en", "de", seed=1, fails="judge")
    grid.cell("en", "de", [1.0, 0.5], seed=2)
    grid.write()
    matrix = reduced(grid)
    home, abroad = only_panel(matrix).entries
    assert (home.win.value, home.win.seeds, home.win.n, home.status) == (75.0, 3, 2, "done")
    assert 0 < home.win.low < 10 and 95 < home.win.high < 100  # of two prompts; test_coverage.py says the rest
    assert (abroad.win.value, abroad.win.seeds) == (62.5, 2)
    assert (abroad.status, abroad.reason) == ("partial", "seed=1: ValueError: loss is nan")
    assert abroad.versus_home.estimate.value == pytest.approx((0.0 - 25.0) / 2)  # over the seeds both have
    assert abroad.versus_home.estimate.seeds == 2
    assert matrix.interval_note.startswith("95 % intervals over prompts and seeds, from 2 to 3 seeds")
    assert matrix.interval_note.endswith("; of 2 documents in some cells, too few to say what others would give")


def test_data_seeds_are_told_apart_from_training_seeds(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for data, wins in enumerate(([0.0, 0.5], [1.0, 1.0])):
        for seed in (0, 1):
            prompts = [f"{data}-{i}" for i in range(2)]
            grid.cell("de", "de", wins, seed=seed, prompts=prompts, groups=prompts, **{"task.seed": data})
    grid.write()
    matrix = reduced(grid)
    (entry,) = only_panel(matrix).entries
    assert (entry.win.value, entry.win.seeds, entry.win.n) == (62.5, 2, 4)
    assert "2 data seeds" in matrix.interval_note
    assert csv_bytes(matrix).decode().splitlines()[1].split(",")[-4:-2] == ["4", "2"]


# --- comparisons ------------------------------------------------------------------------------------------


def test_best_and_ties_and_home(tmp_path):
    grid = SyntheticGrid(tmp_path)
    pattern = np.arange(200) % 2
    grid.cell("de", "de", 0.5 + 0.25 * pattern)
    grid.cell("en", "de", 0.75 - 0.25 * pattern)  # the same mean: tied, though never equal
    grid.cell("ru", "de", 0.25 * pattern)  # half a point below home in every prompt
    grid.write()
    panel = only_panel(reduced(grid))
    home, tied, worse = panel.entries
    assert home.best and not home.tied
    assert tied.tied and tied.versus_home.estimate.contains(0)
    assert not worse.tied
    assert (worse.versus_home.estimate.value, worse.versus_home.estimate.low) == (-50.0, pytest.approx(-50.7, abs=0.1))
    assert worse.versus_home.p_holm < 1e-100
    assert panel.verdicts[0].startswith("Source against home: the difference is settled in 1 of 2 cells")
    assert "worse than home: de from ru" in panel.verdicts[0]
    assert "de: de = en" in panel.verdicts[1]


def test_two_sources_that_pick_the_same_are_called_equal(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for source in ("de", "en"):
        grid.cell(source, "en", np.arange(20) % 2)
    panel = only_panel(reduced(grid.write()))
    assert panel.at()["en", "en"].best and panel.at()["de", "en"].tied
    assert panel.at()["de", "en"].versus_home.identical
    assert panel.verdicts[0].endswith("The other cell is equal on every prompt.")


def test_row_and_column_means(tmp_path):
    grid = SyntheticGrid(tmp_path)
    wins = {("de", "de"): 1.0, ("de", "en"): 0.5, ("en", "de"): 0.0, ("en", "en"): 0.25}
    for (source, target), win in wins.items():
        grid.cell(source, target, [win] * 3)
    grid.cell("de", "ru")
    grid.cell("en", "ru", [0.5] * 3)
    panel = only_panel(reduced(grid.write()))
    assert {s: m.estimate.value for s, m in panel.row_means.items()} == {"de": 75.0, "en": 25.0}
    assert (panel.row_means["de"].entries, panel.row_means["de"].of) == (2, 3)
    assert {t: m.estimate.value for t, m in panel.column_means.items()} == {"de": 50.0, "en": 37.5, "ru": 50.0}
    assert {t: m.estimate.value for t, m in panel.column_means_abroad.items()} == {"de": 0.0, "en": 50.0, "ru": 50.0}


def test_means_over_parallel_prompts_keep_their_correlation(tmp_path):
    """The same facts in two languages: the mean over targets is no more certain than one of them."""
    random = np.random.default_rng(0)
    wins = (random.random(200) < 0.5).astype(float)
    grid = SyntheticGrid(tmp_path)
    for target in ("de", "en"):
        grid.cell("ru", target, wins, prompts=[f"{target}-{i}" for i in range(200)])
    panel = only_panel(reduced(grid.write()))
    assert panel.row_means["ru"].estimate.se == pytest.approx(panel.entries[0].win.se)


def test_pooled_sources_with_the_target_are_neither_home_nor_abroad(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for source in ("de", "en", "de+en"):
        grid.cell(source, "de", np.full(20, 0.75))
    panel = only_panel(reduced(grid.write()))
    assert panel.sources == ["de", "en", "de+en"]
    pooled = panel.at()["de+en", "de"]
    assert not pooled.home and not pooled.abroad and pooled.versus_home is not None
    assert count(panel, "above_50") == (1, 1)


def test_curve_is_folded_with_its_interval(tmp_path):
    grid = SyntheticGrid(tmp_path)
    random = np.random.default_rng(0)
    curve = random.random((50, 4))
    grid.cell("de", "de", curve[:, -1], curve=curve)
    entry = only_panel(reduced(grid.write())).entries[0]
    assert entry.curve.value == pytest.approx((100 * curve.mean(axis=0)).tolist())
    curve = entry.curve
    assert all(low < value < high for low, value, high in zip(curve.low, curve.value, curve.high, strict=True))
    assert (entry.curve.low[-1], entry.curve.high[-1]) == (entry.win.low, entry.win.high)
    assert entry.kl_bound == pytest.approx(np.log(4) - 0.75)


# --- controls ---------------------------------------------------------------------------------------------


def control_grid(root, real, shuffled, likelihood):
    grid = SyntheticGrid(root)
    grid.cell("en", "de", real)
    for number, wins in enumerate(shuffled, 1):
        grid.cell("en", "de", wins, rm_backbone=f"shuffled_{number}")
    grid.cell("-", "de", likelihood, rm_backbone="likelihood_sft")
    grid.cell("-", "de", [1.0, 0.0] * 20, rm_backbone="random")
    return grid.write()


def test_controls_stand_apart_and_are_compared(tmp_path):
    real, low = np.full(40, 0.75), np.full(40, 0.25)
    shuffled = [np.full(40, win) for win in (0.25, 0.5, 0.5, 0.25, 0.25)]
    matrix = reduced(control_grid(tmp_path, real, shuffled, low))
    panel = only_panel(matrix)
    assert [entry.axes["rm_backbone"] for entry in panel.entries] == ["same_as_policy"]
    (band,) = panel.bands
    assert (band.values, band.mean, band.beaten) == ([25.0, 25.0, 25.0, 50.0, 50.0], 35.0, True)
    assert band.versus_mean.estimate.value == 40.0
    assert panel.versus["likelihood_sft"]["en"]["de"].estimate.value == 50.0
    assert [control.name for control in matrix.blocks[0].controls] == ["likelihood_sft", "random"]
    assert count(panel, "random_contains_50") == (1, 1)
    assert count(panel, "beats_band") == (1, 1)
    assert count(panel, "beats_likelihood_sft") == (1, 1)
    assert count(panel, "beats_band_and_likelihood_sft") == (1, 1)
    assert len(csv_bytes(matrix).splitlines()) == 1 + 1 + 5 + 2  # controls are rows of their own


def test_one_permutation_as_good_as_the_real_model_breaks_the_band(tmp_path):
    real = np.full(40, 0.75)
    shuffled = [np.full(40, win) for win in (0.25, 0.75)]
    panel = only_panel(reduced(control_grid(tmp_path, real, shuffled, real)))
    assert not panel.bands[0].beaten
    assert count(panel, "beats_band") == (0, 1)
    assert count(panel, "beats_likelihood_sft") == (0, 1)


def test_shuffled_models_of_several_backbones_are_not_mixed_up(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for backbone, win in (("same_as_policy", 0.25), ("bag_of_words", 0.5)):
        grid.cell("en", "de", np.full(10, 0.75), rm_backbone=backbone)
        grid.cell("en", "de", np.full(10, win), rm_backbone=f"shuffled_1:{backbone}")
    (block,) = reduced(grid.write()).blocks
    assert {panel.axes["rm_backbone"]: panel.bands[0].mean for panel in block.panels} == {
        "same_as_policy": 25.0,
        "bag_of_words": 50.0,
    }


def test_a_score_without_reward_model_has_no_source(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.0])
    for source in ("de", "en"):
        grid.untrained(source, "de", [0.5, 0.5], rm_backbone="cosine")
    matrix = reduced(grid.write())
    assert only_panel(matrix).sources == ["de"]
    (control,) = matrix.blocks[0].controls
    assert (control.name, [entry.source for entry in control.entries]) == ("cosine", ["-"])


def test_a_grid_like_the_embedded_one(tmp_path):
    matrix = reduce_grid(tmp_path, realistic(tmp_path, prompts=200).write().name)
    panel = only_panel(matrix)
    assert len(panel.entries) == 36 and len(panel.bands) == 36 and len(panel.accuracy) == 36
    by_name = {c.name: c for c in panel.counts}
    above = sum(entry.win.low > 50 for entry in panel.entries if entry.abroad)
    assert (by_name["above_50"].k, by_name["above_50"].of) == (above, 30)
    assert by_name["random_contains_50"].of == 6
    beats = sum(a.beats_baselines for a in panel.accuracy if a.source != a.target)
    assert (by_name["accuracy_beats_baselines"].k, by_name["accuracy_beats_baselines"].of) == (beats, 30)
    assert len(panel.accuracy_baselines) == 6


# --- floor, ceiling, recorded responses -------------------------------------------------------------------


def test_floor_and_ceiling_are_the_worst_and_the_best_picks(tmp_path):
    grid = SyntheticGrid(tmp_path)
    pool = np.array([[0.0, 1.0, np.nan, np.nan], [0.2, 0.5, 0.9, 0.9]])
    baseline = np.array([[0.0, 1.0], [0.5, 0.9]])
    grid.cell("de", "de", [0.75, 0.75], pool=pool, baseline=baseline)
    (bound,) = only_panel(reduced(grid.write())).bounds
    assert bound.floor.value == 100 * (0.25 + 0.0) / 2  # 0 against {0, 1}: a tie and a loss; 0.2: two losses
    assert bound.ceiling.value == 100 * (0.75 + 0.75) / 2


def test_policies_of_their_own_have_no_common_floor_and_ceiling(tmp_path):
    """With sft_data=translated each source has a pool of its own; only a lone one's best pick bounds its column."""
    grid = SyntheticGrid(tmp_path)
    for source in ("de", "en"):
        grid.cell(source, "tr", wins=[1, 0], sft_data="translated")
    grid.cell("de", "en", wins=[1, 0], sft_data="translated")
    bounds = only_panel(reduced(grid.write())).bounds
    assert [bound.target for bound in bounds] == ["en"]


def test_with_two_recorded_systems_the_win_rate_is_25_plus_half_the_agreement(tmp_path):
    random = np.random.default_rng(0)
    quality = random.random((60, 2))
    right = random.random(60) < 0.7
    grid = SyntheticGrid(tmp_path)
    pairs = {"group": [f"g{i}" for i in range(60)], "correct": right.astype(float).tolist()}
    grid.cell("en", "de", 0.25 + 0.5 * right, pairs=pairs, rho=0.4, pool=quality, baseline=quality)
    panel = only_panel(reduced(grid.write()))
    (entry,) = panel.entries
    assert entry.pairwise.value == pytest.approx(100 * right.mean())
    assert entry.win.value == pytest.approx(25 + 0.5 * entry.pairwise.value)
    assert entry.win.low == pytest.approx(25 + 0.5 * entry.pairwise.low)
    assert entry.spearman == 0.4
    assert (panel.bounds[0].floor.value, panel.bounds[0].ceiling.value) == (25.0, 75.0)


# --- files ------------------------------------------------------------------------------------------------


def test_matrix_json_is_the_whole_matrix(tmp_path):
    grid = realistic(tmp_path, LANGUAGES[:2], prompts=30).write()
    matrix = reduce_grid(tmp_path, grid.name)
    again = read_matrix(tmp_path / "grids/toy")
    assert matrix_json(again) == matrix_json(matrix)
    assert csv_bytes(again) == csv_bytes(matrix)
    assert json.loads(matrix_json(matrix))["provenance"]["cells_done"] == len(grid.cells)
    with pytest.raises(StoreError, match="xling reduce nothing"):
        read_matrix(tmp_path / "grids/nothing")


def test_the_picture_is_drawn_again_only_when_the_matrix_changes(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.0])
    stages = grid.cell("en", "de")
    grid.write()
    reduce_grid(tmp_path, "toy")
    picture = tmp_path / "grids/toy/matrix.png"
    first = picture.stat()
    reduce_grid(tmp_path, "toy")
    assert picture.stat().st_mtime_ns == first.st_mtime_ns
    grid.fail(stages["judge"])
    reduce_grid(tmp_path, "toy")
    assert picture.stat().st_mtime_ns != first.st_mtime_ns


def test_a_store_that_was_copied_gives_the_same_matrix(tmp_path):
    grid = realistic(tmp_path / "here", LANGUAGES[:2], prompts=30).write()
    reduce_grid(grid.root, "toy")
    shutil.copytree(grid.root, tmp_path / "there")
    reduce_grid(tmp_path / "there", "toy")
    name = "grids/toy/matrix.csv"
    assert (tmp_path / "there" / name).read_bytes() == (grid.root / name).read_bytes()
