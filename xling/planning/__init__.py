"""From experiments to stages: which there are, what decides their results (specs and keys), and what is refused.

`KINDS` is what workers look up: the stages in the order in which they run, each with the function that does its work.
Judges bring kinds of their own. Their modules import this package, so that KINDS is made when it is first asked for.

A version is raised by hand when the meaning of a stage's code changes: results of other versions are not used.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from xling.errors import ConfigError
from xling.grid.stage import Kind
from xling.judges import JUDGES
from xling.planning import costs, memory, sharing
from xling.results.specs import on_data


def _lazy(name: str) -> Callable[[Any], Any]:
    """The function `module:name` of xling/stages, imported when it is called: planning does without torch."""
    module, _, function = name.partition(":")
    return lambda argument: getattr(importlib.import_module(f"xling.stages.{module}"), function)(argument)


WEIGHTS = ("model*.safetensors", "tokenizer.json", "*.model")  # what takes room of a network: a tokenizer has 10 MB
WHERE: dict[str, Any] = {"gpu": memory.on_gpu, "memory": memory.main_memory}
NOWHERE: dict[str, Any] = {"gpu": lambda stage: False}  # no network of theirs runs
TRAINS: dict[str, Any] = {"parallel": True, "weights": WEIGHTS, **WHERE}

OWN = (
    Kind("base", 2, _lazy("base:run"), seconds=1, lost=_lazy("base:lost"), **NOWHERE),
    Kind("translate", 1, _lazy("translate:run"), seconds=20, work=costs.translate, **WHERE),
    Kind("sft", 3, _lazy("sft:run"), seconds=30, work=costs.sft, needs=memory.sft, shared=sharing.sft, **TRAINS),
    Kind("embed", 3, _lazy("features:run_embed"), seconds=10, **WHERE),
    Kind("features", 3, _lazy("features:run"), seconds=10, work=costs.features, needs=memory.reading, **WHERE),
    Kind("parallel", 1, _lazy("reward:run_parallel"), seconds=4, **NOWHERE),
    Kind(
        "reward",
        4,
        _lazy("reward:run"),
        seconds=30,
        work=costs.reward,
        needs=memory.reward,
        shared=sharing.reward,
        **TRAINS,
    ),
    Kind("pool", 3, _lazy("pool:run"), seconds=20, work=costs.samples, needs=memory.samples, **WHERE),
    Kind("baseline", 3, _lazy("pool:run"), seconds=6, work=costs.samples, needs=memory.samples, **WHERE),
    Kind(
        "align", 1, _lazy("align:run"), seconds=60, work=costs.align, needs=memory.align, shared=sharing.align, **TRAINS
    ),
    Kind("aligned", 1, _lazy("pool:run"), seconds=8, work=costs.samples, needs=memory.samples, **WHERE),
    Kind("recorded", 2, _lazy("pool:run_recorded"), seconds=1, **NOWHERE),
    Kind("score", 4, _lazy("score:run"), seconds=10, work=costs.score, needs=memory.reading, joined=True, **WHERE),
    Kind("ensemble", 1, _lazy("ensemble:run"), seconds=0.2, joined=True, **NOWHERE),
    Kind("gold", 1, _lazy("score:run_gold"), seconds=2, joined=True, **NOWHERE),
)
JUDGE = Kind("judge", 2, _lazy("judge:run"), seconds=0.1, joined=True, **NOWHERE)

KINDS: dict[str, Kind]


def __getattr__(name: str) -> Any:
    if name != "KINDS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["KINDS"] = kinds = _kinds()
    return kinds


@cache
def _brought() -> dict[str, tuple[str, Kind]]:
    """Each kind by its name, with the judge that brings it: none brings planning's own. Of two the first counts."""
    found = {kind.name: ("", kind) for kind in (*OWN, JUDGE)}
    for judge, module in reversed(JUDGES.usable().items()):  # those of installed packages come after our own
        for kind in module.KINDS:
            found.setdefault(kind.name, (judge, kind))
    return found


def _kinds() -> dict[str, Kind]:
    kinds = [kind for _, kind in _brought().values() if kind is not JUDGE]
    return {kind.name: replace(kind, run=on_data(kind.run)) for kind in (*kinds, JUDGE)}  # JUDGE is the last that runs


def check_kinds(judge: str) -> None:
    """ConfigError where the judge brings a kind of stage whose name another one has."""
    for kind in JUDGES[judge].KINDS:
        if _brought()[kind.name] != (judge, kind):
            raise ConfigError(f"judge={judge} brings stages `{kind.name}`, which are there already. Rename its own.")
