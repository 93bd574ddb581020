"""Bytes of the tensors that are alive while something runs, and how many there were at most.

What an allocator keeps, rounds or tears to pieces is not in it, and neither is what a kernel needs for itself: the same
numbers on every machine and each time, unlike a process's resident set.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Counts storages that operations make while it is entered, and those of the tensors that it is given.

    `now` and `most`: bytes; `most` may be set back. For the gradients too: on a processor these are computed in the
    thread that asks for them.
    """

    def __init__(self, there: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: dict[int, Any] = {}
        for tensor in there:
            self.count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor) and one.device.type != "meta":
                self.count(one)
        return out

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        name, size = storage._cdata, storage.nbytes()
        if name in self.seen:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self.seen[name]

        self.seen[name] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)
