"""Settings of the SLURM launcher: overrides by stage, and a sentence for what does not fit. Needs no SLURM."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from xling.errors import ConfigError
from xling.grid.stage import Context, Kind
from xling.runners.slurm.settings import OWN, RESOURCES, Resources
from xling.runners.slurm.settings import read as settings_from


def run(_: Context) -> None: ...


KINDS = {kind: Kind(kind, 1, run, parallel=kind in ("sft", "reward")) for kind in ("base", "sft", "reward", "pool")}


def test_the_yaml_file_gives_the_defaults_and_names_everything() -> None:
    path = Path(__file__).parents[2] / "conf" / "hydra" / "launcher" / "slurm.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(values) - {"_target_", "name", "catalogue"} == {*RESOURCES, *OWN}
    settings = settings_from({name: values[name] for name in (*RESOURCES, *OWN)}, KINDS)
    assert settings == settings_from({}, KINDS)


def test_a_kind_overrides_some_values_and_keeps_the_others() -> None:
    given: dict[str, Any] = {
        "partition": "gpu",
        "timeout_min": 30,
        "additional_parameters": {"mail-type": "FAIL"},
        "stages": {"reward": {"gpus_per_node": 8, "additional_parameters": {"exclusive": True}}, "reduce": None},
    }
    settings = settings_from(given, KINDS)
    assert settings.of("sft") == Resources(partition="gpu", timeout_min=30, additional_parameters={"mail-type": "FAIL"})
    reward = settings.of("reward")
    assert (reward.partition, reward.timeout_min, reward.gpus_per_node) == ("gpu", 30, 8)
    assert reward.additional_parameters == {"mail-type": "FAIL", "exclusive": True}
    assert settings.of("reduce") == settings.common


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"partitio": "gpu"}, ["hydra.launcher.partitio", "Did you mean 'partition'?"]),
        ({"stages": {"reword": {}}}, ["there is no stage 'reword'", "Did you mean 'reward'?"]),
        ({"stages": {"reward": {"gpus": 1}}}, ["hydra.launcher.stages.reward.gpus", "gpus_per_node"]),
        ({"stages": {"reward": 8}}, ["hydra.launcher.stages.reward=8 does not fit"]),
        ({"stages": {"reward": {"nodes": 0}}}, ["hydra.launcher.stages.reward.nodes=0", ">= 1"]),
        ({"timeout_min": "long"}, ["hydra.launcher.timeout_min=long does not fit", "Type hydra.launcher.timeout_min="]),
        ({"mem_gb": 0}, ["hydra.launcher.mem_gb=0"]),
        ({"gpus_per_node": True}, ["hydra.launcher.gpus_per_node=true"]),
        ({"wait": "yes"}, ["hydra.launcher.wait=yes", "Type hydra.launcher.wait=true"]),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_from(given, KINDS)
    assert all(word in str(refused.value) for word in words), refused.value


def test_several_processes_go_to_stages_that_can_use_them() -> None:
    settings = settings_from({"tasks_per_node": 2, "nodes": 2}, KINDS)
    assert settings.of("sft").processes == settings.of("reward").processes == 4
    assert settings.of("pool").processes == settings.of("reduce").processes == 1
    with pytest.raises(ConfigError, match=r"stages.pool: 1 nodes with 3 processes .* can be given to: sft, reward"):
        settings_from({"stages": {"pool": {"tasks_per_node": 3}}}, KINDS)
