"""`xling status|logs|reduce|report|gc`: look after a grid that is running or done. Also `python -m xling`.

A grid is named by its folder in <root>/grids; without a name it is the one that was planned last.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from xling.errors import ConfigError, XlingError
from xling.grid.cleanup import damaged_results, delete, garbage
from xling.grid.status import chosen_grid, grid_status, read_grid, stage_at
from xling.grid.store import Store
from xling.grid.tables import garbage_lines, status_table

Command = Callable[[argparse.Namespace, Store], int]


def status(options: argparse.Namespace, store: Store) -> int:
    """How a grid stands: stages by state, what runs where, what failed and why."""
    name = chosen_grid(store, options.grid)
    Console(soft_wrap=True).print(status_table(grid_status(store, name), store, every=options.all))
    return 0


def logs(options: argparse.Namespace, store: Store) -> int:
    """What a stage printed, attempt after attempt."""
    stage = stage_at(read_grid(store, chosen_grid(store, options.grid)), options.stage)
    path = store.log(stage.kind, stage.key)
    if not path.exists():
        raise ConfigError(f"{stage.label} has no log yet: it has not been started with this root.")
    print(f"{stage.label}: {path}", file=sys.stderr)
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            sys.stdout.write(line)
    return 0


def reduce(options: argparse.Namespace, store: Store) -> int:
    """Fold the finished cells into the matrix again."""
    from xling.analysis.reduce import reduce_grid
    from xling.report.terminal import print_matrix

    name = chosen_grid(store, options.grid)
    print_matrix(reduce_grid(store.root, name))
    return 0


def report(options: argparse.Namespace, store: Store) -> int:
    """Print the matrix that was folded last."""
    name = chosen_grid(store, options.grid)
    path = store.grid_folder(name) / "matrix.md"
    if not path.exists():
        raise ConfigError(f"Grid {name} has no matrix yet. Type `xling reduce {name}` to fold what is finished.")
    print(path.read_text(encoding="utf-8"))
    return 0


def gc(options: argparse.Namespace, store: Store) -> int:
    """List what no grid needs and what killed runs left; nothing is deleted without --delete."""
    console = Console(soft_wrap=True)
    damaged = list(damaged_results(store)) if options.verify else []
    for result in damaged:
        moved = store.set_aside(result.kind, result.key) if options.delete else None
        console.print(f"damaged: {result.kind}/{result.key[:12]}: {result.why}" + (" (set aside)" if moved else ""))
    if options.verify and not damaged:
        console.print("Every result has the bytes that were published.")
    items = garbage(store)
    for line in garbage_lines(items, store.root):
        console.print(line, highlight=False)
    if options.delete:
        delete(items)
        console.print("Deleted." if items else "Nothing to delete.")
    elif items:
        console.print("`xling gc --delete` deletes these.")
    return 1 if damaged else 0


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root", default="outputs", help="folder of the results (default: outputs)")
    whole = argparse.ArgumentParser(prog="xling", description=__doc__.partition("\n")[0])
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Command, grid: bool = True) -> argparse.ArgumentParser:
        text = (command.__doc__ or "").rstrip(".")
        added = commands.add_parser(command.__name__, parents=[common], help=text, description=text)
        added.set_defaults(command=command)
        if command is logs:
            added.add_argument("stage", metavar="INDEX", help="index or label of a stage, as in `xling status`")
        if grid:
            added.add_argument("grid", nargs="?", metavar="GRID", help="name of the grid (default: the latest)")
        return added

    add(status).add_argument("--all", action="store_true", help="list every stage with its index")
    add(logs)
    add(reduce)
    add(report)
    collect = add(gc, grid=False)
    collect.add_argument("--delete", action="store_true", help="delete what is listed")
    collect.add_argument("--verify", action="store_true", help="hash every stored file first; with --delete, damaged "
                         "results are set aside")  # fmt: skip
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        code: int = options.command(options, Store(options.root))
        sys.stdout.flush()
    except XlingError as error:
        print(f"xling: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `xling logs 3 | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
