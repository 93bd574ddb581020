"""The reward model of a language model's trunk: text in, number out.

Training reads prompt and response in one go (`RewardNet`), scoring reads the prompt once for its responses
(xling/models/states.py). A stored model is a folder in Hugging Face format with the head beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xling.models.architecture import text_config
from xling.models.states import States, each_response, pool
from xling.models.text import Ids, Limits, language_model_rooms, pad_right, prompt_ids, response_ids

Batch = dict[str, Tensor]
LIMITS = Limits()  # the paper's


class HeadedNet(nn.Module):
    """A trunk and a head whose state names a weight once where a trunk uses it under several names, as mT5 does.

    The Trainer's checkpoints are safetensors, which refuse the same memory under two names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_without_aliases)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_miss_no_aliases)  # type: ignore[no-untyped-call]


def _aliases(net: nn.Module) -> set[str]:
    every = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in net.named_parameters()}


def _without_aliases(net: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    for name in _aliases(net):
        state.pop(prefix + name, None)


def _miss_no_aliases(net: nn.Module, keys: Any) -> None:
    aliases = _aliases(net)
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in aliases]


class RewardNet(HeadedNet):
    """A trunk (decoder-only or encoder-decoder) with a scalar head on the pooled states of the response."""

    def __init__(self, trunk: Any, pooling: str, limits: Limits = LIMITS) -> None:
        super().__init__()
        self.trunk, self.pooling, self.limits = trunk, pooling, limits
        self.head = scalar_head(trunk)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, decoder_input_ids: Tensor | None = None
    ) -> Tensor:
        """(B,) rewards of right-padded prompt + response (B, L); `response_mask` is True on the response.

        With `decoder_input_ids` (B, M), start token and response, the input is the prompt alone and `response_mask`
        is the decoder's.
        """
        read = {} if decoder_input_ids is None else {"decoder_input_ids": decoder_input_ids}
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **read)[0]
        return self.value(pool(hidden, response_mask, self.pooling))

    def value(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        return self.head(pooled)[:, 0]  # type: ignore[no-any-return]

    def rooms(self, tokenizer: Any) -> tuple[int, int]:
        """Tokens that a prompt and a response may have of their own."""
        return language_model_rooms(tokenizer, self.limits, self.trunk.config.is_encoder_decoder)

    def rows(self, tokenizer: Any, prompts: Sequence[str], responses: Sequence[str]) -> list[tuple[Ids, Ids]]:
        """What is read of aligned prompts and responses."""
        asked, [said] = self.ids(tokenizer, prompts, [responses])
        return list(zip(asked, said, strict=True))

    def ids(
        self, tokenizer: Any, prompts: Sequence[str], responses: Sequence[Sequence[str]]
    ) -> tuple[list[Ids], list[list[Ids]]]:
        """Token ids of the prompts and of lists of responses, as far as they are read."""
        longest, longest_response, side = self.limits
        asked = prompt_ids(tokenizer, prompts, longest, self.trunk.config.is_encoder_decoder, side)
        return asked, [response_ids(tokenizer, row, longest_response) for row in responses]

    def collate(self, rows: Sequence[tuple[Ids, Ids]], pad: int) -> Batch:
        """The arguments of `forward`, padded to the longest."""
        if self.trunk.config.is_encoder_decoder:
            return encoder_decoder_batch(rows, pad, self.trunk.config.decoder_start_token_id)
        return decoder_batch(rows, pad)


def scalar_head(trunk: Any) -> nn.Linear:
    """A linear map to one number, in float32, that starts at zero."""
    head = nn.Linear(text_config(trunk.config).hidden_size, 1, device=trunk.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def decoder_batch(rows: Sequence[tuple[Ids, Ids]], pad: int) -> Batch:
    """Prompt and response in a row (B, L), right-padded, with masks."""
    border = torch.tensor([len(prompt) for prompt, _ in rows])[:, None]
    end = torch.tensor([len(prompt) + len(response) for prompt, response in rows])[:, None]
    place = torch.arange(int(end.max()))
    ids = pad_right([prompt + response for prompt, response in rows], int(end.max()), pad)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": (place < end).long(),
        "response_mask": (place >= border) & (place < end),
    }


def encoder_decoder_batch(rows: Sequence[tuple[Ids, Ids]], pad: int, start: int) -> Batch:
    """Prompts (B, L) for the encoder, start token and responses (B, M) for the decoder, right-padded, with masks."""
    ends = torch.tensor([[len(prompt), 1 + len(response)] for prompt, response in rows])
    width, tail = ends.amax(0).tolist()
    place = torch.arange(tail)
    return {
        "input_ids": torch.from_numpy(pad_right([prompt for prompt, _ in rows], width, pad)),
        "attention_mask": (torch.arange(width) < ends[:, :1]).long(),
        "decoder_input_ids": torch.from_numpy(pad_right([[start, *response] for _, response in rows], tail, pad)),
        "response_mask": (place >= 1) & (place < ends[:, 1:]),
    }


@dataclass
class RewardModel:
    """A trained reward model with its own tokenizer."""

    net: RewardNet
    tokenizer: Any

    def rooms(self) -> tuple[int, int]:
        """Tokens that a prompt and a response may have of their own."""
        return self.net.rooms(self.tokenizer)

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Reward of each response of each prompt; higher is better, no unit."""

        def rewards(states: States) -> Tensor:
            return self.net.value(pool(states.hidden, states.mask, self.net.pooling))

        asked, said = self.net.ids(self.tokenizer, prompts, responses)
        return each_response(self.net.trunk, asked, said, self.tokenizer.pad_token_id, rewards)
