"""Fixtures of the tests on a real SLURM cluster.

They take a quarter of an hour, so that they run only if they are asked for, by `-m slurm` (make test-slurm) or by
their path, and if SLURM is on the machine; else they are skipped, and say why. XLING_SLURM=none or
XLING_SLURM=accounting keeps to one of the two variants.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing
from toy_grid import Toy

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "grid"))  # no-op stages
VARIANTS = ("none", "accounting")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def without_accounting(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    yield from _started("none", pytestconfig)


@pytest.fixture(scope="session")
def with_accounting(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    yield from _started("accounting", pytestconfig)


def _started(variant: str, config: pytest.Config) -> Iterator[Cluster]:
    if os.environ.get("XLING_SLURM", variant) != variant:
        pytest.skip(f"XLING_SLURM={os.environ['XLING_SLURM']}: not the variant {variant}")
    accounting = variant == "accounting"
    lacking = missing(accounting)
    if lacking:
        pytest.skip(f"no {', '.join(lacking)} on this machine: make test-slurm installs SLURM and runs these tests")
    if "slurm" not in config.option.markexpr and not any("slurm" in argument for argument in config.args):
        pytest.skip("on a SLURM cluster of their own: make test-slurm runs these tests")
    with Cluster(accounting=accounting) as cluster:
        yield cluster


@pytest.fixture(params=VARIANTS)
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """An empty cluster of each variant; this process's SLURM commands go to it."""
    name = {"none": "without_accounting", "accounting": "with_accounting"}[request.param]
    yield from _entered(request.getfixturevalue(name), monkeypatch)


@pytest.fixture
def plain_cluster(without_accounting: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """An empty cluster without accounting, for tests to which that makes no difference."""
    yield from _entered(without_accounting, monkeypatch)


def _entered(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name in list(os.environ):
        if name.startswith(("SLURM", "SBATCH")):
            monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.env[name])
    cluster.empty()
    yield cluster
    cluster.empty()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Names of the SLURM commands run so far: real ones, each behind a line of shell that notes it."""
    folder, log = tmp_path / "bin", tmp_path / "commands"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "scancel"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} >> {log}\nexec {shutil.which(name)} "$@"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return lambda: log.read_text().split() if log.exists() else []


@pytest.fixture
def toy(plain_cluster: Cluster, tmp_path: Path) -> Toy:
    """A grid of its own on the cluster without accounting."""
    return Toy(plain_cluster, tmp_path)
