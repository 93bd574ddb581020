"""A plan has every stage once, says what to do about each and why, and changes nothing."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from noop_stages import KINDS, grid, stage
from rich.console import Console

from xling.errors import ConfigError
from xling.grid import host
from xling.grid.estimate import rates_from
from xling.grid.plan import Plan, Step, make_plan
from xling.grid.plan_table import print_plan
from xling.grid.reasons import differences
from xling.grid.records import Run, Sheet
from xling.grid.stage import Cell, Stage
from xling.grid.store import Store
from xling.runners.execute import Executor, Job, record_failure

COST: dict[str, Any] = {
    "flops_per_second": 1e12,
    "utilisation": {"training": 0.5},
    "prompt_tokens": None,
    "response_tokens": None,
}


def made(store: Store, plan: Plan) -> None:
    """Run a plan in this process."""
    plan.write()
    executor = Executor(store, KINDS, force=plan.mode == "force")
    for step in plan.steps.values():
        executor.execute(Job(step.stage.key, Sheet.of(step.stage)))


def one(*stages: Stage) -> list[Cell]:
    return [Cell({"seed": number}, what) for number, what in enumerate(stages)]


def step(plan: Plan, label: str) -> Step:
    (found,) = [step for step in plan.steps.values() if step.stage.label == label]
    return found


def test_stages_are_planned_once_and_parents_come_first(tmp_path: Path) -> None:
    plan = make_plan(grid(["de", "en"], ["de", "en", "tr"]), Store(tmp_path))
    counts = {kind: states["run"] for kind, states in plan.count().items()}
    assert counts == {"base": 1, "sft": 3, "reward": 2, "pool": 3, "score": 6, "judge": 6}
    seen: set[str] = set()
    for key, planned in plan.steps.items():
        assert {parent.key for parent in planned.stage.parents.values()} <= seen
        seen.add(key)
    assert not list(tmp_path.iterdir())


def test_equal_stages_of_other_objects_are_one(tmp_path: Path) -> None:
    plan = make_plan(one(stage("base", "a", x=1), stage("base", "b", x=1)), Store(tmp_path))
    assert len(plan.steps) == 1 and len(plan.cells) == 2


def test_finished_stages_are_cached_and_a_larger_grid_shares_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, make_plan(grid(["de"], ["de"]), store))
    plan = make_plan(grid(["de"], ["de", "en"]), store)
    assert {step.stage.label for step in plan.steps.values() if step.state == "run"} == {
        "sft[en]", "pool[en]", "score[de, en]", "judge[de, en]",
    }  # fmt: skip
    assert step(plan, "pool[en]").reason == "missing"
    assert not make_plan(grid(["de"], ["de"]), store).to_run


def test_the_reason_names_what_changed_and_where_it_comes_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, make_plan(grid(["de"], ["de"], pool_de={"policy": {"n": 16, "p": 1.0}}), store))
    # what another grid of the root has is no change of this one, however near it is
    made(store, make_plan(grid(["de"], ["de"], pool_de={"policy": {"n": 64, "p": 0.9}}), store, name="other"))
    asked = grid(["de"], ["de"], pool_de={"policy": {"n": 64, "p": 1.0}})
    plan = make_plan(asked, store)
    assert step(plan, "sft[de]").state == "cached"
    assert step(plan, "pool[de]").reason == "spec changed: policy.n 16 -> 64"
    assert step(plan, "score[de, de]").reason == "parent will run: pool[de]"
    assert step(make_plan(asked, store, name="other"), "pool[de]").reason == "spec changed: policy.p 0.9 -> 1.0"
    assert step(make_plan(asked, store, name="new"), "pool[de]").reason == "missing"


def test_the_full_plan_says_what_stands_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, make_plan(one(stage("base", "base", x=1)), store))
    plan = make_plan(one(stage("base", "base", x=1), stage("base", "other", x=2)), store)
    file = io.StringIO()
    print_plan(plan, Console(file=file, width=30), every=True)  # of which nothing is cut
    [base, other] = [line for line in file.getvalue().splitlines() if re.match(r"    [01] ", line)]
    folder = store.folder("base", step(plan, "base").stage.key)
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "done.json")
    assert step(plan, "base").stored == stored and base.rstrip().endswith(f" {stored} B") and "missing" in other
    assert f"On disk: {stored} B in 1 results that are used" in file.getvalue()


def test_another_task_is_the_whole_reason(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, make_plan(one(stage("sft", "sft[de]", digest="a", task={"name": "files", "folds": 5})), store))
    plan = make_plan(one(stage("sft", "sft[de]", digest="b", task={"name": "oasst", "path": "x"})), store)
    assert step(plan, "sft[de]").reason == "spec changed: task.name files -> oasst"


def test_another_option_stands_for_its_settings(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(
        store, make_plan(one(stage("reward", "reward[de]", half="", rm={"init": "sft", "name": "mine", "k": 1})), store)
    )
    plan = make_plan(one(stage("reward", "reward[de]", half="first", rm={"features": "x", "name": "other"})), store)
    assert step(plan, "reward[de]").reason == "spec changed: rm.name mine -> other, half  -> first"


def test_a_parent_that_is_done_already_is_named_as_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, make_plan(one(stage("pool", "pool", {"base": stage("base", "base", x=1)})), store))
    other = stage("base", "base", x=2)
    made(store, make_plan(one(other), store, name="other"))
    assert step(make_plan(one(stage("pool", "pool", {"base": other})), store), "pool").reason == "parent changed: base"


def test_a_new_version_is_a_reason(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, make_plan(one(stage("base", "base", x=1)), store))
    newer = Stage.make("base", 2, "base", {"x": 1}, {})
    assert step(make_plan(one(newer), store), "base").reason == "spec changed: version 1 -> 2"


def test_other_seeds_of_the_same_plan_are_no_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store, make_plan(one(stage("base", "base", seed=0)), store))
    plan = make_plan(one(stage("base", "base", seed=0), stage("base", "base", seed=1)), store)
    assert [planned.reason for planned in plan.steps.values()] == ["", "missing"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 1.0}, ["a 1 -> 1.0"]),
        ({"a": None}, {}, ["a null -> (absent)"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [2]}}, ["a.b [1,2] -> [2]"]),
        ({"a": {"b": 1}}, {"a": "x"}, ['a {"b":1} -> x']),
        ({"t": "x" * 50}, {"t": ""}, [f"t {'x' * 37}... -> "]),
    ],
)
def test_differences(old: dict, new: dict, expected: list[str]) -> None:
    assert list(differences(old, new)) == expected


def failed_and_damaged(store: Store) -> list[Cell]:
    """A grid whose sft[de] has failed and whose pool[en] is damaged."""
    cells = grid(["de", "en"], ["de", "en"])
    plan = make_plan(cells, store)
    failing = step(plan, "sft[de]").stage
    executor = Executor(store, KINDS)
    for label in ("base", "sft[en]", "pool[en]"):
        what = step(plan, label).stage
        executor.execute(Job(what.key, Sheet.of(what)))
    record_failure(store, "sft", failing.key, failing.label, "ValueError: no", "Traceback ...\nValueError: no")
    damaged = step(plan, "pool[en]").stage
    (store.folder("pool", damaged.key) / "result.json").write_text("{}", encoding="utf-8")
    return cells


def test_modes_decide_about_failures_and_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cells = failed_and_damaged(store)
    states = {}
    for mode in ("retry", "cached", "read-only", "force"):
        plan = make_plan(cells, store, mode=mode)
        labels = ("base", "sft[de]", "pool[en]", "reward[en]", "reward[de]", "judge[en, en]")
        states[mode] = [step(plan, label).state for label in labels]
    assert states == {
        "retry": ["cached", "run", "run", "run", "run", "run"],
        "cached": ["cached", "failed", "failed", "run", "blocked", "blocked"],
        "read-only": ["cached", "failed", "missing", "missing", "missing", "missing"],
        "force": ["run"] * 6,
    }
    plan = make_plan(cells, store)
    assert step(plan, "sft[de]").reason == "failed before: ValueError: no"
    assert step(plan, "pool[en]").reason.startswith("damaged: file result.json has 2 bytes")
    assert step(make_plan(cells, store, mode="cached"), "reward[de]").reason == "below sft[de]"


def test_an_unknown_mode_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mode=cache is unknown.*Did you mean 'cached'"):
        make_plan([], Store(tmp_path), mode="cache")


def publish(store: Store, what: Stage, seconds: float, git: str | None = None, device: str = "cpu") -> None:
    folder = store.begin(what.kind, what.key, host.this_process())
    run = Run(seconds, seconds, "2026-01-01T00:00:00+00:00", 1, host.this_process(), 1, device, git, {})
    store.publish(Sheet.of(what), what.key, folder, run)


def test_cost_is_the_median_of_recorded_runs_else_the_kinds_guess(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, seconds in enumerate((1.0, 30.0, 2.0)):
        publish(store, stage("sft", f"sft{number}", x=number), seconds)
    base = stage("base", "base")
    cells = one(*(stage("sft", f"sft{number}", {"base": base}, x=number) for number in range(10, 14)))
    plan = make_plan(cells, store, kinds=KINDS)
    assert (plan.estimates["sft"].seconds, plan.estimates["sft"].recorded) == (2.0, True)
    assert (plan.estimates["base"].seconds, plan.estimates["base"].recorded) == (0.01, False)
    assert plan.cost(workers=1) == pytest.approx((8.01, 8.01))
    assert plan.cost(workers=8) == pytest.approx((8.01, 2.01))  # the critical path


def test_results_of_other_code_and_mixed_devices_are_warned_of_and_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stages = [stage("base", f"base{number}", x=number) for number in range(3)]
    publish(store, stages[0], 1.0, git="0" * 40)
    publish(store, stages[1], 1.0, git=host.git_sha())
    publish(store, stages[2], 1.0, git=host.git_sha(), device="NVIDIA X")
    plan = make_plan(one(*stages), store)
    assert not plan.to_run
    text = " ".join(plan.warnings)
    if host.git_sha():
        assert "1 of 3 cached results were made by other code" in text
    assert "2 on cpu with 1 thread(s), 1 on NVIDIA X with 1 thread(s)" in text


def test_plan_json_has_cells_roles_and_what_was_left_out(tmp_path: Path) -> None:
    left_out = [{"axes": {"target_lang": "sw"}, "reason": "the task has no sw"}]
    store = Store(tmp_path)
    plan = make_plan(grid(["de"], ["en"]), store, name="g", command=["seed=0"], left_out=left_out)
    plan.write()
    content = json.loads((tmp_path / "grids" / "g" / "plan.json").read_text(encoding="utf-8"))
    assert (content["name"], content["format"], content["command"]) == ("g", 1, ["seed=0"])
    assert content["left_out"] == left_out
    (cell,) = content["cells"]
    assert cell["axes"] == {"source_lang": "de", "target_lang": "en", "seed": 0}
    assert cell["judge"] == {"kind": "judge", "key": step(plan, "judge[de, en]").stage.key}
    assert cell["stages"] == {
        role: {"kind": role, "key": step(plan, label).stage.key}
        for role, label in (
            ("score", "score[de, en]"),
            ("pool", "pool[en]"),
            ("reward", "reward[de]"),
            ("sft", "sft[en]"),
        )
    }
    assert [row["key"] for row in content["stages"]] == list(plan.steps)
    assert all(parent < index for index, row in enumerate(content["stages"]) for parent in row["parents"])


def test_the_dry_run_table_says_counts_reasons_cost_and_what_was_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cells = failed_and_damaged(store)
    none, codes = "the task has none", "am, ar, bg, bn, ca, cs"
    left_out = [{"axes": {"target_lang": "sw"}, "reason": "the task has no sw"}]
    left_out += [{"axes": {"task": "t", f"{side}_lang": codes}, "reason": none} for side in ("source", "target")]
    out = io.StringIO()
    plan = make_plan(cells, store, name="my_grid", left_out=left_out, kinds=KINDS)
    print_plan(plan, Console(file=out, width=150), 2)
    text = out.getvalue()
    assert "my_grid: 4 cells, 15 stages" in text
    assert "failed before: ValueError: no" in text and "damaged: file result.json" in text
    assert "with 2 workers" in text and "guessed" in text
    assert "Left out (2):\n  target_lang=sw: the task has no sw" in text
    assert f"task=t, source_lang and target_lang=am, ar, bg and 3 more: {none}\n" in text


def test_the_grid_library_imports_without_torch_and_hydra() -> None:
    modules = "xling.grid.plan, xling.grid.status, xling.grid.cleanup, xling.runners.local.runner, xling.cli"
    code = f"import sys, {modules}; print([name for name in ('torch', 'hydra', 'numpy') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


def test_a_dry_run_leaves_out_runs_of_another_model(tmp_path: Path) -> None:
    """A small model's fine-tuning says nothing of a large one's."""
    store, rates = Store(tmp_path), rates_from(COST)
    small, large = stage("base", "small", x=1), stage("base", "large", x=2)
    publish(store, stage("sft", "small", {"base": small}, x=1), 5.0)
    for base, recorded in ((small, True), (large, False)):
        found = make_plan(one(stage("sft", "new", {"base": base}, x=3)), store, kinds=KINDS, rates=rates)
        assert found.estimates["sft"].recorded == recorded


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"flops_per_second": 0},
            "cost.flops_per_second=0 does not fit: expected float > 0.0. Type cost.flops_per_second=3.12e14",
        ),
        ({"utilisation": {"training": 1.5}}, "cost.utilisation.training=1.5 does not fit: expected float <= 1.0"),
        ({"prompt_tokens": 1.5}, "cost.prompt_tokens=1.5 does not fit: expected int . null, got float"),
        ({"utilisation": 0.5}, "cost.utilisation=0.5 does not fit: it has settings of its own"),
        ({"speed": 1}, "Unknown key 'cost.speed'"),
    ],
)
def test_rates_that_are_none(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        rates_from(COST | changed)
