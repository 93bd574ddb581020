"""rm_backbone=encoder: a bidirectional encoder reads (prompt, response) as a pair, a scalar head scores it.

The pair is joined by the tokenizer's own separators, found by asking it to join two words. Prompt and response are
tokenised and cut apart, so that a long prompt never pushes the response out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xling.models.reward import Batch, HeadedNet, scalar_head
from xling.models.states import each_row, pool
from xling.models.text import Limits, Row, pad_right, pair_rows


class PairNet(HeadedNet):
    """An encoder with a scalar head on its first state or on the mean of all."""

    def __init__(self, trunk: Any, pooling: str, limits: Limits) -> None:
        super().__init__()
        self.trunk, self.pooling, self.limits = trunk, pooling, limits
        if getattr(trunk, "pooler", None) is not None:
            trunk.pooler = nn.Identity()  # not read; a checkpoint may lack it
        self.head = scalar_head(trunk)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(B, L) right-padded pairs -> (B,) rewards."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        mask = attention_mask.bool()
        if self.pooling == "first":
            return self.head(hidden[:, 0].float())[:, 0]  # type: ignore[no-any-return]
        return self.head(pool(hidden, mask, "mean"))[:, 0]  # type: ignore[no-any-return]

    def rooms(self, tokenizer: Any) -> tuple[int, int]:
        """Tokens that a prompt and a response may have of their own."""
        return self.limits.prompt, self.limits.response

    def rows(self, tokenizer: Any, prompts: Sequence[str], responses: Sequence[str]) -> list[Row]:
        """What is read of aligned prompts and responses; token types where the encoder was trained with them."""
        rows = pair_rows(tokenizer, prompts, responses, self.limits)
        typed = getattr(self.trunk.config, "type_vocab_size", 0) > 1
        return rows if typed else [(ids, []) for ids, _ in rows]

    def collate(self, rows: Sequence[Row], pad: int, width: int = 0) -> Batch:
        """The arguments of `forward`, padded to the longest or to `width`."""
        lengths = torch.tensor([len(ids) for ids, _ in rows])
        width = width or int(lengths.max())
        batch = {
            "input_ids": torch.from_numpy(pad_right([ids for ids, _ in rows], width, pad)),
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
        }
        if rows[0][1]:
            batch["token_type_ids"] = torch.from_numpy(pad_right([types for _, types in rows], width, 0))
        return batch


@dataclass
class PairModel:
    """A trained pair encoder with its tokenizer."""

    net: PairNet
    tokenizer: Any

    def rooms(self) -> tuple[int, int]:
        """Tokens that a prompt and a response may have of their own."""
        return self.net.rooms(self.tokenizer)

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Reward of each response of each prompt; higher is better, no unit."""
        pad, device = self.tokenizer.pad_token_id, self.net.trunk.device
        flat = [(prompt, text) for prompt, row in zip(prompts, responses, strict=True) for text in row]
        rows = self.net.rows(self.tokenizer, [prompt for prompt, _ in flat], [text for _, text in flat])

        def value(some: list[Row], width: int) -> Tensor:
            return self.net(**{k: v.to(device) for k, v in self.net.collate(some, pad, width).items()})  # type: ignore[no-any-return]

        found = iter(each_row(self.net.trunk, rows, value))
        return [[next(found) for _ in row] for row in responses]
