"""The project checks itself: what README promises is there, imports stay light, and files are what they say."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import xling

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = {"README.md": README, "CONTRIBUTING.md": CONTRIBUTING}
PAGES |= {f"docs/{p.name}": p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted((ROOT / "xling").rglob("*.py"))
HEAVY = {"torch", "transformers", "trl", "datasets", "wandb", "matplotlib", "peft", "accelerate"}
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:home|root|Users|work|mnt|media|scratch)/[\w.]")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files under version control, relative; folders that are links count as files."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).exists()]


# --- docs ---------------------------------------------------------------------------------------------------


def test_the_architecture_names_every_room_and_no_other(tracked: list[Path]) -> None:
    """A line for every folder with code; `tasks/micro` and the like stand with their parent."""
    tree = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    named = set(re.findall(r"[\w.]+(?:/\w+)*(?=/)", tree))
    assert named - {"xling"} <= {str(p).removeprefix("xling/") for path in tracked for p in path.parents}
    code = {path.parent for path in tracked if path.parts[0] == "xling" and path.suffix == ".py"}
    rooms = {str(folder).removeprefix("xling/") for folder in code} - {"xling"}
    missing = {room for room in rooms if not any(_below(room, one) or _below(one, room) for one in named)}
    assert not missing, f"docs/architecture.md lacks {', '.join(sorted(missing))}"


def _below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_the_text_exist(page: str) -> None:
    folders = r"(?:xling|conf|sweeps|docs|tests|benchmarks|hydra_plugins)/"
    for name in set(re.findall(rf"(?:`|\()({folders}[\w./-]+)(?:`|\))", PAGES[page])):
        if "NAME" not in name and "/mine." not in name:  # a skeleton's
            assert (ROOT / name).exists(), f"{page} names {name}, which is not there"


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_in_the_text_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    asked = set(re.findall(r"(?:^|[`\s(])make ([a-z-]+)(?=[`\s):;,]|$)", "\n".join(_code(PAGES[page])), re.MULTILINE))
    assert asked <= targets, f"{page}: no such target: {', '.join(sorted(asked - targets))}"


def _code(text: str) -> list[str]:
    """What stands between back quotes, in lines and in blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return blocks + re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Links to files of the project, and to headings of the page itself."""
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    headings = {
        re.sub(r"[^\w -]", "", line).strip().replace(" ", "-").lower() for line in re.findall(r"^#+ (.*)", text, re.M)
    }
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = link.partition("#")
        if "://" not in link:
            assert not path or ((ROOT / page).parent / path).exists(), f"{page} links to {link}"
            assert path or heading in headings, f"{page} has no heading {heading}"


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_whole(page: str) -> None:
    """As many cells in each row as in the first, and one line below the heads."""
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.sub(r"`[^`]*`", "", row).replace(r"\|", "") for row in table.splitlines()]
        assert {row.count("|") for row in rows} == {rows[0].count("|")}, f"{page}: {rows[0]}"
        rules = [place for place, row in enumerate(rows) if "--" in row and set(row) <= set("|-: ")]
        assert rules == [1], f"{page}: {rows[0]}"


def test_readme_is_short_and_shows_the_targets_people_need() -> None:
    assert len(README.encode()) <= 8192
    for target in ("demo", "grid", "controls", "test", "lint", "nightly", "base", "clean"):
        assert f"make {target}" in README


# --- files --------------------------------------------------------------------------------------------------


def test_no_path_of_anybodys_machine(tracked: list[Path]) -> None:
    found = []
    for path in tracked:
        if (ROOT / path).is_file() and path.suffix not in (".safetensors", ".png", ".gz") and path.name != "LICENSE":
            lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
            found += [f"{path}:{number}" for number, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert not found, f"absolute paths of one machine: {', '.join(found)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_licence_is_the_one_that_is_named() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"] and "END OF TERMS AND CONDITIONS" in text


def test_one_version_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    latest = re.search(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    assert latest and cited and latest[1] == cited[1] == xling.__version__


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    assert "torch==2.13.0" in pins
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    needed = {re.split(r"[<>=!~\[; ]", name)[0] for name in [*PROJECT["dependencies"], *extras]}
    needed -= {"bitsandbytes", "vllm"}  # need a GPU: no version of theirs is tested with
    assert needed <= {pin.partition("==")[0] for pin in pins}


# --- imports ------------------------------------------------------------------------------------------------


def imported(*command: str, cwd: Path) -> set[str]:
    """Top-level modules that a Python command imports, by Python's own account."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_the_grid_library_imports_nothing_heavy() -> None:
    paths = [path for room in ("grid", "runners") for path in (ROOT / "xling" / room).rglob("[a-z]*.py")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    found = imported("-c", f"import {', '.join(modules)}", cwd=ROOT)
    assert "xling" in found and not found & HEAVY


def test_planning_imports_nothing_heavy(tmp_path: Path) -> None:
    found = imported(str(ROOT / "launch.py"), "sweeps=embedded", "dry_run=true", cwd=tmp_path)
    assert "hydra" in found and not found & (HEAVY | {"pandas"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_that_is_typed_has_a_help(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "__main__" not in text or "ArgumentParser(" in text
