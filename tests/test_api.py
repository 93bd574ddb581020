"""`import xling`: light until something is asked for, and the same as the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

import xling
from xling.errors import ConfigError

TOY = ("hydra.launcher.catalogue=toy_stages", "hydra.launcher.workers=1", "tracking.mode=off")


def test_importing_it_imports_next_to_nothing(tmp_path: Path) -> None:
    ask = """
import sys, xling
heavy = lambda: sorted({"numpy", "pandas", "torch", "hydra", "msgspec"} & set(sys.modules))
print(heavy(), xling.__version__, "load" in dir(xling))
xling.plan("sweeps=demo"); print(heavy())
"""
    said = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    imported, planned = said.stdout.splitlines()
    assert imported == f"[] {xling.__version__} True"
    assert "torch" not in planned and "pandas" not in planned
    assert list(tmp_path.iterdir()) == []


def test_a_plan_is_that_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = xling.plan("sweeps=demo", "source_lang=de,de+en", "optimizer.n=2,4", "root=elsewhere")
    assert len(plan.cells) == 8 and plan.store.root == tmp_path / "elsewhere"
    assert repr(plan).startswith("<Plan demo-") and len(plan.to_run) == len(plan.steps)
    assert list(plan.command) == [
        "sweeps=demo",
        "source_lang=de,de+en",
        "optimizer.n=2,4",
        "root=elsewhere",
        "dry_run=true",
    ]


def test_a_run_gives_its_grid_and_what_failed_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    grid = xling.run(*TOY, "source_lang=en,tr", "target_lang=en", "name=g")
    assert repr(grid) == f"<Grid g in '{tmp_path / 'outputs'}'>"
    assert grid.cells.status.tolist() == ["done", "done"] and grid.cells.win_rate.between(0, 100).all()
    assert xling.load().name == "g"

    items = grid.items
    judged = [path for path in tmp_path.glob("outputs/stages/judge/*/files.zip")]
    judged[0].write_text("{}")
    with pytest.warns(UserWarning, match=r"damaged are left out: .*files\.zip"):
        left = xling.load().items
    assert 0 < len(left) == len(items) // 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("sweeps=dem",), "Did you mean 'demo'"),
        (("--help",), "is a flag of the command line"),
        (("source_lang=xx",), "Unknown language 'xx'"),
        (("dry_run=true",), "xling.plan"),
    ],
)
def test_what_is_refused_is_a_sentence(
    overrides: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        xling.run(*overrides)
    assert list(tmp_path.iterdir()) == []


def test_a_list_in_place_of_overrides_is_refused() -> None:
    for function in (xling.plan, xling.run):
        with pytest.raises(ConfigError, match="is no text"):
            function(["sweeps=demo"])  # type: ignore[arg-type]


def test_a_grid_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no grid in"):
        xling.load(tmp_path)
