"""How translation models call languages, and how a segment tells them what to do, by family of models. No torch.

NLLB: ISO 639-3 and script (deu_Latn); MADLAD: the code (de); M2M100: the code (de); Marian's models with several
targets: ISO 639-3 or the code. Where a model goes its own way, translator.codes says how ("no:nob_Latn").
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal

from xling.errors import ConfigError, DataError, did_you_mean
from xling.translators import Spoken

Family = Literal["auto", "nllb", "madlad", "m2m100", "marian"]

OTHER_NAMES = {"he": "iw", "id": "in", "jv": "jw", "no": "nb", "nb": "no", "fil": "tl"}  # of the same language
TOKENS = {"nllb": "{}", "madlad": "<2{}>", "m2m100": "__{}__", "marian": ">>{}<<"}  # what stands for a language


def candidates(family: str, language: Spoken) -> list[str]:
    """Codes that a family of models may have for a language, likeliest first."""
    base = language.code.partition("-")[0]
    if family == "nllb":
        return [f"{_three_letters(base)}_{language.script}"]
    plain = [language.code, language.code.replace("-", "_"), base, OTHER_NAMES.get(base, base)]
    if family == "marian":
        return [_three_letters(base), f"{_three_letters(base)}_{language.script}", *plain]
    return plain


def _three_letters(code: str) -> str:
    """ISO 639-3; the code itself where it has none."""
    import langcodes

    try:
        return str(langcodes.Language.get(code).to_alpha3())
    except LookupError:
        return code


def own_code(codes: Sequence[str], code: str) -> str | None:
    """The language's entry in translator.codes; ConfigError for an entry that is not `ours:theirs`."""
    found = None
    for entry in codes:
        ours, colon, theirs = entry.partition(":")
        if not (ours and colon and theirs):
            raise ConfigError(
                f"translator.codes has the entry {entry!r}; each one is our code of a language, a colon, and the "
                "model's, as in translator.codes=['no:nob_Latn']."
            )
        if ours == code:
            found = theirs
    return found


def token_of(
    family: str, language: Spoken, codes: Sequence[str], has: Callable[[str], bool], known: Collection[str]
) -> str:
    """The token that names a language to a model; ConfigError if it has none. `known`: all that errors suggest."""
    given = own_code(codes, language.code)
    names = [given] if given is not None else candidates(family, language)
    for name in names:
        if has(TOKENS[family].format(name)):
            return TOKENS[family].format(name)
    shown = " or ".join(TOKENS[family].format(name) for name in names)
    near = did_you_mean(TOKENS[family].format(names[0]), known)
    raise ConfigError(
        f"The translator has no language {language.code}: its tokenizer has no {shown}.{near} Name the model's own "
        f"code of it, as in translator.codes=['{language.code}:CODE'], or use another translator."
    )


# --- families -----------------------------------------------------------------------------------------------


# model_type of a config -> family; NLLB's is M2M100's, told apart by its languages
FAMILIES = {"m2m_100": "m2m100", "t5": "madlad", "mt5": "madlad", "umt5": "madlad", "marian": "marian"}

Ids = list[int]


def family_of(family: Family, model_type: str, tokenizer: Any) -> str:
    """Which family a model is of: what translator.family says, else by its config and its tokenizer's languages."""
    if family != "auto":
        return family
    if model_type not in FAMILIES:
        raise DataError(
            f"translator.checkpoint is a {model_type}; known are NLLB and M2M100 (m2m_100), MADLAD (t5, mt5) and "
            "Marian. Type translator.family=NAME if it works as one of these does."
        )
    found = FAMILIES[model_type]
    return "nllb" if found == "m2m100" and _has(tokenizer, "eng_Latn") else found


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
