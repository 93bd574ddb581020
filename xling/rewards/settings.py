"""Any reward model, as configs and specs hold it: the union of the settings of all modules, told apart by `name`."""

from typing import TYPE_CHECKING

from xling.rewards import REWARDS, RewardSettings

if TYPE_CHECKING:
    RewardModel = RewardSettings
else:
    RewardModel = REWARDS.settings()
