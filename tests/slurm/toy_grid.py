"""A grid of toy stages on the test cluster: the program's own command, what it leaves in the queue and on disk."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Cluster, wait_until

from xling.grid.store import Store
from xling.runners.slurm import record
from xling.runners.slurm.record import Event, Filed

ROOT = Path(__file__).parents[2]
LANGUAGES = ("de", "en", "es", "ru", "tr", "vi")  # of the embedded world
EXPECTED: dict[tuple[tuple[str, ...], ...], bytes] = {}  # matrices of local runs, by sources and targets


@dataclass
class Toy:
    """One grid in one root. `behaviour`: label or kind to action, see tests/toy_stages/behaviour.py."""

    cluster: Cluster
    folder: Path
    sources: Iterable[str] = ("de", "en")
    targets: Iterable[str] = ("de", "en")
    behaviour: dict[str, str] = field(default_factory=dict)
    name: str = "toy"
    user: str = ""  # who types the commands, on login1: one of cluster.USERS; else root, on this host
    umask: int = -1
    code: Path = ROOT  # the checkout
    settings: tuple[str, ...] = ("pack_minutes=0", "mem_gb=0.2", "timeout_min=10", "late_seconds=5", "partition=cpu",
                                 "stages.reduce.mem_gb=0.6")  # fmt: skip  # it takes 0.2 for a handful of cells

    @property
    def gate(self) -> Path:
        """A file for the action `until`: made by `open_gate`."""
        return self.folder / "gate"

    def open_gate(self) -> None:
        self.gate.touch()

    @property
    def root(self) -> Path:
        return self.folder / "out"

    @property
    def store(self) -> Store:
        return Store(self.root)

    def command(self, *overrides: str, launcher: str = "slurm") -> list[str]:
        settings = self.settings if launcher == "slurm" else ("workers=1",)
        return [
            *self.typed, sys.executable, str(self.code / "launch.py"), f"hydra/launcher={launcher}",
            "tracking.mode=off", "hydra.launcher.catalogue=toy_stages",
            *(f"hydra.launcher.{setting}" for setting in settings),
            f"source_lang={','.join(self.sources)}", f"target_lang={','.join(self.targets)}",
            f"root={self.root if launcher == 'slurm' else self.folder / 'local'}", f"name={self.name}", *overrides,
        ]  # fmt: skip

    @property
    def typed(self) -> list[str]:
        """What stands before each command of the user."""
        return self.cluster.login(self.user) if self.user else []

    def xling(self, *arguments: str, code: int = 0) -> str:
        """What a command of `xling` says."""
        command = [*self.typed, sys.executable, "-m", "xling", *arguments, "--root", str(self.root)]
        done = subprocess.run(command, env=self.env, text=True, cwd=self.folder, capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=180, check=False, umask=self.umask)  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        return done.stderr + done.stdout

    @property
    def env(self) -> dict[str, str]:
        wanted = self.folder / "behaviour.json"
        wanted.write_text(json.dumps(self.behaviour), encoding="utf-8")
        path = os.pathsep.join([str(self.code), str(self.code / "tests")])
        return {**self.cluster.env, "PYTHONPATH": path, "TOY_BEHAVIOUR": str(wanted), "COLUMNS": "200"}

    def start(self, *overrides: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(*overrides), env=self.env, text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder, **more)  # fmt: skip

    def launch(self, *overrides: str, code: int = 0, launcher: str = "slurm") -> str:
        """Type the command; what it says."""
        done = subprocess.run(self.command(*overrides, launcher=launcher), env=self.env, text=True, cwd=self.folder,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=180, umask=self.umask)  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        return done.stderr + done.stdout

    # --- what there is ------------------------------------------------------------------------------------

    def filed(self) -> list[Filed]:
        return record.submissions(self.store, self.name)

    def queue(self) -> dict[str, str]:
        """Task ("12_3") to state and reason, of all that lives."""
        try:
            rows = self.cluster.run("squeue", "-h", "-r", "-o", "%i %T %r").splitlines()
        except RuntimeError as error:
            return {"?": str(error)}
        return {job: state for job, _, state in (row.partition(" ") for row in rows)}

    def stages(self) -> dict[str, tuple[str, str]]:
        """Label to kind and key, of the latest submission."""
        return {job.sheet.label: (job.sheet.kind, job.key) for job in self.filed()[-1].submission.stages}

    def job_of(self, label: str) -> str:
        """The job of a stage in the latest submission."""
        filed = self.filed()[-1]
        job = filed.job(filed.places[self.stages()[label][1]])
        assert job is not None
        return job

    def events(self, label: str) -> list[Event]:
        """What the job of a stage in the latest submission has written about itself."""
        filed = self.filed()[-1]
        return filed.events(filed.places[self.stages()[label][1]])

    def wait(self, seconds: float = 300) -> None:
        """Until the queue is empty."""
        try:
            wait_until(lambda: not self.queue(), "an empty queue", seconds, 0.2)
        except TimeoutError as error:
            error.add_note(f"{self.queue()}\n{self.cluster.node_states()}\n{self.cluster.errors()}")
            raise

    def wait_running(self, label: str, seconds: float = 120) -> str:
        """Until a stage's job has said that it started; its id."""
        wait_until(lambda: self.events(label) and self.is_at(label), f"{label} runs", seconds, 0.1)
        return self.job_of(label)

    def is_at(self, label: str) -> bool:
        """Whether a stage is claimed."""
        return os.path.exists(self.store.beside(*self.stages()[label], ".claim"))

    def matrix(self) -> bytes:
        return (self.root / "grids" / self.name / "matrix.csv").read_bytes()

    def expected(self) -> bytes:
        """The matrix of a local run without any trouble, made once for the same languages."""
        asked = (tuple(self.sources), tuple(self.targets))
        if asked not in EXPECTED:
            kept, self.behaviour = self.behaviour, {}
            self.launch(launcher="local")
            self.behaviour = kept
            EXPECTED[asked] = (self.folder / "local" / "grids" / self.name / "matrix.csv").read_bytes()
        return EXPECTED[asked]

    def finish(self, seconds: float = 300) -> None:
        """Wait for the queue to be empty: the matrix is that of a local run, and nothing has failed."""
        self.wait(seconds)
        assert self.matrix() == self.expected() and not self.failures()

    def failures(self) -> dict[str, str]:
        """Label to the last line of a failure that stands."""
        found = {}
        for path in self.root.glob("stages/*/*.failed.json"):
            failure = self.store.failure_record(path.parent.name, path.name.partition(".")[0])
            assert failure is not None
            found[failure.label] = failure.last
        return found

    def doubles(self) -> list[dict[str, Any]]:
        files = self.root.glob("stages/*/doubles.jsonl")
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]

    def leftovers(self) -> list[str]:
        """Claims and unfinished results: nothing of them may stay."""
        return sorted(path.name for path in self.root.glob("stages/*/*.claim")) + sorted(
            path.name for path in self.root.glob("stages/*/*.tmp-*")
        )

    def turns(self) -> list[str]:
        path = self.root / "turns"
        return path.read_text().splitlines() if path.exists() else []

    def ran(self, counter: Path) -> Counter[str]:
        return Counter(counter.read_text().splitlines()) if counter.exists() else Counter()

    def log(self, label: str) -> str:
        return self.store.log(*self.stages()[label]).read_text()
