"""The step of a job whose stage has several processes (xling/runners/ranks.py): one torchrun a node."""

import shlex
import socket
from collections.abc import Sequence
from pathlib import Path

from xling.runners import ranks
from xling.runners.slurm.settings import Resources

OF_THE_JOB = ("SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE",
              "SLURM_TASKS_PER_NODE")  # the step has other numbers  # fmt: skip


def step_of(program: Sequence[str], resources: Resources, folder: Path) -> list[str]:
    """srun with one torchrun a node, over the job's allocation; program: words that start Python there."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    options = f"--nnodes={resources.nodes}", f"--master-addr={socket.gethostname()}", f"--master-port={port}"
    started = shlex.join(ranks.torchrun(program, resources.tasks_per_node, *options))
    line = f"exec {started} --node-rank=$SLURM_NODEID -m {ranks.__name__} {shlex.quote(str(folder))}"
    cpus = resources.tasks_per_node * (resources.cpus_per_task or 1)
    return ["srun", f"--nodes={resources.nodes}", f"--ntasks={resources.nodes}", "--ntasks-per-node=1",
            f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1", "--unbuffered", "bash", "-c", line]  # fmt: skip
