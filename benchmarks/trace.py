"""How far one value travels: through which files a cell goes from the command to the plan, a win rate to the page.

    python benchmarks/trace.py                              # both trips; the second on made-up records
    python benchmarks/trace.py --root outputs --grid demo   # the second on a grid that has been run

The first trip is that of source_lang=tr: `launch.py` plans one cell, tr to de, in a dry run. A function takes part if
an argument of its or what it returns holds the language: the text `tr`, an override that sets it, a stage's label with
it, or a container or object with one of them; lists of a task's languages do not count. The second is that of one
entry's win rate: `reduce_grid` folds a grid and draws its page. A function takes part if it is given or returns the
number, as a float (of one or of a hundred), in an array or a table, as a text with one or two decimals, or something
that holds it.

A file is passed if one of its functions takes part; it hands the value on if one returns it. A hand-over is a pair of
functions of which one calls the other and gives it the value or gets it back. What to compare between two layouts: of
the first trip all files that are passed (33 before the moves, 181 hand-overs), of the second those that hand the number
on (29; 38 are passed), for an analysis or a picture that only reads it ends a trip.
"""

import argparse
import contextlib
import io
import re
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
from reduce import Size, make_grid

ROOT = Path(__file__).parents[1]
OURS = tuple(str(ROOT / name) for name in ("xling", "hydra_plugins", "launch.py"))
DEPTH, MOST = 9, 20_000  # containers within containers; objects looked at in one argument
SHORT = 5000  # characters of a text in which a number with one decimal is the one looked for, and not another
COUNTS_NOT = {"<module>", "<lambda>", "<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>"}


class Trace:
    """Watches all calls; `holds` says of an argument or a result whether the value is in it."""

    def __init__(self, holds: Callable[[Any], bool]) -> None:
        self.files: dict[str, set[str]] = {}  # file -> its functions that take part, in order of first use
        self.handing_on: set[str] = set()
        self.hand_overs: set[tuple[str, str]] = set()
        self._holds = holds

    def __enter__(self) -> "Trace":
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, value: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or code.co_name in COUNTS_NOT or not code.co_filename.startswith(OURS):
            return
        sys.setprofile(None)  # looking at arguments may call properties and comparisons
        try:
            given = [frame.f_locals.get(name) for name in _arguments(code)] if event == "call" else [value]
            if any(self._holds(one) for one in given):
                self._note(frame, event)
        finally:
            sys.setprofile(self._event)

    def _note(self, frame: FrameType, event: str) -> None:
        file = _short(frame.f_code)
        if event == "return":
            self.handing_on.add(file)
        self.files.setdefault(file, set()).add(frame.f_code.co_qualname)
        caller = frame.f_back
        while caller is not None and (caller.f_code.co_name in COUNTS_NOT or not _is_ours(caller.f_code)):
            caller = caller.f_back
        if caller is not None:
            self.hand_overs.add((_named(caller.f_code), _named(frame.f_code)))

    def show(self, title: str) -> None:
        files, through = len(self.files), len(self.handing_on)
        print(f"{title}: {files} files, {through} of them hand it on (>), {len(self.hand_overs)} hand-overs")
        for file, functions in self.files.items():
            mark = ">" if file in self.handing_on else " "
            print(f"{mark} {file:44} {len(functions):3}  {', '.join(sorted(functions)[:4])}")


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(OURS)


def _short(code: CodeType) -> str:
    return str(Path(code.co_filename).relative_to(ROOT))


def _named(code: CodeType) -> str:
    return f"{_short(code)}:{code.co_qualname}"


def _arguments(code: CodeType) -> tuple[str, ...]:
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    return code.co_varnames[:count]


def leaves(value: Any, skip: Callable[[Any], bool] = lambda _: False) -> list[Any]:
    """Texts, numbers, arrays and tables that an object holds: in containers, and in fields of objects of ours.

    skip: for which lists and sets not to look into them.
    """
    found, seen, todo = [], set[int](), [(value, 0)]
    while todo and len(seen) < MOST:
        one, depth = todo.pop()
        if isinstance(one, str | float | np.ndarray | pd.DataFrame | pd.Series):
            found.append(one)
        if isinstance(one, str | bytes | int | float | type | ModuleType) or id(one) in seen or depth > DEPTH:
            continue
        seen.add(id(one))
        if isinstance(one, dict | MappingProxyType):  # not Hydra's own containers, which refuse to be looked through
            todo += [(part, depth + 1) for pair in one.items() for part in pair]
        elif isinstance(one, list | tuple | set | frozenset):
            if not skip(one):
                todo += [(part, depth + 1) for part in one]
        elif type(one).__module__.startswith("xling."):
            names = (
                *getattr(one, "__dict__", ()),
                *getattr(one, "__struct_fields__", ()),
                *getattr(one, "__slots__", ()),
            )
            todo += [(getattr(one, name, None), depth + 1) for name in names]
    return found


def from_command_to_plan() -> Trace:
    """`launch.py` plans one cell from a fresh root."""
    others = {path.stem for path in (ROOT / "conf" / "lang").glob("*.yaml")} - {"tr", "de"}
    label = re.compile(r"\w+\[(?:tr|tr, de)\].*")  # of a stage

    def of_others(values: Any) -> bool:
        """A list of languages, such as all that the task has: it says nothing of the cell."""
        return any(isinstance(value, str) and value in others for value in values)

    def holds(value: Any) -> bool:
        texts = (leaf for leaf in leaves(value, of_others) if isinstance(leaf, str))
        return any(text in ("tr", "source_lang=tr") or label.fullmatch(text) for text in texts)

    arguments = ["sweeps=demo", "source_lang=tr", "target_lang=de", "dry_run=true"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        sys.argv = [str(ROOT / "launch.py"), *arguments, f"root={folder}/none"]
        with Trace(holds) as trace, contextlib.suppress(SystemExit):
            runpy.run_path(sys.argv[0], run_name="__main__")
    return trace


def from_fold_to_page(root: Path, grid: str) -> Trace:
    """`reduce_grid` folds a finished grid and draws its page; once before, to learn the number to look for."""
    from xling.report.files import reduce_grid

    exact, csv = leaves(reduce_grid(root, grid)), root / "grids" / grid / "matrix.csv"
    table = pd.read_csv(csv, dtype=str, keep_default_na=False)
    numbers = [number for name in ("win_rate", "ci_low", "ci_high") for number in table[name]]
    shown = next(number for number in table["win_rate"] if number and _alone(number, numbers))
    rate = next(x for x in exact if isinstance(x, float) and shown in (f"{x:.2f}", f"{100 * x:.2f}"))
    percent = rate if shown == f"{rate:.2f}" else 100 * rate
    texts = re.compile(rf"(?<![\d.])({re.escape(shown)}|{percent:.1f})(?![\d])")
    long = re.compile(rf"(?<![\d.])({re.escape(shown)}|{percent}|{percent / 100})(?![\d])")

    def holds(value: Any) -> bool:
        return any(_holds_number(leaf, percent, texts, long) for leaf in leaves(value))

    for path in csv.parent.glob("[!p]*.*"):  # all but plan.json: a page that is there is not drawn again
        path.unlink()
    with Trace(holds) as trace:
        reduce_grid(root, grid)
    return trace


def _alone(number: str, numbers: list[str]) -> bool:
    """Whether no other number of the table reads the same with one decimal."""
    return sum(bool(other) and f"{float(other):.1f}" == f"{float(number):.1f}" for other in numbers) == 1


def _holds_number(leaf: Any, percent: float, texts: re.Pattern[str], long: re.Pattern[str]) -> bool:
    if isinstance(leaf, str):
        return bool((texts if len(leaf) <= SHORT else long).search(leaf))
    if isinstance(leaf, float):
        return _same(leaf, percent)
    if isinstance(leaf, pd.DataFrame):
        leaf = leaf.select_dtypes("number")
    values = np.asarray(leaf)
    return values.dtype.kind == "f" and bool(_same(values, percent).any())


def _same(values: Any, percent: float) -> Any:
    return (abs(values - percent) < 1e-9) | (abs(100 * values - percent) < 1e-9)


def main() -> int:
    """Both trips, with the files that they pass."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="of a grid that has been run; else records are made up")
    parser.add_argument("--grid", default="demo", help="its name")
    options = parser.parse_args()
    from_command_to_plan().show("source_lang=tr, from the command to the plan")
    with tempfile.TemporaryDirectory() as folder:
        root, grid = options.root, options.grid
        if root is None:
            root, grid = Path(folder) / "made", "big"
            make_grid(root, Size(languages=3, optimizers=2, prompts=97))
        from_fold_to_page(root, grid).show("one win rate, from the fold to the page")
    return 0


if __name__ == "__main__":
    sys.exit(main())
