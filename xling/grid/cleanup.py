"""What killed runs left behind, and what no grid refers to any more."""

import contextlib
import os
import shutil
from collections.abc import Iterable

from xling.grid import host
from xling.grid.store import Store


def remove_leftovers(store: Store, kinds: Iterable[str]) -> None:
    """Delete unfinished results of processes of this host that are gone; of other hosts `xling gc` can.

    A result that mode=force was about to replace when it was killed is put back.
    """
    for kind in kinds:
        folder = store.kind_folder(kind)
        for name in store.listing(kind).leftovers:
            if is_abandoned(name):
                key, _, rest = name.partition(".")
                if rest.startswith("old-"):
                    with contextlib.suppress(OSError):  # there is a new one
                        os.rename(folder / name, folder / key)
                shutil.rmtree(folder / name, ignore_errors=True)


def is_abandoned(name: str) -> bool:
    """Whether the maker of `<key>.tmp-<host>-<pid>-<start>` ran on this host and has ended."""
    maker = name.partition(".")[2].partition("-")[2]
    on, _, rest = maker.rpartition(f"{host.hostname()}-")
    pid, _, start = rest.partition("-")
    if on or not pid.isdigit():
        return False
    return not host.is_alive(host.Process(host.hostname(), int(pid), "" if start == "0" else start))
