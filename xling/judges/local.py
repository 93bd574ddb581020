"""A local language model as a judge: the next token's probabilities of "1" and "2", renormalised over the two.

As in the paper (section 5): P("1") / (P("1") + P("2")), each with and without a space before it, as far as the
vocabulary has that of both digits; and beside it how much of all probability the two have. Decoder-only models read
the request and are asked for the next token, encoder-decoders for the decoder's first. A row's arithmetic depends on
the row alone (xling/models/states.py), so that an answer is the same whatever it was asked beside.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xling.config.common import TEMPLATE_DATE
from xling.errors import DataError, StageError
from xling.judges.cache import Answer
from xling.models.architecture import logits_of, trunk_of
from xling.models.chats import Chat
from xling.models.load import load_policy
from xling.models.states import each_row
from xling.models.text import Ids, Row, pad_right, prompt_ids


def digit_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of "1" and of "2", alone or after a space, the same variants of both; DataError where there is none."""
    vocabulary = tokenizer.get_vocab()
    spaces = [space for space in ("", "\u0120", "\u2581") if f"{space}1" in vocabulary and f"{space}2" in vocabulary]
    ones, twos = ([vocabulary[f"{space}{digit}"] for space in spaces] for digit in "12")
    if not spaces:
        raise DataError(
            "The tokenizer of judge.checkpoint has no token for the digits 1 and 2 alone, which a judge answers with. "
            "Use another model."
        )
    return ones, twos


@dataclass
class LocalJudge:
    """A model and its tokenizer; requests go through the tokenizer's chat template where it has one."""

    model: Any
    tokenizer: Any
    date: str = TEMPLATE_DATE  # that the chat template is told is today

    def __post_init__(self) -> None:
        self._digits = digit_ids(self.tokenizer)
        self._encoder = bool(self.model.config.is_encoder_decoder)

    def first(self, prompts: Sequence[str]) -> list[float | None]:
        """P("1") / (P("1") + P("2")) of each request, 0 to 1."""
        return [answer.first for answer in self.answers(prompts)]

    def answers(self, prompts: Sequence[str]) -> list[Answer]:
        """And P("1") + P("2"). A request longer than the model's positions has no answer."""
        rows, room = self.ids(prompts), self._room()
        fits = [len(ids) <= room for ids in rows]
        read: list[Row] = [(ids, []) for ids, short in zip(rows, fits, strict=True) if short]
        found = iter(each_row(self.model, read, self._value))
        return [self._answer(*next(found)) if short else self._too_long(room) for short in fits]

    @staticmethod
    def _answer(first: float, mass: float) -> Answer:
        if not (math.isfinite(first) and math.isfinite(mass)):
            raise StageError("judge.checkpoint gives probabilities that are no numbers. Type judge.dtype=float32.")
        return Answer(first, mass=min(mass, 1.0))

    @staticmethod
    def _too_long(room: int) -> Answer:
        return Answer(None, why=f"longer than the {room} tokens that judge.checkpoint can read (judge.max_characters)")

    def ids(self, prompts: Sequence[str]) -> list[Ids]:
        """Token ids that the model reads, by request."""
        if not getattr(self.tokenizer, "chat_template", None):
            return prompt_ids(self.tokenizer, prompts, sys.maxsize, self._encoder)
        asked = [((("user", text),), "") for text in prompts]
        return Chat(self.tokenizer, date=self.date).rows(asked, sys.maxsize, "left")[0]

    def _room(self) -> int:
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return sys.maxsize if room is None else int(room)

    def _value(self, rows: list[Row], width: int) -> Tensor:
        """(R, 2) of the rows, padded to `width`: P("1") / (P("1") + P("2")), and P("1") + P("2")."""
        device = self.model.device
        ids = torch.from_numpy(pad_right([row for row, _ in rows], width, self.tokenizer.pad_token_id)).to(device)
        lengths = torch.tensor([len(row) for row, _ in rows], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        scores = self._logits(ids, mask, lengths).float().log_softmax(-1)
        ones, twos = (scores[:, some].logsumexp(-1) for some in self._digits)
        mass = torch.logaddexp(ones, twos).double().exp()
        return torch.stack([(ones - twos).double().sigmoid(), mass], -1)

    def _logits(self, ids: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """(R, vocabulary) of the token that comes next."""
        if self._encoder:
            start = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=start).logits[:, 0]
            return logits
        hidden = trunk_of(self.model)(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        return logits_of(self.model, hidden[torch.arange(len(ids), device=ids.device), lengths - 1])


def load_local_judge(folder: Path, date: str = TEMPLATE_DATE) -> LocalJudge:
    """From the folder of a `base` stage."""
    return LocalJudge(*load_policy(folder), date)
