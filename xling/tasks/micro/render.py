"""Facts to text: documents, prompts, correct summaries."""

import random
from collections.abc import Iterable, Sequence

from xling.tasks.micro import words
from xling.tasks.micro.facts import Fact, FactSet
from xling.tasks.micro.frames import CUE, DOCUMENT, SUBJECT, SUMMARY, Chunk, chunks_of, parts_of, text_of


def slot_text(lang: str, slot: str, fact: Fact) -> str:
    """The form of one of the fact's values: slot is one of SLOTS."""
    if slot == "U":
        return words.unit(lang, fact.unit, fact.number)
    return words.name(lang, slot, fact[words.SLOTS.index(slot)])


def fill(parts: Iterable[str], lang: str, fact: Fact) -> list[str]:
    """Parts with their slots filled."""
    return [slot_text(lang, part[1], fact) if part[0] == "{" else part for part in parts]


def sentence(frame: str, lang: str, fact: Fact) -> str:
    """One frame, filled."""
    return text_of(fill(parts_of(frame), lang, fact))


def document_lines(facts: FactSet, langs: Sequence[str], rng: random.Random) -> list[str]:
    """The sentences of a document, the last of `langs` being that of the subject line.

    The subject line opens the document or closes it, beside the main fact: found by neighbourhood, the fact is in
    reach of a reader of a million parameters (one that has to find it by its topic learns that far too late). Frames of
    one document differ, so that a sentence is not known by its frame.
    """
    frames = rng.sample(range(len(DOCUMENT[langs[0]])), len(facts.facts))
    main = facts.facts[facts.main]
    *body, first = langs
    lines = [
        sentence(DOCUMENT[lang][frame], lang, fact) for lang, frame, fact in zip(body, frames, facts.facts, strict=True)
    ]
    subject = sentence(rng.choice(SUBJECT[first]), first, main)
    return [subject, *lines] if facts.main == 0 else [*lines, subject]


def document(facts: FactSet, lang: str, rng: random.Random) -> str:
    """A whole document in one language, 35 to 50 words."""
    return " ".join(document_lines(facts, [lang] * (len(facts.facts) + 1), rng))


def prompt_text(text: str, lang: str) -> str:
    """A document with the cue that asks for its summary in `lang`; the summary follows after one space."""
    return f"{text}\n{CUE[lang]}"


def chunks_text(chunks: Iterable[Chunk], fact: Fact) -> str:
    """Filled chunks as one text, each in its own language."""
    return text_of([word for chunk in chunks for word in fill(chunk.parts, chunk.lang, fact)])


def summary(fact: Fact, lang: str, frame: int) -> str:
    """The correct one-sentence statement of a fact in the `frame`-th summary frame."""
    return chunks_text(chunks_of(lang, frame), fact)


def told(facts: FactSet, lead_bias: float, rng: random.Random) -> int:
    """Which fact a summary in the wild tells: with chance `lead_bias` the first, main or not, else the main one.

    Lead bias is the best known habit of summaries and of models trained on them (Newsroom, arXiv 1804.11283).
    """
    return 0 if rng.random() < lead_bias else facts.main


def random_summary(fact: Fact, lang: str, rng: random.Random) -> str:
    """A correct summary in any frame."""
    return summary(fact, lang, rng.randrange(len(SUMMARY[lang])))
