"""A shared folder that shows files late, and jobs that start before their parents are done."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from toy_grid import Toy


@pytest.fixture
def toy(plain_cluster: Cluster, tmp_path: Path) -> Toy:
    return Toy(plain_cluster, tmp_path)


def hide(toy: Toy, label: str, seconds: float) -> threading.Thread:
    """Take a result away as soon as it is there, and give it back after a while."""
    keys = {job.sheet.label: (job.sheet.kind, job.key) for job in toy.filed()[-1].submission.stages}
    folder = toy.store.folder(*keys[label])

    def run() -> None:
        wait_until(folder.exists, label, 60, 0.001)
        hidden = toy.folder / "hidden"
        folder.rename(hidden)
        time.sleep(seconds)
        hidden.rename(folder)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_marker_that_is_seen_late_is_waited_for(toy: Toy) -> None:
    toy.settings = ("pack_minutes=0", "mem_gb=0.2", "partition=cpu", "late_seconds=30")
    toy.behaviour = {"base": "sleep 1"}
    toy.launch()
    hiding = hide(toy, "sft[de]", 6)
    toy.wait()
    hiding.join()
    assert toy.matrix() == toy.expected() and not toy.failures()


def test_a_result_that_never_comes_blocks_what_needs_it_and_is_made_again(toy: Toy) -> None:
    toy.settings = ("pack_minutes=0", "mem_gb=0.2", "partition=cpu", "late_seconds=2")
    toy.behaviour = {"base": "sleep 1"}
    toy.launch()
    hiding = hide(toy, "sft[de]", 15)
    toy.wait()
    assert b"blocked" in toy.matrix() or b"not run" in toy.matrix()
    hiding.join()
    toy.launch()
    toy.wait()
    assert toy.matrix() == toy.expected() and not toy.failures()


def test_a_damaged_result_is_made_again_by_the_job_that_needs_it(toy: Toy) -> None:
    toy.launch()
    toy.wait()
    [note] = [path for path in toy.root.glob("stages/reward/*/note.json") if '"de"' in path.read_text()]
    times = note.stat()
    note.write_bytes(note.read_bytes().replace(b'"de"', b'"xx"'))
    os.utime(note, ns=(times.st_atime_ns, times.st_mtime_ns))  # sizes and times are as they were
    for kind in ("score", "judge"):
        shutil.rmtree(toy.root / "stages" / kind)
    toy.launch()
    toy.wait()
    assert toy.matrix() == toy.expected() and not toy.failures() and not toy.leftovers()
    assert list(toy.root.glob("stages/reward/*.damaged-1")) and b'"xx"' not in note.read_bytes()


def test_a_job_that_starts_too_early_goes_back_behind_its_parents(toy: Toy) -> None:
    """SLURM takes an edge to a job that it has forgotten for fulfilled."""
    toy.behaviour = {"sft[de]": "sleep 6"}
    toy.launch()
    toy.cluster.run("scontrol", "update", f"JobId={toy.job_of('pool[de]')}", "Dependency=")
    toy.wait()
    assert toy.matrix() == toy.expected() and not toy.failures()
    filed = toy.filed()[-1]
    keys = {job.sheet.label: job.key for job in filed.submission.stages}
    words = [event.text for event in filed.events(filed.places[keys["pool[de]"]]) if event.event == "requeue"]
    assert words and words[0].startswith("sft[de] is still ")
