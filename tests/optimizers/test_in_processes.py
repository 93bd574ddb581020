"""Two processes train the policy that one trains: by DDP, FSDP2 and trl, stopped and gone on with in another number."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from policies_in_processes import CASES, STEPS, Case, models

from xling.errors import ConfigError
from xling.optimizers import check_processes, dpo, grpo, ppo, rloo

STOP = 5  # between two checkpoints
SCRIPT = Path(__file__).with_name("policies_in_processes.py")
SHARES = {"accuracy", "clip_fraction"}  # of few, by what lies above or below a limit
TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By name of a run: undisturbed in one and in two processes; stopped in two and gone on with in one."""
    folder = tmp_path_factory.mktemp("processes")
    models(folder / "models")
    said = [run(folder, 2, "two", f"stopped=scratch={STOP}"), run(folder, 1, "one", "gone_on=scratch")]
    found: dict[str, Any] = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    assert {name for name, run in found.pop("stopped").items() if run is not None} == {"scores"}
    return found | {"said": said}


def run(folder: Path, processes: int, *runs: str) -> str:
    paths = [str(SCRIPT.parent), str(SCRIPT.parents[1] / "models")]
    command = [sys.executable, *(TOGETHER if processes > 1 else ()), str(SCRIPT), str(folder), *runs]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def names(curve: list[dict[str, float]]) -> set[str]:
    return {name for row in curve for name in row}


@pytest.mark.parametrize("runs", ["two", "gone_on"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_several_processes_train_the_policy_that_one_does(results: dict[str, Any], case: Case, runs: str) -> None:
    """Sums are taken in another order: numbers equal to 1e-5, or that of a column's largest; samples the same."""
    one, other = results["one"][case.name], results[runs][case.name]
    assert len(one["curve"]) == len(other["curve"]) == STEPS and other["kept"] == one["kept"]
    for name in names(one["curve"]) - SHARES:
        column, its = ([row[name] for row in run["curve"] if name in row] for run in (one, other))
        assert its == pytest.approx(column, abs=1e-5 * max(1.0, *map(abs, column)), rel=0), name
    assert other["weights"] == pytest.approx(one["weights"], rel=1e-6)
    if runs == "two":
        assert other["said"] == one["said"] and (one["said"] or case.trainer == "dpo")


def test_a_reward_model_that_is_shared_out_says_what_a_whole_one_does(results: dict[str, Any]) -> None:
    one, two = (results[name]["scores"] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5) and len(set(one)) == len(one) > 1


def test_what_goes_on_makes_the_iterations_that_are_left_and_says_where(results: dict[str, Any]) -> None:
    for case in CASES:
        whole, rest = (results[name][case.name]["iterations"] for name in ("one", "gone_on"))
        assert rest == whole - STOP, case.name
    assert results["said"][1].count(f"Goes on after step {STOP} in 1 process, saved by 2.") == len(CASES)


@pytest.mark.parametrize(
    ("settings", "processes", "said"),
    [
        (ppo.Settings(), 3, r"3 processes .* 16 responses of an update equally .*minibatches=2\)\. Use 2 processes"),
        (rloo.Settings(trainer="own", k=8), 8, r"8 processes cannot share a step's 4 prompts .*k=8\)\. Use at most 4"),
        (dpo.Settings(batch_size=12), 8, "8 processes .* 12 responses .*batch_size=12.*Use 6 processes"),
        (grpo.Settings(), 3, r"3 processes cannot share a step's 8 prompts .* equally, as trl needs it\. Use 2"),
        (rloo.Settings(batch_size=24, micro_batch_size=6), 3, "micro_batch_size=6 does not divide the 8 responses"),
    ],
)
def test_what_processes_cannot_share_is_refused(settings: Any, processes: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_processes(settings, processes, encoder_decoder=False)
    check_processes(settings, 1, encoder_decoder=False)


def test_what_processes_can_share_is_not() -> None:
    own = (ppo.Settings(), rloo.Settings(trainer="own"), dpo.Settings())
    for settings in (*own, rloo.Settings(), grpo.Settings(), grpo.Settings(micro_batch_size=16)):
        check_processes(settings, 4, encoder_decoder=False)
    for settings in own:
        check_processes(settings, 4, encoder_decoder=False, how="fsdp")
    check_processes(rloo.Settings(), 4, encoder_decoder=True, how="fsdp")
    for settings in (rloo.Settings(), grpo.Settings()):
        with pytest.raises(
            ConfigError, match=r"policy\.parallel=fsdp: .* is trl's trainer here.* Type policy.parallel=ddp"
        ):
            check_processes(settings, 4, encoder_decoder=False, how="fsdp")


def test_an_optimizer_of_yours_that_has_one_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo, "alone", lambda settings, encoder_decoder: "Use optimizer=dpo", raising=False)
    said = r"optimizer=ppo trains in one process, and 2 are asked for\. Use optimizer=dpo, or give align one process"
    with pytest.raises(ConfigError, match=said):
        check_processes(ppo.Settings(), 2, encoder_decoder=False)
