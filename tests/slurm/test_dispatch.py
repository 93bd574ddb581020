"""What can be asked for; stages to jobs, jobs to arrays, edges between jobs: no array is a barrier. Needs no SLURM."""

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec.structs import replace as replaced

from xling.errors import ConfigError
from xling.grid.plan import Plan, make_plan
from xling.grid.stage import Cell, Context, Kind, Stage
from xling.grid.store import Store
from xling.runners.slurm.dispatch import arrays_of, assign, dependencies, dependency, is_held
from xling.runners.slurm.dryrun import course, doubts
from xling.runners.slurm.limits import check_resources, mixed_gpus, parse_limits
from xling.runners.slurm.record import Array, Place, Task
from xling.runners.slurm.settings import OWN, RESOURCES, Resources, Slurm, gpu_types, gpus_as_asked, gpus_in
from xling.runners.slurm.settings import read as settings_from

CHEAP: Mapping[str, float] = dict.fromkeys(("base", "sft", "reward", "pool", "gold", "score", "judge"), 0.001)
DEAR = {kind: 600.0 for kind in CHEAP}
EMBEDDED = {"base": 1.0, "sft": 60.0, "reward": 60.0, "pool": 60.0, "gold": 0.4, "score": 60.0, "judge": 0.02}
LANGUAGES = [f"l{number:02}" for number in range(30)]


def run(_: Context) -> None: ...


def on_gpu(stage: Stage) -> bool:
    return stage.kind in ("sft", "reward", "pool", "score")


def plan_of(folder: Path, size: int, seconds: Mapping[str, float] = DEAR) -> Plan:
    """The program's graph over `size` languages, with guessed run times."""
    base = Stage.make("base", 1, "base", {}, {})
    langs = LANGUAGES[:size]

    def make(kind: str, *over: str, **parents: Stage) -> Stage:
        return Stage.make(kind, 1, f"{kind}[{', '.join(over)}]", {"over": list(over)}, parents)

    sft = {lang: make("sft", lang, base=base) for lang in langs}
    reward = {lang: make("reward", lang, sft=sft[lang]) for lang in langs}
    pool = {lang: make("pool", lang, sft=sft[lang]) for lang in langs}
    gold = {lang: make("gold", lang, pool=pool[lang]) for lang in langs}
    cells = []
    for s in langs:
        for t in langs:
            score = make("score", s, t, reward=reward[s], pool=pool[t])
            judge = make("judge", s, t, score=score, verdict=gold[t], pool=pool[t])
            cells.append(Cell({"source_lang": s, "target_lang": t}, judge))
    kinds = {kind: Kind(kind, 1, run, guess, gpu=on_gpu) for kind, guess in seconds.items()}
    return make_plan(cells, Store(folder), kinds=kinds)


def arrays_for(plan: Plan, settings: Slurm, size: int = 1001) -> tuple[dict[str, Place], tuple[Array, ...]]:
    """Where each stage runs (by label), and the arrays."""
    jobs, arrays = arrays_of(assign(plan, settings, {}), settings, size, "xling-g-1")
    where = {
        jobs[stage].sheet.label: (array.number, number)
        for array in arrays
        for number, task in enumerate(array.tasks)
        for stage in task.stages
    }
    return where, arrays


def all_edges(arrays: tuple[Array, ...], first: int) -> dict[str, str]:
    """Condition of each task that waits for something, whoever tells it SLURM; arrays have ids from `first` on."""
    ids = {array.number: str(first + array.number) for array in arrays}
    edges = dependencies(arrays, ids)
    for array in arrays:
        if condition := dependency(array, arrays, ids):
            edges |= {f"{ids[array.number]}_{number}": condition for number in range(len(array.tasks))}
    return edges


def check(plan: Plan, where: Mapping[str, Place], arrays: tuple[Array, ...]) -> None:
    """Every stage once; parents in the same task before it or in a task that is waited for; edges lead down."""
    assert len(where) == len(plan.to_run)
    order = {step.stage.label: number for number, step in enumerate(plan.steps.values())}
    for stage in plan.to_run:
        place = where[stage.label]
        for parent in stage.parents.values():
            above = where[parent.label]
            assert above == place or above in arrays[place[0]].tasks[place[1]].needs
    for array in arrays:
        for task in array.tasks:
            assert all(above < array.number for above, _ in task.needs)
    by_place: dict[Place, list[str]] = {}
    for label, place in where.items():
        by_place.setdefault(place, []).append(label)
    stages = {stage.label: stage for stage in plan.to_run}
    for (array, number), labels in by_place.items():
        assert all(order[a] < order[b] for a, b in pairwise(labels))
        task = arrays[array].tasks[number]
        for above in task.sure:
            first = by_place[above][0]
            assert above in task.needs and all(first in ancestors(stages[label]) for label in labels)
        parents = {where[up.label] for label in labels for up in stages[label].parents.values()} - {(array, number)}
        alone = len(labels) == 1 and all(len(by_place[above]) == 1 for above in parents)
        assert not alone or set(task.sure) >= parents
    assert not arrays[-1].tasks[0].sure, "the last job folds what is complete, whatever has failed"


def ancestors(stage: Stage) -> set[str]:
    """Labels of all that a stage is made from."""
    return {up.label for up in stage.parents.values()}.union(*map(ancestors, stage.parents.values()))


@pytest.mark.parametrize("seconds", [CHEAP, DEAR, EMBEDDED], ids=["cheap", "dear", "embedded"])
@pytest.mark.parametrize("pack", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("array_size", [3, 1001])
def test_every_stage_runs_once_and_after_its_parents(
    tmp_path: Path, seconds: Mapping[str, float], pack: float, array_size: int
) -> None:
    plan = plan_of(tmp_path, 6, seconds)
    where, arrays = arrays_for(plan, Slurm(pack_minutes=pack), array_size)
    check(plan, where, arrays)
    assert all(len(array.tasks) <= array_size for array in arrays)
    assert not arrays[-1].tasks[0].stages, "the reducer is the last"
    assert len(arrays[-1].tasks[0].needs) == sum(len(array.tasks) for array in arrays[:-1])


@pytest.mark.parametrize("array_size", [7, 1001])
def test_thousands_of_edges_are_those_of_a_few_arrays(tmp_path: Path, array_size: int) -> None:
    """36 scores and 36 verdicts in at most 8 blocks each: who waits, waits for some that it does not need."""
    plan = plan_of(tmp_path, 6, DEAR)
    jobs, arrays = arrays_of(assign(plan, Slurm(), {}), Slurm(), array_size, "x", edges=20, blocks=8)
    where = {
        jobs[stage].sheet.label: (array.number, number)
        for array in arrays
        for number, task in enumerate(array.tasks)
        for stage in task.stages
    }
    check(plan, where, arrays)
    ids = {array.number: str(100 + array.number) for array in arrays}
    assert len(dependencies(arrays, ids)) == 12, "rewards and pools wait for their own policy each"
    waits = {array.number: dependency(array, arrays, ids) for array in arrays}
    for array in arrays:
        for task in array.tasks if array.together else ():
            named = re.split("[:,]", waits[array.number])
            well = (
                waits[array.number].partition("afterany")[0].split(":")
            )  # of the first of an array, all of the others
            assert all(
                f"{ids[above]}_{number}" not in well or (above, number) in task.sure for above, number in task.needs
            )
            assert all(ids[above] in named or f"{ids[above]}_{number}" in named for above, number in task.needs)
        assert is_held(array) == (array.number == 0 or not array.together)
    if array_size > 36:
        score = waits[where["score[l00, l00]"][0]].split(":")
        rewards = {where[f"reward[l{number:02}]"] for number in range(6)}
        held_up = sum(f"{ids[array]}_{number}" in score for array, number in rewards)
        assert 1 < held_up < 6, "a slow reward model holds up its neighbours' cells, not all"
        assert len({where[label][0] for label in where if label.startswith(("score", "judge"))}) <= 16


def test_random_costs_never_make_a_circle(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(30):
        seconds = {kind: rng.choice([0.01, 1.0, 5.0, 20.0, 300.0]) for kind in CHEAP}
        plan = plan_of(tmp_path, 4, seconds)
        check(plan, *arrays_for(plan, Slurm(pack_minutes=rng.choice([0.1, 1.0, 5.0, 60.0]))))


@pytest.mark.parametrize(("size", "calls"), [(6, 10), (30, 25)])
def test_few_calls_of_sbatch(tmp_path: Path, size: int, calls: int) -> None:
    for pack in (0.0, 0.5):
        _, arrays = arrays_for(plan_of(tmp_path, size), Slurm(pack_minutes=pack))
        assert len(arrays) <= calls


def test_a_verdict_rides_with_its_score_and_waits_for_the_gold_of_its_target_only(tmp_path: Path) -> None:
    where, arrays = arrays_for(plan_of(tmp_path, 6, EMBEDDED), Slurm())
    assert where["judge[l00, l01]"] == where["score[l00, l01]"] and where["gold[l00]"] == where["pool[l00]"]
    assert where["gold[l01]"] == where["pool[l01]"]
    array, task = where["score[l00, l01]"]
    assert set(arrays[array].tasks[task].needs) == {where["reward[l00]"], where["pool[l01]"]}


def test_no_array_is_a_barrier(tmp_path: Path) -> None:
    where, arrays = arrays_for(plan_of(tmp_path, 6), Slurm())

    def above(place: Place) -> set[Place]:
        needs = set(arrays[place[0]].tasks[place[1]].needs)
        return needs.union(*(above(need) for need in needs))

    slow = where["sft[l00]"]
    for label, place in where.items():
        if "l00" not in label:
            assert slow not in above(place), label


@pytest.mark.parametrize("edges", [2000, 20])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_no_more_jobs_run_at_once_than_may_whatever_order_they_take(tmp_path: Path, most: int, edges: int) -> None:
    """Random times for the jobs, and some cancelled while they wait: SLURM's edges alone hold the others back."""
    rng = random.Random(most)
    plan = plan_of(tmp_path, 6, EMBEDDED | {"score": 20.0})
    settings = Slurm(max_running=most, stages={"reward": Resources(gpus_per_node=1)})
    jobs, arrays = arrays_of(assign(plan, settings, {}), settings, 1001, "x", edges=edges, before=["77"])
    where = {
        jobs[stage].sheet.label: (array.number, number)
        for array in arrays
        for number, task in enumerate(array.tasks)
        for stage in task.stages
    }
    check(plan, where, arrays)
    held_back = [condition for condition in all_edges(arrays, 100).values() if "77" in condition.split(":")]
    assert 1 <= len(held_back) <= most, "what was submitted before counts among them"
    for _ in range(5):
        seconds = {
            (array.number, number): rng.expovariate(1.0) for array in arrays for number in range(len(array.tasks))
        }
        busiest = course(arrays[:-1], seconds, {})[1]
        assert busiest <= most
    assert busiest == most, "and as many do run"
    gone = {rng.choice([place for place in seconds if place[0] < len(arrays) - 1]) for _ in range(2)}
    assert course([without(gone, array) for array in arrays[:-1]], seconds, {})[1] <= most
    assert edges > 20 or len(arrays) <= 12
    tasks = {(array.number, number): task for array in arrays[:-1] for number, task in enumerate(array.tasks)}
    for failed in list(tasks):  # SLURM cancels what is below it before it starts, an array that waits as one as a whole
        gone = set[Place]()
        for array in arrays[:-1]:
            lost = {place for place in tasks if place[0] == array.number and {failed, *gone} & {*tasks[place].sure}}
            gone |= lost if not array.together or len(lost) == len(array.tasks) else set()
        assert course([without(gone, array) for array in arrays[:-1]], seconds | {failed: 0.0}, {})[1] <= most, failed


def test_lanes_come_in_few_arrays_however_long_they_are(tmp_path: Path) -> None:
    for most in (1, 2, 8):
        _, arrays = arrays_for(plan_of(tmp_path, 30), Slurm(max_running=most, pack_minutes=0))
        assert len(arrays) < 100 and {array.resources.array_parallelism for array in arrays[:-1]} == {most}


def without(gone: set[Place], array: Array) -> Array:
    """As when those are cancelled while they wait: nothing waits for them, and they never start."""
    tasks = [
        replaced(task, needs=((-1, 0),) if (array.number, number) in gone else tuple({*task.needs} - gone))
        for number, task in enumerate(array.tasks)
    ]
    if not array.together:
        return replaced(array, tasks=tuple(tasks))
    return replaced(array, tasks=tuple(task for task in tasks if task.needs != ((-1, 0),)))


def test_kinds_with_other_resources_have_their_own_arrays(tmp_path: Path) -> None:
    settings = Slurm(stages={"reward": Resources(gpus_per_node=8), "judge": Resources(partition="cpu")})
    where, arrays = arrays_for(plan_of(tmp_path, 6, EMBEDDED), settings)
    assert {arrays[a].resources.gpus_per_node for label, (a, _) in where.items() if label[:6] == "reward"} == {8}
    assert {arrays[a].resources.gpus_per_node for label, (a, _) in where.items() if label[:6] != "reward"} == {None}
    assert where["judge[l00, l01]"] != where["score[l00, l01]"]


def test_packing_takes_no_more_than_it_may(tmp_path: Path) -> None:
    settings = Slurm(pack_minutes=1.0)
    groups = assign(plan_of(tmp_path, 6, EMBEDDED), settings, {})
    assert all(group.riding <= 60 for group in groups)
    everything = assign(plan_of(tmp_path, 6, CHEAP), settings, {})
    assert len(everything) == 1, "6 x 6 stages of a millisecond are one job"
    alone = assign(plan_of(tmp_path, 6, CHEAP), Slurm(pack_minutes=0.0), {})
    assert all(len(group.stages) == 1 for group in alone)


def test_stages_that_run_elsewhere_are_waited_for(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 2)
    elsewhere = {step.stage.key: "99_3" for step in plan.steps.values() if step.stage.label in ("base", "sft[l00]")}
    groups = assign(plan, Slurm(), elsewhere)
    labels = {group.stages[0].label: group.others for group in groups}
    assert "sft[l00]" not in labels
    assert labels["sft[l01]"] == labels["reward[l00]"] == {"99_3"} and labels["reward[l01]"] == set()
    assert not any("99_3" in group.sure for group in groups)
    alone = assign(plan, Slurm(), elsewhere, first=[key for key in elsewhere if plan.steps[key].stage.label == "base"])
    sure = {group.stages[0].label for group in alone if "99_3" in group.sure}
    assert "sft[l01]" in sure and "reward[l00]" not in sure, (
        "the job may fail when it has made the base, the first of it"
    )
    jobs, arrays = arrays_of(groups, Slurm(), 1001, "x", after=["99_3"])
    edges = all_edges(arrays, 500)
    first = next(place for place, group in zip(range(9), groups, strict=False) if group.stages[0].label == "sft[l01]")
    assert jobs and first >= 0
    assert sum("99_3" in edge.split(":") for edge in edges.values()) >= 4  # with the reducer


def test_an_array_that_is_needed_whole_is_named_by_its_id(tmp_path: Path) -> None:
    _, arrays = arrays_for(plan_of(tmp_path, 6), Slurm())
    edges = all_edges(arrays, 100)
    last = arrays[-1].number
    assert edges[f"{100 + last}_0"] == "afterany:" + ":".join(str(100 + number) for number in range(last))
    assert edges["101_0"] == "afterok:100"  # base is an array of one
    assert "100_0" not in edges


# --- settings: overrides by stage, and a sentence for what does not fit ------------------------------------------

KINDS = {
    kind: Kind(kind, 1, run, parallel=kind in ("sft", "reward"), gpu=on_gpu)
    for kind in ("base", "sft", "reward", "pool")
}


def test_the_yaml_file_gives_the_defaults_and_names_everything() -> None:
    path = Path(__file__).parents[2] / "conf" / "hydra" / "launcher" / "slurm.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(values) - {"_target_", "name", "catalogue"} == {*RESOURCES, *OWN}
    settings = settings_from({name: values[name] for name in (*RESOURCES, *OWN)}, KINDS)
    assert settings == settings_from({}, KINDS)


def test_a_kind_overrides_some_values_and_keeps_the_others() -> None:
    given: dict[str, Any] = {
        "partition": "gpu",
        "timeout_min": 30,
        "additional_parameters": {"mail-type": "FAIL"},
        "stages": {"reward": {"gpus_per_node": 8, "additional_parameters": {"exclusive": True}}, "reduce": None},
    }
    settings = settings_from(given, KINDS)
    assert settings.of("sft") == Resources(partition="gpu", timeout_min=30, additional_parameters={"mail-type": "FAIL"})
    reward = settings.of("reward")
    assert (reward.partition, reward.timeout_min, reward.gpus_per_node) == ("gpu", 30, 8)
    assert reward.additional_parameters == {"mail-type": "FAIL", "exclusive": True}
    assert settings.of("reduce") == settings.common


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"partitio": "gpu"}, ["hydra.launcher.partitio", "Did you mean 'partition'?"]),
        ({"stages": {"reword": {}}}, ["there is no stage 'reword'", "Did you mean 'reward'?"]),
        ({"stages": {"reward": {"gpus": 1}}}, ["hydra.launcher.stages.reward.gpus", "gpus_per_node"]),
        ({"stages": {"reward": 8}}, ["hydra.launcher.stages.reward=8 does not fit"]),
        ({"stages": {"reward": {"nodes": 0}}}, ["hydra.launcher.stages.reward.nodes=0", ">= 1"]),
        ({"timeout_min": "long"}, ["hydra.launcher.timeout_min=long does not fit", "Type hydra.launcher.timeout_min="]),
        ({"mem_gb": 0}, ["hydra.launcher.mem_gb=0"]),
        ({"gpus_per_node": True}, ["hydra.launcher.gpus_per_node=true"]),
        ({"mem_per_gpu": "lots"}, ["mem_per_gpu=lots: that is no amount", "Type hydra.launcher.mem_per_gpu=40G"]),
        ({"mem_per_cpu": "4.5G"}, ["mem_per_cpu=4.5G"]),
        ({"gres": "gpu:a100:many"}, ["gres=gpu:a100:many: that is no list of name:type:number"]),
        ({"exclude": "n[1-2,n3"}, ["exclude=n[1-2,n3: that is no list of nodes. Type hydra.launcher.exclude=n1,n2"]),
        ({"stages": {"sft": {"exclude": "n1 n2"}}}, ["hydra.launcher.stages.sft.exclude=n1 n2"]),
        ({"wait": "yes"}, ["hydra.launcher.wait=yes", "Type hydra.launcher.wait=true"]),
        ({"python": "srun --ntasks=1 python", "stages": {"sft": {"tasks_per_node": 2}}}, ["the steps of sft, which"]),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_from(given, KINDS)
    assert all(word in str(refused.value) for word in words), refused.value


def test_what_is_suggested_fits() -> None:
    """Of every setting: a value of no type of its own, and one below its least, are answered with one that is taken."""
    for name in set(RESOURCES) | set(OWN) - {"cpu", "stages"}:
        beside = {"pilots": 1} if name == "pilot_stages" else {}
        for wrong in (Path(), -1, True):
            try:
                settings_from({**beside, name: wrong}, KINDS)
            except ConfigError as refused:
                typed = str(refused).rpartition(f"Type hydra.launcher.{name}=")[2].rstrip(".").strip("'")
                settings_from({**beside, name: yaml.safe_load(typed)}, KINDS)
    alone = settings_from({"mem_per_gpu": "40G", "stages": {"sft": {"gpus_per_node": 1}}}, KINDS)
    assert (alone.of("sft").mem_per_gpu, alone.of("pool").mem_gb) == ("40G", None)


@pytest.mark.parametrize(
    ("gres", "count", "types", "two"),
    [
        ("gpu:2", 2, set(), "gres=gpu:2"),
        ("gpu", 1, set(), "gres=gpu:2"),
        ("gpu:a100", 1, {"a100"}, "gres=gpu:a100:2"),
        ("lscratch:10,gpu:a100-80gb:4(S:0-1)", 4, {"a100-80gb"}, "gres=lscratch:10,gpu:a100-80gb:2"),
        ("gpu:1g.10gb:1", 1, {"1g.10gb"}, "gres=gpu:1g.10gb:2"),
        ("gpu:a100:4(S:0-1),gpu:v100:2", 6, {"a100", "v100"}, "gres=gpu:a100:2,gpu:v100:2"),
        ("gpu:0", 0, set(), "gpus_per_node=2"),
        ("(null)", 0, set(), "gpus_per_node=2"),
    ],
)
def test_gpus_are_read_and_typed_in_the_words_of_gres(gres: str, count: int, types: set[str], two: str) -> None:
    asked = Resources(gres=gres)
    assert (gpus_in(gres), set(gpu_types(gres))) == (count, types) and gpus_in("cpu=8,gres/gpu=3") == 3
    assert gpus_as_asked(asked).replace("{}", "2") == two
    assert gpus_as_asked(Resources(gres=gres, gpus_per_task=1)) == ""
    assert gpus_as_asked(Resources(gres=gres, gpus_per_node=1)) == "gpus_per_node={}"


def test_several_processes_go_to_stages_that_can_use_them() -> None:
    settings = settings_from({"tasks_per_node": 2, "nodes": 2}, KINDS)
    assert settings.of("sft").processes == settings.of("reward").processes == 4
    assert settings.of("pool").processes == settings.of("reduce").processes == 1
    with pytest.raises(ConfigError, match=r"stages.pool: 1 nodes with 3 processes .* can be given to: sft, reward"):
        settings_from({"stages": {"pool": {"tasks_per_node": 3}}}, KINDS)


def test_what_computes_on_no_gpu_asks_for_none() -> None:
    given: dict[str, Any] = {
        "partition": "gpu",
        "gpus_per_node": 1,
        "gres": "gpu:a100:2,nvme:1",
        "mem_per_gpu": "8G",
        "cpus_per_gpu": 4,
        "additional_parameters": {"gpu-bind": "closest", "mail-type": "FAIL"},
        "cpu": {"partition": "small"},
        "stages": {
            "base": {"gpus_per_node": 2, "timeout_min": 5},
            "reduce": {"mem_gb": 3},
            "sft": {"gpus_per_node": 4},
        },
    }
    settings = settings_from(given, KINDS)
    assert settings.of("sft").gpus_per_node == 4 and settings.of("base").gpus_per_node == 2
    bare = Resources(partition="small", gres="nvme:1", mem_gb=16, additional_parameters={"mail-type": "FAIL"})
    assert settings.of("sft", gpu=False) == bare
    assert settings.of("base", gpu=False) == msgspec.structs.replace(bare, timeout_min=5)
    assert settings.of("reduce") == msgspec.structs.replace(bare, mem_gb=3)
    assert settings.where("reward", gpu=False) == "hydra.launcher.cpu"
    held = settings_from({**given, "cpu": {"gpus_per_node": 1}}, KINDS)
    assert held.of("reduce").gpus_per_node == 1, "where every job has to hold one"


def test_what_takes_seconds_rides_along_with_what_it_follows(tmp_path: Path) -> None:
    settings = settings_from({"gpus_per_node": 1, "pack_minutes": 0.1, "cpu": {"partition": "cpu"}}, {})
    where, arrays = arrays_for(plan_of(tmp_path, 2, EMBEDDED), settings)
    gpus = {label: arrays[place[0]].resources.gpus_per_node for label, place in where.items()}
    assert {label for label, number in gpus.items() if not number} == {"base"}
    assert where["judge[l00, l01]"] == where["score[l00, l01]"] and where["gold[l00]"] == where["pool[l00]"]
    where, arrays = arrays_for(plan_of(tmp_path, 2, DEAR), settings)
    assert {label[:4] for label, place in where.items() if arrays[place[0]].resources.partition == "cpu"} == {
        "base",
        "gold",
        "judg",
    }
    assert arrays[-1].resources.gpus_per_node is None


GPU_NODES = "gpu|2|64|512000|gpu:a100:4(S:0-1)|fast\ngpu|1|32|256000|gpu:v100:2|slow\nsmall|9|1|4000|(null)|(null)"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gpus_per_node": 1}, "Type hydra.launcher.mem_gb=125 hydra.launcher.cpu.mem_gb=4"),
        ({}, "Type hydra.launcher.mem_gb=7."),
        ({"gpus_per_node": 4}, ""),
        ({"gpus_per_node": 1, "mem_gb": 20}, ""),
        ({"gpus_per_node": 1, "mem_per_gpu": "20G"}, ""),
        ({"additional_parameters": {"exclusive": True}}, ""),
        ({"partition": "small"}, ""),  # a job a node
    ],
)
def test_a_job_that_would_take_a_nodes_whole_memory_is_refused(asked: dict[str, Any], words: str) -> None:
    facts = {"SelectTypeParameters": "CR_CORE_MEMORY", "SelectType": "select/cons_tres", "DefMemPerNode": "UNLIMITED"}
    partitions = "PartitionName=gpu Default=YES State=UP DefMemPerNode=UNLIMITED\nPartitionName=small State=UP"
    limits = parse_limits(facts, partitions, GPU_NODES, None, None)
    if words:
        with pytest.raises(ConfigError, match=re.escape(words)):
            check_resources(Resources(**asked), limits)
    else:
        check_resources(Resources(**asked), limits)
    for usual in ({"DefMemPerCPU": "2000"}, {"SelectTypeParameters": "CR_CORE"}, {"SelectType": "select/linear"}):
        check_resources(Resources(**asked), parse_limits({**facts, **usual}, partitions, GPU_NODES, None, None))
    per_gpu = parse_limits({**facts, "JobDefaults": "DefMemPerGPU=9000"}, partitions, GPU_NODES, None, None)
    check_resources(Resources(gpus_per_node=1), per_gpu)
    with pytest.raises(ConfigError, match=r"Type hydra.launcher.cpu.mem_gb=7\."):
        check_resources(Resources(), per_gpu)


def test_a_qos_for_gpus_alone_is_named() -> None:
    facts = {"AccountingStorageEnforce": "associations,limits,qos"}
    partitions = "PartitionName=gpu Default=YES QoS=N/A State=UP"
    limits = parse_limits(facts, partitions, "", "normal|||\nfast|||cpu=1,gres/gpu=1", None)
    check_resources(Resources(qos="fast", gpus_per_node=1), limits)
    with pytest.raises(ConfigError, match=r"QOS fast takes only jobs with GPUs.* hydra.launcher.cpu.gpus_per_node=1"):
        check_resources(Resources(qos="fast"), limits)


def test_how_many_jobs_may_be_queued_and_how_many_calls_made(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"MaxJobCount": "10000", "AccountingStorageEnforce": "associations,limits,qos,safe"}
    partitions = "PartitionName=gpu Default=YES QoS=short State=UP\nPartitionName=cpu QoS=N/A State=UP"
    accounts = "debug|1|||mine\nmine|1000||long|mine"
    limits = parse_limits(facts, partitions, "", "normal|300|\nshort||200\nlong||", accounts)

    def at_once(*asked: Resources, jobs: int = 10**5, most: int | None = None) -> tuple[int, str]:
        return limits.at_once([(one, jobs) for one in asked], most)

    assert at_once(Resources(partition="cpu")) == (1000, "MaxSubmitJobs of account mine")
    assert at_once(Resources(partition="cpu", account="debug")) == (1, "MaxSubmitJobs of account debug")
    assert at_once(Resources(partition="cpu", qos="normal")) == (300, "QOS normal")
    assert at_once(Resources(partition="cpu"), Resources()) == (200, "QOS short")
    assert at_once(Resources(), most=50) == (50, "hydra.launcher.max_submit")
    assert at_once(Resources(), jobs=100) == (0, "")
    few = [(Resources(qos="normal", partition="cpu"), 100), (Resources(partition="cpu"), 10**5)]
    assert limits.at_once(few, None)[0] == 1000, "where all of its own find room a QOS limits no others"
    assert limits.at_once(few, None, queued=250)[0] == 300
    with monkeypatch.context() as typed:
        typed.setenv("SBATCH_PARTITION", "cpu")
        assert at_once(Resources())[0] == 1000
        typed.setenv("SBATCH_QOS", "normal")
        assert at_once(Resources())[0] == 300
    assert limits.qos == ("long", "normal", "short") and limits.accounts == ("debug", "mine")
    alone = parse_limits({"SlurmctldParameters": "rl_enable,rl_bucket_size=50"}, partitions, "", None, None)
    assert alone.at_once([(Resources(), 10**5)], None) == (5000, "MaxJobCount of the cluster") and alone.rate == 50
    assert parse_limits({"SlurmctldParameters": "rl_enable"}, partitions, "", None, None).rate == 30 and not limits.rate


def test_nodes_of_one_job_with_gpus_of_several_types_are_said() -> None:
    nodes = "gpu|2|64|500000|gpu:a100:4(S:0-1)|(null)\ngpu|2|64|500000|gpu:v100:8|old\ngpu|9|64|500000|(null)|(null)"
    limits = parse_limits({}, "PartitionName=gpu Default=YES State=UP", nodes, None, None)
    two = Resources(nodes=2, tasks_per_node=4, gpus_per_node=4)
    said = mixed_gpus(two, limits, "here")
    assert said.startswith("here.nodes=2: nodes of partition gpu have GPUs of several types (a100, v100),")
    assert said.endswith("Type here.gres=gpu:a100:4 in place of gpus_per_node for one type.")
    same = ({"nodes": 1}, {"constraint": "old"}, {"gpus_per_node": 8, "tasks_per_node": 8}, {"gres": "gpu:v100:4"})
    for one in same:
        assert not mixed_gpus(replaced(two, **one), limits, "here"), one


# --- what a dry run says of jobs ----------------------------------------------------------------------------------


def test_hours_are_those_of_the_jobs_that_run_at_once() -> None:
    """Two jobs of 10 s, then four of 30 s in one array, each of which waits for one of the two."""
    first = Array(0, "a", Resources(), (Task((0,)), Task((1,))))
    needs = tuple(Task((2 + number,), ((0, number % 2),)) for number in range(4))
    seconds = {(0, 0): 10.0, (0, 1): 20.0, **{(1, number): 30.0 for number in range(4)}}
    assert course([first, Array(1, "b", Resources(), needs)], seconds, {}) == (50.0, 4)
    assert course([first, Array(1, "b", Resources(), needs, together=True)], seconds, {}) == (50.0, 4)
    assert course([first, Array(1, "b", Resources(array_parallelism=2), needs)], seconds, {}) == (70.0, 3)
    of_gpus = Array(1, "b", Resources(partition="gpu", nodes=2, gpus_per_node=2), needs)
    assert course([first, of_gpus], seconds, {"gpu": 8}) == (70.0, 3)
    assert course([first, of_gpus], seconds, {"gpu": 7}) == (130.0, 2)


def test_a_plan_warns_of_gpus_that_idle_and_of_time_that_is_short(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 2, {**DEAR, "sft": 30000.0})
    kinds = {name: replace(kind, gpu=lambda _: True, parallel=name == "sft") for name, kind in plan.kinds.items()}
    plan = replace(plan, kinds=kinds)
    assert not doubts(plan, settings_from({"gpus_per_node": 1, "timeout_min": 600, "gpu_mem_gb": 80}, kinds))
    said = doubts(plan, settings_from({"gpu_mem_gb": 80, "timeout_min": 480}, kinds))
    assert [one.partition(",")[0] for one in said] == [
        "hydra.launcher.gpu_mem_gb=80 says how much memory a GPU has and asks for none",
        "A stage of sft takes about 8 h 20 min",
    ]
    assert said[1].endswith(
        "and its jobs end after 480 minutes: it goes on after 1 time limit. Type "
        "hydra.launcher.stages.sft.timeout_min=630 for one job."
    )
    [fails] = doubts(plan, settings_from({"max_num_timeout": 2}, kinds))
    assert "it goes on after 8 time limits, of which it may have 2 before it fails. Type " in fails
    assert fails.endswith("timeout_min=630, or hydra.launcher.stages.sft.max_num_timeout=10.")
    given = {
        "gpus_per_node": 4,
        "timeout_min": 600,
        "stages": {"sft": {"tasks_per_node": 4}, "pool": {"gpus_per_node": 1}},
    }
    [idle] = doubts(plan, settings_from(given, kinds))
    assert idle.startswith("Each job of base, reward, score, gold, judge holds 4 GPUs and uses 1,")
    assert idle.endswith("Type hydra.launcher.gpus_per_node=1.")
