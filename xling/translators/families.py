"""Families of translation models: what a segment is framed by, and how its translation begins. No torch."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from xling.config.translators import Seq2Seq
from xling.errors import DataError
from xling.translators.languages import token_of
from xling.translators.translator import Spoken

# model_type of a config -> family; NLLB's is M2M100's, told apart by its languages
FAMILIES = {"m2m_100": "m2m100", "t5": "madlad", "mt5": "madlad", "umt5": "madlad", "marian": "marian"}

Ids = list[int]


def family_of(settings: Seq2Seq, model_type: str, tokenizer: Any) -> str:
    """Which family a model is of: what the settings say, else by its config and its tokenizer's languages."""
    if settings.family != "auto":
        return settings.family
    if model_type not in FAMILIES:
        raise DataError(
            f"translator.checkpoint is a {model_type}; known are NLLB and M2M100 (m2m_100), MADLAD (t5, mt5) and "
            "Marian. Type translator.family=NAME if it works as one of these does."
        )
    family = FAMILIES[model_type]
    return "nllb" if family == "m2m100" and _has(tokenizer, "eng_Latn") else family


def told(
    family: str, tokenizer: Any, codes: Sequence[str], source: Spoken, target: Spoken
) -> tuple[Ids, Ids, int | None]:
    """(tokens before a segment, tokens after it, the token that its translation begins with)."""
    end = [tokenizer.eos_token_id]
    if family in ("nllb", "m2m100"):
        own, other = (_id(family, tokenizer, codes, language) for language in (source, target))
        if getattr(tokenizer, "legacy_behaviour", False):
            return [], [*end, own], other
        return [own], end, other
    if family == "madlad":
        return [_id(family, tokenizer, codes, target)], end, None
    several = any(token.startswith(">>") for token in tokenizer.get_vocab())
    return [_id(family, tokenizer, codes, target)] if several else [], end, None


def _id(family: str, tokenizer: Any, codes: Sequence[str], language: Spoken) -> int:
    token = token_of(family, language, codes, partial(_has, tokenizer), tokenizer.get_vocab())
    return int(tokenizer.convert_tokens_to_ids(token))


def _has(tokenizer: Any, token: str) -> bool:
    """Whether a tokenizer has a token: for one that it has not it answers nothing, or the unknown one."""
    return tokenizer.convert_tokens_to_ids(token) not in (None, tokenizer.unk_token_id)
