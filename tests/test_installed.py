"""An installed xling, without the checkout: the wheel is built, installed into a folder, and run from there."""

import importlib.util
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from xling.errors import install
from xling.grid import host

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # With hatchling here nothing is downloaded; without it pip fetches it into an environment of its own.
    alone = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *alone, "--wheel-dir", str(folder)]
    built = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("xling-*.whl"))


@pytest.fixture(scope="module")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def xling(target: Path, cwd: Path, *arguments: str, also: str = "") -> subprocess.CompletedProcess[str]:
    """`xling ARGUMENTS` with the installed package; -S so that an editable installation's .pth names no checkout."""
    path = os.pathsep.join(folder for folder in (str(target), also, *site.getsitepackages()) if folder)
    return subprocess.run(
        [sys.executable, "-S", str(target / "bin" / "xling"), *arguments],
        cwd=cwd, env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_wheel_holds_every_option_and_named_grid(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    links = [path for path in (ROOT / "conf").rglob("*") if path.is_symlink()]  # source_lang -> lang, ...
    files = [path for folder in (ROOT / "conf", *links) for path in folder.rglob("*.yaml")]
    expected = {f"xling/{path.relative_to(ROOT)}" for path in files}
    assert {"xling/conf/sweeps/demo.yaml", "xling/conf/target_lang/no.yaml"} <= expected <= names
    assert {"hydra_plugins/xling_launcher.py", "hydra_plugins/xling_sweeper.py"} <= names
    assert "hydra_plugins/__init__.py" not in names  # a namespace that other packages add to
    assert "xling/models/micro_base/model.safetensors" in names
    assert not any(name.startswith(("tests", "conf", "sweeps")) for name in names)


def test_it_plans_from_an_empty_folder_as_launch_py_does(target: Path, tmp_path: Path) -> None:
    asked = ("sweeps=demo", "dry_run=true", "root=none")
    planned = xling(target, tmp_path, "run", *asked)
    assert planned.returncode == 0, planned.stderr
    launched = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *asked], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert planned.stdout == launched.stdout and "4 cells" in planned.stdout
    assert list(tmp_path.iterdir()) == []


def test_it_runs_a_grid_in_workers_of_its_own(target: Path, tmp_path: Path) -> None:
    toy = ("hydra.launcher.catalogue=toy_stages", "hydra.launcher.workers=1", "tracking.mode=off")
    done = xling(target, tmp_path, "run", *toy, "source_lang=en,tr", "name=g", also=str(ROOT / "tests"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "grids" / "g" / "matrix.csv").exists()
    listed = xling(target, tmp_path, "grids")
    assert listed.returncode == 0 and "  g: 2 cells, 2 done\n" in listed.stdout
    assert "\n  embedded: The embedded 6x6 matrix" in listed.stdout


def test_it_knows_its_version_and_its_commit(target: Path, tmp_path: Path) -> None:
    shown = xling(target, tmp_path, "--version").stdout.split()
    commit = host.git_sha()
    assert shown[:2] == ["xling", "0.1.0"]
    assert commit is None or shown[2].strip("()+") == commit[:12]


def test_what_is_refused_names_a_command_that_works(target: Path, tmp_path: Path) -> None:
    assert install("lora") == f"pip install -e '{ROOT}[lora]'"
    ask = "from xling.errors import install; print(install('qlora'))"
    path = os.pathsep.join((str(target), *site.getsitepackages()))
    command = [sys.executable, "-S", "-c", ask]
    said = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert said.stdout == "pip install 'bitsandbytes>=0.45' 'peft>=0.17'\n"
    (tmp_path / "xling").symlink_to(ROOT / "xling")  # a copy of a checkout that was never installed
    alone = {**os.environ, "PYTHONPATH": str(tmp_path)}
    said = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert said.stdout == "pip install -e '.[qlora]' in the folder of launch.py\n", said.stderr
