"""One array of jobs through submitit: resources in its words, our command, the environment stages need.

Submitit writes the script, runs sbatch and reads its answer. It pickles nothing: what a job has to know stands in the
submission's record before sbatch is called, so that a shell that dies afterwards leaves jobs that can run.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from xling.run.execute import fixed_environment
from xling.run.slurm.record import Array, Filed, Submission


class Refused(Exception):
    """What sbatch said, in one line."""


def held_array(filed: Filed, array: Array) -> str:
    """Submit an array, held, and return its id."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        """Submitit's script, submission and reading of the answer, for a command of ours in place of a pickle."""

        def submit_array_of(self, size: int, command: str) -> str:
            self.parameters["map_count"] = size
            return str(self._submit_command(command).job_id)

    folder = filed.folder
    executor = Executor(folder / "logs", max_num_timeout=array.resources.max_num_timeout)
    executor.update_parameters(**_parameters(filed.submission, array))
    command = [filed.submission.python, "-P", "-u", "-m", "xling.run.slurm.task", str(folder), str(array.number)]
    try:
        with _outside_of_jobs():
            # No shell in between, which would keep signals to itself.
            return executor.submit_array_of(len(array.tasks), f"exec {shlex.join(command)}")
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise Refused(lines[-1].removeprefix("sbatch: error: ") if lines else type(error).__name__) from error


def _parameters(submission: Submission, array: Array) -> dict[str, Any]:
    """Resources in the words of submitit's SLURM executor."""
    wanted = msgspec.structs.asdict(array.resources)
    wanted["time"] = wanted.pop("timeout_min")
    wanted["ntasks_per_node"] = wanted.pop("tasks_per_node")
    memory = wanted.pop("mem_gb")
    wanted["mem"] = None if memory is None else f"{round(memory * 1024)}MB"
    del wanted["max_num_timeout"]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in _environment(submission).items()]
    if array.resources.cpus_per_task is not None:  # since 22.05 a step does not take it over from its job
        exports.append(f"export SRUN_CPUS_PER_TASK={array.resources.cpus_per_task}")
    wanted["setup"] = [*exports, *wanted["setup"]]
    # No step of its own: it costs a fifth of a job's start, and the steps of several processes must not lie in one.
    wanted["use_srun"] = False
    more: dict[str, Any] = {"hold": True, "requeue": True, "signal": f"B:USR2@{array.resources.signal_delay_s}"}
    wanted["additional_parameters"] = {**wanted["additional_parameters"], **more}
    return {**wanted, "job_name": array.name, "wckey": None} | {"stderr_to_stdout": False}


def _environment(submission: Submission) -> dict[str, str]:
    fixed = fixed_environment(submission.settings.threads)
    return {**fixed, "PYTHONPATH": os.pathsep.join(submission.path)}


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Submitting from inside a job: what describes that job must not describe ours."""
    hidden = {}
    if "SLURM_JOB_ID" in os.environ:
        for name in list(os.environ):
            if name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS"):
                hidden[name] = os.environ.pop(name)
    try:
        yield
    finally:
        os.environ.update(hidden)
