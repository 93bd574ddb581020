"""What an LLM judge is asked: which of two responses is better, as "1" or "2".

In words of our own after the paper's (section 5): for summaries the four axes of RLAIF's prompt (Lee et al. 2023) in
front of an expert rater; for dialog the ranking of models as in AlpacaEval (Li et al. 2023). The responses are
inserted as they are, braces and all; in dialog as JSON, so that a reader sees where each one ends.
"""

import json
from typing import Literal

PromptKind = Literal["summarization", "dialog"]

SUMMARIZATION = """\
A good summary gives what matters in a longer text in few words. Decide which of two summaries is better, on four axes:

Coherence: is it clear in itself, well put together and easy to read?
Accuracy: does it say only what the text says, with nothing made up or contradicted?
Coverage: does it hold the main points of the text?
Overall quality: how good is it, all in all?

You are an expert rater who knows {language} well. Text and summaries should be in {language}; a summary in another \
language is bad. Their order means nothing. Answer with 1 or 2 alone.

Text: {text}

Summary 1: {first}

Summary 2: {second}

Better summary (1 or 2):"""

DIALOG = """\
You keep a leaderboard of assistants, ordered by how good people find their answers. You know {language} well. Below \
is an instruction in {language}, or a conversation up to the user's last turn, and what two models answered. Rank the \
answers as most readers of {language} would: by how helpful, correct and well written they are, and whether they are \
in the right language. Their order means nothing.

{{"instruction": {text}}}

{{"model": 1, "answer": {first}}}
{{"model": 2, "answer": {second}}}

Which model's answer ranks first? Answer with 1 or 2 alone.

Best model (1 or 2):"""


def judge_prompt(kind: PromptKind, language: str, text: str, first: str, second: str) -> str:
    """The whole request. `language`: its name in English; `text`: the document, instruction or chat."""
    if kind == "summarization":
        return SUMMARIZATION.format(language=language, text=text, first=first, second=second)
    quoted = [json.dumps(one, ensure_ascii=False) for one in (text, first, second)]
    return DIALOG.format(language=language, text=quoted[0], first=quoted[1], second=quoted[2])


def shortened(text: str, most: int | None, side: str) -> str:
    """At most `most` characters of a document: its beginning, or (side left: a chat) its end."""
    if most is None or len(text) <= most:
        return text
    return text[-most:] if side == "left" else text[:most]
