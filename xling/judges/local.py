"""A local language model as a judge: the next token's probabilities of "1" and "2", renormalised over the two.

As in the paper (section 5): P("1") / (P("1") + P("2")), each with and without a space before it, as far as the
vocabulary has that of both digits. Decoder-only models read the request and are asked for the next token,
encoder-decoders for the decoder's first. A row's arithmetic depends on the row alone (xling/models/states.py), so that
an answer is the same whatever it was asked beside.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xling.errors import DataError, StageError
from xling.models.load import load_policy, logits_of, trunk_of
from xling.models.states import Row, each_row
from xling.models.text import Ids, pad_right, pieces, prompt_ids

CONTENT = "THE-REQUEST"  # stands for it while a chat template is filled in


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

    def __post_init__(self) -> None:
        self._digits = digit_ids(self.tokenizer)
        self._encoder = bool(self.model.config.is_encoder_decoder)

    def first(self, prompts: Sequence[str]) -> list[float]:
        """P("1") / (P("1") + P("2")) of each request, 0 to 1."""
        rows: list[Row] = [(ids, []) for ids in self.ids(prompts)]
        self._check_room(max((len(ids) for ids, _ in rows), default=0))
        return each_row(self.model, rows, self._value)

    def ids(self, prompts: Sequence[str]) -> list[Ids]:
        """What the model reads of each request."""
        if not getattr(self.tokenizer, "chat_template", None):
            return prompt_ids(self.tokenizer, prompts, sys.maxsize, self._encoder)
        before, after = self._around()
        return [[*before, *ids, *after] for ids in pieces(self.tokenizer, prompts)]

    def _around(self) -> tuple[Ids, Ids]:
        """The chat template's tokens before and after a request; what a request says can then be no turn of its own."""
        turn = [{"role": "user", "content": CONTENT}]
        text = self.tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        before, _, after = text.partition(CONTENT)
        first, last = (list(self.tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, after))
        return first, last

    def _check_room(self, longest: int) -> None:
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and longest > room:
            raise StageError(
                f"A request of {longest} tokens is longer than the {room} that judge.checkpoint can read. Shorten the "
                "documents with judge.max_characters=NUMBER."
            )

    def _value(self, rows: list[Row], width: int) -> Tensor:
        """(R,) of the rows, padded to `width`."""
        device = self.model.device
        ids = torch.from_numpy(pad_right([row for row, _ in rows], width, self.tokenizer.pad_token_id)).to(device)
        lengths = torch.tensor([len(row) for row, _ in rows], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        scores = self._logits(ids, mask, lengths).float().log_softmax(-1)
        ones, twos = (scores[:, some].logsumexp(-1) for some in self._digits)
        return (ones - twos).double().sigmoid()

    def _logits(self, ids: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """(R, vocabulary) of the token that comes next."""
        if self._encoder:
            start = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=start).logits[:, 0]
            return logits
        hidden = trunk_of(self.model)(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        return logits_of(self.model, hidden[torch.arange(len(ids), device=ids.device), lengths - 1])


def load_local_judge(folder: Path) -> LocalJudge:
    """From the folder of a `base` stage."""
    return LocalJudge(*load_policy(folder))
