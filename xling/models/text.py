"""Text to token ids and back, and what is cut of long texts: one rendering, shared by training, sampling and scoring.

A prompt is bos (where the tokenizer puts one) and its text; a response is its text, led by a space, and eos. An
encoder-decoder reads the prompt with eos in its encoder, and its decoder the response after decoder_start.
Both are tokenised apart, so that what the policy sampled and what a reward model reads meet at the same border.
A tokenizer whose chat template is used (`chat_of`) has the prompt written by that; xling/models/chats.py.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xling.errors import DataError
from xling.models.weights import OWN_TOKENS
from xling.tasks.records import Conversation, Prompt, turns_of

# --- rendering ----------------------------------------------------------------------------------------------

Ids = list[int]
Row = tuple[Ids, Ids]  # token ids of a whole text, and their types (or none)


class Limits(NamedTuple):
    """Tokens that a model reads of a prompt and of a response, and the side on which a long prompt is cut.

    Responses lose their end.
    """

    prompt: int = 1024
    response: int = 512
    side: str = "right"  # left: its beginning


LIMITS = Limits()  # the paper's


def prompt_ids(
    tokenizer: Any, texts: Sequence[str], limit: int = 1024, encoder: bool = False, side: str = "left"
) -> list[Ids]:
    """Token ids per prompt; longer ones are cut on one side: by default the left, since the cue stands at the end.

    For an `encoder`, which must see where the text ends, eos comes last.
    """
    if chat := chat_of(tokenizer):
        rows: list[Ids] = chat.rows([(turns_of(text), "") for text in texts], limit, side)[0]
        return rows
    first, last = _frame(tokenizer, encoder)
    room = limit - len(first) - len(last)
    kept = [ids[-room:] if side == "left" else ids[:room] for ids in pieces(tokenizer, texts)]
    return [first + ids + last or [tokenizer.eos_token_id] for ids in kept]


def policy_ids(
    tokenizer: Any, prompts: Sequence[Prompt], limit: int = 1024, side: str = "right", encoder: bool = False
) -> tuple[list[Ids], int]:
    """Token ids of what the policy reads of each prompt, and how many prompts were too long.

    Too long a prompt loses part of its document (`content`, where `text` has it word for word): the end (`side` right)
    or the beginning (left: the oldest turns of a chat). What stands around it, instruction and cue, is kept. Where the
    document cannot be told apart, the whole text is it.
    """
    if chat := chat_of(tokenizer):
        asked = [(turns_of(p.text), turns_of(p.content)[-1][1]) for p in prompts]
        rows, longer = chat.rows(asked, limit, side)
        return rows, longer
    ids = prompt_ids(tokenizer, [p.text for p in prompts], sys.maxsize, encoder)
    too_long = [i for i, row in enumerate(ids) if len(row) > limit]
    for i in too_long:
        ids[i] = _shortened(tokenizer, prompts[i], limit, side, encoder)
    return ids, len(too_long)


def _shortened(tokenizer: Any, prompt: Prompt, limit: int, side: str, encoder: bool) -> Ids:
    first, last = _frame(tokenizer, encoder)
    ids, inside = located(tokenizer, prompt.text, prompt.content)
    spare = len(ids) + len(first) + len(last) - limit
    if spare > len(inside):
        return first + ids[spare:] + last
    return first + without(ids, inside, spare, side) + last


def located(tokenizer: Any, text: str, document: str, start: int = 0) -> tuple[Ids, list[int]]:
    """Pieces of a text, and the places of those that are its document's; of all, if that is not in it word for word.

    It is looked for from the character `start` on.
    """
    read = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    begin = text.find(document, start) if document else -1
    end = begin + len(document)
    inside = [i for i, (a, b) in enumerate(read["offset_mapping"]) if begin <= a and b <= end]
    return list(read["input_ids"]), list(range(len(read["input_ids"]))) if begin < 0 else inside


def without(ids: Ids, inside: Sequence[int], spare: int, side: str) -> Ids:
    """The ids less `spare` (1 or more) of those `inside`, from their end (`side` right) or their beginning."""
    cut = inside[len(inside) - spare :] if side == "right" else inside[:spare]
    return ids[: cut[0]] + ids[cut[-1] + 1 :]


def joined(tokenizer: Any, prompts: Iterable[Prompt]) -> dict[str, int]:
    """How many chats begin with a turn that the tokenizer's template refuses, so that it is put into the next one."""
    chat = chat_of(tokenizer)
    count = sum(chat.joins(turns_of(prompt.text)) for prompt in prompts) if chat else 0
    return {"turns_joined": count} if count else {}


def response_ids(tokenizer: Any, texts: Sequence[str], limit: int = 512) -> list[Ids]:
    """Token ids per response with eos; longer ones are cut and keep their eos."""
    if chat := chat_of(tokenizer):
        said: list[Ids] = chat.answers(texts, limit)
        return said
    space = "" if _prepends_space(tokenizer) else " "
    encoded = pieces(tokenizer, [space + text for text in texts])
    return [[*ids[: limit - 1], tokenizer.eos_token_id] for ids in encoded]


def decode_response(tokenizer: Any, ids: Sequence[int]) -> str:
    """The inverse of `response_ids`, without eos and outer white space."""
    if chat := chat_of(tokenizer):
        return str(chat.answer(ids))
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def chat_of(tokenizer: Any) -> Any:
    """The Chat that prompts go through (xling/models/chats.py); None where they are read as they are."""
    return getattr(tokenizer, "chat", None)


def ends(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response; the first is the one that is written."""
    chat = chat_of(tokenizer)
    return chat.ends if chat else (int(tokenizer.eos_token_id),)


def text_ids(
    tokenizer: Any, prompts: Sequence[str], responses: Sequence[Sequence[str]], limits: Limits, encoder: bool
) -> tuple[list[Ids], list[list[Ids]]]:
    """Token ids of prompts, and of lists of responses, as far as they are read."""
    asked = prompt_ids(tokenizer, prompts, limits.prompt, encoder, limits.side)
    return asked, [response_ids(tokenizer, row, limits.response) for row in responses]


def _frame(tokenizer: Any, encoder: bool) -> tuple[Ids, Ids]:
    """Tokens before and after a prompt: bos and eos."""
    return [tokenizer.bos_token_id] if puts_bos(tokenizer) else [], [tokenizer.eos_token_id] if encoder else []


def puts_bos(tokenizer: Any) -> bool:
    """Whether a text begins with bos: where the tokenizer itself puts it there, for its model has seen what it puts.

    Some name a bos and never put it (GPT-2's, SmolLM2's). Our own puts none, and its model was trained with it.
    """
    first = tokenizer.bos_token_id
    if first is None:
        return False
    named = {r: (getattr(tokenizer, f"{r}_token"), getattr(tokenizer, f"{r}_token_id")) for r in OWN_TOKENS}
    return named == OWN_TOKENS or list(tokenizer("a")["input_ids"][:1]) == [first]


@dataclass(frozen=True)
class Around:
    """What is written around a prompt of one turn and around a response, for programs that read without xling.

    before, between, after: token ids before the prompt, between the two, and after the response. text_before,
    text_after, space: what is put around the prompt's text, and before the response's, before they are tokenised.
    """

    before: Ids
    text_before: str
    text_after: str
    between: Ids
    space: str
    after: Ids


def around(tokenizer: Any, encoder: bool) -> Around:
    """As `text_ids` writes it."""
    if chat := chat_of(tokenizer):
        found: Around = chat.around()
        return found
    first, last = _frame(tokenizer, encoder)
    return Around(first, "", "", last, "" if _prepends_space(tokenizer) else " ", [tokenizer.eos_token_id])


def _prepends_space(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a space before each text, as SentencePiece's do."""
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    return str(tokenizer.convert_ids_to_tokens(ids[:1])[0]).startswith("\u2581")


def pieces(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    """Pieces of each text; what looks like a special token ("<eos>") is text too."""
    if not texts:
        return []
    ids: list[Ids] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


# --- two texts read as a pair, joined by the tokenizer's own separators -------------------------------------


@dataclass(frozen=True)
class Separators:
    """Special tokens and token types that a tokenizer puts around and between two texts."""

    before: Row
    between: Row
    after: Row
    types: tuple[int, int]  # of the first and of the second text

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in (self.before, self.between, self.after))

    def joined(self, first: Ids, second: Ids) -> Row:
        """The pair as the tokenizer would join it."""
        parts = [
            self.before,
            (first, [self.types[0]] * len(first)),
            self.between,
            (second, [self.types[1]] * len(second)),
            self.after,
        ]
        return [i for ids, _ in parts for i in ids], [t for _, types in parts for t in types]


def separators(tokenizer: Any) -> Separators:
    """Those of a tokenizer; DataError for one that joins two texts without telling them apart."""
    joined = tokenizer("a", "b", return_token_type_ids=True)
    ids, types = joined["input_ids"], joined["token_type_ids"]
    which = joined.sequence_ids()
    first, second = ([i for i, own in enumerate(which) if own == text] for text in (0, 1))
    if not first or not second or second[0] == first[-1] + 1:
        raise DataError(
            f"The tokenizer {type(tokenizer).__name__} puts no separator between two texts. rm_backbone=encoder needs "
            "an encoder's (XLM-R, mDeBERTa); for a decoder-only model type rm_backbone=same_as_policy "
            "rm_backbone.init=FOLDER."
        )

    def part(start: int, end: int) -> Row:
        return ids[start:end], types[start:end]

    return Separators(
        part(0, first[0]),
        part(first[-1] + 1, second[0]),
        part(second[-1] + 1, len(ids)),
        (types[first[0]], types[second[0]]),
    )


def pair_rows(tokenizer: Any, prompts: Sequence[str], responses: Sequence[str], limits: Limits) -> list[Row]:
    """Aligned pairs, each text cut to its limit."""
    join = separators(tokenizer)
    longest, longest_response, side = limits
    return [
        join.joined(a[-longest:] if side == "left" else a[:longest], b[:longest_response])
        for a, b in zip(pieces(tokenizer, prompts), pieces(tokenizer, responses), strict=True)
    ]


def padded_length(length: int, multiple: int = 16) -> int:
    """Width a row is padded to: it depends on the row alone, never on its batch mates."""
    return -(-length // multiple) * multiple


EXACT, WIDTHS, COARSE = 64, 4, 8  # widths: multiples of 4 up to 64, then few, each a multiple of 8


def row_width(length: int) -> int:
    """Width that a row is padded to for scoring: exact where it is short, else the next of few.

    From EXACT on a width is 1/8 wider than the one before it: 6 % of padding in the mean, and a dozen widths up to 256
    tokens instead of 48, so that the rows of a batch soon come together.
    """
    width = min(padded_length(length, WIDTHS), EXACT)
    while width < length:
        width = padded_length(width + width // 8, COARSE)
    return width


def widest(room: int) -> int:
    """The largest width that fits into `room` tokens; 0: none."""
    return max((width for width in map(row_width, range(1, room + 1)) if width <= room), default=0)


def pad_right(rows: Sequence[Sequence[int]], width: int, pad: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(len(rows), width) int64."""
    out = np.full((len(rows), width), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


# --- how long a text a reward model reads: what is longer is cut, and counted -------------------------------


def language_model_rooms(tokenizer: Any, limits: Limits, encoder: bool) -> tuple[int, int]:
    """Tokens left for the texts themselves under limits that include bos and eos (xling/models/text.py)."""
    return limits.prompt - _framed(tokenizer, encoder), limits.response - 1


def _framed(tokenizer: Any, encoder: bool) -> int:
    """Tokens around a prompt of one turn."""
    return len(prompt_ids(tokenizer, ["a"], 1 << 20, encoder)[0]) - len(pieces(tokenizer, ["a"])[0])


def count_cut(
    tokenizer: Any, prompts: Iterable[str], responses: Iterable[str], rooms: tuple[int, int]
) -> dict[str, int]:
    """How many distinct prompts, and how many responses, have more tokens than there is room for."""
    asked, chat = list(dict.fromkeys(prompts)), chat_of(tokenizer)
    talks = [text for text in asked if chat and isinstance(text, Conversation)]  # a template writes around each turn
    longer = 0
    for start in range(0, len(talks), 1024):
        rows = [(turns_of(text), "") for text in talks[start : start + 1024]]
        longer += chat.rows(rows, rooms[0] + _framed(tokenizer, False), "left")[1]
    return {
        "cut_prompts": longer + _longer(tokenizer, asked if not talks else set(asked).difference(talks), rooms[0]),
        "cut_responses": _longer(tokenizer, responses, rooms[1]),
    }


def _longer(tokenizer: Any, texts: Iterable[str], room: int) -> int:
    long = [text for text in texts if len(text.encode()) + 1 > room]  # a token is a byte at the least
    return sum(len(ids) > room for ids in pieces(tokenizer, long))
