"""Judges: which of two responses is better. `JUDGES` is the table of them, one module an option.

Beside the options' modules: wins by scores (wins.py), and what asks a language model (asking.py and below). What
planning and the judge stage want of a module is the Protocol `Judge` of xling/planning/judging.py.
"""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Protocol

from msgspec import Struct

from xling.config.common import Language
from xling.options import Options
from xling.rewards.settings import RewardModel


class JudgeSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name"):
    """What settings of all judges have. Those that differ where planning has to know it override the properties."""

    rm_backbone: RewardModel | None = None  # of a judge with `takes_reward_model`, and refused of others while planning

    takes_reward_model: ClassVar[bool] = False  # judge/rm_backbone=NAME names the reward model that it decides by

    @property
    def name(self) -> str:
        """The judge's name in conf/judge."""
        return str(self.__struct_config__.tag)

    @property
    def by_row(self) -> bool:
        """Whether each row is judged by another reward model, of its own kind: what has none is then judged by all."""
        return False

    @property
    def langs(self) -> tuple[Language, ...]:
        """Languages whose data it needs besides those of the cell."""
        return ()

    @property
    def halves(self) -> bool:
        """Whether the cell's reward models learn from the first half of the feedback's documents alone."""
        return False

    @staticmethod
    def label(option: str, settings: Mapping[str, Any], rm_backbone: str, swept: Collection[str]) -> str:
        """What tables call the judge, from its option's name with the model that it names.

        settings: as composed; rm_backbone: label of its reward model, or empty; swept: keys that are axes of the grid.
        """
        return option


JUDGES: Options[Any] = Options(
    "judge",
    {
        "gold": "xling.judges.gold",
        "target_rm": "xling.judges.target_rm",
        "human": "xling.judges.human",
        "llm": "xling.judges.llm",
    },
    hooks={
        "RESPONSES": "what it can judge: sampled responses or recorded ones",
        "KINDS": "the kinds of stages that it brings",
        "check": "what planning refuses",
        "verdicts": "the stages that it decides by",
        "fold": "what the judge stage makes of them",
        "notes": "what it has to say of a plan",
    },
    base=JudgeSettings,
)


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


def judges_its_own(stages: Mapping[str, _Keyed]) -> bool:
    """Whether a cell's judge is the very reward model whose reward was optimised: its verdict is no evidence.

    stages: those that the verdict is made from, by role, as stages, as their sheets or as a plan has them.
    """
    return "score" in stages and "verdict" in stages and stages["score"].key == stages["verdict"].key
