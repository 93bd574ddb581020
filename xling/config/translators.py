"""Settings of the translators: who turns one language's demonstrations and feedback into another's."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from xling.config.common import Fraction, NonNegative, Positive
from xling.config.rewards import Dtype

Family = Literal["auto", "nllb", "madlad", "m2m100", "marian"]
Regime = Literal["organic", "translated", "round_trip"]


class _Translator(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", kw_only=True):
    """What all have. `reward_init`: whose SFT policy a reward model on translated feedback starts from."""

    reward_init: Literal["target", "source"] = "target"

    @property
    def name(self) -> str:
        """The kind of translator."""
        return str(self.__struct_config__.tag)


class Seq2Seq(_Translator, frozen=True, kw_only=True, tag="seq2seq"):
    """An encoder-decoder translation model, by hub id or folder.

    `{source}` and `{target}` in `checkpoint` stand for the languages' codes: one model a pair, as Marian's are.
    """

    checkpoint: str
    revision: str | None = None  # of a hub id: commit, tag or branch
    dtype: Dtype = "float32"
    family: Family = "auto"  # how languages are named to the model; auto: by its config
    codes: tuple[str, ...] = ()  # "ours:theirs", where the model's code does not follow from the language's facts
    beams: Positive = 4  # of the beam search; 1: greedy
    max_tokens: Annotated[int, Meta(ge=8)] = 256  # of a segment (longer ones are halved) and its translation
    batch_size: Positive = 16  # segments read together; changes the floating-point bits, hence part of the key
    segments: Literal["sentences", "lines"] = "sentences"  # what is translated at once


class RecordedTranslations(_Translator, frozen=True, kw_only=True, tag="recorded"):
    """Translations made elsewhere: a file of (source_lang, target_lang, text, translation)."""

    path: str


class MicroExact(_Translator, frozen=True, kw_only=True, tag="micro_exact"):
    """The embedded world's own: what is said is read, and said again in the other language, errors included."""


class MicroNoisy(_Translator, frozen=True, kw_only=True, tag="micro_noisy"):
    """The same with words lost and words mistaken, at stated rates."""

    wrong: Fraction = 0.05  # share of words and names that become others of the language
    dropped: Fraction = 0.05  # share of those that are left out
    seed: NonNegative = 0


Translator = Seq2Seq | RecordedTranslations | MicroExact | MicroNoisy
OfMicroWorld = MicroExact | MicroNoisy
