"""A private SLURM cluster on this machine for tests: real daemons, several nodes, fake GPUs, no root needed.

    with Cluster(accounting=False) as cluster:
        subprocess.run(["sinfo"], env=cluster.env)

Each node has a host name and a view of the file system of its own (namespaces): a job is on another host than the
shell that submitted it. For root alone: a node can lack what the others have (`hide`, `read_only`), and there are other
users, known on this cluster only (`USERS`, `login`), whose shells are on login hosts.

Everything lies below one temporary folder: munge key, sockets, configuration, state, logs. Daemons are children
of this process and die with it; only they, and what runs in their jobs, are ever stopped, each by its pid.
By hand: `python tests/slurm/cluster.py [--accounting]` starts one and waits for Enter.

Partitions: `cpu` (default, all nodes), `gpu` (nodes with GPUs), `preemptible` (the same nodes, below gpu in rank:
its jobs are requeued, with a signal first, when a job of gpu wants the node).
"""

import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "setpriv", "unshare", "nsenter")
DATABASE = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")  # however this process ends, its daemons end too
USERS = {"ann": 61001, "bob": 61002, "eve": 61003}  # ann and bob are of the group lab
GROUP, GROUP_ID = "lab", 61000
# A host name, /etc of the cluster, and a way for other users to a Python that lies in root's home.
ENTER = """set -e
hostname "$1"
here=$PWD
cd "$2"
for file in hosts passwd group; do mount --bind "etc/$file" "/etc/$file"; done
while read -r closed; do
    top="views/$1.$$$closed" && mkdir -p "$top/new" "$top/work"
    mount -t overlay overlay -o "lowerdir=$closed,upperdir=$top/new,workdir=$top/work" "$closed"
    chmod o+x "$closed"
done < etc/closed
cd "$here"
shift 2
exec "$@"
"""
GRACE_SECONDS = 10  # between the signal to a preempted job and its end


def missing(accounting: bool = False) -> list[str]:
    """Programs, or rights, that such a cluster needs and this machine lacks."""
    needed = PROGRAMS + (DATABASE if accounting else ())
    lacking = [name for name in needed if shutil.which(name, path=PATH) is None]
    if not lacking and subprocess.run([*_namespaces(), "true"], capture_output=True, check=False).returncode:
        lacking.append("right to make namespaces (unshare --uts --mount)")
    return lacking


def _namespaces() -> list[str]:
    own = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return ["unshare", *own, "--uts", "--mount", "--"]


def _closed_folders() -> list[Path]:
    """Folders on the way to the program and its Python that let only their owner in, outermost first."""
    ways = [Path(__file__).resolve().parents[2], Path(sys.prefix), Path(sys.base_prefix).resolve()]
    above = {folder for way in ways for folder in (way, *way.parents)}
    return sorted(folder for folder in above if not folder.stat().st_mode & 0o001)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30, pause: float = 0.02) -> Any:
    """What the condition gives as soon as it gives something; TimeoutError after so many seconds of wall clock."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)
    return value


class Cluster:
    """`gpu_nodes` nodes n1.. with `gpus` fake GPUs each, then `cpu_nodes` without; `options`: lines of slurm.conf."""

    def __init__(
        self,
        accounting: bool = False,
        gpu_nodes: int = 4,
        cpu_nodes: int = 2,
        cpus: int = 8,
        memory_mb: int = 4000,
        gpus: int = 4,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.accounting, self.gpus, self.cpus, self.memory_mb = accounting, gpus, cpus, memory_mb
        self.gpu_nodes = [f"n{number + 1}" for number in range(gpu_nodes)]
        self.nodes = [f"n{number + 1}" for number in range(gpu_nodes + cpu_nodes)]
        self.folder = Path(tempfile.mkdtemp(prefix="xling-slurm-"))
        self.name = "test" + re.sub("[^a-z0-9]", "", self.folder.name.rpartition("-")[2])
        self.options, self._given = dict(options or {}), dict(options or {})
        self._limits: set[str] = set()  # of the QOS
        self._users: dict[str, None] = {"": None}  # who has typed something; "" is who runs the tests
        self._views: set[str] = set()  # nodes that see less than the others
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}  # by name; slurmd's by node
        self.start_seconds = 0.0
        self._host = socket.gethostname().partition(".")[0]
        self._port = _free_ports(len(self.nodes) + 4)
        self._names = {"slurmctld", "munged", *self.nodes} | ({"slurmdbd", "mariadbd"} if accounting else set())

    # --- use ----------------------------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """The environment in which SLURM's commands reach this cluster, and no other."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        return {**kept, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf"), "PATH": PATH}

    def home(self, user: str) -> Path:
        """A folder of a user's own, which everybody can look into."""
        path = self.folder / "home" / user
        if not path.exists():
            path.mkdir(parents=True)
            os.chown(path, USERS[user], USERS[user])
        return path

    def login(self, user: str, host: str = "login1") -> list[str]:
        """What stands before a command that a user types on a login host; as root only."""
        self._users.setdefault(user)
        ids = [f"--reuid={user}", f"--regid={user}", "--init-groups", "--inh-caps=-all"]
        return [*self._inside(host), "env", f"HOME={self.home(user)}", f"USER={user}", f"LOGNAME={user}",
                "setpriv", *ids, "--"]  # fmt: skip

    def _inside(self, host: str) -> list[str]:
        """What stands before a command that runs on a host of that name."""
        return [*_namespaces(), "sh", "-c", ENTER, "sh", host, str(self.folder)]

    def run(self, *command: str, seconds: float = 30, check: bool = True, user: str = "") -> str:
        """Standard output of a SLURM command, typed by a user."""
        typed = [*(self.login(user) if user else []), *command]
        done = subprocess.run(typed, env=self.env, capture_output=True, text=True, timeout=seconds)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def sbatch(self, script: str, *options: str, folder: Path | None = None, user: str = "") -> str:
        """Submit a line of shell; its job id. Output goes to <folder>/<job id>.out."""
        where = folder or (self.home(user) if user else self.folder / "out")
        where.mkdir(exist_ok=True)
        out = self.run("sbatch", "--parsable", f"--output={where}/%j.out", *options, f"--wrap={script}", user=user)
        return out.strip().partition(";")[0]

    def state(self, job: str) -> str:
        """What squeue says about a job; empty if it knows none."""
        return self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T", check=False).strip()

    def wait_for(self, job: str, *states: str, seconds: float = 60) -> str:
        """Wait until a job is in one of these states."""
        return str(wait_until(lambda: self.state(job) in states and self.state(job),
                              f"job {job} in {states}", seconds, 0.1))  # fmt: skip

    def empty(self) -> None:
        """Cancel all jobs, mend all nodes and partitions, start what was killed: as new for the next test."""
        for name in self._order():
            if not self.lives(name):
                self.start(name)
        for user in self._users:
            self.run("scancel", "--state=PENDING", "--me", check=False, user=user)
            self.run("scancel", "--me", check=False, user=user)
        for partition in ("cpu", "gpu", "preemptible"):
            self.partition(partition, "UP")
        wait_until(lambda: not self.run("squeue", "-h", check=False), "no jobs", 60, 0.1)
        self._as_given()
        for node in sorted(self._views):  # after the controller has started, whom it would not find
            self.reopen(node)
        for node, state in self.node_states().items():
            if state not in ("idle", "mixed", "allocated"):
                self.resume(node)
        try:
            wait_until(self._all_idle, "idle nodes", 60, 0.1)
        except TimeoutError as error:
            error.add_note(f"{self.node_states()}\n{self.run('scontrol', 'show', 'nodes')}\n{self.errors()}")
            raise

    def _as_given(self) -> None:
        """Undo `configure` and `limit`."""
        if self._limits:
            self.run("sacctmgr", "-iQ", "modify", "qos", "normal", "set", *(f"{key}=-1" for key in self._limits))
            self._limits.clear()
        if self.options != self._given:
            self.options = dict(self._given)
            self._write_configuration()
            self.reread()

    def limit(self, user: str = "", **limits: Any) -> None:
        """Limits of the QOS `normal`, such as MaxSubmitJobsPerUser=5, enforced until `empty`; with accounting only.

        user: who may submit besides root, since whoever has no account may not then.
        """
        self._limits.update(limits)
        self.run("sacctmgr", "-iQ", "modify", "qos", "normal", "set", *(f"{key}={now}" for key, now in limits.items()))
        self.run("sacctmgr", "-iQ", "add", "account", GROUP, check=False)
        for name in filter(None, ("root", user)):
            self.run("sacctmgr", "-iQ", "add", "user", name, f"account={GROUP}", check=False)
        self.configure(AccountingStorageEnforce="limits,qos")
        self.reread()

    # --- faults -------------------------------------------------------------------------------------------

    def hide(self, node: str, path: Path | str) -> None:
        """A node sees an empty folder in place of this one, as where a disk is not mounted. Until `reopen`."""
        self._change_view(node, "mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", str(path))

    def read_only(self, node: str, path: Path | str) -> None:
        """A node cannot write into a folder. Until `reopen`."""
        self._change_view(node, "mount", "--bind", str(path), str(path))
        self._change_view(node, "mount", "-o", "remount,bind,ro", str(path))

    def _change_view(self, node: str, *command: str) -> None:
        self.run("nsenter", f"--target={self.daemons[node].pid}", "--mount", "--", *command)
        self._views.add(node)

    def reopen(self, node: str) -> None:
        """A node sees again what the others see: its slurmd starts anew."""
        self.restart(node)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill a daemon (`slurmctld`, `slurmdbd`, `mariadbd`, `munged`, or a node's slurmd by the node's name)."""
        process = self.daemons.pop(name)
        self._views.discard(name)
        process.send_signal(how)
        process.wait(30)

    def reread(self) -> None:
        """The controller starts anew, since it reads some options at the start only. Killed, it would forget the end
        of jobs that it has not written down yet."""
        self.kill("slurmctld", signal.SIGTERM)
        self.start("slurmctld")

    def restart(self, name: str = "slurmctld", away: float = 0.0) -> None:
        """Kill a daemon and start it again after so many seconds."""
        self.kill(name)
        time.sleep(away)
        self.start(name)

    def wait_until_saved(self) -> None:
        """The controller writes down new jobs some 5 s late; killed before, it forgets them and reuses their ids."""
        begin, file = time.time(), self.folder / "state" / "job_state"
        with contextlib.suppress(TimeoutError):  # then it had nothing to write
            wait_until(lambda: file.exists() and file.stat().st_mtime >= begin, "saved", 7)

    def lives(self, name: str) -> bool:
        return name in self.daemons and self.daemons[name].poll() is None

    def down(self, node: str) -> None:
        """What an administrator does with a broken node: its jobs are requeued at once."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def resume(self, node: str) -> None:
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)

    def partition(self, name: str, state: str) -> None:
        """UP; DOWN (takes jobs, starts none); DRAIN (takes none, starts those it has); INACTIVE (neither)."""
        self.run("scontrol", "update", f"PartitionName={name}", f"State={state}")

    def configure(self, **options: Any) -> None:
        """Change lines of slurm.conf until `empty`, also while it runs (MinJobAge, MaxArraySize, PrivateData ...)."""
        self.options.update(options)
        self._write_configuration()
        if self.lives("slurmctld"):
            self.run("scontrol", "reconfigure")

    def node_states(self) -> dict[str, str]:
        """Node to state, such as idle, mixed, allocated, down; a star follows where slurmd does not answer."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-p", "cpu", "-o", "%N %T").splitlines())

    def jobs_of_node(self, node: str) -> list[int]:
        """Pids of the job processes that a node has, those of a slurmd killed before included."""
        return [pid for pid, env in _processes_with(f"SLURM_CONF={self.env['SLURM_CONF']}")
                if env.get("SLURMD_NODENAME") == node and "SLURM_JOB_ID" in env]  # fmt: skip

    # --- start and stop -----------------------------------------------------------------------------------

    def __enter__(self) -> "Cluster":
        begin = time.monotonic()
        try:
            self._prepare()
            for name in self._order():
                self.start(name)
            wait_until(self._all_idle, "all nodes idle", 40)
        except BaseException as error:
            error.add_note(self.errors())
            self.stop()
            raise
        self.start_seconds = time.monotonic() - begin
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End jobs, then daemons, then what jobs left running; remove the folder."""
        if self.lives("slurmctld"):
            for user in self._users:
                self.run("scancel", "--quiet", "--signal=KILL", "--full", "--me", check=False, user=user)
                self.run("scancel", "--quiet", "--me", check=False, user=user)
        for name in reversed(self._order()):
            if name in self.daemons:
                self.daemons[name].terminate()
        for name, process in list(self.daemons.items()):
            try:
                process.wait(2 if name in self.nodes else 20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.daemons.clear()
        self._end_jobs()
        shutil.rmtree(self.folder, ignore_errors=True)

    def errors(self) -> str:
        """What the daemons complained about, for the report of a test that failed."""
        lines = []
        for path in sorted((self.folder / "log").glob("*.log")):
            text = path.read_text(encoding="utf-8", errors="replace").splitlines()
            lines += [f"{path.name}: {line}" for line in text if "error" in line or "fatal" in line]
        return "\n".join(line for line in lines if "pmix" not in line and "PMI" not in line)[-4000:]

    def start(self, name: str) -> None:
        """Start one daemon as a child and wait until it answers."""
        commands: dict[str, Sequence[str]] = {
            "munged": self._munged(),
            "slurmctld": ["slurmctld", "-D"],
            "slurmdbd": ["slurmdbd", "-D"],
            "mariadbd": self._mariadbd() if name == "mariadbd" else [],
        }
        command = commands.get(name) or ["slurmd", "-D", "-N", name]
        host = name if name in self.nodes else self._host  # of daemons that ask for theirs
        with open(self.folder / "log" / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                [*self._inside(host), *DIE_WITH_PARENT, *command], env=self.env, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        if name in self.nodes:
            return
        wait_until(lambda: self._answers(name), f"{name} answers", 60)
        if name == "slurmdbd" and self.name not in self.run("sacctmgr", "-nP", "show", "cluster"):
            self.run("sacctmgr", "-iQ", "add", "cluster", self.name)

    def _order(self) -> list[str]:
        """Daemons in the order in which they are started."""
        order = ["munged", "mariadbd", "slurmdbd", "slurmctld", *self.nodes]
        return [name for name in order if name in self._names]

    def _answers(self, name: str) -> bool:
        if not self.lives(name):
            raise RuntimeError(f"{name} ended as soon as it was started:\n{self._tail(name)}")
        command = {
            "munged": ["munge", "-n", "-S", f"{self.folder}/munge/s"],
            "slurmctld": ["scontrol", "ping"],
            "slurmdbd": ["sacctmgr", "-nP", "show", "cluster"],
            "mariadbd": self._sql("select 1"),
        }[name]
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(command, env=self.env, capture_output=True, timeout=5).returncode == 0
        return False

    def _tail(self, name: str) -> str:
        paths = [self.folder / "log" / f"{name}.{ending}" for ending in ("out", "log")]
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in paths if path.exists())

    def _all_idle(self) -> bool:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            states = self.node_states()
            return len(states) == len(self.nodes) and set(states.values()) == {"idle"}
        return False

    def _end_jobs(self) -> None:
        """Kill what runs in jobs of this cluster: told by its SLURM_CONF, so never somebody else's."""
        for _ in range(50):
            found = [pid for pid, env in _processes_with(f"SLURM_CONF={self.env['SLURM_CONF']}")
                     if "SLURM_JOB_ID" in env or _command(pid) == "slurmstepd"]  # fmt: skip
            if not found:
                return
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    # --- configuration ------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        for name in ("etc", "run", "log", "state", "spool", "dev", "munge", "out", "views"):
            (self.folder / name).mkdir()
        # munged and slurmdbd refuse secrets that others can read or folders that others can write to
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for number in range(self.gpus):
            # File= of gres.conf must be a device: a link to one passes, a plain file does not
            (self.folder / "dev" / f"nvidia{number}").symlink_to("/dev/null")
        for node in self.nodes:
            (self.folder / "spool" / node).mkdir()
        self._write_hosts_and_users()
        self._write_configuration()
        if self.accounting:
            self._prepare_database()

    def _write_hosts_and_users(self) -> None:
        """What is bound over /etc on every host of the cluster."""
        etc, users = self.folder / "etc", USERS if os.getuid() == 0 else {}
        hosts = "".join(f"127.0.0.1 {name}\n" for name in (*self.nodes, "login1", "login2"))
        (etc / "hosts").write_text(Path("/etc/hosts").read_text() + hosts)
        homes = [f"{name}:x:{number}:{number}::{self.folder}/home/{name}:/bin/sh\n" for name, number in users.items()]
        (etc / "passwd").write_text(Path("/etc/passwd").read_text() + "".join(homes))
        groups = [f"{GROUP}:x:{GROUP_ID}:ann,bob\n", *(f"{name}:x:{number}:\n" for name, number in users.items())]
        (etc / "group").write_text(Path("/etc/group").read_text() + "".join(groups))
        (etc / "closed").write_text("".join(f"{folder}\n" for folder in _closed_folders()) if users else "")

    def _write_configuration(self) -> None:
        etc = self.folder / "etc"
        lines = {**self._base(), **(self._accounting() if self.accounting else {}), **self.options}
        text = [f"{key}={value}" for key, value in lines.items()]
        for number, node in enumerate(self.nodes):
            gpu = f"Gres=gpu:{self.gpus} Feature=fakegpu" if node in self.gpu_nodes else "Feature=nogpu"
            text.append(f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={node} Port={self._port + 4 + number} "
                        f"CPUs={self.cpus} RealMemory={self.memory_mb} State=UNKNOWN {gpu}")  # fmt: skip
        everywhere, with_gpu = ",".join(self.nodes), ",".join(self.gpu_nodes)
        usual = "MaxTime=1-00:00:00 DefaultTime=10 State=UP"
        text += [
            f"PartitionName=cpu Nodes={everywhere} Default=YES {usual} PriorityTier=10 PreemptMode=OFF",
            f"PartitionName=gpu Nodes={with_gpu} {usual} PriorityTier=10 PreemptMode=OFF",
            f"PartitionName=preemptible Nodes={with_gpu} {usual} PriorityTier=1 PreemptMode=REQUEUE "
            f"GraceTime={GRACE_SECONDS}",
        ]
        (etc / "slurm.conf").write_text("\n".join(text) + "\n")
        gres = [f"NodeName={node} Name=gpu File={self.folder}/dev/nvidia[0-{self.gpus - 1}]" for node in self.gpu_nodes]
        (etc / "gres.conf").write_text("\n".join(gres) + "\n")

    def _base(self) -> dict[str, Any]:
        """Seconds are short so that tests are: a real cluster waits longer everywhere."""
        here, user = self.folder, pwd.getpwuid(os.getuid()).pw_name
        return {
            "ClusterName": self.name,
            "SlurmctldHost": f"{self._host}(127.0.0.1)",
            "SlurmctldPort": self._port,
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={here}/munge/s,cred_expire=10",  # also how long a requeued job waits
            "CredType": "cred/munge",
            "StateSaveLocation": f"{here}/state",
            "SlurmdSpoolDir": f"{here}/spool/%n",
            "SlurmctldPidFile": f"{here}/run/slurmctld.pid",
            "SlurmdPidFile": f"{here}/run/slurmd.%n.pid",
            "SlurmctldLogFile": f"{here}/log/slurmctld.log",
            "SlurmdLogFile": f"{here}/log/%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "MpiDefault": "none",
            "DebugFlags": "NO_CONF_HASH",  # `configure` writes one file for all
            "SlurmdParameters": "config_overrides",  # more CPUs than the host has
            "GresTypes": "gpu",
            "SlurmctldTimeout": 30,
            "SlurmdTimeout": 15,
            "InactiveLimit": 0,
            "KillWait": 5,
            "MinJobAge": 300,
            "MaxJobCount": 20000,
            "MaxArraySize": 1001,
            "MessageTimeout": 10,
            "BatchStartTimeout": 30,
            "UnkillableStepTimeout": 180,  # below 60 a controller's outage drains nodes
            "ReturnToService": 1,  # with 2 a node set down is back at once
            "JobRequeue": 1,
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,sched_min_interval=100000,bf_interval=2,"
            "default_queue_depth=1000",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU_Memory",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "SlurmctldParameters": "preempt_send_user_signal",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=2",
            "JobAcctGatherParams": "OverMemoryKill",
            "AccountingStorageType": "accounting_storage/none",
            "JobCompType": "jobcomp/filetxt",
            "JobCompLoc": f"{here}/log/jobcomp.txt",
            "DefMemPerCPU": 200,  # else a job takes its node's whole memory
        }

    def _accounting(self) -> dict[str, Any]:
        return {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": self._port + 1,
            "AccountingStoragePass": f"{self.folder}/munge/s",
            "AccountingStorageTRES": "gres/gpu",
        }

    def _prepare_database(self) -> None:
        data = self.folder / "mysql" / "data"
        data.parent.mkdir(mode=0o700)
        install = ["mariadb-install-db", "--no-defaults", *self._as_root(), f"--datadir={data}", "--skip-test-db",
                   "--auth-root-authentication-method=normal"]  # fmt: skip
        self.run(*install, seconds=120)
        path, user = self.folder / "etc" / "slurmdbd.conf", pwd.getpwuid(os.getuid()).pw_name
        path.touch(mode=0o600)
        path.write_text("\n".join([
            "AuthType=auth/munge", f"AuthInfo=socket={self.folder}/munge/s", "DbdHost=localhost",
            "DbdAddr=127.0.0.1", f"DbdPort={self._port + 1}", f"SlurmUser={user}", "CommitDelay=0",
            f"PidFile={self.folder}/run/slurmdbd.pid", f"LogFile={self.folder}/log/slurmdbd.log",
            "StorageType=accounting_storage/mysql", "StorageHost=127.0.0.1", f"StoragePort={self._port + 2}",
            "StorageUser=root", "StorageLoc=slurm_acct_db", "",
        ]))  # fmt: skip

    def _munged(self) -> list[str]:
        here = self.folder
        return ["munged", "--foreground", "--force", f"--key-file={here}/munge/munge.key",
                f"--socket={here}/munge/s", f"--pid-file={here}/munge/pid", f"--log-file={here}/log/munged.log",
                f"--seed-file={here}/munge/seed", "--num-threads=4"]  # fmt: skip

    def _mariadbd(self) -> list[str]:
        here = self.folder
        return ["mariadbd", "--no-defaults", *self._as_root(), f"--datadir={here}/mysql/data",
                f"--socket={here}/mysql/s", f"--pid-file={here}/run/mariadbd.pid", "--bind-address=127.0.0.1",
                f"--port={self._port + 2}", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M",
                "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900", "--performance-schema=OFF",
                "--skip-log-bin", "--skip-name-resolve", f"--log-error={here}/log/mariadbd.log"]  # fmt: skip

    def _sql(self, statement: str) -> list[str]:
        return ["mariadb", "--no-defaults", "-u", "root", "-S", f"{self.folder}/mysql/s", "-e", statement]

    @staticmethod
    def _as_root() -> list[str]:
        return ["--user=root"] if os.getuid() == 0 else []


def _free_ports(count: int) -> int:
    """The first of so many free ports in a row, below those that the system hands out."""
    for _ in range(100):
        first = random.SystemRandom().randrange(15000, 30000)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise RuntimeError(f"no {count} free ports in a row")


def _processes_with(setting: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Pids and environments of the living processes that were started with a NAME=value."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                pairs = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if setting in pairs:
            yield int(entry), dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def main() -> None:
    with Cluster(accounting="--accounting" in sys.argv[1:]) as cluster:
        print(f"{len(cluster.nodes)} nodes in {cluster.start_seconds:.2f} s. In another shell:")
        print(f"  export SLURM_CONF={cluster.env['SLURM_CONF']}")
        with contextlib.suppress(KeyboardInterrupt, EOFError):
            input("Enter stops it. ")


if __name__ == "__main__":
    main()
