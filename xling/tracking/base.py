"""A tracker: where the runs of a grid are written for people to look at. `TRACKERS` is the table of them.

A tracker is one module with the hooks below: it is given each finished stage and each folded grid once (runs.py has
what they hold) and writes them, in a process of its own (track.py), so that no trouble of it is one of the grid's.
tracking.name=NAME chooses it, or several: [wandb,NAME]. An installed package adds one by an entry point of the group
`xling.tracker`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from xling.errors import ConfigError, did_you_mean
from xling.options import Options

if TYPE_CHECKING:
    from xling.tracking.runs import GridRun, StageRun

MODES = ("auto", "online", "offline", "off")  # auto: online if that is possible, else offline
# What has a run of its own: the grid; and each stage that trains; and each cell, by the stage of its verdicts; and
# every other stage. Each has what stands before it.
RUNS = ("grid", "trained", "cells", "stages")


class Destination(Struct, frozen=True):
    """Where runs go; each destination has its own ledger of what has been written there."""

    mode: str  # online or offline
    project: str
    entity: str | None
    artifacts: str = "references"  # what of a stage's folder goes along: references, files or none
    host: str = ""  # online, of a server of one's own
    tracker: str = "wandb"
    runs: str = "stages"  # one of RUNS

    @property
    def ledger(self) -> str:
        """The name of its file. Ledgers of W&B do not name it: there was no other tracker when they were begun."""
        tracker = "" if self.tracker == "wandb" else self.tracker
        words = (tracker, self.mode, self.host, self.entity or "", self.project)
        where = "-".join(word for word in words if word)
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in where) + ".jsonl"


class TrackingResult(Struct, frozen=True):
    """Result of a tracking: runs written now, runs written before, and the trouble if any."""

    mode: str  # online, offline or off
    written: int = 0
    known: int = 0
    folder: str = ""
    problem: str = ""
    project: str = ""
    entity: str | None = None  # as it was asked for
    team: str | None = None  # online, where the runs went
    title: str = "W&B"  # of the tracker
    runs: str = ""  # one of RUNS

    def sentence(self) -> str:
        """One line for people."""
        if self.mode == "off":
            return f"{self.title}: off{f' ({self.problem})' if self.problem else ''}."
        line = f"{self.title} ({self.mode}): {self.written} runs written, {self.known} known, in {self.folder}."
        return f"{line} {self.problem}" if self.problem else line


def shown_file(root: Path, name: str) -> Path:
    """Where the keys stand that a grid's reduce run has logged; dashboards are made from them."""
    return Path(root) / "tracking" / f"{name}.shown.json"


class Tracker(Protocol):
    """The hooks of a tracker's module."""

    TITLE: str  # what people call it
    Settings: type[Struct]  # tagged with the tracker's name; has `mode`, one of MODES

    def read(self, values: Mapping[str, Any]) -> Any:
        """Settings from `tracking` of conf/config.yaml; ConfigError names the first that does not fit."""

    def destination(self, settings: Any, environment: Mapping[str, str]) -> tuple[Destination | None, str]:
        """(where runs go now, or None for nowhere; why not where they were meant to go, a sentence or nothing)."""

    def write_stage(self, run: "StageRun", to: Destination) -> str | None:
        """Write the run of a finished stage. Whose it is there, if there are several teams."""

    def write_grid(self, run: "GridRun", to: Destination) -> str | None:
        """Write the run of a folded grid, or show the new matrix in it: `run.times` says whether it is there."""

    def instead(self, to: Destination, error: Exception) -> Destination | None:
        """Where runs go after such trouble at `to`; None: there, for it is this one run's trouble."""


TRACKERS: Options[Tracker] = Options(
    "tracker",
    {"wandb": "xling.tracking.wandb", "tensorboard": "xling.tracking.tensorboard"},
    hooks={
        "TITLE": "what people call it",
        "read": "its settings from those of conf/config.yaml",
        "destination": "where runs go now",
        "write_stage": "writing the run of a stage",
        "write_grid": "writing the run of a grid",
        "instead": "where runs go if that fails",
    },
    setting="tracking.name",
)


def asked_trackers(tracking: Mapping[str, Any]) -> list[str]:
    """The names of the trackers; W&B, where none is named."""
    asked = tracking.get("name") or "wandb"
    return list(dict.fromkeys(map(str, [asked] if isinstance(asked, str) else asked)))


def asked_runs(tracking: Mapping[str, Any]) -> str:
    """What has runs: one of RUNS, all where nothing says so, as before there was a choice; else ConfigError."""
    return one_of("runs", tracking.get("runs") or "stages", RUNS)


def read_mode(tracking: Mapping[str, Any]) -> str:
    """One of MODES; a bare `off` in YAML is false. ConfigError for another."""
    return one_of("mode", "off" if tracking["mode"] is False else tracking["mode"], MODES)


def one_of(key: str, value: Any, known: Sequence[str]) -> str:
    """A setting of `tracking` with a known value; else ConfigError."""
    if not isinstance(value, str) or value not in known:
        suggestion = did_you_mean(str(value), known)
        raise ConfigError(f"tracking.{key}={value} is unknown. Allowed: {', '.join(known)}.{suggestion}")
    return value
