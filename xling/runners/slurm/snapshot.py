"""The code of a submission, copied: what is edited, or stashed away, while jobs queue changes nothing of what they run.

    folder = take(store)                   # <root>/code/<digest>/xling/...; jobs look there first

What is copied is whatever jobs can import from anywhere but where Python and its packages are installed: packages and
modules that the launch has imported (xling; stages, tasks or reward models of one's own), and those that lie in the
folders where Python looks (the launch folder, PYTHONPATH), which a stage may import when it runs. One copy a version of
the code, however many submissions. Other files of packages of one's own (data) are linked to.
"""

import errno
import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

import xling
from xling.console import harmless
from xling.grid import files, host
from xling.grid.cleanup import Garbage, sized
from xling.grid.store import Store
from xling.runners.execute import own_paths
from xling.runners.slurm import record

CODE = "code"
INSTALLED = ("site-packages", "dist-packages")
LEFT_OUT = ("__main__", "hydra_plugins")  # of the command
MOST_FILES = 5000  # of a package that nothing has imported yet
FRESH_SECONDS = 3600.0  # a copy may be of a submission that is just being written down
TRIES = 3  # somebody deletes an old copy at this very moment


def take(store: Store) -> Path:
    """The folder with this process's code, copied unless there is a copy. StoreError if the root cannot be written."""
    above = store.root.absolute() / CODE
    try:
        for _ in range(TRIES):
            listed = {name: path for source in _sources().items() for name, path in _files_of(*source, above)}
            final = above / _digest(listed)
            if not _is_whole(final):
                final = _copy(listed, above)
            with suppress(FileNotFoundError):
                os.utime(final)  # which keeps `xling gc` from it
                return final
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(final))
    except OSError as error:
        raise files.disk_error(error, store.root) from error


def _copy(listed: Mapping[str, Path], above: Path) -> Path:
    made = above / f".{host.this_process().name}"
    shutil.rmtree(made, ignore_errors=True)
    try:
        for name, path in listed.items():
            to = made / name
            to.parent.mkdir(parents=True, exist_ok=True)
            if _is_linked(name):
                to.symlink_to(path)
                continue
            with suppress(FileNotFoundError):  # Python's, or an editor's, there for a moment
                shutil.copy2(path, to)  # with its time, so that what Python has compiled of it is as good as before
        final = above / _digest(_found(made))
        if final.is_dir() and not _is_whole(final):  # somebody has changed it
            os.rename(final, f"{made}.changed")
        if not final.is_dir():
            files.share(str(made))  # another user of the root may have the same code
            _publish(made, final)
        return final
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(f"{made}.changed", ignore_errors=True)


def _publish(made: Path, final: Path) -> None:
    try:
        os.rename(made, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another shell was quicker
            raise


# --- what is copied -----------------------------------------------------------------------------------------


def _sources() -> dict[str, Path]:
    """Name to folder of a package, or to file of a module; without files that are imported by their paths (measures).

    Those would hide whatever else is called so.
    """
    places = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]

    def installed(path: Path) -> bool:
        return any(part in INSTALLED for part in path.parts) or any(path.is_relative_to(one) for one in places)

    found = {}
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "")
        if "." in name or name in LEFT_OUT or path.name not in ("__init__.py", f"{name}.py"):
            continue
        if name == xling.__name__ or not installed(path.resolve()):
            found[name] = path.resolve()
    for folder in own_paths():
        if not installed(Path(folder).resolve()):
            found |= {name: path for name, path in _importable(Path(folder)) if name not in found}
    return {name: path.parent if path.name == "__init__.py" else path for name, path in found.items()}


def _importable(folder: Path) -> Iterator[tuple[str, Path]]:
    """Modules and packages in a folder where Python looks, not imported yet, that `import` finds there and not before.

    None where packages are installed (`pip install --target`).
    """
    names = files.names_in(str(folder)) if folder.is_dir() else []
    if any(name.endswith(".dist-info") for name in names):
        return
    for name in sorted(name.removesuffix(".py") for name in names):
        if not name.isidentifier() or name in LEFT_OUT or name in sys.modules:
            continue
        path = folder / name / "__init__.py"
        if not path.is_file() and not (path := folder / f"{name}.py").is_file():
            continue
        with suppress(ImportError, ValueError, AttributeError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None and os.path.samefile(spec.origin, path):
                yield name, path.resolve()


def _files_of(name: str, source: Path, above: Path) -> Iterator[tuple[str, Path]]:
    """Names in the copy, and the files; not hidden ones, nor what other Pythons have compiled."""
    if source.is_file():
        yield f"{name}.py", source
        return
    found = _files_below(name, source, above.parent.resolve())
    if name in sys.modules:
        yield from found
        return
    few = list(islice(found, MOST_FILES + 1))
    if len(few) <= MOST_FILES:
        yield from few
    else:
        words = (
            f"xling: '{source}' is not copied, since it has more than {MOST_FILES} files: jobs use it as they find it."
        )
        print(harmless(words), file=sys.stderr)


def _files_below(name: str, source: Path, root: Path) -> Iterator[tuple[str, Path]]:
    own = f".{sys.implementation.cache_tag}.pyc"
    for folder, inner, names in os.walk(source):
        # not a root that lies in the package: the copy would be copied
        inner[:] = sorted(one for one in inner if not (one.startswith(".") or Path(folder, one) == root))
        to = Path(name, Path(folder).relative_to(source))
        for one in sorted(names):
            if not one.startswith(".") and (not one.endswith(".pyc") or one.endswith(own)):
                yield (to / one).as_posix(), Path(folder, one)


def _is_linked(name: str) -> bool:
    """Data of a package of one's own."""
    return not name.startswith(f"{xling.__name__}/") and not name.endswith((".py", ".pyc"))


def _digest(found: Mapping[str, Path]) -> str:
    """Of names and contents of all files that Python has not made by itself; of what is linked to, of the names.

    Jobs that run may be compiling at this moment.
    """
    digest = hashlib.sha256()
    for name in sorted(found):
        if "__pycache__" not in name.split("/"):
            with suppress(FileNotFoundError):  # an editor's, there for a moment
                content = b"" if _is_linked(name) else found[name].read_bytes()
                digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _found(folder: Path) -> dict[str, Path]:
    """The files of a copy."""
    return {name: Path(entry.path) for name, entry in files.files_below(str(folder))}


def _is_whole(copied: Path) -> bool:
    """Whether it is there, with the bytes that were copied."""
    return copied.is_dir() and _digest(_found(copied)) == copied.name


def garbage(store: Store) -> Iterator[Garbage]:
    """Copies that no submission needs which may still have jobs; none where a record cannot be read, which may."""
    if any(record.unreadable(store, path.name) for path in files.matching(store.root / "grids", "*")):
        return
    needed = {Path(filed.head.snapshot).name for filed in record.submissions(store, None, "submitting", "released")}
    now = time.time()
    for path in files.matching(store.root / CODE, "*"):
        if path.name not in needed:
            found = sized([(path, "code that no submission needs any more", "")])
            yield from (one for one in found if now - one.modified > FRESH_SECONDS)
