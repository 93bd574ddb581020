"""Tracking with Weights & Biases: one run a stage, and one for the grid's matrix. Never a reason to fail.

    settings = {"mode": "auto", "project": "xling", "entity": None, "artifacts": "references"}
    result = track_grid(root, "embedded", settings)

Stages know nothing of it. When a grid has been folded, one child process (wandb_runs.py) writes the runs of all
finished stages that have none yet; <root>/tracking/ has its log, its ledger of what has been written, and the
offline runs (send them later with `wandb sync <root>/tracking/wandb/offline-run-*`). docs/wandb.md has the rest.
"""

import netrc
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

import xling
from xling.console import without_secrets
from xling.grid.files import no_link
from xling.grid.planfile import PlannedStage
from xling.grid.store import Store
from xling.jsonfiles import decode
from xling.results.plan import Plan, read_plan

WANDB = "https://api.wandb.ai"
PATIENCE = 120.0  # seconds to wait for the child; slow uploads go on without us
_WANDB_MODES = {"disabled": "off", "dryrun": "offline", "offline": "offline", "online": "online"}
_REACH = 3.0  # seconds for the network to answer


class Destination(Struct, frozen=True):
    """Where runs go; each destination has its own ledger."""

    mode: str  # online or offline
    project: str
    entity: str | None
    artifacts: str = "references"  # what of a stage's folder goes along: references, files or none
    host: str = ""  # online, of a server of one's own

    @property
    def ledger(self) -> str:
        where = "-".join(word for word in (self.mode, self.host, self.entity or "", self.project) if word)
        return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in where) + ".jsonl"


class TrackingResult(Struct, frozen=True):
    """What became of it: runs written now, runs that had been written before, and the trouble if any."""

    mode: str  # online, offline or off
    written: int = 0
    known: int = 0
    folder: str = ""
    problem: str = ""
    project: str = ""
    entity: str | None = None  # as it was asked for
    team: str | None = None  # online, where the runs went

    def sentence(self) -> str:
        """One line for people."""
        if self.mode == "off":
            return f"W&B: off{f' ({self.problem})' if self.problem else ''}."
        line = f"W&B ({self.mode}): {self.written} runs written, {self.known} known, in {self.folder}."
        return f"{line} {self.problem}" if self.problem else line


class Noted(Struct, frozen=True):
    """One line of a ledger: a stage's key, or a reduce run's id and the digest of the matrix it shows."""

    key: str


def track_grid(root: Path, name: str, tracking: Mapping[str, Any], patience: float | None = PATIENCE) -> TrackingResult:
    """Write the W&B runs of a grid that are missing. Raises nothing: trouble is in the result and in the log.

    patience: seconds to wait for the child, which goes on after them; None: until it has ended.
    """
    folder = Path(root) / "tracking"
    try:
        mode, why = choose_mode(str(tracking["mode"]), os.environ)
        if mode == "off":
            return TrackingResult("off")
        to = destination(mode, tracking, os.environ)
        store = Store(root)
        stages, reduce_key = missing(store, read_plan(store.grid_folder(name)), to)
        known = len(read_ledger(folder, to))
        if not stages and reduce_key is None:
            return TrackingResult(mode, 0, known, str(folder), why)
        result = _in_child(folder, Path(root), name, to, known, patience)
        return msgspec.structs.replace(result, problem=f"{why} {result.problem}".strip())
    except Exception as error:
        return TrackingResult("off", 0, 0, str(folder), without_secrets(f"{type(error).__name__}: {error}"))


# --- where to -----------------------------------------------------------------------------------------------


def destination(mode: str, tracking: Mapping[str, Any], environment: Mapping[str, str]) -> Destination:
    """Where runs go by the settings of a grid."""
    host = server(environment).partition("://")[2] if mode == "online" else ""
    artifacts = str(tracking.get("artifacts", "references"))
    own = "" if host == urlsplit(WANDB).netloc else host
    return Destination(mode, str(tracking["project"]), tracking.get("entity"), artifacts, own)


def server(environment: Mapping[str, str]) -> str:
    """Scheme, host and port of W&B's server; a name and a password in its URL are written down nowhere."""
    url = urlsplit(environment.get("WANDB_BASE_URL") or WANDB)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def choose_mode(mode: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """(online, offline or off; why not online). WANDB_MODE decides for `auto`; online needs a key and a network."""
    if mode == "auto":
        mode = _WANDB_MODES.get(environment.get("WANDB_MODE", ""), "auto")
    if mode in ("off", "offline"):
        return mode, ""
    url = urlsplit(environment.get("WANDB_BASE_URL", WANDB))
    host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    if not _has_key(host, environment):
        return "offline", f"There is no key for {host} (WANDB_API_KEY or `wandb login`)."
    if not _answers(host, port, environment):
        return "offline", f"{host} does not answer."
    return "online", ""


def _has_key(host: str, environment: Mapping[str, str]) -> bool:
    if environment.get("WANDB_API_KEY"):
        return True
    path = environment.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers(host: str, port: int, environment: Mapping[str, str]) -> bool:
    if environment.get("HTTPS_PROXY") or environment.get("https_proxy"):
        return True  # only the proxy knows
    try:
        with socket.create_connection((host, port), timeout=_REACH):
            return True
    except OSError:
        return False


# --- what is missing ----------------------------------------------------------------------------------------


def missing(store: Store, plan: Plan, to: Destination) -> tuple[list[PlannedStage], str | None]:
    """The finished stages without a run, and the ledger key of the reduce run if that is missing or outdated."""
    known = read_ledger(store.root / "tracking", to)
    new = (stage for stage in plan.stages if stage.key not in known)
    stages = [stage for stage in new if store.state(stage.kind, stage.key) == "done"]
    key = reduce_ledger_key(store, plan)
    return stages, None if key in known else key


def reduce_id(plan: Plan) -> str:
    """The id of a grid's reduce run: the same cells under the same name are the same run."""
    cells = "\n".join([plan.name, *sorted(cell.judge.key for cell in plan.cells)])
    return f"reduce-{sha256(cells.encode()).hexdigest()[:32]}"


def shown_file(root: Path, name: str) -> Path:
    """Where the keys stand that a grid's reduce run has logged; dashboards are made from them."""
    return Path(root) / "tracking" / f"{name}.shown.json"


def reduce_ledger_key(store: Store, plan: Plan) -> str:
    """The reduce run as it shows this very matrix."""
    content = (store.grid_folder(plan.name) / "matrix.json").read_bytes()
    return f"{reduce_id(plan)}-{sha256(content).hexdigest()[:16]}"


def read_ledger(folder: Path, to: Destination) -> set[str]:
    """Keys that have been written to a destination; a torn last line counts as not written."""
    return {noted.key for noted in _lines(folder / to.ledger)}


def _lines(path: Path) -> Iterator[Noted]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield decode(line, type=Noted)
        except msgspec.DecodeError:
            continue


# --- the child ----------------------------------------------------------------------------------------------


def _in_child(
    folder: Path, root: Path, name: str, to: Destination, known: int, patience: float | None
) -> TrackingResult:
    folder.mkdir(parents=True, exist_ok=True)
    answer = folder / f"{name}.json"
    answer.unlink(missing_ok=True)
    log = folder / "wandb.log"
    with open(log, "ab", opener=no_link) as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "xling.tracking.wandb_runs", str(root), name, msgspec.json.encode(to).decode()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(folder),
            start_new_session=True,  # Ctrl-C in the terminal does not tear a run
        )
    try:
        code = child.wait(patience)
    except subprocess.TimeoutExpired:
        return TrackingResult(to.mode, 0, known, str(folder), f"Still writing in the background: {log}.")
    if code or not answer.exists():
        return TrackingResult(to.mode, 0, known, str(folder), f"It ended with code {code}; see {log}.")
    return decode(answer.read_bytes(), type=TrackingResult)


def _environment(folder: Path) -> dict[str, str]:
    """Ours, with W&B's own files below the tracking folder and this very xling importable."""
    source = str(Path(xling.__file__).resolve().parent.parent)
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    return {
        **own,
        "PYTHONPATH": os.pathsep.join(paths),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
