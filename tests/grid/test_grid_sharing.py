"""Several people on one root: modes follow the umask, and what may not be read is not taken for damaged."""

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from noop_stages import KINDS as NOOP
from noop_stages import executed, fold, grid
from safetensors.numpy import save_file

import xling
from xling.errors import ConfigError, StoreError
from xling.grid import claim, files, host, launches
from xling.grid.files import Unreadable
from xling.grid.plan import Plan, make_plan, replaced
from xling.grid.records import Sheet
from xling.grid.stage import Cell, Context, Kind, Stage
from xling.grid.status import grid_status
from xling.grid.store import Store
from xling.jsonfiles import sealed
from xling.runners.execute import Executor, Job

NOBODY = 65534


@pytest.fixture
def root() -> Iterator[Path]:
    """A root in a folder that every user may enter; those of pytest are private."""
    above = Path(tempfile.mkdtemp(prefix="xling-shared-"))
    above.chmod(0o755)
    yield above / "outputs"
    shutil.rmtree(above)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Everything that this process does, as another user without root's rights."""
    if os.geteuid():
        pytest.skip("only root can act as somebody else")
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextmanager
def masked(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    files.umask.cache_clear()
    try:
        yield
    finally:
        os.umask(before)
        files.umask.cache_clear()


def weights(context: Context) -> None:
    """What real stages write: weights by safetensors, and files by way of mkstemp and mkdtemp."""
    save_file({"a": np.zeros(3)}, context.out / "model.safetensors")
    inner = Path(tempfile.mkdtemp(dir=context.out, prefix="inner"))
    inner.rename(context.out / "inner")
    descriptor, name = tempfile.mkstemp(dir=context.out / "inner")
    os.close(descriptor)
    os.rename(name, context.out / "inner" / "made.bin")
    (context.out / "inner" / "run.sh").touch(0o700)
    if context.spec.get("fails"):
        save_file({"a": np.zeros(3)}, context.scratch / "checkpoint.safetensors")
        raise ValueError("after a checkpoint")


KINDS = {"weights": Kind("weights", 1, weights, gpu=lambda stage: False)}


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def made(root: Path, **spec: Any) -> Stage:
    what = Stage.make("weights", 1, "weights", spec, {})
    Executor(Store(root), KINDS).execute(Job(what.key, Sheet.of(what)))
    return what


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_all_of_a_result_has_the_modes_that_the_umask_allows(root: Path, mask: int, file: int, folder: int) -> None:
    with masked(mask):
        what = made(root)
    found = modes(Store(root).folder("weights", what.key))
    assert found.pop("inner/run.sh") == file | 0o700
    assert found == {"model.safetensors": file, "inner/made.bin": file, "inner": folder, "spec.json": file,
                     "done.json": file}  # fmt: skip
    assert stat.S_IMODE(Store(root).folder("weights", what.key).stat().st_mode) == folder


def test_what_a_failed_stage_leaves_can_be_gone_on_from_by_a_group(root: Path) -> None:
    with masked(0o002):
        made(root, fails=True)
    (checkpoint,) = root.glob("stages/weights/*.partial/*/checkpoint.safetensors")
    assert stat.S_IMODE(checkpoint.stat().st_mode) == 0o664
    assert stat.S_IMODE(checkpoint.parent.stat().st_mode) == 0o775


def test_another_user_uses_what_is_there(root: Path) -> None:
    with masked(0o022):
        what = made(root)
    with as_nobody():
        assert not make_plan([Cell({}, what)], Store(root)).to_run
        assert Store(root).load("weights", what.key).is_dir()


@pytest.mark.parametrize("closed", ["result.json", "done.json", "spec.json", ".", "..", "../.."])
def test_what_may_not_be_read_is_neither_damaged_nor_made_again(root: Path, closed: str) -> None:
    cells = grid(["de"], ["de"])
    assert executed(root, cells, "g", workers=1).exit_code == 0
    before, judge = fold(root), cells[0].stage
    path = Path(os.path.normpath(Store(root).folder("judge", judge.key) / closed))
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o700 if path.is_dir() else 0o600)
    owner = rf"belongs to root and has mode {'0700' if path.is_dir() else '0600'}; you are nobody"
    hint = rf"Let root type: chmod -R go\+rX '{root}/stages.*umask 022"
    with as_nobody():
        with pytest.raises(Unreadable, match=rf"cannot be read: Permission denied.*{owner}.*{hint}") as told:
            make_plan(cells, Store(root), mode="retry")
            Store(root).load("judge", judge.key)
        assert str(path) in str(told.value) and isinstance(told.value, StoreError)
        if ".." not in closed:
            (row,) = grid_status(Store(root), "g").having("unreadable")
            assert row.stage.label == "judge[de, de]" and "cannot be read" in row.note
    if closed in ("result.json", "done.json", "."):
        job = Job(judge.key, Sheet.of(judge), suspect=True)
        (root / "stages" / "judge").chmod(0o777)
        with as_nobody():
            report = Executor(Store(root), NOOP).execute(job)
        assert report.event == "failed" and "cannot be read: Permission denied" in report.text
    path.chmod(mode)
    assert not list(root.glob("stages/*/*.damaged-*"))
    assert fold(root) == before and not make_plan(cells, Store(root)).to_run


def test_a_root_that_only_others_may_write_is_a_sentence(root: Path) -> None:
    with masked(0o022):
        made(root)
    said = r"cannot be written at .*: Permission denied. The folder '.*/stages' belongs to root and has mode 0755; "
    said += r"you are nobody. Let root type: chmod -R g\+rwX '.*/stages'.*`umask 002` for a group.*root=PATH"
    with as_nobody(), pytest.raises(StoreError, match=said):
        Store(root).prepare()


def test_errors_of_the_system_are_no_damage(root: Path) -> None:
    """Too many open files; so does a network file system that does not answer."""
    what = made(root)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(Unreadable, match=r"done.json' cannot be read: Too many open files.*`ulimit -n`"):
            Store(root).load("weights", what.key)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert Store(root).load("weights", what.key).is_dir()


def test_a_temporary_file_of_a_process_with_the_same_pid_is_in_nobodys_way(root: Path) -> None:
    """In containers pids are small and always the same, and two hosts share one root."""
    root.mkdir()
    (root / f".plan.json.{os.getpid()}").touch()
    files.write_atomically(root / "plan.json", b"{}")
    (root / "stages").mkdir()
    (root / "stages" / f".probe-{os.getpid()}").touch()
    Store(root).prepare()
    assert (root / f".plan.json.{os.getpid()}").exists()


def test_a_claim_that_may_not_be_read_is_not_taken_over(root: Path) -> None:
    """Made under umask 077: that it is there is all that others see, and when it last gave a sign of life."""
    with masked(0o022):
        made(root)
    root.joinpath("stages", "weights").chmod(0o777)
    path = root / "stages" / "weights" / f"{'a' * 64}.claim"
    path.write_bytes(msgspec.json.encode(claim.Claim(host.this_process(), time.time())))
    path.chmod(0o600)
    with as_nobody():
        looking = claim.Watch(lambda: files.clock(root / "stages" / "weights"), 6.0)
        assert claim.take(str(path), host.this_process()) is not None
        os.seteuid(0)
        os.utime(path, (time.time() - 300,) * 2)
        os.seteuid(NOBODY)
        assert looking.holder(str(path)) is not None and looking.silent(str(path)) == (4.0, 6.0)
        assert not claim.remove_stale(str(path))
    assert claim.read(str(path)) is not None


# --- which code made it ---------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the package in it."""
    package = Path(xling.__file__).parent
    shutil.copytree(package, tmp_path / "xling", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    return tmp_path


def said(checkout: Path, where: Path) -> tuple[str, str]:
    ask = "from xling.grid import host; print(host.git_sha(), host.code_digest())"
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    sha, code = subprocess.check_output(
        [sys.executable, "-P", "-c", ask], text=True, cwd=where, env=environment
    ).split()
    return sha, code


def test_an_edited_tree_is_recorded_as_edited(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    sha, code = said(checkout, elsewhere)
    assert len(sha) == 40
    (checkout / "notes.txt").write_text("no code", encoding="utf-8")
    assert said(checkout, checkout) == (sha, code)
    added = checkout / "xling" / "added.py"
    added.write_text("x = 1\n", encoding="utf-8")
    new_sha, new_code = said(checkout, checkout)
    assert new_sha == sha + "+" and new_code != code
    added.unlink()
    with (checkout / "xling" / "errors.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    edited_sha, edited_code = said(checkout, elsewhere)
    assert edited_sha == sha + "+" and edited_code not in (code, new_code)


def test_results_have_a_digest_of_the_code_and_other_code_is_warned_of(root: Path) -> None:
    cells = grid(["de"], ["de"])
    executed(root, cells, workers=1)
    done = Store(root).folder("judge", cells[0].stage.key) / "done.json"
    record = json.loads(done.read_text(encoding="utf-8"))
    assert record["run"]["code"] == host.code_digest() and not make_plan(cells, Store(root)).warnings
    record["run"]["code"] = "0" * 16  # the same commit, edited
    del record["checksum"]
    done.write_bytes(sealed(json.dumps(record).encode()))
    assert "1 of 6 cached results were made by other code" in make_plan(cells, Store(root)).warnings[0]


# --- one name, several grids ----------------------------------------------------------------------------------


def plan_for(root: Path, *targets: str) -> Plan:
    return make_plan(
        grid(["en"], targets), Store(root), name="g", command=["name=g", f"target_lang={','.join(targets)}"]
    )


def test_what_a_name_stood_for_is_said_when_cells_are_left_out(root: Path) -> None:
    assert replaced(plan_for(root, "de")) == []
    with launches.running(plan_for(root, "de", "en")):
        pass
    assert replaced(plan_for(root, "en", "de")) == replaced(plan_for(root, "de", "en", "tr")) == []
    (said,) = replaced(plan_for(root, "de", "tr"))
    assert said.startswith("g was another grid: 1 of its 2 cells are not asked for here.")
    assert said.endswith("folds them again, while its data is as it was: target_lang=de,en name=NAME")
    cells = grid(["en"], ["de"], pool={"rows": 7})
    with launches.running(make_plan(cells, Store(root), name="g", command=["name=g", "target_lang=de"])):
        pass
    (said,) = replaced(plan_for(root, "de", "en"))  # a language more, and what de is made of has changed
    assert said.startswith("g is asked for as before, and 1 of its 1 cells depend on other data, models or code than")
    assert "target_lang" not in said and "another name" not in said
    path = root / "grids" / "g" / "plan.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:  # by a version that knew another axis, and not all of today's
        cell["axes"] = {"mood": "good", **{name: value for name, value in cell["axes"].items() if name != "seed"}}
    path.write_text(json.dumps({**content, "format": 0}), encoding="utf-8")
    for targets in (["de"], ["de", "en"]):
        (said,) = replaced(plan_for(root, *targets))
        assert said.startswith("g is asked for as before, and 1 of its 1 cells")
    (said,) = replaced(plan_for(root, "en"))
    assert said.startswith("g was another grid")
    path.write_text("{", encoding="utf-8")
    assert replaced(plan_for(root, "de")) == []


def test_a_launch_whose_plan_cannot_be_written_leaves_no_claim(tmp_path: Path) -> None:
    """On another host, which cannot see that it is gone, it would hold the grid's name for as long as a claim lives."""
    plan = plan_for(tmp_path / "root", "de", "en")
    folder = plan.store.grid_folder(plan.name)
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere").write_text("precious")
    (folder / "report.html").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a link to"), launches.running(plan):
        raise AssertionError("it began")
    assert not list(folder.glob("*.claim")) and (tmp_path / "elsewhere").read_text() == "precious"


def test_who_runs_keeps_the_name_until_it_ends_dies_or_falls_silent(root: Path) -> None:
    folder, one, other = root / "grids" / "g", plan_for(root, "de", "en"), plan_for(root, "de")
    with launches.running(one) as digest:
        with (
            pytest.raises(
                ConfigError, match=r"name=g is taken: another set of cells runs under it, on .* rm '.*claim'"
            ),
            launches.running(other),
        ):
            pass
        assert launches.stands_for(Store(root), "g", digest) and launches.digest_of(one.cells) == digest
    assert list(folder.glob("*.claim")) == []
    dead = host.Process(host.hostname(), 4194304, f"{host.view()}.7")
    away = host.Process("elsewhere", 1, "boot.ns.7")
    for by in (dead, away):
        path = folder / f"{digest}.{by.name}.claim"
        path.write_bytes(msgspec.json.encode(claim.Claim(by, time.time())))
        if by == away:
            with (
                pytest.raises(ConfigError, match=r"name=g is taken: .* on elsewhere \(pid 1\)"),
                launches.running(other),
            ):
                pass
            os.utime(path, (time.time() - 300,) * 2)
        with launches.running(other):
            assert launches.stands_for(Store(root), "g", launches.digest_of(other.cells))
    with pytest.raises(StoreError, match=r"is another grid's by now, so its matrix is left as it is"):
        launches.check_own(Store(root), "g", digest)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_launch_that_is_told_to_end_while_it_folds_gives_its_name_back(root: Path, number: int) -> None:
    script = (
        "import time; from noop_stages import grid; from xling.grid import launches; from xling.grid.plan import *;"
        f"from xling.grid.store import Store; plan = make_plan(grid(['en'], ['de']), Store({str(root)!r}), name='g')\n"
        "with launches.running(plan): print('folding', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"folding\n"
        assert len(list(root.glob("grids/g/*.claim"))) == 1
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert not list(root.glob("grids/g/*.claim"))
