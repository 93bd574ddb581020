"""Whether the results that a stage needs are there: their markers decide, whatever SLURM thinks of the jobs.

A shared folder may show them late; a job may have started too early, since SLURM takes an edge to a job that it has
forgotten for fulfilled; and a parent may have died without a word.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass

from xling.grid.records import Parent
from xling.grid.store import Store
from xling.run.slurm import cluster, record, survey
from xling.run.slurm.record import Filed, Place

LOOK_SECONDS = 0.5  # between two looks for a marker
ASK_SECONDS = 15.0  # between two questions to the cluster


class Requeue(Exception):
    """This job has started too early: it has to wait for other jobs."""

    def __init__(self, why: str, after: str) -> None:
        super().__init__(why)
        self.after = after


@dataclass
class Parents:
    """Of the stages of one task."""

    store: Store
    filed: Filed
    place: Place
    job: str  # that asks, "123_4"

    def missing(self, up: Parent) -> str:
        """Wait until a result is there; why it is not going to be, or nothing. Requeue if it is still to come."""
        deadline = time.monotonic() + self.filed.submission.settings.late_seconds
        asked, state = -ASK_SECONDS, "neither there nor in the queue"
        while (found := self._look(up)) != "done":
            source = self._source(up)
            said = self._said(*source, up.key) if source else ""
            if said in ("failed", "blocked"):
                return f"{up.label} {said}"
            late = time.monotonic() > deadline
            if late and found == "damaged":
                return ""  # loading it says what is damaged; until now it may have been shown in part
            if source and (late or time.monotonic() - asked >= ASK_SECONDS):
                asked, state = time.monotonic(), self._ask(*source, up, settle=late)
            if late:
                return f"{up.label} is {state}"
            time.sleep(LOOK_SECONDS)
        return ""

    def _look(self, up: Parent) -> str:
        folder = self.store.folder(up.kind, up.key)
        with suppress(OSError):
            os.listdir(folder.parent)  # makes a network file system look again
        return self.store.state(up.kind, up.key)

    def _source(self, up: Parent) -> tuple[Filed, Place] | None:
        """Whose task makes it: of this submission, or of one that this task was told to wait for."""
        place = self.filed.places.get(up.key)
        if place is not None:
            return self.filed, place
        others = set(self.filed.submission.task(self.place).others)
        for filed in reversed(record.submissions(self.store)):
            place = filed.places.get(up.key)
            if place is not None and filed.job(place) in others:
                return filed, place
        return None

    def _said(self, filed: Filed, place: Place, key: str) -> str:
        ends = [event.end for event in filed.events(place) if event.key == key]
        return ends[-1] if ends else ""

    def _ask(self, filed: Filed, place: Place, up: Parent, settle: bool) -> str:
        """What the cluster says of the job that makes a parent; Requeue if that is still to come."""
        job, ref = filed.job(place), filed.refs.get(place[0])
        states = cluster.states([ref], {job}) if ref and job else {}
        if states is None or job is None:
            return "not there, and the cluster does not answer"
        state = states.get(job)
        if state is not None and state.alive and job != self.job:
            raise Requeue(f"{up.label} is still {state.state.lower()}", job)
        if settle and state is not None:
            survey.settle(self.store, record.read(filed.folder), states, only=job)
        return f"missing: {state.cause or 'its job has ended'}" if state else "missing"
