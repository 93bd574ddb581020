"""One cell's settings, typed and frozen: what a composed Hydra config becomes, once, before anything is planned.

`experiment_from` is the only way in: plain containers in (nothing of Hydra or OmegaConf), Structs out. Structs rather
than dataclasses because msgspec checks types and unknown keys while it converts, with the path of the offending value,
at a few microseconds a cell.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from xling.config.common import Language, Lid, Seed, Training
from xling.config.optimizers import Optimizer
from xling.config.policies import Policy
from xling.config.rewards import RewardModel
from xling.config.tasks import Task
from xling.config.translators import Regime, Translator
from xling.errors import ConfigError
from xling.judges import JUDGES, JudgeSettings

if TYPE_CHECKING:
    Judge = JudgeSettings  # which of them is not to be asked: they differ by the hooks of their modules
else:
    Judge = JUDGES.settings()


class Experiment(Struct, frozen=True, forbid_unknown_fields=True):
    """One cell's settings: all that can change its numbers. `source_langs` has several for a pooled RM."""

    task: Task
    source_langs: tuple[Language, ...]
    target_lang: Language
    policy: Policy
    sft: Training
    rm_backbone: RewardModel
    optimizer: Optimizer
    judge: Judge
    seed: Seed = 0
    reward_task: Task | None = None  # whose feedback trains the reward model; None: the task's own
    translator: Translator | None = None
    reward_data: Literal["organic", "translated"] = "organic"  # translated: the source's feedback, in the target
    sft_data: Regime = "organic"  # translated: the source's demonstrations, in the target; round_trip: there and back
    lid: Lid = Lid()

    @property
    def feedback_task(self) -> Task:
        """The task that the reward model learns from; source languages are its languages."""
        return self.reward_task or self.task

    @property
    def judging(self) -> RewardModel:
        """The kind of reward model, trained on the target's own feedback, that judge=target_rm decides by.

        A row whose own labels are permuted is a control, and judged by its kind with the true ones.
        """
        own = self.rm_backbone
        plain: RewardModel = msgspec.structs.replace(own, permutation=0) if hasattr(own, "permutation") else own
        return self.judge.rm_backbone or plain


def experiment_from(container: Mapping[str, Any]) -> Experiment:
    """Convert a resolved, plain container; `ConfigError` names the path and the value that does not fit."""
    try:
        return msgspec.convert(container, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The configuration does not fit: {error}") from error
