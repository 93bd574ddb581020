"""Documents in segments that a translation model reads at once, and put together again.

Sentences are told by sentencex (Wikimedia's, some 300 languages): NLLB and its like were trained on single sentences.
Line breaks, white space around lines and the names of a chat's speakers stay as they are; so does what has no letters.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

SPACELESS = ("Hans", "Hant", "Jpan")  # scripts without a space between sentences


class Segment(NamedTuple):
    """`text` is translated; `before` and `after` are not."""

    before: str
    text: str
    after: str = ""


def segments_of(text: str, lang: str, how: str, speakers: Sequence[str], between: str) -> list[Segment]:
    """A text in segments: its `lines` or its `sentences`; `between` stands between two sentences of a line."""
    found: list[Segment] = []
    for line in text.splitlines(keepends=True):
        speaker = next((f"{name}:" for name in speakers if line.startswith(f"{name}:")), "")
        body = line[len(speaker) :]
        lead = body[: len(body) - len(body.lstrip())]
        tail = body[len(body.rstrip()) :] if body.strip() else ""
        sentences = _sentences(body.strip(), lang) if how == "sentences" else [body.strip()]
        made = [Segment(between, sentence) for sentence in sentences if sentence] or [Segment("", "")]
        made[0] = made[0]._replace(before=speaker + lead)
        made[-1] = made[-1]._replace(after=tail)
        found += made
    return found


def _sentences(line: str, lang: str) -> list[str]:
    from sentencex import segment

    return [sentence.strip() for sentence in segment(lang.partition("-")[0], line)]


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
