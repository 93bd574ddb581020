"""Translators: texts of one language in, the same in another out. `TRANSLATORS` is their table, one module an option.

What planning and the translate stage want of a module is the Protocol `Translator` of xling/planning/translations.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from xling.config.common import Language
from xling.options import Options

Direction = tuple[Language, Language]  # from, to

# each text in the other language; None or an empty text where the translator makes nothing of it
Translate = Callable[[Sequence[str]], list[str | None]]


class TranslatorSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", kw_only=True):
    """Settings that all translators share. `reward_init`: whose SFT policy a silver reward model starts from."""

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


# --- texts in segments that are translated one by one -------------------------------------------------------

# Sentences are told by sentencex (Wikimedia's, some 300 languages): NLLB and its like were trained on single sentences.
# Line breaks, white space around lines and names of a chat's speakers stay as they are; so does what has no letters.

SPACELESS = ("Hans", "Hant", "Jpan")  # scripts without a space between sentences


class Segment(NamedTuple):
    """`text` is translated; `before` and `after` are not."""

    before: str
    text: str
    after: str = ""


def segments_of(text: str, lang: str, how: str, speakers: Sequence[str], between: str) -> list[Segment]:
    """A text in segments: its `lines` or its `sentences`; `between` stands between two sentences of a line."""
    from sentencex import segment

    found: list[Segment] = []
    for line in text.splitlines(keepends=True):
        speaker = next((f"{name}:" for name in speakers if line.startswith(f"{name}:")), "")
        body = line[len(speaker) :]
        lead = body[: len(body) - len(body.lstrip())]
        tail = body[len(body.rstrip()) :] if body.strip() else ""
        whole = body.strip()
        sentences = segment(lang.partition("-")[0], whole) if how == "sentences" else [whole]
        made = [Segment(between, one.strip()) for one in sentences if one.strip()] or [Segment("", "")]
        made[0] = made[0]._replace(before=speaker + lead)
        made[-1] = made[-1]._replace(after=tail)
        found += made
    return found


def joined(segments: Sequence[Segment], translations: Sequence[str]) -> str:
    """The text of the segments with their translations in their place."""
    return "".join(
        f"{segment.before}{translation}{segment.after}"
        for segment, translation in zip(segments, translations, strict=True)
    )


def readable(text: str) -> bool:
    """Whether there is something to translate."""
    return any(character.isalpha() for character in text)


def halved(text: str, fits: Callable[[str], bool]) -> list[str]:
    """A segment that is too long in parts that fit, cut between words nearest to the middle; what is one word as it is.

    Of text without spaces any place is one.
    """
    if fits(text) or len(text) < 2:
        return [text]
    middle = len(text) // 2
    places = [i for i, character in enumerate(text) if character.isspace() and 0 < i < len(text) - 1]
    cut = min(places, key=lambda i: abs(i - middle)) if places else middle
    return [*halved(text[:cut].strip(), fits), *halved(text[cut:].strip(), fits)]
