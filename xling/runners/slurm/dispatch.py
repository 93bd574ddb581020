"""From a plan to jobs: which stages share one, which array each job is in, and which jobs it waits for.

    tasks = assign(plan, settings, elsewhere)    # stages to tasks, cheap ones together
    arrays = arrays_of(tasks, settings, 1001, "xling-demo-1122065201ab")

Pure: reads no files and asks no cluster. Arrays are layered: SLURM 22.05 takes an edge between two tasks of one array
for a circle. Every task waits for its own parents' tasks and for no others, so no array is a barrier: an edge a task,
which is a call of the controller each. Where that would be thousands (or few calls are allowed, SLURM's `rl_enable`),
a layer is cut into blocks of tasks with neighbouring parents; a block is an array, which waits for all that its tasks
need by one edge that sbatch is given.

`max_running` makes lanes, as many as jobs may run at once: every task is in one, and waits for those before it there
besides its parents. That is SLURM's `afterany`, under which a job that goes back into the queue has not ended. Where
those would be too many edges, or too many arrays, whole arrays run one after another, each with so many tasks at once.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

import msgspec
from msgspec.structs import replace as replaced

from xling.grid.plan import Plan
from xling.grid.records import Sheet
from xling.grid.stage import Kind, Stage
from xling.runners.execute import Job
from xling.runners.slurm.record import Array, Place, Task
from xling.runners.slurm.settings import REDUCE, Resources, Slurm, asks_for_gpus

EDGES = 2000  # of single tasks in a submission, at 2 to 5 ms each
BLOCKS = 64  # that a layer of more edges is cut into
LINKS = 3  # tasks before it in its lane that one waits for: two of them may be cancelled, and no more run at once
LANE = 64  # tasks of a lane, on average: each place in it costs a call of sbatch
SURELY_LONG = 59.0  # seconds; of kinds that have never run: heads are guessed at 30, judging by a server at a minute
DOUBT = 5  # how many times longer than guessed a kind that has never run may take; decides what counts as cheap


@dataclass
class Group:
    """A task in the making."""

    resources: Resources
    shape: bytes  # the same for groups whose jobs ask for the same
    seconds: float = 0.0  # predicted
    riding: float = 0.0  # of them those of all stages but the first
    stages: list[Stage] = field(default_factory=list)
    needs: set[int] = field(default_factory=set)  # groups that end before it starts
    others: set[str] = field(default_factory=set)  # jobs of other submissions
    # groups and jobs without whose first stage none of its stages can be made
    sure: frozenset[int | str] = frozenset()
    light: list[int] = field(default_factory=list)  # places of stages that compute on no GPU
    layer: int = 0


def assign(
    plan: Plan,
    settings: Slurm,
    elsewhere: Mapping[str, str],
    first: Collection[str] = (),
    only: Collection[str] | None = None,
) -> list[Group]:
    """Groups of stages to run in one job each, in an order that respects their needs.

    elsewhere: stages that another submission's job is going to make or is making, key -> job id; first: those of them
    that are the first, or only, ones of their jobs; only: of these stages, by key.
    """
    packer = _Packer(settings, plan.kinds, elsewhere, first)
    for stage in plan.to_run:
        if stage.key not in elsewhere and (only is None or stage.key in only):
            estimate = plan.estimates[stage.kind]
            packer.add(stage, estimate.seconds * (1 if estimate.recorded else DOUBT))
    return packer.groups


def on_gpu(stage: Stage, kinds: Mapping[str, Kind]) -> bool:
    """Whether a stage computes on a GPU, as its kind says; of an unknown kind that is assumed."""
    return stage.kind not in kinds or kinds[stage.kind].gpu(stage)


def asked_for(plan: Plan, settings: Slurm, stages: Iterable[Stage]) -> Mapping[tuple[str, bool], int]:
    """What is asked for stages, as `Slurm.of` takes it, and by how many of them; by pilots: GPUs, if one needs them."""
    kinds = Counter((stage.kind, on_gpu(stage, plan.kinds)) for stage in stages)
    return kinds if settings.pilots is None or not kinds else {("", any(gpu for _, gpu in kinds)): settings.pilots}


class _Packer:
    """Puts one stage after the other (parents first) into a group that is there, or into a new one.

    Only cheap stages join others. A follower (the verdict on a score) joins the group of its parent unless that had
    to start much later for it; a sibling joins stages of its kind that wait for exactly the same, if they are cheap.
    """

    def __init__(
        self, settings: Slurm, kinds: Mapping[str, Kind], elsewhere: Mapping[str, str], first: Collection[str]
    ) -> None:
        self._settings, self._kinds, self._elsewhere = settings, kinds, elsewhere
        self._first, self._below = set(first), dict[str, frozenset[int | str]]()  # by key; see Group.sure
        self.groups: list[Group] = []
        self._group_of: dict[str, int] = {}
        self._starts: list[float] = []  # predicted, by group
        self._siblings: dict[tuple[object, ...], int] = {}
        self._budget = settings.pack_minutes * 60
        self._shapes: dict[tuple[str, bool], bytes] = {}

    def add(self, stage: Stage, seconds: float) -> None:
        parents = {parent.key for parent in stage.parents.values()}
        needs = {self._group_of[key] for key in parents if key in self._group_of}
        others = {self._elsewhere[key] for key in parents if key in self._elsewhere}
        gpu = on_gpu(stage, self._kinds)
        shape = self._shape(stage.kind, gpu)
        # what takes seconds rides along with the job that it follows, on a GPU or not
        number = self._follow({shape, self._shape(stage.kind, True)}, needs, others, seconds)
        sibling = (stage.kind, shape, frozenset(needs), frozenset(others))
        if number is None:
            number = self._join(sibling, seconds)
        if number is None:
            number = self._new(self._settings.of(stage.kind, gpu), shape, needs, others)
        group = self.groups[number]
        below = frozenset[int | str]().union(*map(self._with_its_job, parents))
        if group.stages:
            group.riding += seconds
        else:
            self._first.add(stage.key)
        group.sure = group.sure & below if group.stages else below
        group.seconds += seconds
        group.light += [] if gpu else [len(group.stages)]
        group.stages.append(stage)
        self._group_of[stage.key], self._below[stage.key] = number, below
        self._siblings[sibling] = number

    def _with_its_job(self, key: str) -> frozenset[int | str]:
        """What a stage cannot be made without, and its own job if its end is that stage's."""
        job = self._group_of.get(key, self._elsewhere.get(key))
        return self._below.get(key, frozenset()) | (frozenset() if job is None or key not in self._first else {job})

    def _shape(self, kind: str, gpu: bool) -> bytes:
        if (kind, gpu) not in self._shapes:
            self._shapes[kind, gpu] = msgspec.json.encode(self._settings.of(kind, gpu))
        return self._shapes[kind, gpu]

    def _follow(self, shapes: set[bytes], needs: set[int], others: set[str], seconds: float) -> int | None:
        """The latest of the parents' groups, if all the others end before it needs to start."""
        for number in sorted(needs, key=self._end, reverse=True):
            group = self.groups[number]
            rest = needs - {number}
            if not self._fits(group, shapes, seconds) or any(self._reaches(other, number) for other in rest):
                continue
            later = max((self._end(other) for other in rest), default=0.0)
            if later <= self._starts[number] + self._budget and others <= group.others:
                group.needs |= rest
                self._starts[number] = max(self._starts[number], later)
                return number
        return None

    def _join(self, sibling: tuple[object, ...], seconds: float) -> int | None:
        number = self._siblings.get(sibling)
        if number is None:
            return None
        group = self.groups[number]
        cheap = group.seconds + seconds <= self._budget
        return number if cheap and self._fits(group, {group.shape}, seconds) else None

    def _new(self, resources: Resources, shape: bytes, needs: set[int], others: set[str]) -> int:
        self.groups.append(Group(resources, shape, needs=set(needs), others=set(others)))
        self._starts.append(max((self._end(need) for need in needs), default=0.0))
        return len(self.groups) - 1

    def _fits(self, group: Group, shapes: set[bytes], seconds: float) -> bool:
        return group.shape in shapes and 0 < self._budget >= group.riding + seconds

    def _end(self, number: int) -> float:
        return self._starts[number] + self.groups[number].seconds

    def _reaches(self, start: int, goal: int) -> bool:
        """Whether group `start` waits for `goal`, near or far: then `goal` cannot wait for `start`."""
        seen, open_ = set(), [start]
        while open_:
            number = open_.pop()
            if number == goal:
                return True
            if number not in seen:
                seen.add(number)
                open_.extend(self.groups[number].needs)
        return False


def arrays_of(
    groups: Sequence[Group],
    settings: Slurm,
    max_array_size: int,
    prefix: str,
    after: Sequence[str] = (),
    edges: int = EDGES,
    blocks: int = BLOCKS,
    before: Iterable[str] = (),
    pilots: tuple[Array, Sequence[Job]] | None = None,
) -> tuple[tuple[Job, ...], tuple[Array, ...]]:
    """The stages in order, and the arrays of tasks over them; the last array is the reducer, after all the others.

    One array for each layer and each set of resources, in chunks that SLURM takes. prefix: of the jobs' names;
    after: jobs of other submissions that the reducer waits for as well; edges: of single tasks that may be made, at
    most; blocks: into how many arrays a layer is cut that would have more; before: arrays of other submissions that
    count among the jobs of which `max_running` may run at once, and so end first; pilots: with their stages, which
    end before all groups do anything.
    """
    most = settings.max_running
    in_lanes = most is not None and len(groups) <= min(edges, LANE * most)
    _layer(groups)
    if most is not None and in_lanes:
        _keep_lanes(groups, most, set(before))
        _layer(groups)
    layers: dict[tuple[int, bytes], list[int]] = {}
    kinds = list(dict.fromkeys(stage.kind for group in groups for stage in group.stages))
    for number, group in sorted(enumerate(groups), key=lambda item: kinds.index(item[1].stages[0].kind)):
        layers.setdefault((group.layer, group.shape), []).append(number)
    places: dict[int, Place] = {}
    jobs, arrays = (list(pilots[1]), [pilots[0]]) if pilots else (list[Job](), list[Array]())
    sizes = _sizes(arrays)
    flown = [(array.number, number) for array in arrays for number in range(len(array.tasks))]
    for _, layer in sorted(layers.items(), key=lambda item: (item[0][0], item[1][0])):
        needs = {number: tuple(sorted([*flown, *(places[need] for need in groups[number].needs)])) for number in layer}
        sure = {
            number: tuple(sorted(places[up] for up in groups[number].needs & groups[number].sure)) for number in layer
        }
        alike = len({(needs[number], tuple(sorted(groups[number].others))) for number in layer}) == 1
        single = 0 if alike else sum(bool(needs[number] or groups[number].others) for number in layer)
        parts = [layer] if single <= edges or most is not None else _blocks(layer, needs, sizes, blocks)
        together = alike or single > edges or (most is not None and not in_lanes)
        edges -= 0 if together else single
        for part in parts:
            for start in range(0, len(part), max_array_size):
                numbers = part[start : start + max_array_size]
                tasks = tuple(_task(groups[number], needs[number], sure[number], jobs) for number in numbers)
                resources = groups[numbers[0]].resources
                if most is not None and not in_lanes:
                    tasks = (_behind(tasks[0], arrays, before), *tasks[1:])
                    resources = replaced(resources, array_parallelism=min(most, resources.array_parallelism))
                runs = "-".join(dict.fromkeys(stage.kind for number in numbers for stage in groups[number].stages))
                array = Array(len(arrays), f"{prefix}-{len(arrays)}-{runs}", resources, tasks, together)
                places |= {number: (array.number, task) for task, number in enumerate(numbers)}
                sizes[array.number] = len(tasks)
                arrays.append(array)
    last = Task((), tuple((a.number, t) for a in arrays for t in range(len(a.tasks))), tuple(after))
    arrays.append(Array(len(arrays), f"{prefix}-{len(arrays)}-{REDUCE}", settings.of(REDUCE), (last,), together=True))
    return tuple(jobs), tuple(arrays)


def _keep_lanes(groups: Sequence[Group], most: int, before: Set[str]) -> None:
    """Let each group wait for those before it in one of `most` lanes; the first of a lane for `before`.

    In the order in which they could start; each goes to the lane that is predicted to be free first.
    """
    starts: dict[int, float] = {}
    for number in sorted(range(len(groups)), key=lambda number: groups[number].layer):
        starts[number] = max((starts[need] + groups[need].seconds for need in groups[number].needs), default=0.0)
    lanes: list[list[int]] = [[] for _ in range(most)]
    free = [(0.0, lane) for lane in range(most)]
    ends: dict[int, float] = {}
    for number in sorted(starts, key=lambda number: (starts[number], groups[number].layer)):
        group = groups[number]
        at, lane = heapq.heappop(free)
        ends[number] = max([at, *(ends[need] for need in group.needs)]) + group.seconds
        heapq.heappush(free, (ends[number], lane))
        group.needs |= _before(group, lanes[lane], groups)
        group.others |= before if not lanes[lane] else set()
        lanes[lane].append(number)


def _before(group: Group, lane: Sequence[int], groups: Sequence[Group]) -> set[int]:
    """Those of a lane that a group waits for: so many that no one failure has all of them cancelled, but for its own.

    What is below a failure ends before it has begun, and a group behind nothing else would run beside its lane.
    """
    found: set[int] = set()
    fate = groups[lane[-1]].sure if lane else group.sure
    for number in reversed(lane):
        found.add(number)
        fate &= groups[number].sure
        if len(found) >= LINKS and fate <= group.sure:
            break
    return found


def _behind(task: Task, arrays: Sequence[Array], before: Iterable[str]) -> Task:
    """A task that waits for the whole arrays before its own as well; of the first one, for jobs submitted before.

    For several, since all of one can be cancelled before it has begun.
    """
    above = [(array.number, number) for array in arrays[-LINKS:] for number in range(len(array.tasks))]
    others = task.others if arrays else {*task.others, *before}
    return replaced(task, needs=tuple(sorted({*task.needs, *above})), others=tuple(sorted(others)))


def pilots_of(
    plan: Plan,
    settings: Slurm,
    pilots: int,
    elsewhere: Set[str],
    max_array_size: int,
    prefix: str,
    after: Sequence[str] = (),
    before: Sequence[str] = (),
) -> tuple[tuple[Job, ...], tuple[Array, ...]]:
    """The same for jobs that take stages as they become ready: one array of them, no edges, and the reducer.

    elsewhere: stages that another submission's jobs are going to make. Those that others here need are among the
    pilots' as well: who comes first makes them. before: arrays of other submissions that the pilots wait for.
    """
    wanted = {stage.key for stage in plan.to_run} - elsewhere
    for stage in reversed(plan.to_run):  # children before parents
        wanted |= {up.key for up in stage.parents.values()} if stage.key in wanted else set()
    late = _after_pilots(plan, settings, wanted)
    stages = [stage for stage in plan.to_run if stage.key in wanted - late]
    jobs = [Job(stage.key, Sheet.of(stage)) for stage in stages]
    light = tuple(number for number, stage in enumerate(stages) if not on_gpu(stage, plan.kinds))
    each = (Task(tuple(range(len(jobs))), others=tuple(before), light=light),) * min(pilots, len(jobs))
    made = [
        (Array(0, f"{prefix}-0-pilots", settings.of(*kind), each, together=True, pilots=True), jobs)
        for kind in asked_for(plan, settings, stages)  # one, if there is anything
    ]
    groups = assign(plan, settings, {}, only=late)
    return arrays_of(groups, settings, max_array_size, prefix, after, before=before, pilots=made[0] if made else None)


def _after_pilots(plan: Plan, settings: Slurm, wanted: Set[str]) -> set[str]:
    """Stages that get jobs of their own, without GPUs, when the pilots have ended: those hold no GPUs for them.

    What computes on none and takes longer than what shares a job, if nothing below it computes on one.
    """
    stages = [stage for stage in plan.to_run if stage.key in wanted]
    heavy = {stage.key for stage in stages if on_gpu(stage, plan.kinds)}
    if not heavy or not asks_for_gpus(settings.common):
        return set()
    late, above = set[str](), set(heavy)  # of what computes on a GPU
    for stage in reversed(stages):  # children before parents
        above |= {up.key for up in stage.parents.values()} if stage.key in above else set()
    for stage in stages:
        estimate = plan.estimates[stage.kind]
        is_long = estimate.seconds > (settings.pack_minutes * 60 if estimate.recorded else SURELY_LONG)
        if stage.key not in above and (is_long or any(up.key in late for up in stage.parents.values())):
            late.add(stage.key)
    return late


def _blocks(
    layer: Sequence[int], needs: Mapping[int, Sequence[Place]], sizes: Mapping[int, int], most: int
) -> list[list[int]]:
    """A layer in parts whose tasks have neighbours as parents; at most so many, if its parents are in few arrays."""
    cuts = min(max(sizes.values(), default=1), most)
    while True:
        parts: dict[tuple[Place, ...], list[int]] = {}
        for number in layer:
            key = tuple((array, task * cuts // sizes[array]) for array, task in needs[number])
            parts.setdefault(tuple(dict.fromkeys(key)), []).append(number)
        if len(parts) <= most or cuts == 1:
            return list(parts.values())
        cuts = cuts * 4 // 5


def _layer(groups: Sequence[Group]) -> None:
    """The layer of a group is above those of all that it waits for; groups are in no particular order."""
    for number in TopologicalSorter({number: group.needs for number, group in enumerate(groups)}).static_order():
        groups[number].layer = max((groups[need].layer + 1 for need in groups[number].needs), default=0)


def _task(group: Group, needs: tuple[Place, ...], sure: tuple[Place, ...], jobs: list[Job]) -> Task:
    numbers = tuple(range(len(jobs), len(jobs) + len(group.stages)))
    jobs.extend(Job(stage.key, Sheet.of(stage)) for stage in group.stages)
    others = tuple(sorted(group.others))
    return Task(numbers, needs, others, sure, tuple(job for job in others if job in group.sure), tuple(group.light))


def dependencies(arrays: Sequence[Array], ids: Mapping[int, str]) -> dict[str, str]:
    """The edges of single tasks as SLURM takes them: {"124_3": "afterok:123_0:123_7"}.

    ids: SLURM's id of each array, by its number.
    """
    sizes = _sizes(arrays)
    edges = {}
    for array in arrays:
        for number, task in enumerate(array.tasks if not array.together else ()):
            if task.needs or task.others:
                edges[f"{ids[array.number]}_{number}"] = _condition([task], sizes, ids)
    return edges


def dependency(array: Array, arrays: Sequence[Array], ids: Mapping[int, str]) -> str:
    """What a whole array waits for, in SLURM's words; "" if each of its tasks waits for its own, or for nothing.

    ids: of the arrays that are in the queue; others have ended, or are to come.
    """
    return _condition(array.tasks, _sizes(arrays), ids) if array.together else ""


def is_held(array: Array) -> bool:
    """Whether it is submitted held: it is, unless it waits, as a whole, for an array that is or that waits for one."""
    return not (array.together and any(task.needs for task in array.tasks))


def _sizes(arrays: Sequence[Array]) -> dict[int, int]:
    return {array.number: len(array.tasks) for array in arrays}


def _condition(tasks: Sequence[Task], sizes: Mapping[int, int], ids: Mapping[int, str]) -> str:
    """What tasks wait for. Jobs without which none of them can do anything have to end well: else SLURM cancels these.

    A whole array is named by its id alone.
    """
    sure = set[Place | str]().union(*((*task.sure, *task.sure_others) for task in tasks[:1]))
    for task in tasks[1:]:
        sure &= {*task.sure, *task.sure_others}
    needs = sorted({need for task in tasks for need in task.needs if need[0] in ids})
    others = sorted({other for task in tasks for other in task.others})
    words = []
    for word, well in (("afterok", True), ("afterany", False)):
        by_array: dict[int, list[int]] = {}
        for place in needs:
            if (place in sure) == well:
                by_array.setdefault(place[0], []).append(place[1])
        names = []
        for number, numbers in by_array.items():
            whole = len(numbers) == sizes[number]
            names += [ids[number]] if whole else [f"{ids[number]}_{one}" for one in numbers]
        names += [other for other in others if (other in sure) == well]
        words += [":".join([word, *names])] if names else []
    return ",".join(words)
