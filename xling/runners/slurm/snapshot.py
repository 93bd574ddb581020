"""The code of a submission, copied: what is edited, or stashed away, while jobs queue changes nothing of what they run.

    folder = take(store)                   # <root>/code/<digest>/xling/...; jobs look there first

What is copied are the packages and modules that the launch has imported from anywhere but where Python and its packages
are installed: xling, and stages, tasks or reward models of one's own. One copy a version of the code, however many
submissions. Other files of packages of one's own (data) are linked to.
"""

import errno
import hashlib
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import xling
from xling.grid import files, host
from xling.grid.cleanup import Garbage, sized
from xling.grid.store import Store
from xling.runners.slurm import record

CODE = "code"
INSTALLED = ("site-packages", "dist-packages")
LEFT_OUT = ("__main__", "hydra_plugins")  # of the command
FRESH_SECONDS = 3600.0  # a copy may be of a submission that is just being written down


def take(store: Store) -> Path:
    """The folder with this process's code, copied unless there is a copy. StoreError if the root cannot be written."""
    above = store.root.absolute() / CODE
    made = above / f".{host.this_process().name}"
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(parents=True)
        for name, source in sorted(_sources().items()):
            if source.is_dir():
                _copy_package(source, made / name, links=name != xling.__name__)
            else:
                shutil.copy2(source, made / f"{name}.py")
        digest = _digest(made)
        final = above / digest
        if final.is_dir() and _digest(final) != digest:  # somebody has changed it
            os.rename(final, f"{made}.changed")
        if not final.is_dir():
            files.share(str(made))  # another user of the root may have the same code
            _publish(made, final)
        os.utime(final)
    except OSError as error:
        raise files.disk_error(error, store.root) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(f"{made}.changed", ignore_errors=True)
    return final


def _publish(made: Path, final: Path) -> None:
    try:
        os.rename(made, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another shell was quicker
            raise


def _sources() -> dict[str, Path]:
    """Name to folder of a package, or to file of a module; without files that are imported by their paths (measures).

    Those would hide whatever else is called so.
    """
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found = {}
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "")
        if "." in name or name in LEFT_OUT or path.name not in ("__init__.py", f"{name}.py"):
            continue
        ours, whole = name == xling.__name__, path.resolve()
        away = any(part in INSTALLED for part in whole.parts) or any(whole.is_relative_to(one) for one in installed)
        if ours or not away:
            found[name] = whole.parent if path.name == "__init__.py" else whole
    return found


def _copy_package(source: Path, target: Path, links: bool) -> None:
    """All files but hidden ones, with their times, so that what Python has compiled of them is as good as before."""
    own, here = f".{sys.implementation.cache_tag}.pyc", target.resolve()
    for folder, inner, names in os.walk(source):
        # not a root that lies in the package: the copy would be copied
        inner[:] = [name for name in inner if not (name.startswith(".") or here.is_relative_to(Path(folder, name)))]
        to = target / Path(folder).relative_to(source)
        to.mkdir()
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or (path.suffix == ".pyc" and not name.endswith(own)):
                continue
            if links and path.suffix not in (".py", ".pyc"):
                (to / name).symlink_to(path)
                continue
            with suppress(FileNotFoundError):  # Python's, or an editor's, there for a moment
                shutil.copy2(path, to / name)


def _digest(folder: Path) -> str:
    """Of names and contents of all files that Python has not made by itself; of what is linked to, of the names.

    Jobs that run may be compiling at this moment.
    """
    digest = hashlib.sha256()
    for name, entry in files.files_below(str(folder)):
        if "__pycache__" not in name.split("/"):
            content = b"" if entry.is_symlink() else Path(entry.path).read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


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
