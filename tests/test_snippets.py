"""What README, CONTRIBUTING and docs show is run, as it stands there.

A block that begins with ```bash is run line by line: `python launch.py` and `xling run` as dry runs, `xling` on a small
finished grid in `outputs`; of `make`, pytest and benchmarks the test only checks that they exist. A ```python block is
executed beside the same grid. In tables of grids the first column is typed after `python launch.py`. A block without
a language shows output, or a command with a placeholder (PATH, FOLDER, NAME ...), or one that needs a network.
"""

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import LAUNCH, called
from own_files import jsonl, rated

from xling.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLES = [ROOT / name for name in ("README.md", "docs/grids.md", "docs/models.md")]  # their first columns are overrides
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"(?<![A-Za-z_])[A-Z]{4,}(?![A-Za-z_])|\.\.\.|\[")
NOT_RUN = ("git", "pip", ".", "cd")  # what a block may begin with
SLOW = ("figures",)  # of `xling`: by night


@dataclass(frozen=True, slots=True)
class Snippet:
    """A command or a Python block; `where` is the page and the line."""

    where: str
    text: str


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """(page:line, language, text) of every fenced block."""
    content = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(content):
        line = content.count("\n", 0, found.start()) + 1
        yield f"{page.name}:{line}", found[2], re.sub(rf"^{found[1]}", "", found[3], flags=re.MULTILINE)


def commands(text: str) -> list[str]:
    """The commands of a block: continued lines joined, comments and what follows ; or && apart."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    joined = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return [part.strip() for line in joined for part in re.split(r";|&&", line) if part.strip()]


def snippets(language: str) -> list[Snippet]:
    pages = (block for page in PAGES for block in blocks(page))
    return [Snippet(where, text) for where, kind, text in pages if kind == language]


def table_rows() -> list[Snippet]:
    rows = []
    for page in TABLES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            if typed := re.match(r"\| `([^`]+)` \|", line):
                rows.append(Snippet(f"{page.name}:{number}", typed[1]))
    return rows


COMMANDS = [Snippet(block.where, command) for block in snippets("bash") for command in commands(block.text)]


def once(found: list[Snippet]) -> list[Snippet]:
    """Each text where it stands first."""
    return list({snippet.text: snippet for snippet in reversed(found)}.values())[::-1]


def plans(command: str) -> list[str] | None:
    """The overrides, where the command is one that runs a grid."""
    words = shlex.split(command)
    for front in (["python", "launch.py"], ["xling", "run"]):
        if words[: len(front)] == front:
            return words[len(front) :]
    return None


LAUNCHES = once([s for s in COMMANDS if plans(s.text) is not None])
OTHERS = once([s for s in COMMANDS if s.text.startswith("xling ") and plans(s.text) is None])
REST = once([s for s in COMMANDS if s not in LAUNCHES and plans(s.text) is None and not s.text.startswith("xling ")])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `outputs`, in which the finished grid `embedded` has 2x2 cells on recorded responses; no torch."""
    folder = tmp_path_factory.mktemp("work")
    jsonl(folder / "rows.jsonl", rated("de", 40, "abc") + rated("en", 40, "abc"))
    jsonl(folder / "own" / "ratings.jsonl", rated("de", 40, "abc"))
    jsonl(folder / "own" / "prompts.sw.jsonl", [{"prompt": f"Hadithi {number}"} for number in range(40)])
    settings = ["task=files", "task.path=rows.jsonl", "policy=recorded", "judge=human", "rm_backbone=bag_of_words"]
    settings += ["source_lang=de,en", "target_lang=de,en", "name=embedded", "tracking.mode=off"]
    command = [sys.executable, LAUNCH, *settings, "hydra.launcher.workers=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def name(snippet: Snippet) -> str:
    return f"{snippet.where} {snippet.text[:40]}"


@pytest.mark.parametrize("snippet", LAUNCHES, ids=name)
def test_grids_of_the_text_can_be_planned(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = called([*(plans(snippet.text) or []), "dry_run=true"])
    assert code == 0 and out, err


@pytest.mark.parametrize("snippet", once(table_rows()), ids=name)
def test_grids_of_the_tables_can_be_planned(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a placeholder, the refusal must be about what it stands for: the settings are known."""
    monkeypatch.chdir(tmp_path)
    code, out, err = called([*shlex.split(snippet.text), "dry_run=true"])
    if PLACEHOLDER.search(snippet.text):
        assert code == 0 or re.search(r"PATH|FOLDER", err), err
    else:
        assert code == 0 and out, err


@pytest.mark.parametrize(
    "snippet",
    [pytest.param(s, marks=[pytest.mark.nightly] if s.text.split()[1] in SLOW else []) for s in OTHERS],
    ids=name,
)
def test_commands_of_the_text_work(workplace: Path, snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()  # bytes are printed, too
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(shlex.split(snippet.text)[1:])
        except SystemExit as end:  # --help, --version
            code = int(end.code or 0)
    assert code == 0, err.getvalue()


@pytest.mark.parametrize("snippet", once(snippets("python")), ids=name)
def test_python_of_the_text_runs(workplace: Path, snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    with redirect_stdout(io.StringIO()):
        exec(compile(snippet.text, snippet.where, "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("snippet", REST, ids=name)
def test_other_commands_name_what_is_there(snippet: Snippet) -> None:
    words = shlex.split(snippet.text)
    words = words[1:] if "=" in words[0] else words  # a variable before the command
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[0] == "python" and words[1].startswith("benchmarks/"):
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--"))
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests"))
    elif words[0] == "python":
        assert (ROOT / words[1]).exists()
    else:
        assert words[0] in NOT_RUN, f"{snippet.where}: no test knows how to run `{snippet.text}`"


def test_a_command_that_can_be_run_stands_in_a_bash_block() -> None:
    front = re.compile(r"(python launch\.py|xling|python benchmarks/\S+|make)( |$)")
    for where, command in (
        (where, command)
        for page in PAGES
        for where, language, text in blocks(page)
        if language == "" and not text.startswith("$ ")
        for command in commands(text)
    ):
        runs = front.match(command) and not PLACEHOLDER.search(command) and "http" not in command
        assert not runs, f"{where}: begin the block of `{command}` with ```bash, so that it is tested"
