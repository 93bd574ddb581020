"""Who runs a plan on this machine: a worker a GPU, others beside them, and no more than memory is enough for."""

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from noop_stages import COMPUTING, KINDS, grid

from xling.errors import ConfigError
from xling.grid import files
from xling.grid.plan import Plan, make_plan
from xling.grid.stage import Context
from xling.grid.store import Store
from xling.runners import local, ranks
from xling.runners.local.crew import Seat, chosen, cores, crew, free_memory, listed_gpus, visible
from xling.runners.local.runner import run_local

LAUNCH = Path(__file__).parents[2] / "launch.py"
GB = 1 << 30


def plan_of(root: Path, memory: float = 0.0, **special: dict) -> Plan:
    kinds = {
        name: replace(kind, memory=lambda stage: memory * (stage.kind in COMPUTING)) for name, kind in KINDS.items()
    }
    return make_plan(grid(["de", "en"], ["de", "en"], **special), Store(root), name="g", kinds=kinds)


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine this is."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_each_gpu_has_one_worker_and_the_rest_runs_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stages see, in real processes."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab12")
    seen = tmp_path / "seen"
    action = {"do": f"gpu {seen}; sleep 0.2"}
    languages = ("base", "sft", "reward", "pool", "score", "judge")
    plan = plan_of(tmp_path / "root", **{name: action for name in languages})
    seats, said = crew(plan, None, 1, None)
    assert said == f"2 workers, one a GPU (3, GPU-ab12); {max(1, cores() - 2)} more for the rest"
    outcome = run_local(plan, "noop_stages:KINDS", seats, show=False)
    assert outcome.exit_code == 0 and outcome.workers == len(seats)
    processes, kinds = defaultdict(set), defaultdict(set)
    for line in seen.read_text(encoding="utf-8").splitlines():
        kind, *rest = line.split(" ")
        kinds[kind in COMPUTING].add(rest[0])
        processes[rest[0]].add(rest[1])
    assert kinds == {True: {"3", "GPU-ab12"}, False: {""}}
    assert [len(processes[name]) for name in ("3", "GPU-ab12")] == [1, 1]


def test_a_stage_in_several_processes_has_as_many_gpus_and_gives_them_back(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    action = {"do": f"gpu {seen}"}
    plan = plan_of(tmp_path / "root", base=action, sft=action)
    seats = [Seat(True, "3"), Seat(True, "GPU-ab12")]
    outcome = run_local(plan, "noop_stages:KINDS", seats, show=False, processes={"base": 2})
    assert outcome.exit_code == 0
    lines = [line.split(" ") for line in seen.read_text(encoding="utf-8").splitlines()]
    assert [set(gpu.split(",")) for _, gpu, _ in lines if "," in gpu] == [{"3", "GPU-ab12"}] * 2
    assert {gpu for kind, gpu, _ in lines if kind == "sft"} <= {"3", "GPU-ab12"}


def test_a_turn_that_was_killed_leaves_nothing_to_the_next_of_the_same_pid(tmp_path: Path) -> None:
    """In a container pids come again, and the scratch of the last turn is taken over with all that is in it."""
    context, folder = Context({}, {}, tmp_path / "out", tmp_path), tmp_path / "processes-7"
    folder.mkdir()
    (folder / "stop").touch()
    (folder / "ended-0.json").write_bytes(files.json_bytes(ranks.Ending(True, "stopped", "")))
    ranks.run(KINDS["sft"], context, "noop_stages:KINDS", [sys.executable, "-c", ""], folder, os.environ)
    assert not folder.exists()


def test_more_processes_than_gpus_and_stages_that_cannot_have_them_are_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    kinds = plan.kinds | {"sft": replace(plan.kinds["sft"], parallel=True)}
    asked = local.read({"gpus": 2, "stages": {"sft": {"tasks_per_node": 3}}}, kinds)
    assert asked.processes == {"sft": 3} and local.gpus(asked, "sft").count == 3
    with pytest.raises(ConfigError, match=r"sft\.tasks_per_node=3: a process has a GPU of its own, and 2 .*\(0, 1\)"):
        local.check(plan, asked)
    with pytest.raises(ConfigError, match=r"stages 'judge' run in one process\. Several can be given to: sft"):
        local.read({"stages": {"judge": {"tasks_per_node": 2}}}, kinds)
    with pytest.raises(ConfigError, match=r"Unknown key 'hydra\.launcher\.stages\.sfd'"):
        local.read({"stages": {"sfd": {"tasks_per_node": 2}}}, kinds)
    with pytest.raises(ConfigError, match=r"Unknown key 'hydra\.launcher\.stages\.sft\.gpus_per_node'"):
        local.read({"stages": {"sft": {"gpus_per_node": 2}}}, kinds)
    for wrong in (0, "two"):
        with pytest.raises(
            ConfigError, match=r"stages\.sft\.tasks_per_node=(0|two) .*Type .*\.sft\.tasks_per_node=2\."
        ):
            local.read({"stages": {"sft": {"tasks_per_node": wrong}}}, kinds)
    with pytest.raises(ConfigError, match=r"stages\.sft=2 does not fit\. Type .*\.sft\.tasks_per_node=2\."):
        local.read({"stages": {"sft": 2}}, kinds)


def test_a_dead_worker_gives_its_gpu_back(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    special = {"sft_de": {"do": f"gpu {seen}; kill SIGKILL"}, "sft_en": {"do": f"gpu {seen}"}}
    outcome = run_local(
        plan_of(tmp_path / "root", **special), "noop_stages:KINDS", [Seat(True, "7"), Seat(False, "")], show=False
    )
    assert [failed.label for failed in outcome.failures] == ["sft[de]"] and outcome.executed["sft"] == 1
    lines = [line.split(" ") for line in seen.read_text(encoding="utf-8").splitlines()]
    assert [gpu for _, gpu, _ in lines] == ["7", "7"] and lines[0][2] != lines[1][2]


def test_fewer_workers_than_gpus_take_everything_and_more_of_them_stand_beside(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert crew(plan, 1, 1, 2) == ([Seat(True, "0")], "1 worker, on GPU 0")
    assert crew(plan, 3, 1, 2)[0] == [Seat(True, "0"), Seat(True, "1"), Seat(False, "")]
    assert crew(plan, 3, 1, 0) == ([Seat(gpu="")] * 3, "3 workers")
    assert crew(plan, 3, 1, None) == ([Seat()] * 3, "3 workers")


def test_gpus_are_counted_as_cuda_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, names in (
        ("0,2", ["0", "2"]),
        (" 1 ,-1,3", ["1"]),
        ("-1", []),
        ("", []),
        ("MIG-a,GPU-b", ["MIG-a", "GPU-b"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert visible() == names
    assert chosen(1, ["4", "5"]) == ["4"] and chosen(0, ["4"]) == [] and chosen(2, []) == ["0", "1"]
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.gpus=3: only 2 can be seen here \(4, 5\)\. Type .*gpus=2"):
        chosen(3, ["4", "5"])
    whole = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1f)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2a)\n"
    parts = "  MIG 3g.40gb     Device  0: (UUID: MIG-3b)\n  MIG 3g.40gb     Device  1: (UUID: MIG-4c)\n"
    assert listed_gpus(whole) == ["0", "1"] and listed_gpus(whole + parts) == ["0", "MIG-3b", "MIG-4c"]


def test_memory_caps_what_computes_and_nothing_else(tmp_path: Path) -> None:
    free = free_memory(Path("/proc"), Path("/sys/fs/cgroup"))
    plan = plan_of(tmp_path, 0.5 * free)
    seats, said = crew(plan, None, 1, None)
    assert sum(seat.heavy for seat in seats) == 1 and len(seats) == max(1, cores())
    if cores() > 1:
        assert said.startswith("1 worker for what computes: ") and " allow 1 at a time of about " in said
        assert said.endswith(f"; {cores() - 1} more for the rest")
    asked, said = crew(plan, 4, 1, None)
    assert asked == [Seat()] * 4 and said.startswith("4 workers, as asked for; ") and "are enough for 1: " in said
    assert crew(plan_of(tmp_path, 1e6), None, 1, None)[1] == f"{cores()} worker{'s' * (cores() != 1)}"


def test_memory_is_that_of_the_machine_and_of_every_control_group_above(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable:   {32 << 20} kB\n")
    assert free_memory(proc, groups) == 32 * GB
    inner = groups / "slurm" / "job_1"
    inner.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/slurm/job_1\n")
    for folder, limit, used in ((inner, "max", GB), (inner.parent, str(20 * GB), 5 * GB)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon {4 * GB}\ninactive_file {GB}\n")
    assert free_memory(proc, groups) == 16 * GB
    old = groups / "memory" / "docker"
    old.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("4:cpu,memory:/docker\n1:cpuset:/other\n")
    (old / "memory.limit_in_bytes").write_text(f"{8 * GB}\n")
    (old / "memory.usage_in_bytes").write_text(f"{3 * GB}\n")
    assert free_memory(proc, groups) == 5 * GB


def test_a_launch_and_a_dry_run_say_who_runs_it(tmp_path: Path) -> None:
    toys = os.pathsep.join([str(LAUNCH.parent / "tests"), str(LAUNCH.parent)])
    command = [sys.executable, LAUNCH, "hydra.launcher.catalogue=toy_stages", "source_lang=en", "target_lang=de"]

    def said(*more: str) -> str:
        environment = {**os.environ, "PYTHONPATH": toys, "CUDA_VISIBLE_DEVICES": "0,1"}
        done = subprocess.run(
            [*command, "tracking.mode=off", *more], cwd=tmp_path, env=environment, text=True, capture_output=True
        )
        return done.stdout + done.stderr

    assert "2 workers, one a GPU (0, 1)" in said("dry_run=true")
    assert "1 worker, on GPU 0; 1 more for the rest." in said("hydra.launcher.gpus=1", "hydra.launcher.workers=2")
