"""Running plans in worker processes: what is executed, what failures cost, where output goes."""

import json
import os
import re
from pathlib import Path

import pytest
from noop_stages import executed as run
from noop_stages import fold, grid, stage

from xling.errors import StageError, StoreError
from xling.grid.plan import make_plan
from xling.grid.stage import Cell, Stage
from xling.grid.store import Store
from xling.runners.local.runner import run_local

WHOLE = {"base": 1, "sft": 2, "reward": 2, "pool": 2, "score": 4, "judge": 4}


def small(**special: dict) -> list[Cell]:
    return grid(["de", "en"], ["de", "en"], **special)


def result(store: Store, what: Stage) -> Path:
    return store.folder(what.kind, what.key) / "result.json"


def test_every_stage_runs_once_and_the_second_time_none(tmp_path: Path) -> None:
    first = run(tmp_path, small())
    assert first.executed == WHOLE and first.exit_code == 0
    before = fold(tmp_path)
    second = run(tmp_path, small())
    assert second.executed == {} and second.exit_code == 0
    assert fold(tmp_path) == before
    runs = (tmp_path / "grids" / "small" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["executed"] for line in runs] == [WHOLE, {}]
    leftovers = [path.name for path in tmp_path.glob("stages/*/*") if "." in path.name]
    assert leftovers == []


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    run(tmp_path / "one", small(), workers=1)
    run(tmp_path / "three", small(), workers=3)
    assert fold(tmp_path / "one") == fold(tmp_path / "three")


@pytest.mark.parametrize(
    ("action", "last"),
    [
        ("raise no such luck", "ValueError: no such luck"),
        ("exit 3", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt"),
        ("os_exit 5", "The stage's process died: it exited with code 5"),
        ("os_exit 0", "The stage's process died: it exited with code 0"),
        ("kill SIGKILL", "The stage's process died: killed by SIGKILL (out of memory, or killed by hand)"),
        ("kill SIGSEGV", "The stage's process died: killed by SIGSEGV (a crash in native code)"),
    ],
)
def test_a_stage_that_raises_exits_or_dies_costs_the_cells_below_it(tmp_path: Path, action: str, last: str) -> None:
    cells = small(sft_de={"do": action, "unless": str(tmp_path / "mended")})
    outcome = run(tmp_path, cells)
    assert outcome.executed == {"base": 1, "sft": 1, "reward": 1, "pool": 1, "score": 1, "judge": 1}
    assert [(failed.label, failed.last) for failed in outcome.failures] == [("sft[de]", last)]
    assert outcome.cell_ends() == {"done": 1, "blocked": 3} and outcome.exit_code == 1
    assert Path(outcome.failures[0].log).exists()
    (tmp_path / "mended").touch()
    plan = make_plan(cells, Store(tmp_path))
    assert plan.steps[cells[0].stage.parents["pool"].parents["sft"].key].reason == f"failed before: {last}"
    outcome = run(tmp_path, cells)
    assert outcome.exit_code == 0 and sum(outcome.executed.values()) == 9
    assert not list(tmp_path.glob("stages/*/*.*"))


def test_the_traceback_and_the_log_of_a_failure_are_kept(tmp_path: Path) -> None:
    failing = stage("base", "base", do="print hello; raise no luck")
    for attempts in (1, 2):
        run(tmp_path, [Cell({}, failing)])
        record = Store(tmp_path).failure_record("base", failing.key)
        assert record is not None and record.attempts == attempts
    assert "raise ValueError(value)\nValueError: no luck" in record.traceback
    log = (tmp_path / record.log).read_text(encoding="utf-8")
    assert re.findall(r"^--- base, attempt (\d), ", log, flags=re.MULTILINE) == ["1", "2"]
    assert log.count("ValueError: no luck") == 2


def test_what_a_stage_and_its_children_print_goes_to_its_log(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    what = stage("base", "base", do="print grüß dich")
    assert run(tmp_path, [Cell({}, what)]).exit_code == 0
    log = Store(tmp_path).log("base", what.key).read_text(encoding="utf-8")
    assert log.splitlines()[1:] in (["grüß dich", "grüß dich from a child"], ["grüß dich from a child", "grüß dich"])
    assert capfd.readouterr() == ("", "")


def test_mode_cached_uses_results_and_retries_nothing(tmp_path: Path) -> None:
    cells = small(sft_de={"do": "raise no", "unless": str(tmp_path / "mended")})
    run(tmp_path, cells)
    (tmp_path / "mended").touch()
    outcome = run(tmp_path, cells, mode="cached")
    assert outcome.executed == {} and outcome.exit_code == 1
    assert outcome.cell_ends() == {"cached": 1, "blocked": 3}
    assert [failed.last for failed in outcome.failures] == ["failed before: ValueError: no"]


def test_mode_force_runs_all_anew_and_replaces_the_results(tmp_path: Path) -> None:
    run(tmp_path, small())
    bytes_before = fold(tmp_path)
    made_before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages/*/*/done.json")}
    outcome = run(tmp_path, small(), mode="force")
    assert outcome.executed == WHOLE and fold(tmp_path) == bytes_before
    assert all(path.stat().st_mtime_ns > before for path, before in made_before.items())
    assert not list(tmp_path.glob("stages/*/*.*"))


def test_mode_read_only_runs_nothing_and_says_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path, grid(["de"], ["de"]))
    before = fold(tmp_path)
    outcome = run(tmp_path, small(), mode="read-only")
    assert outcome.executed == {} and outcome.exit_code == 1
    assert outcome.cell_ends() == {"cached": 1, "not run": 3}
    assert fold(tmp_path) == before


def test_a_damaged_result_is_set_aside_and_made_again(tmp_path: Path) -> None:
    cells = small()
    run(tmp_path, cells)
    before, store = fold(tmp_path), Store(tmp_path)
    pool = cells[0].stage.parents["pool"]
    result(store, pool).write_text("{}", encoding="utf-8")
    outcome = run(tmp_path, cells)
    assert outcome.executed == {"pool": 1} and fold(tmp_path) == before
    assert (store.kind_folder("pool") / f"{pool.key}.damaged-1" / "result.json").read_text(encoding="utf-8") == "{}"


def hide_an_edit(path: Path) -> None:
    times, content = path.stat(), path.read_text(encoding="utf-8")
    path.write_text(content.replace("value", "VALUE"), encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_damage_that_only_the_hash_shows_is_found_on_loading_and_mended(tmp_path: Path) -> None:
    cells = grid(["de"], ["de"])
    run(tmp_path, cells)
    before, store = fold(tmp_path), Store(tmp_path)
    hide_an_edit(result(store, cells[0].stage.parents["pool"]))
    hide_an_edit(result(store, cells[0].stage.parents["pool"].parents["sft"]))
    outcome = run(tmp_path, small())
    assert outcome.exit_code == 0
    assert outcome.executed == {"sft": 2, "reward": 1, "pool": 2, "score": 3, "judge": 3}
    run(tmp_path / "other", cells)
    assert fold(tmp_path / "other") == before
    run(tmp_path / "other", small())
    assert fold(tmp_path) == fold(tmp_path / "other")


def test_mode_cached_does_not_mend_but_fails_what_needs_the_damaged_result(tmp_path: Path) -> None:
    run(tmp_path, grid(["de"], ["de"]))
    store = Store(tmp_path)
    hide_an_edit(result(store, grid(["de"], ["de"])[0].stage.parents["pool"]))
    outcome = run(tmp_path, grid(["de", "en"], ["de"]), mode="cached")
    assert outcome.exit_code == 1 and outcome.cell_ends() == {"cached": 1, "blocked": 1}
    (failed,) = outcome.failures
    assert failed.label == "score[en, de]" and "pool[de] cannot be used: file result.json" in failed.last


def test_a_failing_stage_beside_cheap_ones_costs_only_itself(tmp_path: Path) -> None:
    stages = [stage("pool", f"pool{number}", n=number) for number in range(60)]
    stages[40] = stage("pool", "killed", do="kill SIGKILL")
    stages[50] = stage("pool", "exits", do="exit 1")
    outcome = run(tmp_path, [Cell({"seed": number}, what) for number, what in enumerate(stages)])
    assert outcome.executed == {"pool": 58}
    assert sorted(failed.label for failed in outcome.failures) == ["exits", "killed"]


def test_a_catalogue_that_cannot_be_imported_stops_the_run_with_the_reason(tmp_path: Path) -> None:
    plan = make_plan(small(), Store(tmp_path))
    with pytest.raises(StageError, match=r"cannot load the stages 'no_such:KINDS': ModuleNotFoundError"):
        run_local(plan, "no_such:KINDS", workers=1, show=False)


def test_a_kind_that_the_catalogue_lacks_fails_its_stage(tmp_path: Path) -> None:
    outcome = run(tmp_path, [Cell({}, stage("nonsense", "nonsense"))])
    assert "The catalogue has no stage 'nonsense'" in outcome.failures[0].last


def test_stages_planned_for_another_version_of_the_code_do_not_run(tmp_path: Path) -> None:
    outcome = run(tmp_path, [Cell({}, Stage.make("base", 2, "base", {}, {}))])
    assert "version 2 of stage 'base', the code has 1" in outcome.failures[0].last


def test_an_unwritable_root_is_said_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written.*Not a directory.*root=PATH"):
        run(tmp_path / "file" / "outputs", small())


def test_what_is_shown_without_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    run(tmp_path, small(sft_de={"do": "raise it [broke]"}), show=True)
    shown = capfd.readouterr().err
    assert "sft[de] FAILED: ValueError: it [broke]" in shown
    assert "1 of 4 cells done, 3 blocked" in shown
    assert re.search(r"log: .*/logs/sft/[0-9a-f]{12}\.log", shown)
    assert "\x1b" not in shown and len(re.findall(r"of 15 stages\)", shown)) <= 3
