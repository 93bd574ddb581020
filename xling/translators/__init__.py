"""Translators: texts of one language in, the same in another out. `TRANSLATORS` is their table, one module an option.

What planning and the translate stage want of a module is the Protocol `Translator` of xling/planning/translations.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from xling.config.common import Language
from xling.options import Options

Direction = tuple[Language, Language]  # from, to

# each text in the other language; None or an empty text where the translator makes nothing of it
Translate = Callable[[Sequence[str]], list[str | None]]


class TranslatorSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", kw_only=True):
    """What settings of all translators have. `reward_init`: whose SFT policy a silver reward model starts from."""

    reward_init: Literal["target", "source"] = "target"

    @property
    def name(self) -> str:
        """The option's name in a spec; several YAML files of conf/translator may have the same."""
        return str(self.__struct_config__.tag)

    def checkpoints(self, directions: Sequence[Direction]) -> frozenset[str]:
        """Checkpoints that are named by a pair of languages, so that no setting has their whole name."""
        return frozenset()


TRANSLATORS: Options[Any] = Options(
    "translator",
    {
        "seq2seq": "xling.translators.seq2seq",
        "recorded": "xling.translators.recorded",
        "micro_exact": "xling.translators.micro_exact",
        "micro_noisy": "xling.translators.micro_noisy",
    },
    hooks={
        "check": "what planning refuses",
        "inputs": "what decides its translations",
        "translate": "what turns texts into texts of the other language",
        "work": "what that costs",
    },
    base=TranslatorSettings,
)


class Spoken(Struct, frozen=True):
    """A language as translators need it."""

    code: str  # BCP 47
    script: str  # ISO 15924
