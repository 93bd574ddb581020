"""keep_weights: what nothing reads any more is dropped, what something reads is not; what is missed comes again."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from noop_stages import TRAINED, TRAINING, grid
from rich.console import Console

from xling.errors import ConfigError
from xling.exports import trained
from xling.grid import claim, files, host
from xling.grid.cleanup import damaged_results, garbage
from xling.grid.plan import Plan, make_plan
from xling.grid.records import Done, read
from xling.grid.stage import Cell
from xling.grid.status import grid_status, status_table
from xling.grid.store import Store
from xling.grid.weights import dropped_kinds
from xling.runners.local.runner import run_local

CATALOGUE = "noop_stages:TRAINING"


def planned(
    root: Path, cells: Sequence[Cell], name: str = "one", drops: Sequence[str] = TRAINED, mode: str = "retry"
) -> Plan:
    return replace(make_plan(cells, Store(root), mode, name=name, kinds=TRAINING), drops=drops)


def ran(plan: Plan) -> set[str]:
    """Labels of what it ran, as a command does."""
    plan.clear_lost()
    plan.drop_weights()
    outcome = run_local(plan, CATALOGUE, workers=1, show=False)
    assert outcome.exit_code == 0, outcome.failures
    return {plan.steps[key].stage.label for key, (_, end) in outcome.stages.items() if end == "done"}


def held(plan: Plan) -> set[str]:
    """Labels of the trained stages whose weights are there."""
    steps = [step for step in plan.steps.values() if step.stage.kind in TRAINED]
    return {s.stage.label for s in steps if (plan.store.folder(s.stage.kind, s.stage.key) / "weights.bin").exists()}


def test_nothing_is_left_of_weights_that_all_have_read(tmp_path: Path) -> None:
    """And all is done, whole, no garbage, and said."""
    plan, store = planned(tmp_path, grid(["de", "en"], ["de", "tr"])), Store(tmp_path)
    assert len(ran(plan)) == len(plan.steps) and held(plan) == set()
    again = planned(tmp_path, grid(["de", "en"], ["de", "tr"]))
    assert again.to_run == [] and list(damaged_results(store)) == [] and garbage(store) == []
    status, shown = grid_status(store, "one"), io.StringIO()
    assert {row.state for row in status.rows} == {"done"}
    Console(file=shown, width=200).print(status_table(status, store))
    assert "Weights were dropped on purpose (keep_weights) of 3 sft, 2 reward." in shown.getvalue()
    sft = next(stage for stage in plan.steps.values() if stage.stage.label == "sft[de]").stage
    done = read(Done, str(store.folder("sft", sft.key) / "done.json"))
    assert set(done.dropped) == {"weights.bin"} and done.dropped["weights.bin"].size == 1000
    assert (store.load("sft", sft.key) / "result.json").exists()
    with pytest.raises(ConfigError, match=r"weights of sft\[de\] were dropped.*keep_weights=all"):
        trained(store, "one", "sft[de]")  # to be exported


def test_kinds_that_keep_theirs_do(tmp_path: Path) -> None:
    plan = planned(tmp_path, grid(["de"], ["tr"]), drops=["reward"])
    ran(plan)
    assert held(plan) == {"sft[de]", "sft[tr]"}
    lean = planned(tmp_path, grid(["de"], ["tr"]))
    assert ran(lean) == set() and held(lean) == set()  # the same command with another setting, nothing to run


def test_what_a_later_command_reads_is_trained_again(tmp_path: Path) -> None:
    """Under the same keys, and nothing else is; then it is dropped again."""
    ran(planned(tmp_path, grid(["de"], ["tr"])))
    more = planned(tmp_path, grid(["de", "tr"], ["tr", "de"]))
    reasons = {step.stage.label: step.reason for step in more.steps.values() if step.state == "run"}
    assert reasons["sft[de]"] == "its weights were dropped, and pool[de] needs them"
    assert reasons["reward[de]"] == "its weights were dropped, and score[de, de] needs them"
    assert "pool[tr]" not in reasons and "judge[de, tr]" not in reasons and "base" not in reasons
    assert ran(more) == reasons.keys() and held(more) == set()
    assert planned(tmp_path, grid(["de"], ["tr"])).to_run == []


def test_a_result_stays_until_its_weights_are_trained_again(tmp_path: Path) -> None:
    """A training that never ends costs no figure, and no grid that needs no weights a training."""
    ran(planned(tmp_path, grid(["de"], ["tr"])))
    failing = grid(["de"], ["tr", "de"], pool_de={"do": "raise no"})
    more, store = planned(tmp_path, failing, "more"), Store(tmp_path)
    sft = next(stage for stage in more.to_run if stage.label == "sft[de]")
    more.write()
    more.clear_lost()  # and killed
    aside = Path(store.beside("sft", sft.key, ".weightless"))
    assert store.state("sft", sft.key) == "missing" and (aside / "result.json").exists() and garbage(store) == []
    assert {stage.label for stage in planned(tmp_path, failing, "more").to_run} == {s.label for s in more.to_run}
    path, who = store.beside("sft", sft.key, ".claim"), host.this_process()
    first = planned(tmp_path, grid(["de"], ["tr"]))
    assert first.to_run == [] and claim.take(path, who) is None
    first.clear_lost()
    assert aside.exists()  # somebody trains it
    claim.release(path, who)
    assert ran(first) == set() and store.dropped("sft", sft.key) and not aside.exists()
    again = planned(tmp_path, failing, "more")
    again.clear_lost()
    run_local(again, CATALOGUE, workers=1, show=False)
    assert held(again) >= {"sft[de]"} and not aside.exists()


def test_a_training_that_has_failed_again_is_left_failed_by_cached(tmp_path: Path) -> None:
    """With what is below it; and the result is as before where its weights are not needed."""
    mended = tmp_path / "mended"
    mended.touch()
    fails = {"sft_de": {"do": "raise no", "unless": str(mended)}}
    ran(planned(tmp_path, grid(["de"], ["tr"], **fails)))
    mended.unlink()
    more = planned(tmp_path, grid(["de"], ["tr", "de"], **fails))
    more.clear_lost()
    assert run_local(more, CATALOGUE, workers=1, show=False).exit_code == 1
    again = planned(tmp_path, grid(["de"], ["tr", "de"], **fails), mode="cached")
    steps = {step.stage.label: (step.state, step.reason) for step in again.steps.values()}
    assert steps["sft[de]"] == ("failed", "failed before: ValueError: no") and again.to_run == []
    assert steps["pool[de]"] == ("blocked", "below sft[de]") and steps["judge[de, tr]"][0] == "cached"
    assert ran(planned(tmp_path, grid(["de"], ["tr"], **fails), mode="cached")) == set()
    mended.touch()
    assert "sft[de]" in ran(planned(tmp_path, grid(["de"], ["tr", "de"], **fails)))


@pytest.mark.parametrize("mode", ["cached", "read-only"])
def test_stages_that_do_not_run_need_no_weights(tmp_path: Path, mode: str) -> None:
    ran(planned(tmp_path, grid(["de"], ["tr"])))
    bad = grid(["de"], ["tr", "en"], pool_en={"do": "raise no"})
    plan = planned(tmp_path, bad)
    plan.clear_lost()
    run_local(plan, CATALOGUE, workers=1, show=False)
    assert "sft[en]" in held(plan)  # whose reader has failed
    states = {step.stage.label: step.state for step in planned(tmp_path, bad, mode=mode).steps.values()}
    assert states["sft[de]"] == states["reward[de]"] == "cached" and states["pool[en]"] == "failed"


def test_another_grid_of_the_root_keeps_what_it_reads_or_wants(tmp_path: Path) -> None:
    keeps = planned(tmp_path, grid(["de"], ["de"]), "keeps", drops=[])
    ran(keeps)
    reads = planned(tmp_path, grid(["de"], ["fr"]), "reads")
    reads.write()  # somebody's run that has not come that far
    plan = planned(tmp_path, grid(["fr"], ["de"]))
    ran(plan)
    assert held(plan) == {"sft[de]", "sft[fr]"}  # of keeps; to be read by reads
    assert plan.keepers() == ["keeps"] and keeps.keepers() == [] and reads.keepers() == ["keeps"]
    ran(reads)
    assert held(reads) == {"sft[de]", "reward[de]"}
    (tmp_path / "grids" / "keeps" / "plan.json").unlink()
    assert ran(planned(tmp_path, grid(["de"], ["fr"]), "reads")) == set() and held(reads) == set()


def test_what_another_grid_starts_from_stays(tmp_path: Path) -> None:
    """policy.checkpoint=outputs/stages/sft/KEY, by whatever way the folder is named."""
    first = planned(tmp_path, grid(["de"], ["de"]), drops=[])
    ran(first)
    sft = next(step.stage for step in first.steps.values() if step.stage.label == "sft[de]")
    (tmp_path / "link").symlink_to(tmp_path / "stages")
    models = {"local:1": str(tmp_path / "link" / "sft" / sft.key), "local:2": "/elsewhere/model"}
    planned(tmp_path, grid(["en"], ["en"], base={"where": {"models": models}}), "other").write()
    ran(planned(tmp_path, grid(["de"], ["de"])))
    assert held(first) == {"sft[de]"}
    (tmp_path / "grids" / "one" / "plan.json").unlink()
    gone = {(item.path.parent.name, item.path.name) for item in garbage(Store(tmp_path))}
    assert ("sft", sft.key) not in gone and "reward" in {kind for kind, _ in gone}


def test_a_plan_that_cannot_be_read_keeps_everything(tmp_path: Path) -> None:
    ran(planned(tmp_path, grid(["de"], ["de"]), drops=[]))
    (tmp_path / "grids" / "other").mkdir()
    (tmp_path / "grids" / "other" / "plan.json").write_text("{")
    plan = planned(tmp_path, grid(["de"], ["de"]))
    ran(plan)
    assert held(plan) == {"sft[de]", "reward[de]"}


def test_what_was_dropped_after_it_was_planned_is_trained_again(tmp_path: Path) -> None:
    ran(planned(tmp_path, grid(["de"], ["tr"]), drops=[]))
    late = planned(tmp_path, grid(["de"], ["tr", "en"]), "late")
    assert "reward[de]" not in {stage.label for stage in late.to_run}
    lean = planned(tmp_path, grid(["de"], ["tr"]))
    lean.write()
    assert lean.drop_weights() == 3000
    assert "reward[de]" in ran(late) and held(late) == set()


def test_what_somebody_makes_or_reads_now_stays(tmp_path: Path) -> None:
    plan, who = planned(tmp_path, grid(["de"], ["de"]), drops=[]), host.this_process()
    ran(plan)
    lean = replace(planned(tmp_path, grid(["de"], ["de"])), drops=TRAINED)
    keys = {step.stage.label: step.stage for step in plan.steps.values()}
    for label in ("pool[de]", "reward[de]"):
        path = plan.store.beside(keys[label].kind, keys[label].key, ".claim")
        assert claim.take(path, who) is None
        lean.drop_weights()
        assert "sft[de]" in held(plan)
        claim.release(path, who)
        assert held(plan) == {"sft[de]"} if label == "pool[de]" else {"sft[de]", "reward[de]"}
    lean.drop_weights()
    assert held(plan) == set()


def test_one_that_cannot_be_dropped_keeps_no_other(tmp_path: Path) -> None:
    ran(planned(tmp_path, grid(["de"], ["de"]), drops=[]))
    lean = planned(tmp_path, grid(["de"], ["de"]))
    sft = next(step.stage for step in lean.steps.values() if step.stage.label == "sft[de]")
    Path(lean.store.beside("sft", sft.key, ".claim")).mkdir()
    assert lean.drop_weights() == 1000 and held(lean) == {"sft[de]"}


def test_a_kill_half_way_leaves_no_damage_and_no_bytes_for_good(tmp_path: Path) -> None:
    plan = planned(tmp_path, grid(["de"], ["de"]), drops=[])
    ran(plan)
    sft = next(step.stage for step in plan.steps.values() if step.stage.label == "sft[de]")
    folder, store = plan.store.folder("sft", sft.key), plan.store
    done = read(Done, str(folder / "done.json"))
    gone = {"weights.bin": done.files["weights.bin"]}
    marker = msgspec.structs.replace(done, files={n: f for n, f in done.files.items() if n not in gone}, dropped=gone)
    files.write_atomically(folder / "done.json", files.sealed_json(marker))
    assert store.state("sft", sft.key) == "done" and store.dropped("sft", sft.key) and (folder / "weights.bin").exists()
    planned(tmp_path, grid(["de"], ["de"])).drop_weights()
    assert not (folder / "weights.bin").exists()


def test_making_all_anew_drops_nothing_that_is_still_to_be_read_again(tmp_path: Path) -> None:
    ran(planned(tmp_path, grid(["de"], ["de", "tr"])))
    forced = planned(tmp_path, grid(["de"], ["de", "tr"]), mode="force")
    assert len(ran(forced)) == len(forced.steps) and held(forced) == {"sft[de]", "sft[tr]", "reward[de]"}


def test_the_setting() -> None:
    assert dropped_kinds("all", TRAINING) == [] and dropped_kinds("none", TRAINING) == ["sft", "reward"]
    assert dropped_kinds(["sft"], TRAINING) == ["reward"] == dropped_kinds("sft", TRAINING)
    for wrong, shown, hint in (
        (None, "null", "none"),
        (["sfd"], r"\[sfd\]", "sft"),
        ("nome", "nome", "none"),
        (7, "7", ""),
    ):
        last = rf"Did you mean '{hint}'\?" if hint else r"such as keep_weights=\[sft\]\."
        with pytest.raises(ConfigError, match=rf"keep_weights={shown} does not fit.*{last}$"):
            dropped_kinds(wrong, TRAINING)
