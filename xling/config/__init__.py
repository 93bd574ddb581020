"""Typed, frozen settings: what a composed Hydra config becomes, once, before anything is planned.

Each config group is one Struct; groups with several kinds are tagged unions told apart by `name`.
`experiment_from` is the only way in: plain containers in (nothing of Hydra or OmegaConf), Structs out.
Structs rather than dataclasses because msgspec checks types and unknown keys while it converts, with the
path of the offending value, at a few microseconds a cell.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

# Passed on: everything else has its settings from here.
from xling.config.common import Language as Language
from xling.config.common import Lid as Lid
from xling.config.common import NonNegative as NonNegative
from xling.config.common import Positive as Positive
from xling.config.common import Seed as Seed
from xling.config.common import Template as Template
from xling.config.common import Training as Training
from xling.config.judges import Gold as Gold
from xling.config.judges import Human as Human
from xling.config.judges import Judge as Judge
from xling.config.judges import LlmJudge as LlmJudge
from xling.config.judges import TargetRM as TargetRM
from xling.config.judges import judge_named as judge_named
from xling.config.judges import judges_its_own as judges_its_own
from xling.config.optimizers import DPO as DPO
from xling.config.optimizers import GRPO as GRPO
from xling.config.optimizers import PPO as PPO
from xling.config.optimizers import RLOO as RLOO
from xling.config.optimizers import BestOfN as BestOfN
from xling.config.optimizers import Online as Online
from xling.config.optimizers import Optimizer as Optimizer
from xling.config.optimizers import Trained as Trained
from xling.config.optimizers import optimizer_name as optimizer_name
from xling.config.policies import LanguageModel as LanguageModel
from xling.config.policies import Lora as Lora
from xling.config.policies import Policy as Policy
from xling.config.policies import Recorded as Recorded
from xling.config.rewards import BagOfWords as BagOfWords
from xling.config.rewards import Classifier as Classifier
from xling.config.rewards import Control as Control
from xling.config.rewards import Encoder as Encoder
from xling.config.rewards import FrozenLM as FrozenLM
from xling.config.rewards import LogRatio as LogRatio
from xling.config.rewards import Published as Published
from xling.config.rewards import RewardModel as RewardModel
from xling.config.rewards import SameAsPolicy as SameAsPolicy
from xling.config.rewards import SentenceEncoder as SentenceEncoder
from xling.config.rewards import SystemIdentity as SystemIdentity
from xling.config.rewards import Tuned as Tuned
from xling.config.rewards import Untrained as Untrained
from xling.config.rewards import checkpoints_of as checkpoints_of
from xling.config.rewards import encoder_of as encoder_of
from xling.config.rewards import has_source as has_source
from xling.config.rewards import name_of as name_of
from xling.config.rewards import objective_of as objective_of
from xling.config.tasks import PUBLISHED as PUBLISHED
from xling.config.tasks import Columns as Columns
from xling.config.tasks import Files as Files
from xling.config.tasks import MicroSummarization as MicroSummarization
from xling.config.tasks import MRewardBench as MRewardBench
from xling.config.tasks import Oasst as Oasst
from xling.config.tasks import Released as Released
from xling.config.tasks import Seahorse as Seahorse
from xling.config.tasks import Task as Task
from xling.config.translators import MicroExact as MicroExact
from xling.config.translators import MicroNoisy as MicroNoisy
from xling.config.translators import OfMicroWorld as OfMicroWorld
from xling.config.translators import RecordedTranslations as RecordedTranslations
from xling.config.translators import Regime as Regime
from xling.config.translators import Seq2Seq as Seq2Seq
from xling.config.translators import Translator as Translator
from xling.errors import ConfigError

# --- the whole --------------------------------------------------------------------------------------------


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
