"""What an LLM judge is asked: which of two responses is better, as "1" or "2".

In words of our own after the paper's (section 5): for summaries the four axes of RLAIF's prompt (Lee et al. 2023) in
front of an expert rater; for dialog the ranking of models as in AlpacaEval (Li et al. 2023). The responses are
inserted as they are, braces and all; in dialog as JSON, so that a reader sees where each one ends.
"""

import json
from typing import Literal

PromptKind = Literal["summarization", "dialog"]

SUMMARIZATION = """\
A good summary is a shorter text that gives the reader of a longer one what matters in it. You will see a text and two \
summaries of it, and you are to decide which summary is better. Judge them on four axes:

Coherence: is the summary clear in itself, well put together and easy to follow?
Accuracy: does it say nothing but what the text says, without contradicting it or making anything up?
Coverage: does it hold the text's main points, those that a reader could not do without?
Overall quality: how good a summary is it, the three other axes and anything else that counts considered?

You are an expert rater of summaries with an excellent knowledge of {language}. Text and summaries are supposed to be \
in {language}; a summary in another language is a bad one. The order in which the summaries stand means nothing. \
Answer with one digit, 1 or 2, and nothing else.

Text: {text}

Summary 1: {first}

Summary 2: {second}

Better summary (1 or 2):"""

DIALOG = """\
You keep a leaderboard of assistants that is ordered by how good people find their answers. You are knowledgeable in \
{language} and in what speakers of {language} expect of an answer. You will see an instruction (or a conversation up \
to the user's last turn) in {language} and what two models answered to it. Rank the two answers as most people who \
read {language} would: by how helpful, correct and well written they are, and whether they are in the language that \
was asked for. The order in which the answers stand means nothing.

Instruction:
{{"instruction": {text}}}

Answers:
{{"model": 1, "answer": {first}}}
{{"model": 2, "answer": {second}}}

Which model's answer comes first on the leaderboard? Answer with its number, 1 or 2, and nothing else.

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
