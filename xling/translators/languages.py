"""How translation models call languages, from a language's own code and script. No torch.

NLLB: ISO 639-3 and script (deu_Latn); MADLAD: the code (de); M2M100: the code (de); Marian's models with several
targets: ISO 639-3 or the code. Where a model goes its own way, translator.codes says how ("no:nob_Latn").
"""

from collections.abc import Callable, Collection, Sequence

from xling.errors import ConfigError, did_you_mean
from xling.translators.translator import Spoken

OTHER_NAMES = {"he": "iw", "id": "in", "jv": "jw", "no": "nb", "nb": "no", "fil": "tl"}  # of the same language
TOKENS = {"nllb": "{}", "madlad": "<2{}>", "m2m100": "__{}__", "marian": ">>{}<<"}  # what stands for a language


def candidates(family: str, language: Spoken) -> list[str]:
    """What a family of models may call a language, likeliest first."""
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
    """What translator.codes says of a language; ConfigError for an entry that is not `ours:theirs`."""
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
