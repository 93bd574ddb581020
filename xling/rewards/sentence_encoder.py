"""A frozen multilingual sentence encoder with a small head on (document, response) features."""

from collections.abc import Callable
from typing import Literal

from xling.config.common import NonNegative
from xling.config.policies import Policy
from xling.grid.stage import Context
from xling.models import encoder
from xling.models.ridge import Array, Linear
from xling.rewards import Choices, EncoderReader, Feedback, Heads, RewardSettings
from xling.rewards.heads import best_head, fit_features, load_head


class Settings(RewardSettings, frozen=True, tag="sentence_encoder"):
    """Features are computed once a text and serve every source."""

    encoder: str = "packaged"  # the package of the `encoder` extra, a local folder, or a hub id
    permutation: NonNegative = 0
    head: Literal["chosen", "interaction", "response", "both"] = "chosen"  # by cross-validation on the source


def check(rm: Settings, choices: Choices) -> None:
    """The encoder must be installed, or be a checkpoint of one."""
    encoder.check_encoder(rm.encoder)


def reader(rm: Settings, policy: Policy | None, side: str) -> EncoderReader:
    return EncoderReader(rm.encoder)


def fit(context: Context, rm: Settings, feedback: Feedback) -> None:
    """Writes head.npz and head.json."""
    fit_features(context, feedback, rm.permutation, lambda blocks, fitted: _best(rm, blocks, fitted))


def _best(rm: Settings, blocks: list[Array], fitted: Callable[[list[Array]], Linear]) -> tuple[Linear, str]:
    families: dict[str, tuple[int, ...]] = encoder.HEADS if rm.head == "chosen" else {rm.head: encoder.HEADS[rm.head]}
    return best_head(blocks, families, fitted)


load = load_head
heads = Heads(lambda rm, fold: _best(rm, *fold.fitting()))
budget = start = scoring = starts_value = None
