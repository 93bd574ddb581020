"""What must stay as it is while modules are moved and joined: keys of stages, bytes of matrices, the order of rooms.

    python tests/test_house.py             # what differs from the recorded keys
    python tests/test_house.py --record    # write tests/house/keys.txt.gz anew: after a change that is to change keys
    python tests/test_house.py outputs/grids/demo/matrix.csv    # what differs from tests/house/demo.csv

A key is a digest of all that a result depends on. If one changes, results of everybody's roots are made again. So a
change of code that is to change no number must leave tests/house/keys.txt.gz as it is; one that is to change numbers
raises the version of its kinds of stages and records the keys anew in the same commit.

Keys hold no path, host name or package version but one: sentence_encoder's has the version of its packaged encoder,
which constraints.txt pins. The paper's grids are planned as their dry run plans them: without data, with the sizes
that the paper states, and with checkpoints of the hub as UNRESOLVED, for nobody is asked. Some of them are planned at
tiny scale too, where data and models are there and the keys are those of real runs.
"""

import ast
import csv
import functools
import gzip
import io
import itertools
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = Path(__file__).parent / "house"
KEYS = HOUSE / "keys.txt.gz"
PAPER = sorted(path.stem for path in (ROOT / "sweeps").glob("paper_*.yaml"))
JUDGEMENTS = f"task.path='{HOUSE / 'judgements.jsonl'}'"  # ten documents in three languages, two systems each
TINY = ("paper_dialog", "paper_no_target_sft", "paper_rm_accuracy_dialog", "paper_bilingual")
GRIDS: dict[str, tuple[str, ...]] = {
    "demo": ("sweeps=demo",),
    "embedded": ("sweeps=embedded",),
    "embedded with controls": ("sweeps=embedded", "controls=true"),
    "optimizers": ("sweeps=optimizers",),
    "human_judgements": ("sweeps=human_judgements", JUDGEMENTS),
    **{name: (f"sweeps={name}",) for name in PAPER},
    **{f"{name} at tiny scale": (f"sweeps={name}", "scale=tiny") for name in TINY},
}
MATRICES = {  # tests/house/NAME.csv of these grids
    "demo": "demo",
    "paper_rm_accuracy_dialog": "paper_rm_accuracy_dialog at tiny scale",
    "paper_bilingual": "paper_bilingual at tiny scale",
    "paper_dialog": "paper_dialog at tiny scale",  # with PPO
}
RECORDED_ON = "AuthenticAMD, AVX512, torch 2.13.0"

Key = tuple[str, str]  # what people read of a stage; the first twelve digits of its key


def planned(overrides: list[str]) -> Any:
    """The plan that `launch.py OVERRIDES` makes; nothing is run or written. With `alone` the one door to the code."""
    from xling.compose.grid import composed_grid
    from xling.launching import plan_of

    return plan_of(composed_grid(overrides)[0], "xling.planning")


def keys(name: str, root: Path) -> list[Key]:
    """All stages of a grid as planned from a fresh root, parents before children."""
    plan = planned([*GRIDS[name], "dry_run=true", f"root={root / 'none'}"])
    return [(step.stage.label, key[:12]) for key, step in plan.steps.items()]


def recorded() -> Mapping[str, list[Key]]:
    """The stages of every grid, from lines `grid<TAB>label<TAB>key`."""
    grids: dict[str, list[Key]] = {}
    for line in gzip.decompress(KEYS.read_bytes()).decode("utf-8").splitlines():
        grid, label, key = line.split("\t")
        grids.setdefault(grid, []).append((label, key))
    return grids


def changes(before: list[Key], after: list[Key]) -> list[str]:
    """What differs, in order of the plan: the first lines say where it began, for keys depend on their parents'."""
    old, new = {key for _, key in before}, {key for _, key in after}
    gone: dict[str, list[str]] = {}
    for label, key in before:
        if key not in new:
            gone.setdefault(label, []).append(key)
    lines = []
    for label, key in after:
        if key not in old:
            was = gone[label].pop(0) if gone.get(label) else "new"
            lines.append(f"{label}: {was} -> {key}")
    return lines + [f"{label}: {key} -> no longer planned" for label, lost in gone.items() for key in lost]


@pytest.fixture(scope="module", autouse=True)
def without_a_hub(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """No network and no copy of any checkpoint, as on a fresh machine."""
    with pytest.MonkeyPatch.context() as patch:
        alone(patch, tmp_path_factory.mktemp("no_hub"))
        yield


def alone(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """No hub; and no cells that Hydra composes in full for comparison, which is half the time and has its own tests."""
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    patch.setattr("xling.compose.grid.CHECKED_CELLS", 0)


def test_every_grid_of_the_paper_is_recorded() -> None:
    assert len(PAPER) == 11 and list(recorded()) == list(GRIDS)


@pytest.mark.parametrize("name", GRIDS)
def test_keys_of_all_stages_are_those_that_were_recorded(name: str, tmp_path: Path) -> None:
    found = keys(name, tmp_path)
    differ = changes(recorded()[name], found)
    assert not differ, f"{len(differ)} of {len(found)} stages have other keys:\n" + "\n".join(differ[:12])


# --- matrices -----------------------------------------------------------------------------------------------


def machine() -> str:
    """What floating-point sums depend on: bytes are promised for the same hardware and library versions alone."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    vendor = re.search(r"^vendor_id\s*: (.*)", cpuinfo.read_text("utf-8") if cpuinfo.exists() else "", re.MULTILINE)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{vendor[1] if vendor else platform.machine()}, {capability}, torch {torch.__version__.partition('+')[0]}"


def differences(found: str, expected: str) -> list[str]:
    """Lines of a matrix.csv that differ from the recorded one.

    On the machine that it was recorded on every byte counts. On another, sums may end in other bits, so that some
    responses are others: cells, prompts and statuses are the same, and a win rate lies in the recorded interval.
    """
    exact = machine() == RECORDED_ON
    ours, theirs = (list(csv.reader(io.StringIO(text))) for text in (found, expected))
    return [
        f"{','.join(one or ())} instead of {','.join(other or ())}"
        for one, other in itertools.zip_longest(ours, theirs)
        if one != other and (exact or one is None or other is None or not _close(one, other, theirs[0]))
    ]


def _close(found: list[str], expected: list[str], names: list[str]) -> bool:
    if expected == names or len(found) != len(names):  # the head of the table, or a torn line
        return False
    one, other = dict(zip(names, found, strict=True)), dict(zip(names, expected, strict=True))
    free = ("win_rate", "ci_low", "ci_high", "reason")  # a reason states the rate that does not count
    if any(one[name] != other[name] for name in names if name not in free):
        return False
    if not other["win_rate"] or not one["win_rate"]:
        return one["win_rate"] == other["win_rate"]
    return float(other["ci_low"]) <= float(one["win_rate"]) <= float(other["ci_high"])


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of all grids that are run here: presets share stages."""
    return tmp_path_factory.mktemp("shared")


@pytest.mark.nightly
@pytest.mark.parametrize("name", MATRICES)
def test_matrices_are_those_that_were_recorded(name: str, shared_root: Path) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *GRIDS[MATRICES[name]], f"name={name}"]
    options = [f"root={shared_root}", "tracking.mode=off"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = shared_root / "grids" / name
    stages = json.loads((folder / "plan.json").read_text("utf-8"))["stages"]
    assert {stage["key"][:12] for stage in stages} == {key for _, key in recorded()[MATRICES[name]]}  # as a dry run's
    lines = differences((folder / "matrix.csv").read_text("utf-8"), (HOUSE / f"{name}.csv").read_text("utf-8"))
    assert not lines, "\n".join(lines)


# --- rooms --------------------------------------------------------------------------------------------------

# A room is a package or a module; a module is in the room with the longest name that is a part of its own. From the
# lowest up: a room imports from the lines above its own and not from its neighbours in the line, lazily or not.
ORDER = """
    xling jsonfiles
    errors digests webpage
    console
    options analysis.statistics
    config
    grid
    measures
    tasks
    models
    rewards
    judges translators optimizers
    results
    experiment
    planning
    compose
    stages
    judges.gold judges.human judges.llm judges.target_rm
    translators.micro_exact translators.recorded translators.seq2seq
    translators.micro_noisy
    runners
    runners.local
    runners.slurm
    analysis.matrix
    analysis.tidy
    analysis.languages
    analysis.items
    analysis.findings
    analysis.paper
    analysis
    report.tables
    report.pictures
    report.page
    report
    sheets
    tracking
    folding
    launching
    api
    exports
    cli
    __main__
"""
ROOMS = {room: level for level, line in enumerate(ORDER.strip().splitlines()) for room in line.split()}
# Imports against that order, (module, what it imports): each is to go.
AGAINST: set[tuple[str, str]] = set()


class Import(NamedTuple):
    """An import of one module of the package by another."""

    module: str
    imported: str
    line: int
    loading: bool  # when `module` is loaded or its types are checked: not in a function


@functools.cache
def imports() -> list[Import]:
    """All imports within the package, names without the leading `xling.`."""
    files = {_dotted(path): path for path in sorted((ROOT / "xling").rglob("*.py"))}
    found = []
    for module, path in files.items():
        for node, loading in _imports_in(ast.parse(path.read_text(encoding="utf-8")), True):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                assert node.level == 0, f"{path}:{node.lineno}: write the whole name, as everywhere"
                inner = [f"{node.module}.{alias.name}" for alias in node.names]  # a module or a name in one
                names = [name if name in files else str(node.module) for name in inner]
            ours = {name for name in names if name.partition(".")[0] == "xling"}
            found += [Import(_short(module), _short(name), node.lineno, loading) for name in sorted(ours)]
    return found


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _short(module: str) -> str:
    return module.removeprefix("xling.")


def _imports_in(node: ast.AST, loading: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, loading
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports_in(child, loading and not lazy)


def room_of(module: str) -> str:
    """The room with the longest name that the module's name starts with."""
    fitting = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    assert fitting, f"xling.{module} is in no room: add it to ROOMS"
    return max(fitting, key=len)


def circle(edges: Iterable[tuple[str, str]]) -> list[str]:
    """A circle among edges, from one node back to it; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for start, end in edges:
        graph.setdefault(start, set()).add(end)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_rooms_import_only_what_lies_below_them() -> None:
    found = imports()
    assert {room_of(one.module) for one in found} | {room_of(one.imported) for one in found} == set(ROOMS)
    wrong = {}
    for one in found:
        room, other = room_of(one.module), room_of(one.imported)
        if room != other and ROOMS[other] >= ROOMS[room]:
            wrong[one.module, one.imported] = f"xling.{one.module}, line {one.line}, imports xling.{one.imported}"
    upward = [sentence for pair, sentence in wrong.items() if pair not in AGAINST]
    assert not upward, f"{len(upward)} imports against the order of ROOMS:\n" + "\n".join(upward)
    assert wrong.keys() >= AGAINST, f"gone, so take them out of AGAINST: {sorted(AGAINST - wrong.keys())}"


def test_the_architecture_lists_the_rooms_in_this_order() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("```")[1]
    lines = re.findall(r"^    ([\w/.]+(?:, [\w/.]+)*)  ", tree.split("xling/\n")[1].split("tests/")[0], re.MULTILINE)
    named = [re.sub(r"/$|\.py$", "", name).replace("/", ".") for line in lines for name in line.split(", ")]
    rooms = [room_of(name) for name in named if name not in ("jsonfiles", "errors", "digests", "webpage", "console")]
    assert len(rooms) > 25 and rooms == sorted(rooms, key=ROOMS.__getitem__)


def test_no_module_is_loaded_by_what_it_loads() -> None:
    found = circle((one.module, one.imported) for one in imports() if one.loading)
    assert not found, f"a circle of imports: {' <- '.join(found)}"


def main(arguments: Sequence[str]) -> int:
    """Compare keys with what is recorded, or record them, or compare a matrix.csv. Exit code 1 if something differs."""
    if arguments and arguments[0].endswith("matrix.csv"):
        path = Path(arguments[0])  # <root>/grids/<name>/matrix.csv
        lines = differences(path.read_text("utf-8"), (HOUSE / f"{path.parent.name}.csv").read_text("utf-8"))
        print("\n".join(lines) or f"{path}: as recorded on {RECORDED_ON}; this is {machine()}")
        return int(bool(lines))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        alone(patch, Path(folder))
        found = {name: keys(name, Path(folder)) for name in GRIDS}
    if "--record" in arguments:
        lines = [f"{grid}\t{label}\t{key}\n" for grid, stages in found.items() for label, key in stages]
        KEYS.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
        return 0
    differ = [f"{grid}: {line}" for grid, stages in found.items() for line in changes(recorded()[grid], stages)]
    print("\n".join(differ) or f"{sum(map(len, found.values()))} stages of {len(found)} grids have the recorded keys")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
