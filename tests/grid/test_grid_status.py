"""`xling status|logs|gc|report` on real stores: what people see of a grid that runs, failed, or is done."""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from noop_stages import executed as run
from noop_stages import fold, grid, stage

from xling import cli
from xling.analysis.matrix.types import Matrix
from xling.errors import ConfigError
from xling.grid import claim, host
from xling.grid.cleanup import grid_garbage
from xling.grid.grids import chosen_grid, grids, read_grid
from xling.grid.plan import make_plan
from xling.grid.stage import Cell
from xling.grid.status import grid_status
from xling.grid.store import Store
from xling.report.files import write_matrix
from xling.runners.slurm import record


def failing(root: Path) -> list[Cell]:
    cells = grid(["de", "en"], ["de", "en"], sft_de={"do": "print words; raise no luck"})
    run(root, cells)
    return cells


def xling(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main([*arguments, "--root", str(root)])
    return code, *capsys.readouterr()


def test_status_counts_by_kind_and_shows_failures_with_their_log(tmp_path: Path, capsys) -> None:
    failing(tmp_path)
    code, out, _ = xling(capsys, tmp_path, "status")
    assert code == 0 and "small: 1 of 4 cells done" in out
    assert re.search(r"judge\W+1\W+3\W", out)
    assert re.search(r"^ +1  failed  sft\[de\]: ValueError: no luck$", out, flags=re.MULTILINE)
    assert re.search(r"log: .*/logs/sft/[0-9a-f]{12}\.log$", out, flags=re.MULTILINE)


def test_status_of_a_running_grid_says_where_and_how_long(tmp_path: Path) -> None:
    cells = failing(tmp_path)
    store, failed = Store(tmp_path), cells[0].stage.parents["pool"].parents["sft"]
    held = claim.Claim(host.this_process(), time.time() - 100)
    Path(store.beside("sft", failed.key, ".claim")).write_bytes(msgspec.json.encode(held))
    (row,) = grid_status(store, "small").having("running")
    assert row.stage.label == "sft[de]"
    assert re.fullmatch(rf"on {host.hostname()} \(pid {os.getpid()}\) for 10\d s", row.note)
    away = claim.Claim(host.Process("c0ffee01", 7, "boot.ns.1"), time.time() - 100, beat=15.0)
    path = Path(store.beside("sft", failed.key, ".claim"))
    path.write_bytes(msgspec.json.encode(away))
    os.utime(path, (time.time() - 90,) * 2)
    (row,) = grid_status(store, "small").having("running")
    assert re.fullmatch(r"on c0ffee01 \(pid 7\) for 10\d s, last sign of life 9\d s ago", row.note)
    path.write_bytes(b"\xf4 torn")
    (row,) = grid_status(store, "small").having("running")
    assert re.fullmatch(r"by somebody unknown for \d s(, last sign of life \d s ago)?", row.note)
    path.write_bytes(msgspec.json.encode(away))
    os.utime(path, (time.time() - 300,) * 2)
    assert not grid_status(store, "small").having("running")
    path.write_bytes(msgspec.json.encode(held))
    states = {row.stage.label: row.state for row in grid_status(store, "small").rows}
    assert (states["sft[en]"], states["reward[de]"]) == ("done", "to do")


def test_status_names_damaged_results(tmp_path: Path, capsys) -> None:
    cells = grid(["de"], ["de"])
    run(tmp_path, cells)
    shutil.rmtree(Store(tmp_path).folder("judge", cells[0].stage.key) / "more")
    assert "judge[de, de]: file more/text.txt is missing" in xling(capsys, tmp_path, "status")[1]


def test_every_stage_has_an_index_that_logs_understands(tmp_path: Path, capsys) -> None:
    failing(tmp_path)
    out = xling(capsys, tmp_path, "status", "--all")[1]
    lines = re.findall(r"^ +(\d+)  (done|failed|blocked) +(\S+(?: \S+\])?)", out, flags=re.MULTILINE)
    assert [int(index) for index, _, _ in lines] == list(range(15))
    by_index = xling(capsys, tmp_path, "logs", "1")
    by_label = xling(capsys, tmp_path, "logs", "sft[de]", "small")
    assert by_index == by_label
    assert by_index[0] == 0 and "words" in by_index[1] and "ValueError: no luck" in by_index[1]
    code, _, error = xling(capsys, tmp_path, "logs", "sft[dee]")
    assert code == 2 and "'sft[dee]' is no stage of grid small" in error and "Did you mean 'sft[de]'?" in error
    assert "has no log yet" in xling(capsys, tmp_path, "logs", "reward[de]")[2]


def seeds(*numbers: int, **special: Any) -> list[Cell]:
    """A cell a seed, over one base; `special` adds to the stages of seed 1."""
    base = stage("base", "base")
    cells = []
    for number in numbers:
        extra = special if number == 1 else {}
        sft = stage("sft", "sft[de]", {"base": base}, seed=number, **extra)
        judge = stage("judge", "judge[de, de]", {"sft": sft}, seed=number)
        cells.append(Cell({"source_lang": "de", "target_lang": "de", "seed": number}, judge))
    return cells


def test_stages_of_one_label_are_told_apart_everywhere(tmp_path: Path, capsys) -> None:
    alone = seeds(0)
    run(tmp_path, alone, name="alone")
    assert [row.stage.label for row in grid_status(Store(tmp_path), "alone").rows] == [
        "base",
        "sft[de]",
        "judge[de, de]",
    ]
    outcome = run(tmp_path, seeds(0, 1, do="print words; raise no luck"), show=True)
    (failed,) = outcome.failures
    assert failed.label == "sft[de] seed=1" and "sft[de] seed=1 FAILED" in capsys.readouterr().err
    rows = grid_status(Store(tmp_path), "small").rows
    assert [(row.stage.label, row.state) for row in rows] == [
        ("base", "done"), ("sft[de] seed=0", "done"), ("judge[de, de] seed=0", "done"),
        ("sft[de] seed=1", "failed"), ("judge[de, de] seed=1", "blocked")]  # fmt: skip
    store = Store(tmp_path)
    failure = store.failure_record("sft", rows[3].stage.key)
    assert failure is not None and failure.label == "sft[de] seed=1"
    assert "words" in xling(capsys, tmp_path, "logs", "sft[de] seed=1", "small")[1]
    code, _, error = xling(capsys, tmp_path, "logs", "sft[de]", "small")
    assert (
        code == 2 and "'sft[de]' is 2 stages of grid small: 1 sft[de] seed=0, 3 sft[de] seed=1. Give the ind" in error
    )
    changed = make_plan(
        seeds(2, 3), store, name="alone"
    )  # what was stored under its own label is what it is compared with
    assert {step.stage.label: step.reason for step in changed.steps.values() if step.stage.kind == "sft"} == {
        "sft[de] seed=2": "spec changed: seed 0 -> 2", "sft[de] seed=3": "spec changed: seed 0 -> 3"}  # fmt: skip
    again = make_plan(changed.cells, store)
    assert [step.stage.label for step in again.steps.values()] == [s.stage.label for s in changed.steps.values()]
    assert {cell.stage.key for cell in changed.cells} == {cell.stage.key for cell in seeds(2, 3)}
    strange = [
        Cell({**cell.axes, "seed": "a\nb", "path": f"x {i} y"}, cell.stage) for i, cell in enumerate(seeds(2, 3))
    ]
    assert [cell.stage.label for cell in make_plan(strange, store).cells] == [
        "judge[de, de] path=x 0 y", "judge[de, de] path=x 1 y"]  # fmt: skip
    same = [Cell({"seed": "a\nb"}, cell.stage) for cell in seeds(2, 3)]  # by nothing that can be said but their keys
    assert [c.stage.label for c in make_plan(same, store).cells] == [f"judge[de, de] #{c.stage.key[:6]}" for c in same]


def test_the_latest_grid_is_meant_unless_one_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match="There is no grid in"):
        chosen_grid(store, None)
    for number, name in enumerate(("first", "second")):
        make_plan(grid(["de"], ["de"]), store, name=name).write()
        os.utime(tmp_path / "grids" / name / "plan.json", (number, number))
    assert chosen_grid(store, None) == "second" and chosen_grid(store, "first") == "first"
    with pytest.raises(ConfigError, match=r"no grid 'frist'.*Did you mean 'first'"):
        chosen_grid(store, "frist")


def test_gc_lists_what_no_grid_needs_and_deletes_it_only_when_told(tmp_path: Path, capsys) -> None:
    run(tmp_path, grid(["de"], ["de"]), "kept")
    kept = fold(tmp_path)
    run(tmp_path, grid(["de"], ["en"]), "dropped")
    run(tmp_path, [Cell({}, stage("base", "fails", do="raise no"))], "dropped_too")
    judge = read_grid(Store(tmp_path), "dropped").stages[-1].key
    for name in ("dropped", "dropped_too"):
        shutil.rmtree(tmp_path / "grids" / name)
    set_aside = Store(tmp_path).set_aside("judge", judge)
    code, out, _ = xling(capsys, tmp_path, "gc")
    assert code == 0 and out.count("(result that no grid refers to)") == 3 and out.count("log of a stage") == 5
    lines = out.splitlines()
    for label, why in (("pool[en]", "result that no grid refers to"), ("judge[de, en]", "damaged result, set aside"),
                       ("fails", "failure of a stage"), ("score[de, en]", "log of a stage")):  # fmt: skip
        [line] = [line for line in lines if label in line and why in line]
        assert re.match(r" +[\d.]+ k?B +\d+ s  ", line)
    assert set_aside and any(line.endswith(f"stages/judge/{set_aside}") for line in lines)
    assert "`xling gc --delete` deletes these, and nothing of 6 results" in lines[-1]
    assert len(list(tmp_path.glob("stages/*/*/done.json"))) == 10
    assert "Deleted." in xling(capsys, tmp_path, "gc", "--delete")[1]
    assert fold(tmp_path) == kept
    code, out, _ = xling(capsys, tmp_path, "gc")
    assert code == 0 and re.fullmatch(
        r"Nothing to delete of 6 results, [\d.]+ kB, in '.*': grids need them all.\n", out
    )


def test_gc_deletes_a_grid_and_what_it_alone_needs(tmp_path: Path, capsys) -> None:
    run(tmp_path, grid(["de"], ["de"]), "kept")
    results = fold(tmp_path)
    run(tmp_path, grid(["de"], ["de", "en"]), "dropped")
    (tmp_path / "grids" / "dropped" / "human").mkdir()
    code, out, _ = xling(capsys, tmp_path, "gc", "--grid", "dropped")
    assert code == 0 and out.count("(result that only dropped refers to)") == 4 and "plan.json" in out
    assert "xling gc --grid dropped --delete" in out and "Kept: " in out
    assert len(list(tmp_path.glob("stages/*/*/done.json"))) == 10

    stage, me = read_grid(Store(tmp_path), "dropped").stages[-1], host.this_process()
    beside = Store(tmp_path).beside(stage.kind, stage.key, ".claim")
    assert claim.take(beside, me) is None
    code, _, error = xling(capsys, tmp_path, "gc", "--grid", "dropped", "--delete")
    assert code == 2 and f"{stage.label} runs on {me.host}" in error
    claim.release(beside, me)

    assert "Deleted." in xling(capsys, tmp_path, "gc", "--grid", "dropped", "--delete")[1]
    assert fold(tmp_path) == results
    assert os.listdir(tmp_path / "grids" / "dropped") == ["human"]  # answers that people gave
    code, _, error = xling(capsys, tmp_path, "gc", "--grid", "dropped", "--delete")
    assert code == 2 and "no grid 'dropped'" in error
    assert xling(capsys, tmp_path, "gc", "--grid", "kept", "--delete")[0] == 0
    assert os.listdir(tmp_path / "grids") == ["dropped"] and not list(tmp_path.glob("stages/*/*"))


def test_gc_removes_what_killed_runs_left_and_nothing_that_is_in_use(tmp_path: Path, capsys) -> None:
    cells = grid(["de"], ["de"])
    run(tmp_path, cells)
    key, me = cells[0].stage.key, host.this_process()
    folder = Store(tmp_path).kind_folder("judge")
    (folder / f"{key}.damaged-1").mkdir()
    (folder / f"{key}.partial").mkdir()
    (folder / f"{key}.tmp-{me.host}-{me.pid}-{host.view()}.1").mkdir()  # its pid is another's now
    in_use = folder / f"{key}.tmp-{me.name}"
    in_use.mkdir()
    xling(capsys, tmp_path, "gc", "--delete")
    assert sorted(os.listdir(folder)) == [key, in_use.name]


def test_gc_refuses_while_a_plan_cannot_be_read(tmp_path: Path, capsys) -> None:
    run(tmp_path, grid(["de"], ["de"]))
    (tmp_path / "grids" / "small" / "plan.json").write_text("{", encoding="utf-8")
    code, _, error = xling(capsys, tmp_path, "gc", "--delete")
    assert code == 2 and "is no plan" in error
    assert len(list(tmp_path.glob("stages/*/*/done.json"))) == 6


def test_gc_verify_hashes_everything(tmp_path: Path, capsys) -> None:
    cells = grid(["de"], ["de"])
    run(tmp_path, cells)
    code, out, _ = xling(capsys, tmp_path, "gc", "--verify")
    assert code == 0 and out.startswith("Every result has the bytes that were published.\n")
    path = Store(tmp_path).folder("judge", cells[0].stage.key) / "result.json"
    times = path.stat()
    path.write_text(path.read_text(encoding="utf-8").replace("value", "VALUE"), encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    code, out, _ = xling(capsys, tmp_path, "gc", "--verify")
    assert code == 1 and f"damaged: judge/{cells[0].stage.key[:12]}: file result.json" in out
    assert not make_plan(cells, Store(tmp_path)).to_run
    xling(capsys, tmp_path, "gc", "--verify", "--delete")
    assert [what.label for what in make_plan(cells, Store(tmp_path)).to_run] == ["judge[de, de]"]


def test_a_run_clears_what_was_left_beside_finished_results(tmp_path: Path) -> None:
    """Killed after a result was published and before the rest was tidied."""
    cells = grid(["de"], ["de"])
    run(tmp_path, cells)
    store, key = Store(tmp_path), cells[0].stage.key
    store.scratch("judge", key, host.this_process())
    gone = claim.Claim(host.Process(host.hostname(), 1, f"{host.view()}.99"), time.time())
    Path(store.beside("judge", key, ".claim")).write_bytes(msgspec.json.encode(gone))
    Path(store.beside("judge", key, ".failed.json")).write_text("{}", encoding="utf-8")
    run(tmp_path, cells)
    assert os.listdir(store.kind_folder("judge")) == [key]


def test_a_result_that_force_was_about_to_replace_is_put_back(tmp_path: Path) -> None:
    cells = grid(["de"], ["de"])
    run(tmp_path, cells)
    before, judge = fold(tmp_path), Store(tmp_path).folder("judge", cells[0].stage.key)
    judge.rename(judge.with_name(f"{judge.name}.old-{host.hostname()}-1-{host.view()}.99"))
    shutil.rmtree(Store(tmp_path).folder("score", cells[0].stage.parents["score"].key))
    run(tmp_path, cells)
    assert fold(tmp_path) == before
    lines = (tmp_path / "grids" / "small" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["executed"] == {"score": 1}


def test_report_prints_the_stored_matrix_or_says_how_to_get_one(tmp_path: Path, capsys) -> None:
    run(tmp_path, grid(["de"], ["de"]))
    code, _, error = xling(capsys, tmp_path, "report")
    assert code == 2 and "xling reduce small" in error
    write_matrix(tmp_path / "grids" / "small", Matrix("small", [], [], [], {}, "no intervals"))
    code, text, error = xling(capsys, tmp_path, "report")
    assert code == 0 and "Transfer matrix 'small'" in text and "no intervals." in text and error == ""


# --- while others work on the same root ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A grid that is done, in a root where another launch makes, renames and removes folders all the time."""
    tmp_path = tmp_path_factory.mktemp("busy")
    run(tmp_path, grid(["de", "en"], ["de", "en"]))
    others = grid(["tr", "hi"], ["ja"])
    run(tmp_path, others, "others")
    stop, kind = threading.Event(), tmp_path / "stages" / "judge"

    def work(number: int) -> None:
        key, turn = others[number].stage.key, 0
        while not stop.is_set():
            turn += 1
            away = kind / f"{key}.tmp-elsewhere-{number}-b.n.{turn}"
            places = (kind / f"{key}.partial" / "who", tmp_path / f"logs/other{number}",
                      tmp_path / f"grids/other{number}/slurm/s")  # fmt: skip
            (kind / key).rename(away)  # as `gc` does before it deletes
            for place in places:
                place.mkdir(parents=True)
            (kind / f"{key}.failed.json").write_text("{}", encoding="utf-8")
            (places[1] / f"{turn}.log").write_text("", encoding="utf-8")
            for place in (kind / f"{key}.partial", places[1], places[2].parents[1]):
                shutil.rmtree(place)
            (kind / f"{key}.failed.json").unlink()
            away.rename(kind / key)  # as a result is published

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    yield tmp_path
    stop.set()
    for thread in threads:
        thread.join()


LOOKS: dict[str, Callable[[Store], Any]] = {
    "status": lambda store: cli.main(["status", "small", "--root", str(store.root)]),
    "gc": lambda store: cli.main(["gc", "--root", str(store.root)]),
    "gc --verify": lambda store: cli.main(["gc", "--verify", "--root", str(store.root)]),
    "gc of a grid": lambda store: grid_garbage(store, "small"),
    "submissions": record.submissions,
    "names": grids,
    "state": lambda store: any(store.state("judge", key) == "damaged" for key in store.listing("judge").results),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looking_at_a_root_that_others_change_works(busy_root: Path, name: str) -> None:
    until, store = time.monotonic() + 0.5, Store(busy_root)
    while time.monotonic() < until:
        assert LOOKS[name](store) != 1
    assert "small" in grids(store)
