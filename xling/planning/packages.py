"""Packages that settings need where stages run: optional ones, which the Python that plans may do without.

Where that Python runs the stages, a lack is refused before anything runs; where another does (hydra.launcher.python of
a cluster), and in dry runs, it is said.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from functools import lru_cache

from xling.config.policies import LanguageModel
from xling.errors import ConfigError, install
from xling.experiment import Experiment
from xling.optimizers import trains
from xling.planning.refusals import responses_recorded
from xling.rewards import RewardSettings

EXTRAS = {"peft": "lora", "bitsandbytes": "qlora", "vllm": "vllm"}  # of pyproject.toml
TUNED = {"lora": ("peft",), "qlora": ("peft", "bitsandbytes")}  # the last that lacks is said: its extra has both
EIGHT_BITS = "adamw_8bit"


def check(asked: Sequence[Experiment], here: bool) -> list[str]:
    """A sentence on each setting whose package is not installed. ConfigError for the first if stages run `here`."""
    lacking = dict(need for one in asked for need in _needs(one) if not _installed(need[1]))
    found = []
    for setting, module in lacking.items():
        eight = setting.endswith(EIGHT_BITS)
        command = install("eightbit" if eight else EXTRAS[module]) if module in EXTRAS else "pip install flash-attn"
        if here:
            raise ConfigError(f"{setting} needs {module}, which is not installed: {command}.")
        found.append(f"{setting} needs {module}, which is not installed here. Where the stages run: {command}.")
    return found


@lru_cache(maxsize=16)
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _needs(asked: Experiment) -> Iterator[tuple[str, str]]:
    """Settings, as they are typed, and the module that each needs."""
    policy, sft, optimizer = asked.policy, asked.sft, asked.optimizer
    if isinstance(policy, LanguageModel):
        if policy.attention == "flash_attention_2":
            yield "policy.attention=flash_attention_2", "flash_attn"
        if not responses_recorded(asked):
            if policy.engine == "vllm":
                yield "policy.engine=vllm", "vllm"
            if sft.steps or trains(optimizer):
                yield from ((f"policy.tuning={policy.tuning}", module) for module in TUNED.get(policy.tuning, ()))
            if sft.steps and sft.optimizer == EIGHT_BITS:
                yield f"sft.optimizer={EIGHT_BITS}", "bitsandbytes"
            if trains(optimizer) and optimizer.optimizer == EIGHT_BITS:
                yield f"optimizer.optimizer={EIGHT_BITS}", "bitsandbytes"
    yield from _of_network("rm_backbone", asked.rm_backbone)
    yield from _of_network("judge.rm_backbone", getattr(asked.judge, "rm_backbone", None))


def _of_network(group: str, rm: RewardSettings | None) -> Iterator[tuple[str, str]]:
    """Of a reward model that is trained as a network, if it is one."""
    tuning, training = getattr(rm, "tuning", ""), getattr(rm, "training", None)
    yield from ((f"{group}.tuning={tuning}", module) for module in TUNED.get(tuning, ()))
    if training is not None and training.steps and training.optimizer == EIGHT_BITS:
        yield f"{group}.training.optimizer={EIGHT_BITS}", "bitsandbytes"
