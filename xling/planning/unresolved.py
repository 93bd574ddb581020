"""Models of the hub in an offline dry run: it plans with UNRESOLVED where nobody can be asked for a commit."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from xling.config.common import Language
from xling.experiment import Experiment
from xling.models.checkpoints import parameters_of
from xling.models.hub import UNRESOLVED, HubUnreachable, commit_of, is_repository
from xling.planning.translations import directions, translates_feedback
from xling.tasks.options import Task

# Settings that name a checkpoint, and those that say which revision of it (xling/config).
NAMES = {"checkpoint": "revision", "init": "revision", "policy": "policy_revision", "reference": "reference_revision"}


def without_commits(asked: Sequence[Experiment]) -> tuple[list[Experiment], list[str]]:
    """The experiments with UNRESOLVED for each revision whose commit cannot be looked up, and a sentence that says so.

    A key names a commit, so that a branch that moves does not move under a grid. A dry run only counts: without a
    network it plans with UNRESOLVED, whose results no store has. A run looks the commit up on the hub, or fails.
    """
    found = [_without_commits(experiment) for experiment in asked]
    if not (lost := frozenset[str]().union(*(names for _, names in found))):
        return list(asked), []
    said = (
        f"The hub cannot be reached: {', '.join(sorted(lost))} planned without a commit, as this dry run alone may. "
        "Nothing that depends on them counts as cached."
    )
    if unsized := ", ".join(sorted(name for name in lost if parameters_of(name, None) is None)):
        said += (
            f" How large {unsized} is cannot be known either: its stages' times are guesses, their memory is left out."
        )
    return [experiment for experiment, _ in found], [said]


def _without_commits(experiment: Experiment) -> tuple[Experiment, frozenset[str]]:
    """(the experiment with them, the repositories that they are of)."""
    found: Experiment
    found, repositories = _settle(experiment)
    translator, translates = found.translator, found.sft_data != "organic" or translates_feedback(found)
    if translator is None or not translates:
        return found, repositories
    revision = getattr(translator, "revision", None)
    if lost := {name for name in translator.checkpoints(directions(found)) if not _known(name, revision)}:
        unknown = replace(translator, revision=UNRESOLVED)
        return replace(found, translator=unknown), repositories | lost
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
    return replace(settings, **changed), repositories


_settled = lru_cache(maxsize=4096)(_settle)  # of the parts of experiments, which cells have in common


@lru_cache(maxsize=64)
def _known(checkpoint: str, revision: str | None) -> bool:
    try:
        if is_repository(checkpoint):
            commit_of(checkpoint, revision)
    except HubUnreachable:
        return False
    return True
