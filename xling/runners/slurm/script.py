"""One array of jobs through submitit: the script that each of them is, and sbatch with an environment that lets it be.

Submitit writes the options, runs sbatch and reads its answer; it pickles nothing: what a job has to know stands in the
submission's record before sbatch is called, so that a shell that dies afterwards leaves jobs that can run.

What the script does before Python starts: a node that lacks the folders or the program sends the job to another one,
and a line of `setup` that fails ends it. Both write down why, as an event of the job, where they can.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from xling.console import harmless
from xling.runners.execute import fixed_environment
from xling.runners.slurm.record import NO_FOLDER, Array, Filed, tasks_of
from xling.runners.slurm.settings import asks_for_gpus

NO_PROGRAM = 127  # exit code, as a shell's own
LONGEST = 250  # characters of a comment
TRIES = 3  # nodes on which a job may fail to start

# SLURM itself opens no file below the root: a node that has not mounted it would end the job without a word of ours.
OPTIONS: dict[str, Any] = {"requeue": True, "export": "ALL", "output": "/dev/null", "error": "/dev/null",
                           "kill-on-invalid-dep": "yes"}  # fmt: skip

# bash. xling_unfit CODE WHY [NODES]: this node, or others of the job's, cannot run it, so others have to; on no more
# than $xling_tries nodes. ExcNodeList holds those that have failed (and what the user excludes), so that nothing has to
# be written to a disk.
BEFORE = r"""trap '' USR2 TERM  # until Python listens
xling_job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
xling_event() {
  local text=${2//\\/\\\\}; text=${text//\"/\\\"}; text=${text//[[:cntrl:]]/ }
  printf '{"event":"%s","at":%s,"job":"%s","node":"%s","text":"%s"}\n' "$1" "$(date +%s)" "$xling_job" \
    "${3:-$SLURMD_NODENAME}" "$text" >> "$xling_tasks$SLURM_ARRAY_TASK_ID.jsonl"
} 2>/dev/null
xling_count() { if [ -n "$1" ]; then scontrol show hostnames "$1" | wc -l; else echo 0; fi; }
xling_unfit() {
  local nodes=${3:-$SLURMD_NODENAME} node
  echo "xling: node $nodes cannot run this job: $2" >&2
  for node in ${nodes//,/ }; do xling_event unfit "$2" "$node"; done
  local left; left=$(scontrol show job "$xling_job" | sed -n 's/.* ExcNodeList=\([^ ]*\).*/\1/p')
  [ -n "$left" ] || exit "$1"  # else it would go on for ever
  left=${left#(null)}
  local tried=$(( $(xling_count "$left") - $(xling_count "$xling_excluded") ))  # before; several may fail at once
  left=$left${left:+,}$nodes
  if (( tried + 1 < xling_tries )) &&
    ! sbatch --test-only --exclude="$left" "$0" 2>&1 | grep -q 'configuration is not available'; then
    local said; said=$(printf 'requeuehold %s\nupdate JobId=%s ExcNodeList=%s\n' "$xling_job" "$xling_job" "$left" |
      scontrol 2>&1 >/dev/null)
    if [ -z "$said" ]; then scontrol release "$xling_job"; exit 75; fi
    echo "xling: it could not be queued again: $said" >&2
  fi
  exit "$1"
}
exec >>"$xling_logs/${xling_job}_0_log.out" 2>>"$xling_logs/${xling_job}_0_log.err" ||
  xling_unfit "$xling_no_folder" "'$xling_logs' cannot be written"
cd -- "$xling_folder" || xling_unfit "$xling_no_folder" "there is no '$xling_folder'"
"""

# A line of the user's, or of a file that one names with `source` as a whole: what fails inside of functions and such
# files is theirs. `exit` and a syntax error end it as well.
AROUND = (
    r"""trap 'xling_code=$?; if (( ${#BASH_SOURCE[@]} < 2 )); then xling_line=$BASH_COMMAND; exit $xling_code; fi' ERR
trap 'xling_code=$?; trap - ERR EXIT; xling_code=${xling_code/#0/1}
xling_event unready "its setup line \`${xling_line:-$BASH_COMMAND}\` ended with exit code $xling_code"
echo "xling: node $SLURMD_NODENAME: the setup line \`${xling_line:-$BASH_COMMAND}\` failed ($xling_code)" >&2
exit $xling_code' EXIT
""",
    "trap - ERR EXIT\n",
)

AFTER = r"""export PYTHONPATH=$xling_path${PYTHONPATH:+:$PYTHONPATH}
xling_fit() {
  local said
  if [ ! -w "$1" ]; then said="'$1' cannot be written"
  elif [ ! -d "$2" ]; then said="there is no '$2'"
  elif said=$("${@:3}" -P -c 'import xling' 2>&1); then said=fit
  else said=${said##*$'\n'}; said="'${*:3}' does not start: ${said#*: line [0-9]*: }"
  fi
  echo "$SLURMD_NODENAME $said"
}
xling_said=$(xling_fit "$xling_logs" "$xling_folder" "${xling_python[@]}")
[ "${xling_said#* }" = fit ] || xling_unfit "$xling_no_program" "${xling_said#* }"
"""

# On several nodes: the same on all of them, at once. Where not even this node answers the step itself has failed, which
# says nothing of nodes.
OTHERS = r"""xling_step=(--ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=1 --chdir=/)
xling_said=$(srun "${xling_step[@]}" --kill-on-bad-exit=0 bash -c "$(declare -f xling_fit); xling_fit \"\$@\"" \
  bash "$xling_logs" "$xling_folder" "${xling_python[@]}" 2>&1 </dev/null)
xling_fits=, xling_why= xling_lacking=
while read -r xling_node xling_word; do
  case $xling_node:$xling_word in
    *:fit) xling_fits+=$xling_node, ;;
    srun::*) xling_why=${xling_why:-$xling_word} ;;
    *) xling_why=$xling_word
  esac
done <<< "$xling_said"
for xling_node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  [[ $xling_fits == *,$xling_node,* ]] || xling_lacking+=${xling_lacking:+,}$xling_node
done
if [ -n "$xling_lacking" ] && [[ $xling_fits == *,$SLURMD_NODENAME,* ]]; then
  xling_unfit "$xling_no_program" "$xling_why" "$xling_lacking"
fi
"""


class Refused(Exception):
    """A refusal by sbatch, in its words, in one line."""


def submit_array(filed: Filed, array: Array, after: str, hold: bool) -> str:
    """Submit an array that waits for `after` (`afterany:...`), held or not, and return its id."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor, line = _executor(filed, array, after, hold), _command(filed, array)
    try:
        stated = re.findall(r"^#SBATCH --([\w-]+)", script(filed, array, after, hold), re.MULTILINE)
        stated += ["gpus"] if _goes_without(filed, array) else []
        with _environment_for(stated, filed.head.path, said=array.number == 0):
            return str(executor._submit_command(line).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise Refused(lines[-1].removeprefix("sbatch: error: ") if lines else type(error).__name__) from error


def script(filed: Filed, array: Array, after: str = "", hold: bool = False) -> str:
    """The job script that an array is submitted as."""
    return str(_executor(filed, array, after, hold)._make_submission_file_text(_command(filed, array), ""))


def _executor(filed: Filed, array: Array, after: str, hold: bool) -> Any:
    """Submitit's script, submission and reading of the answer, for a command of ours in place of a pickle."""
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # whether there is an srun here is no matter

    executor = Executor(filed.folder / "logs", max_num_timeout=array.resources.max_num_timeout)
    executor.update_parameters(**_parameters(filed, array, after, hold))
    executor.parameters["map_count"] = len(array.tasks)
    return executor


def _command(filed: Filed, array: Array) -> str:
    command = ["-P", "-u", "-m", "xling.runners.slurm.task", str(filed.folder), str(array.number)]
    # No shell in between, which would keep signals to itself.
    return f"exec {shlex.join([*filed.head.program, *command])}"


def _goes_without(filed: Filed, array: Array) -> bool:
    """Whether other jobs of the submission ask for GPUs and this one does not."""
    return asks_for_gpus(filed.head.settings.common) and not asks_for_gpus(array.resources)


def _parameters(filed: Filed, array: Array, after: str, hold: bool) -> dict[str, Any]:
    """Resources in the words of submitit's SLURM executor."""
    wanted = msgspec.structs.asdict(array.resources)
    wanted["time"] = wanted.pop("timeout_min")
    wanted["ntasks_per_node"] = wanted.pop("tasks_per_node")
    memory = wanted.pop("mem_gb")
    wanted["comment"] = wanted["comment"] or _comment(filed, array)
    wanted["mem"] = None if memory is None else f"{round(memory * 1024)}MB"
    del wanted["max_num_timeout"], wanted["gpu_mem_gb"]
    wanted["setup"] = _lines(filed, array, wanted["setup"])
    # No step of its own: it costs a fifth of a job's start, and the steps of several processes must not lie in one.
    wanted["use_srun"] = False
    ours = {**OPTIONS, "signal": f"B:USR2@{array.resources.signal_delay_s}"}
    ours |= {"dependency": after} if after else {}
    ours |= {"hold": True} if hold else {}
    wanted["additional_parameters"] = {**ours, **wanted["additional_parameters"]}
    return {**wanted, "job_name": array.name, "wckey": None} | {"stderr_to_stdout": False}


def _comment(filed: Filed, array: Array) -> str:
    """What an array runs, for administrators: its tasks' stages in order."""
    labels = [job.sheet.label for task in array.own for job in filed.submission.jobs(task)]
    text = f"xling {filed.head.grid}: {', '.join(labels) or 'folds the matrix'}".replace("'", "")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def _lines(filed: Filed, array: Array, setup: Sequence[str]) -> list[str]:
    """Of the script, before the command."""
    submission, logs = filed.head, filed.folder / "logs"
    known = {
        "xling_folder": submission.cwd,
        "xling_logs": str(logs),
        "xling_tasks": str(tasks_of(filed.folder, array.number)),
        "xling_path": os.pathsep.join(submission.path),
        "xling_excluded": array.resources.exclude or "",
        "xling_tries": str(TRIES),
        "xling_no_folder": str(NO_FOLDER),
        "xling_no_program": str(NO_PROGRAM),
    }
    fixed = fixed_environment(submission.settings.threads)
    del fixed["PYTHONPATH"]  # not for what `setup` runs
    if _goes_without(filed, array):
        fixed["CUDA_VISIBLE_DEVICES"] = ""  # of a node whose SLURM does not keep jobs apart
    if array.resources.cpus_per_task is not None:  # since 22.05 a step does not take it over from its job
        fixed["SRUN_CPUS_PER_TASK"] = str(array.resources.cpus_per_task)
    lines = [f"{name}={shlex.quote(value)}" for name, value in known.items()]
    lines.append(f"xling_python=({shlex.join(submission.program)})")
    lines += [BEFORE, *(f"export {name}={shlex.quote(value)}" for name, value in fixed.items())]
    after = [AFTER, OTHERS] if array.resources.nodes > 1 else [AFTER]
    return [*lines, AROUND[0], *setup, AROUND[1], *after] if setup else [*lines, *after]


# --- the environment that sbatch reads: what is typed wins over it ---------------------------------------------

KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
ALIKE = {"TIMELIMIT": "time", "ARRAY_INX": "array", "MEM_PER_NODE": "mem", "NO_REQUEUE": "requeue"}
GROUPS = (("mem", "mem-per-cpu", "mem-per-gpu"), ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "gres"))
NEVER = ("WAIT", "CLUSTERS", "DEBUG")  # it would wait for the jobs, ask another cluster, or say more than is read


def overruled(stated: Sequence[str]) -> list[str]:
    """Names in the environment of options that a script states itself, or that would exclude one that it states."""
    found = []
    for name in sorted(name for name in os.environ if name.startswith("SBATCH_")):
        word = name.removeprefix("SBATCH_")
        option = ALIKE.get(word, word.lower().replace("_", "-"))
        alike = next((group for group in GROUPS if option in group), (option,))
        if word in NEVER or any(one in stated for one in alike):
            found.append(name)
    return found


@contextmanager
def _environment_for(stated: Sequence[str], path: Sequence[str], said: bool) -> Iterator[None]:
    """Without SBATCH_* that would beat the script, and without what describes the job that this may run in.

    path: what the script of that job has put before PYTHONPATH, as the next one's will; said: whether somebody is to be
    told which variables are overruled.
    """
    names = overruled(stated)
    if names and said:
        words = ", ".join(f"{name}={os.environ[name]}" for name in names)
        print(harmless(f"xling: the launcher's settings are used, not the environment's {words}."), file=sys.stderr)
    names += [name for name in os.environ if name.startswith(("SLURM_", "SRUN_")) and name not in KEPT]
    ours, found = os.pathsep.join(path), os.environ.get("PYTHONPATH", "")
    inside = "SLURM_JOB_ID" in names and f"{found}{os.pathsep}".startswith(f"{ours}{os.pathsep}")
    names += ["PYTHONPATH"] if inside else []
    hidden = {name: os.environ.pop(name) for name in names}
    if inside and (before := found[len(ours) + 1 :]):
        os.environ["PYTHONPATH"] = before
    try:
        yield
    finally:
        os.environ.update(hidden)
