"""`xling run ...` fills a grid; `xling status|logs|cancel|reduce|report|...` look after it. Also `python -m xling`.

`xling analyse` and `xling compare` say what a matrix shows, `xling figures` draws it for a paper, `xling data check
task=NAME ...` looks at a task's data, `xling sheet export|import` has people judge a grid, `xling translate export`
writes what has to be translated, `xling convert` makes a folder of a GGUF file.

A grid is named by its folder in <root>/grids; without a name it is the one that was planned last.
"""

import argparse
import contextlib
import itertools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from xling import __version__
from xling.console import Console, harmless, is_gone, lasting_output, print_bytes, size
from xling.errors import ConfigError, XlingError, did_you_mean, expanded
from xling.grid.cleanup import damaged_results, delete, garbage, garbage_lines, grid_garbage, kept
from xling.grid.grids import chosen_grid, read_grid, stage_at
from xling.grid.grids import grids as known_grids
from xling.grid.host import git_sha
from xling.grid.status import grid_status
from xling.grid.store import Store
from xling.runners import GpuTime, all_jobs, gpu_time, jobs

Command = Callable[[argparse.Namespace, Store], int]
COMMANDS = ("run", "grids", "status", "logs", "cancel", "reduce", "report", "figures", "analyse", "choose", "compare",
            "wandb", "data", "translate", "convert", "gc", "sheet", "export", "path")  # fmt: skip


def run(options: argparse.Namespace, store: Store) -> int:
    """Fill a transfer matrix, as `python launch.py` does: `xling run sweeps=demo`, `xling run --help`."""
    raise AssertionError("main hands its arguments to Hydra before they are parsed")


def grids(options: argparse.Namespace, store: Store) -> int:
    """List the grids of the root, the latest first, and the named ones that `xling run sweeps=NAME` fills."""
    from xling.compose.command_line import conf_folder

    console = Console(soft_wrap=True, highlight=False)
    names = known_grids(store)
    console.print(escape(f"Grids in '{store.root}':" if names else f"There is no grid in '{store.root}' yet."))
    for name in names:
        try:
            cells = grid_status(store, name).cells()
        except XlingError as error:
            console.print(escape(f"  {name}: {error}"))
            continue
        count = "1 cell" if cells.total() == 1 else f"{cells.total()} cells"
        console.print(escape(f"  {name}: {count}, {cells['done']} done"))
    console.print("Named grids (type xling run sweeps=NAME):")
    for path in sorted((conf_folder() / "sweeps").glob("*.yaml")):
        console.print(escape(f"  {path.stem}: {_opening(path)}"))
    return 0


def _opening(path: Path) -> str:
    """The first sentence of the comment that a YAML file opens with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("# ") and line[2] != " ", lines)  # up to an example
    text = " ".join(line[2:] for line in comment if "@package" not in line)
    return text.partition(". ")[0].rstrip(".:")


def status(options: argparse.Namespace, store: Store) -> int:
    """How a grid stands: stages by state, what runs where, what is queued, what failed and why."""
    name = chosen_grid(store, options.grid)
    found = jobs(store, name)
    if options.watch:
        return found.watch(store, name, every=options.all)
    if options.cost:
        done = ((stage.kind, store.check(stage.kind, stage.key).done) for stage in read_grid(store, name).stages)
        shown = gpu_table(name, gpu_time(store, name, ((kind, one.run) for kind, one in done if one is not None)))
    else:
        shown = found.status(store, name, options.all)
    Console(soft_wrap=True).print(shown)
    return 0


def gpu_table(name: str, spent: Mapping[str, GpuTime]) -> RenderableType:
    """GPU hours by kind of stage, and all together."""
    if not spent:
        return f"{name}: no stage of it has had a GPU."
    table = Table(title=f"{name}: GPU hours", title_justify="left")
    table.add_column("stage")
    for column in ("jobs", "asked for", "held", "used", "idle"):
        table.add_column(column, justify="right")
    total = sum(spent.values(), GpuTime())
    for kind, one in [*sorted(spent.items(), key=lambda item: -item[1].held), ("all", total)]:
        hours = [f"{seconds / 3600:.2f}" for seconds in (one.asked, one.held, one.used)]
        idle = max(0.0, one.held - one.used)
        share = f" ({100 * idle / one.held:.0f} %)" if one.held else ""
        table.add_row(kind, str(one.jobs), *hours, f"{idle / 3600:.2f}{share}", end_section=kind == "all")
    return table


def logs(options: argparse.Namespace, store: Store) -> int:
    """What a stage printed, attempt after attempt."""
    name = chosen_grid(store, options.grid)
    found = jobs(store, name)
    stage = stage_at(read_grid(store, name), options.stage)
    path = store.log(stage.kind, stage.key)
    if options.follow:
        print(harmless(f"{stage.label}: {path}"), file=sys.stderr)
        return found.follow(store, name, stage, path)
    paths = [path] if path.exists() else found.logs(store, name, stage)
    if not paths and store.state(stage.kind, stage.key) == "done":
        print(harmless(f"{stage.label} is done, and had nothing to say."), file=sys.stderr)
        return 0
    if not paths:
        raise ConfigError(f"{stage.label} has no log yet: it has not been started with this root.")
    for path in paths:
        print(harmless(f"{stage.label}: {path}"), file=sys.stderr)
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                sys.stdout.write(harmless(line))
                if is_gone(sys.stdout):
                    return 0
    return 0


def cancel(options: argparse.Namespace, store: Store) -> int:
    """Cancel the job of a stage, or all jobs of a grid, on the cluster."""
    name = chosen_grid(store, options.grid)
    print(harmless(jobs(store, name).cancel(store, name, options.stage)))
    return 0


def reduce(options: argparse.Namespace, store: Store) -> int:
    """Fold the finished cells into the matrix again."""
    from xling.report.files import reduce_grid
    from xling.report.tables.terminal import print_matrix

    name = chosen_grid(store, options.grid)
    print_matrix(reduce_grid(store, name))
    return 0


def report(options: argparse.Namespace, store: Store) -> int:
    """Print the matrix that was folded last; with --open, show it in a browser."""
    from xling.analysis.matrix.types import read_matrix
    from xling.report.tables.terminal import print_matrix

    name = chosen_grid(store, options.grid)
    if options.open:
        from xling.report.page.write import open_page, update

        open_page(update(store, name))
        return 0
    print_matrix(read_matrix(store.grid_folder(name)), full=options.full)
    return 0


def figures(options: argparse.Namespace, store: Store) -> int:
    """Draw a finished grid for a paper: PDF, SVG or PNG figures and LaTeX tables."""
    from xling.report.pictures.write import Asked
    from xling.report.pictures.write import figures as draw

    asked = Asked.of(options.format, options.width, options.only, options.names)
    for line in draw(store, options.grid, options.out, asked).lines():
        print(harmless(line))
    return 0


def wandb(options: argparse.Namespace, store: Store) -> int:
    """Write the W&B runs of a grid that are missing, and save its workspace and report there (docs/wandb.md)."""
    from xling.tracking import dashboard

    name = chosen_grid(store, options.grid)
    asked = {key: getattr(options, key) for key in ("mode", "project", "entity", "artifacts", "runs")}
    for sentence in dashboard.run(store, name, asked, options.new):
        print(harmless(sentence))
    return 0


def gc(options: argparse.Namespace, store: Store) -> int:
    """List what no grid needs and what killed runs left, or a grid; nothing is deleted without --delete."""
    console = Console(soft_wrap=True)
    damaged = list(damaged_results(store)) if options.verify else []
    for result in damaged:
        moved = store.set_aside(result.kind, result.key) if options.delete else None
        console.print(f"damaged: {result.kind}/{result.key[:12]}: {result.why}" + (" (set aside)" if moved else ""))
    if options.verify and not damaged:
        console.print("Every result has the bytes that were published.")
    out = all_jobs()
    busy = {key for one in out for key in one.busy(store)}
    if options.grid:
        _refuse_submitted(store, options.grid)
        items = grid_garbage(store, options.grid, busy=busy)
    else:
        items = [*garbage(store, busy=busy), *(item for one in out for item in one.garbage(store))]
    for line in garbage_lines(items, store.root):
        console.print(line, highlight=False)
    count, bytes_ = kept(store, items)
    left = f"of {count} results, {size(bytes_)}, in '{store.root}'"
    if options.delete:
        store.refuse_links(*([options.grid] if options.grid else []))
        delete(items)
    if items and options.delete:
        console.print(f"Deleted. There are {count} results, {size(bytes_)}, in '{store.root}'.", highlight=False)
    elif items:
        command = f"xling gc --grid {options.grid} --delete" if options.grid else "xling gc --delete"
        console.print(
            escape(f"Nothing is deleted yet: `{command}` deletes these, and nothing {left}."), highlight=False
        )
    else:
        console.print(escape(f"Nothing to delete {left}: grids need them all."), highlight=False)
    _finish_grid(store, options, console)
    return 1 if damaged else 0


def _refuse_submitted(store: Store, name: str) -> None:
    grid = chosen_grid(store, name)
    if jobs(store, grid).submitted(store, grid):
        raise ConfigError(f"Grid {name} cannot be deleted: it has jobs on the cluster. Type `xling cancel all {name}`.")


def _finish_grid(store: Store, options: argparse.Namespace, console: Console) -> None:
    """Its folder, once it is empty; people's answers to its sheets are not ours to delete."""
    if not options.grid:
        return
    folder = store.grid_folder(options.grid)
    if (folder / "human").exists():
        console.print(escape(f"Kept: {folder / 'human'}, answers that people have given. Delete them by hand."))
    elif options.delete:
        with contextlib.suppress(OSError):  # another has deleted it, or plans the grid anew
            folder.rmdir()


def data(options: argparse.Namespace, store: Store) -> int:
    """Look at a task's data: counts, lengths, balance, duplicates, leakage between splits, languages."""
    from xling.compose.composer import composed_task
    from xling.planning.datacheck import check_data
    from xling.report.datacheck import json_text, print_report

    report = check_data(*composed_task(options.overrides))
    if options.json:
        print_bytes(f"{json_text(report)}\n".encode())
    else:
        print_report(report, Console(width=None if sys.stdout.isatty() else 150))
    return 0


def translate(options: argparse.Namespace, store: Store) -> int:
    """Write the texts that a grid has to have translated elsewhere (translator=recorded)."""
    from xling.compose.grid import composed_grid
    from xling.experiment import experiment_from
    from xling.translators.recorded import to_translate, write

    cells, _ = composed_grid(options.overrides)
    exported = to_translate([experiment_from(cell) for cell in cells.cells])
    write(expanded(options.out), exported)
    for line in exported.sentences(Path(options.out)):
        print(line)
    return 0


def convert(options: argparse.Namespace, store: Store) -> int:
    """Make a folder in Hugging Face format of a GGUF file, as policy.checkpoint=FOLDER reads it."""
    from xling.models.gguf import convert as run

    print(harmless(run(expanded(options.file), expanded(options.folder), options.dtype)))
    return 0


def export(options: argparse.Namespace, store: Store) -> int:
    """Take a trained model, the matrix, its items or samples out, as a folder that others read (docs/export.md)."""
    from xling.exports import Asked
    from xling.exports import export as run
    from xling.sheets.export import parse_filters

    asked = Asked(expanded(options.out), options.push, options.license, parse_filters(options.cells))
    for sentence in run(store, chosen_grid(store, options.grid), options.what, asked):
        print(harmless(sentence))
    return 0


def path(options: argparse.Namespace, store: Store) -> int:
    """Print the folder of a stage's result."""
    from xling.exports import located

    print(harmless(str(located(store, chosen_grid(store, options.grid), options.stage))))
    return 0


def sheet_export(options: argparse.Namespace, store: Store) -> int:
    """Write blinded sheets of response pairs for people to judge, and the key that stays with you."""
    from xling.sheets import export

    name = chosen_grid(store, options.grid)
    folder = expanded(options.out)
    asked = export.Asked(options.n, options.seed, options.annotators, options.question)
    written = export.export(store, name, export.parse_filters(options.cells), folder, asked)
    for line in export.summary(written, folder):
        print(harmless(line))
    return 0


def sheet_import(options: argparse.Namespace, store: Store) -> int:
    """Check filled-in sheets and say what people prefer, how far they agree, and how far the grid's judge does."""
    from xling.sheets.imports import import_answers
    from xling.sheets.judgements import print_judgements

    paths = [expanded(path) for path in options.answers]
    found = import_answers(store, expanded(options.folder), paths, options.replace)
    for one in found.files:
        given = one.answers
        answered = f"{len(given.given)} of {given.rows} answered ({one.state})"
        print(harmless(f"{one.path}: {given.annotator}, {given.sheet}, {answered}"))
    print_judgements(found.judgements)
    print(f"Written to {found.folder}: judgements.md, .json, .csv and the answers as given.")
    return 0


def analyse(options: argparse.Namespace, store: Store) -> int:
    """What a matrix says: who is best, how sure that is, which source to pick. GRID `paper`: the published matrices."""
    from xling.report.tables.findings import analyse as run

    only = [name for names in options.only for name in names.split(",") if name]
    return run(store, options.grid, only, options.json, options.out, options.wals)


def choose(options: argparse.Namespace, store: Store) -> int:
    """Which source to use for a target that has no labels, or none of them, and what every rule for it costs."""
    from xling.report.tables.findings import choose as run

    return run(store, options.grid, options.target, options.json, options.wals)


def compare(options: argparse.Namespace, store: Store) -> int:
    """Set a grid against another, or against the paper: cell by cell, and the ranking of the sources."""
    from xling.report.tables.findings import compare as run

    return run(store, options.grid, options.other, options.json, options.out)


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    root = "folder of the results (default: outputs)"
    common.add_argument("--root", default=argparse.SUPPRESS, help=root)  # else it would undo one before the command
    program = argparse.ArgumentParser(prog="xling", description=__doc__.partition("\n")[0])
    program.add_argument("--root", default="outputs", help=root)
    program.add_argument("--version", action=_Version, nargs=0, help="show the version, and the commit if it is known")
    commands = program.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Command, grid: bool = True) -> argparse.ArgumentParser:
        text = (command.__doc__ or "").rstrip(".")
        added = commands.add_parser(command.__name__, parents=[common], help=text, description=text)
        added.set_defaults(command=command)
        if command in (logs, cancel, path):
            whole = " or `all`" if command is cancel else ""
            added.add_argument("stage", metavar="INDEX", help=f"index or label of a stage as in `xling status`{whole}")
        if grid:
            added.add_argument("grid", nargs="?", metavar="GRID", help="name of the grid (default: the latest)")
        return added

    add(run, grid=False)
    add(grids, grid=False)
    shown = add(status)
    shown.add_argument("--all", action="store_true", help="list every stage with its index")
    shown.add_argument("--watch", action="store_true", help="stay until nothing runs or is queued any more")
    shown.add_argument("--cost", action="store_true", help="GPU hours asked for, held, used and idle, by kind of stage")
    add(logs).add_argument("--follow", action="store_true", help="stay until the stage has ended")
    add(cancel)
    add(reduce)
    shown = add(report)
    shown.add_argument("--full", action="store_true", help="every table of matrix.md")
    shown.add_argument("--open", action="store_true", help="open report.html, drawn anew if it is outdated")
    _add_figures(add(figures))
    _add_analyse(add(analyse))
    _add_choose(add(choose))
    _add_compare(add(compare, grid=False))
    _add_wandb(add(wandb))
    looked = add(data, grid=False)
    looked.add_argument("what", choices=["check"], help="check: load all languages and count")
    looked.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="task=NAME and its settings, as for launch.py")
    looked.add_argument("--json", action="store_true", help="for machines")
    texts = add(translate, grid=False)
    texts.add_argument("what", choices=["export"], help="export: write the texts, one a row")
    texts.add_argument("overrides", nargs="+", metavar="OVERRIDE", help="the grid, as for launch.py")
    texts.add_argument("--out", required=True, metavar="FILE", help="where to: a .jsonl or .csv")
    made = add(convert, grid=False)
    made.add_argument("file", metavar="FILE.gguf", help="a model in llama.cpp's format, in one file")
    made.add_argument("folder", metavar="FOLDER", help="a new folder for the model")
    made.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16")
    collect = add(gc, grid=False)
    collect.add_argument("--grid", metavar="NAME", help="list a grid: its folder, and the results that no other needs")
    collect.add_argument("--delete", action="store_true", help="delete what is listed")
    collect.add_argument("--verify", action="store_true", help="hash every stored file first; with --delete, damaged "
                         "results are set aside")  # fmt: skip
    add(path)
    _add_export(add(export, grid=False))
    _add_sheet(commands.add_parser("sheet", help="People judge a grid: sheets out, answers in"), common)
    return program


class _Version(argparse.Action):
    """--version; git is asked only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        commit = git_sha()
        print(f"xling {__version__}" + (f" ({commit[:12]}{'+' if commit.endswith('+') else ''})" if commit else ""))
        parser.exit()


def _add_analyse(said: argparse.ArgumentParser) -> None:
    said.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME,...",
        help="these analyses, or your own as FILE:FUNCTION (default: all)",
    )
    said.add_argument("--json", action="store_true", help="for machines")
    said.add_argument("--out", metavar="FOLDER", help="where files are written (default: the grid's folder)")
    said.add_argument("--wals", metavar="FOLDER", help="a CLDF release of WALS, for language_features and typology")


def _add_choose(asked: argparse.ArgumentParser) -> None:
    asked.add_argument("target", nargs="?", metavar="TARGET", help="a language, in the grid or not (default: all)")
    asked.add_argument("--json", action="store_true", help="for machines")
    asked.add_argument("--wals", metavar="FOLDER", help="a CLDF release of WALS, for the rule typology")


def _add_export(out: argparse.ArgumentParser) -> None:
    out.add_argument("what", metavar="WHAT", help="a trained stage by index or label, 'reward[en]'; "
                     "matrix; items; or samples")  # fmt: skip
    out.add_argument("grid", nargs="?", metavar="GRID", help="name of the grid (default: the latest)")
    out.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    out.add_argument("--push", metavar="OWNER/NAME", help="and upload it to the hub, as a new private repository")
    out.add_argument("--license", metavar="ID", help="for its card, as the hub names it: apache-2.0, cc-by-4.0, ...")
    out.add_argument("--cells", action="append", default=[], metavar="AXIS=VALUE,...",
                     help="of samples: source=en,tr,target=de and other axes (default: all finished)")  # fmt: skip


def _add_figures(drawn: argparse.ArgumentParser) -> None:
    drawn.add_argument("--out", metavar="FOLDER", help="where they go (default: figures/ in the grid's folder)")
    drawn.add_argument("--format", default="pdf", metavar="pdf,svg,png", help="of the figures (default: pdf)")
    drawn.add_argument("--width", default="column,text", metavar="WIDTHS", help="column, text or inches "
                       "(default: column,text: of the ACL's two columns and of its page)")  # fmt: skip
    drawn.add_argument("--only", default="", metavar="NAMES", help="heatmap, accuracy, best_of_k, learning, frontier, "
                       "ranks, forest, judges, accuracy_win, kl_win, tables (default: all)")  # fmt: skip
    drawn.add_argument("--names", default="code", help="languages by code, english or native name (default: code)")


def _add_compare(both: argparse.ArgumentParser) -> None:
    both.add_argument("grid", metavar="GRID", help="a grid, or some of its panels: NAME:judge=llm,optimizer=ppo")
    both.add_argument("other", metavar="OTHER", help="another one, `paper`, or paper:TABLE")
    both.add_argument("--json", action="store_true", help="for machines")
    both.add_argument("--out", metavar="FOLDER", help="write compare.md, compare.json and tables there")


def _add_wandb(saved: argparse.ArgumentParser) -> None:
    saved.add_argument("--mode", choices=["auto", "online", "offline"], default="auto",
                       help="auto: online if there is a key and a network (default)")  # fmt: skip
    saved.add_argument("--project", help="W&B project (default: the one of the last time, else xling)")
    saved.add_argument("--entity", help="W&B team or user (default: the one of the last time, else the account's)")
    saved.add_argument("--artifacts", choices=["none", "references", "files"], help="as tracking.artifacts")
    saved.add_argument("--runs", choices=["grid", "trained", "cells", "stages"], help="as tracking.runs (default: as "
                       "the last time, else trained)")  # fmt: skip
    saved.add_argument("--new", action="store_true", help="save a new workspace and report, instead of updating")


def _add_sheet(sheet: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    commands = sheet.add_subparsers(required=True, metavar="export|import")

    def add(name: str, command: Command) -> argparse.ArgumentParser:
        text = (command.__doc__ or "").rstrip(".")
        added = commands.add_parser(name, parents=[common], help=text, description=text)
        added.set_defaults(command=command)
        return added

    out = add("export", sheet_export)
    out.add_argument("grid", nargs="?", metavar="GRID", help="name of the grid (default: the latest)")
    out.add_argument("--cells", action="append", default=[], metavar="AXIS=VALUE,...",
                     help="source=en,tr,target=de and other axes of the grid (default: all finished)")  # fmt: skip
    out.add_argument("--n", type=int, default=100, help="prompts a cell (default: 100)")
    out.add_argument("--seed", type=int, default=0, help="which prompts, in which order, on which side (default: 0)")
    out.add_argument("--annotators", type=int, default=1, help="sheets of the same pairs, each in its own order")
    out.add_argument("--question", default="Which response is better?", help="what annotators are asked")
    out.add_argument("--out", required=True, metavar="FOLDER", help="where the sheets and their key are written")
    answers = add("import", sheet_import)
    answers.add_argument("folder", metavar="FOLDER", help="what the export wrote, with its key.json")
    answers.add_argument("answers", nargs="+", metavar="ANSWERS.csv", help="filled-in sheets, a file an annotator")
    answers.add_argument("--replace", action="store_true", help="take an annotator's new answers in place of the old")


def _refuse_words(words: list[str]) -> None:
    """ConfigError for what is easily typed in place of a command or of its options."""
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None or words[0] == "--root":
        return
    if command not in COMMANDS:
        raise ConfigError(f"There is no command {command!r}. There are: {', '.join(COMMANDS)}."
                          f"{did_you_mean(command, COMMANDS)}")  # fmt: skip
    if command in ("data", "translate"):  # these take what launch.py takes
        return
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals and name in ("root", "name", "grid"):
            there = f"--root {shlex.quote(value)}" if name == "root" else _grid_as_typed(command, value)
            raise ConfigError(f"{word} is how `python launch.py` takes it. For `xling {command}` type {there}.")


def _grid_as_typed(command: str, name: str) -> str:
    return f"--grid {shlex.quote(name)}" if command == "gc" else f"the grid's name alone: {shlex.quote(name)}"


def main(arguments: Sequence[str] | None = None) -> int:
    lasting_output()  # `xling logs 3 | head` is no error
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        if words[:1] == ["run"]:
            from xling.compose.command_line import launch

            return launch(words[1:])
        _refuse_words(words)
        options = parser().parse_args(words)
        store = Store(options.root)
        code: int = options.command(options, store)
        if options.command is not gc:
            for sentence in store.damage():
                print(harmless(f"xling: {sentence}"), file=sys.stderr)
            code = code or int(not store.trusted)
    except XlingError as error:
        print(harmless(f"xling: {error}"), file=sys.stderr)
        return 2
    return code
