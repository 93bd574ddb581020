"""Several users of one root on a cluster that hides each one's jobs from the others."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import GROUP_ID, USERS, Cluster
from toy_grid import Toy

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root makes users")


@pytest.fixture(params=["shared", "closed"])
def ann(request: pytest.FixtureRequest, plain_cluster: Cluster) -> Toy:
    """A grid of ann's whose fine-tuning waits for its gate."""
    plain_cluster.configure(PrivateData="jobs")
    shared, folder = request.param == "shared", plain_cluster.home("ann") / "project"
    folder.mkdir()
    os.chown(folder, USERS["ann"], GROUP_ID)
    folder.chmod(0o2775 if shared else 0o755)
    toy = Toy(plain_cluster, folder, ("de",), ("de",), user="ann", umask=0o002 if shared else 0o022)
    request.addfinalizer(lambda: shutil.rmtree(folder))
    toy.behaviour = {"sft[de]": f"until {toy.gate}"}
    return toy


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_colleague_changes_nothing_of_what_he_cannot_see(ann: Toy) -> None:
    bob = replace(ann, user="bob")
    ann.launch()
    ann.wait_running("sft[de]")
    before = contents(ann.root)
    said = bob.xling("status")
    assert "running" in said and "jobs of ann are not shown to you here" in said and "failed" not in said
    for what in ("all", "sft[de]"):
        assert "submitted by ann, who alone can cancel" in bob.xling("cancel", what, code=2)
    assert "--- sft[de], attempt 1" in bob.xling("logs", "sft[de]")
    assert "grids need them all" in bob.xling("gc", "--delete")
    said = bob.launch(code=2)
    assert "submitted by ann (grid toy)" in said or "belongs to ann and has mode 0755" in said
    assert contents(ann.root) == before
    ann.open_gate()
    ann.finish()
    assert not ann.leftovers() and not ann.doubles()
    assert "1 of 1 cells done" in bob.xling("status")


@pytest.mark.parametrize("ann", ["shared"], indirect=True)
def test_a_larger_grid_of_a_colleague_waits_for_jobs_that_he_can_see(ann: Toy) -> None:
    ann.cluster.configure(PrivateData="none")
    bob = replace(ann, user="bob", name="wider", targets=("de", "en"))
    ann.launch()
    ann.wait_running("sft[de]")
    assert "7 stages are queued or running already (toy)" in bob.launch()
    assert "sft[de] was submitted by ann" in bob.xling("cancel", "sft[de]", "wider", code=2)
    ann.open_gate()
    bob.finish()
    assert ann.matrix() == ann.expected() and not bob.leftovers() and not bob.doubles()
