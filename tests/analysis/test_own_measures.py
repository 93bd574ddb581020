"""Functions of the user's own: found by name, asked for what they name, and every fault a sentence with the file."""

import math
from pathlib import Path
from typing import Any

import pytest

from xling.errors import ConfigError
from xling.launching import _own_measures
from xling.measures.own import located, own_measure

GIVEN: dict[str, Any] = {"responses": ["a b", "c"], "prompts": ["p", "q"], "references": [[], ["r"]], "language": "tr"}


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_a_function_gets_what_it_names(tmp_path: Path) -> None:
    written(tmp_path, "factor = 2\n", "beside.py")
    path = written(
        tmp_path,
        'from beside import factor\n\n\ndef words(responses, language, most=9):\n    """Words.\n\n    More."""\n'
        '    assert language == "tr"\n    return [len(r.split()) * factor if " " in r else None for r in responses]\n',
    )
    for named in ("mine:words", "mine.py:words", f"{path}:words"):
        assert located(named, tmp_path) == f"{path}:words"
    measure = own_measure(f"{path}:words")
    assert (measure.name, measure.title, measure.span) == ("words", "Words", (-math.inf, math.inf))
    values = measure(GIVEN)
    assert values[0] == 4 and math.isnan(values[1])


def test_a_function_of_an_installed_module_keeps_its_name(tmp_path: Path) -> None:
    assert located("math:fsum", tmp_path) == "math:fsum"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("chrf", "names no function. Type measures=FILE:FUNCTION"),
        ("nowhere:chrf", "there is no file .*nowhere.py, and no module nowhere is installed"),
        ("folder/no.py:chrf", "there is no file .*no.py"),
    ],
)
def test_a_name_that_names_nothing(named: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        located(named, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def chfr(responses): pass", r"mine.py has no function chrf. Did you mean 'chfr'"),
        ("def chrf(responses, source): pass", r"asks for source. What a measure can ask for: responses, prompts"),
        ("import nothing_like_it", r"cannot be read in .*mine.py, line 1: ModuleNotFoundError"),
        ("x = 1\ndef chrf(:", r"cannot be read in .*mine.py, line 2: SyntaxError"),
        ("import sys\nsys.exit(3)", r"cannot be read in .*mine.py, line 2: SystemExit: 3"),
        (
            "def chrf(responses): pass\nchrf.span = 5",
            r"chrf of .*mine.py: its span is not two numbers, as in \(0, 100\)",
        ),
    ],
)
def test_a_file_with_a_fault(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        own_measure(f"{written(tmp_path, text)}:chrf")


@pytest.mark.parametrize("name", ["win_rate", "accuracy", "win_equal_length", "length", "judge"])
def test_a_name_that_a_table_has_already(name: str, tmp_path: Path) -> None:
    """Two measures of one name could not be told apart in measures.parquet and grid.measures."""
    mine = written(tmp_path, f"def {name}(responses): pass")
    with pytest.raises(ConfigError, match=f"measures: the name {name} is taken. Give the function another."):
        _own_measures(f"{mine}:{name}")
    assert _own_measures([]) == []


def test_an_installed_module_with_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "installed_with_a_fault.py").write_text("x = 1\n1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read in .*fault.py, line 2: ZeroDivisionError"):
        own_measure("installed_with_a_fault:chrf")
    with pytest.raises(ConfigError, match="sys is no file of Python"):
        own_measure("sys:exit")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1.0]", "gave 1 numbers for 2 responses"),
        ("return ['x', 'y']", "failed in .*mine.py: ValueError: could not convert string to float"),
        ("\n    return [0.5,\n        1 / 0]", "failed in .*mine.py, line 4: ZeroDivisionError: division by zero"),
        ("return [0.5, 1.5]", r"gave 1.5, outside its span \(0.0, 1.0\)"),
        ("return None", "failed in .*mine.py: TypeError"),
        ("raise SystemExit(3)", "failed in .*mine.py, line 2: SystemExit: 3"),
    ],
)
def test_what_a_function_gives(body: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"def chrf(responses):\n    {body}\nchrf.span = (0, 1)\n")
    with pytest.raises(ConfigError, match=said):
        own_measure(f"{path}:chrf")(GIVEN)
