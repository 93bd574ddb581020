"""Reading text back: which words and names of the world stand in it, in which languages, right or wrong."""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

from xling.tasks.micro import words
from xling.tasks.micro.frames import ADDITIONS, CUE, DOCUMENT, FILLERS, SUBJECT, SUMMARY, parts_of
from xling.tasks.micro.words import LANGUAGES

_TOKEN = re.compile(r"\w+|[^\w\s]")
_SLOT_SYMBOLS = frozenset(f"{{{slot}}}" for slot in words.SLOTS)


class Form(NamedTuple):
    """A name of the world. Languages are bit masks; `wrong` ones have it, but not as a right form."""

    tokens: tuple[str, ...]
    slot: str  # "{T}" ...
    value: int
    right: int
    wrong: int


class Item(NamedTuple):
    """A name, word or punctuation mark met in a text. `symbol` is a slot or the token itself."""

    symbol: str
    value: int
    langs: int  # bit mask of the languages that have it
    text: str
    right: int = -1  # bit mask of the languages where it is a right form


def bit(lang: str) -> int:
    """The language's bit in masks."""
    return 1 << LANGUAGES.index(lang)


def is_slot(symbol: str) -> bool:
    """Whether the symbol stands for a name or number."""
    return symbol in _SLOT_SYMBOLS


def is_word(symbol: str) -> bool:
    """Whether the symbol is a word, not a slot or mark."""
    return symbol[0].isalnum() or symbol[0] == "_"


def _forms_of(lang: str, slot: str) -> list[tuple[str, int, bool]]:
    """(text, value, right?) of a slot in a language; a unit's agreement is checked where it stands."""
    if slot == "N":
        return []
    indices = range(words.SIZES[slot])
    if slot == "U":
        sample = (13, 14, 21, 23)
        agreeing = [(words.unit(lang, i, n), i, True) for i in indices for n in sample]
        return agreeing + [(f, i, True) for i in indices for n in sample for f in words.wrong_units(lang, i, n)]
    forms = [(words.name(lang, slot, i), i, True) for i in indices]
    if slot == "T":
        forms += [(form, i, False) for i in indices for form in words.wrong_topics(lang, i)]
    return forms


@cache
def forms() -> dict[str, tuple[Form, ...]]:
    """First token -> the forms that begin with it, longest first."""
    masks: dict[tuple[tuple[str, ...], str, int], list[int]] = {}
    for lang in LANGUAGES:
        for slot in words.SLOTS:
            for text, value, right in _forms_of(lang, slot):
                entry = masks.setdefault((tuple(_TOKEN.findall(text)), f"{{{slot}}}", value), [0, 0])
                entry[0 if right else 1] |= bit(lang)
    table: dict[str, list[Form]] = {}
    for (tokens, slot, value), (good, bad) in masks.items():
        table.setdefault(tokens[0], []).append(Form(tokens, slot, value, good, bad & ~good))
    return {first: tuple(sorted(found, key=lambda f: -len(f.tokens))) for first, found in table.items()}


@cache
def vocabulary() -> dict[str, int]:
    """Word of the frames -> mask of its languages."""
    masks: dict[str, int] = {}
    for lang in LANGUAGES:
        frames = [frame for table in (SUBJECT, DOCUMENT, SUMMARY, FILLERS, ADDITIONS) for frame in table[lang]]
        for word in {part for frame in [*frames, CUE[lang]] for part in parts_of(frame) if part[0].isalpha()}:
            masks[word] = masks.get(word, 0) | bit(lang)
    return masks


def _name_at(tokens: list[str], at: int) -> Form | None:
    for form in forms().get(tokens[at], ()):
        if len(form.tokens) == 1 or tuple(tokens[at : at + len(form.tokens)]) == form.tokens:
            return form
    return None


def read(text: str) -> list[Item]:
    """The items of a text: names by longest match, numbers, words, marks."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    tokens: list[str] = _TOKEN.findall(text)
    known = vocabulary()
    items: list[Item] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        form = _name_at(tokens, at)
        if form is not None:
            length = len(form.tokens)
            joined = token if length == 1 else " ".join(form.tokens)
            items.append(Item(form.slot, form.value, form.right | form.wrong, joined, form.right))
            at += length
            continue
        if token.isdecimal():
            items.append(Item("{N}", int(token[:9]), 0, token))
        else:
            items.append(Item(token, 0, known.get(token, 0), token))
        at += 1
    return items
