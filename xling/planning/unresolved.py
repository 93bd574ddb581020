"""Checkpoints of the hub whose commit nobody can be asked for: in a dry run they are planned as they are, and named.

A plan needs a commit, so that a moving revision does not move under a grid. A dry run wants to count; without a network
it takes the revision for UNRESOLVED, whose results no store has. Only there: a run asks the hub.
"""

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from xling.config.common import Language
from xling.experiment import Experiment
from xling.models.hub import UNRESOLVED, HubUnreachable, commit_of, is_repository
from xling.planning.translations import directions, translates_feedback
from xling.tasks.options import Task

# Settings that name a checkpoint, and those that say which revision of it (xling/config).
NAMES = {"checkpoint": "revision", "init": "revision", "policy": "policy_revision", "reference": "reference_revision"}


def planned(experiment: Experiment) -> tuple[Experiment, frozenset[str]]:
    """(the experiment with revisions that nobody can be asked for as UNRESOLVED, their repositories)."""
    found: Experiment
    found, repositories = _settle(experiment)
    translator, translates = found.translator, found.sft_data != "organic" or translates_feedback(found)
    if translator is None or not translates:
        return found, repositories
    revision = getattr(translator, "revision", None)
    if lost := {name for name in translator.checkpoints(directions(found)) if not _known(name, revision)}:
        unknown = msgspec.structs.replace(translator, revision=UNRESOLVED)
        return msgspec.structs.replace(found, translator=unknown), repositories | lost
    return found, repositories


def _settle(settings: Any) -> tuple[Any, frozenset[str]]:
    changed: dict[str, Any] = {}
    repositories: frozenset[str] = frozenset()
    for name in settings.__struct_fields__:
        value, revision = getattr(settings, name), NAMES.get(name, "")
        if isinstance(value, Struct) and not isinstance(value, Task | Language):
            changed[name], more = _settled(value)
            repositories |= more
        elif isinstance(value, str) and hasattr(settings, revision) and not _known(value, getattr(settings, revision)):
            changed[revision] = UNRESOLVED
            repositories |= {value}
    return msgspec.structs.replace(settings, **changed), repositories


_settled = lru_cache(maxsize=4096)(_settle)  # of the parts of experiments, which cells have in common


@lru_cache(maxsize=64)
def _known(checkpoint: str, revision: str | None) -> bool:
    try:
        if is_repository(checkpoint):
            commit_of(checkpoint, revision)
    except HubUnreachable:
        return False
    return True


def note(repositories: frozenset[str]) -> str:
    """A sentence for the plan."""
    return (
        f"The hub cannot be reached: {', '.join(sorted(repositories))} planned without a commit, as this dry run alone "
        "may. Nothing that depends on them counts as cached."
    )
