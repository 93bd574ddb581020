"""How long a text a reward model reads: what is longer is cut, and counted."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from xling.models.text import pieces, prompt_ids


class Limits(NamedTuple):
    """Tokens that a model reads of a prompt and of a response, and the side on which a long prompt is cut.

    Responses lose their end.
    """

    prompt: int = 1024
    response: int = 512
    side: str = "right"  # left: its beginning


def language_model_rooms(tokenizer: Any, limits: Limits, encoder: bool) -> tuple[int, int]:
    """Tokens left for the texts themselves under limits that include bos and eos (xling/models/text.py)."""
    frame = len(prompt_ids(tokenizer, ["a"], 1 << 20, encoder)[0]) - len(pieces(tokenizer, ["a"])[0])
    return limits.prompt - frame, limits.response - 1


def count_cut(
    tokenizer: Any, prompts: Iterable[str], responses: Iterable[str], rooms: tuple[int, int]
) -> dict[str, int]:
    """How many distinct prompts, and how many responses, have more tokens than there is room for."""
    return {
        "cut_prompts": _longer(tokenizer, dict.fromkeys(prompts), rooms[0]),
        "cut_responses": _longer(tokenizer, responses, rooms[1]),
    }


def _longer(tokenizer: Any, texts: Iterable[str], room: int) -> int:
    long = [text for text in texts if len(text.encode()) + 1 > room]  # a token is a byte at the least
    return sum(len(ids) > room for ids in pieces(tokenizer, long))
