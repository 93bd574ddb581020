"""A policy reading prompts with their responses, with gradients: what the optimizers that train it are made of.

Decoder-only models read prompt and response in a row; an encoder-decoder reads the prompt with its encoder. Everything
is right-padded. Scoring without gradients, prompts read once, is xling/models/states.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xling.models.architecture import logits_of, text_config, trunk_of
from xling.models.reward import decoder_batch, encoder_decoder_batch
from xling.models.states import VOCABULARY_AT_ONCE
from xling.models.text import Ids, pad_right


@dataclass(frozen=True)
class Responses:
    """Prompts with one response each, ready to be read; R is the longest response."""

    read: dict[str, Tensor]  # arguments of the trunk
    places: Tensor  # (B, R) where the state stands that predicts each response token
    ids: Tensor  # (B, R) response tokens, padded
    mask: Tensor  # (B, R) bool, True on the response, eos included

    def __len__(self) -> int:
        return len(self.ids)


def responses_of(model: Any, prompts: Sequence[Ids], responses: Sequence[Ids], pad: int) -> Responses:
    """Aligned prompts and responses (token ids; eos last where it came) on the model's device."""
    rows = list(zip(prompts, responses, strict=True))
    width = max(map(len, responses))
    lengths = torch.tensor([len(response) for response in responses])
    step = torch.arange(width)
    if model.config.is_encoder_decoder:
        read = encoder_decoder_batch(rows, pad, model.config.decoder_start_token_id)
        places = step.expand(len(rows), -1)
    else:
        read = decoder_batch(rows, pad)
        places = torch.tensor([len(prompt) - 1 for prompt in prompts])[:, None] + step
        places = places.clamp_max(read["input_ids"].shape[1] - 1)
    del read["response_mask"]
    device = model.device
    return Responses(
        {name: value.to(device) for name, value in read.items()},
        places.to(device),
        torch.from_numpy(pad_right(responses, width, pad)).to(device),
        (step < lengths[:, None]).to(device),
    )


def predicting_states(model: Any, batch: Responses) -> Tensor:
    """(B, R, D): the last hidden state before each response token."""
    if model.config.is_encoder_decoder:
        mask = batch.read["attention_mask"]
        states = model.get_encoder()(input_ids=batch.read["input_ids"], attention_mask=mask)[0]
        hidden = model.get_decoder()(
            input_ids=batch.read["decoder_input_ids"],
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
        )[0]
    else:
        hidden = trunk_of(model)(**batch.read, use_cache=False)[0]
    index = batch.places[..., None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index)  # type: ignore[no-any-return]


def all_log_probabilities(model: Any, states: Tensor, temperature: float = 1.0) -> Tensor:
    """(..., D) states -> (..., vocabulary) log-probabilities in nats of the next token."""
    return (logits_of(model, states).float() / temperature).log_softmax(-1)


def log_probabilities(model: Any, states: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """(B, R) log-probabilities in nats of the tokens `ids` that follow `states` (B, R, D)."""
    return all_log_probabilities(model, states, temperature).gather(-1, ids[..., None])[..., 0]


@torch.inference_mode()
def kl_along(
    policy: Any, reference: Any, prompts: Sequence[Ids], responses: Sequence[Ids], pad: int, temperature: float = 1.0
) -> list[float]:
    """KL(policy || reference) in nats along each response: the divergence of the next-token distributions, summed.

    At `temperature`. Its mean over the policy's own samples is an unbiased estimate of the divergence between the
    distributions of whole responses (chain rule), with less variance than log-ratios of the sampled tokens.
    """
    batch = responses_of(policy, prompts, responses, pad)
    own, other = predicting_states(policy, batch), predicting_states(reference, batch)
    rows = max(1, VOCABULARY_AT_ONCE // (batch.ids.shape[1] * text_config(policy.config).vocab_size))
    sums: list[float] = []
    for start in range(0, len(batch), rows):
        cut = slice(start, start + rows)
        log_p = all_log_probabilities(policy, own[cut], temperature)
        log_q = all_log_probabilities(reference, other[cut], temperature)
        each = (log_p.exp() * (log_p - log_q)).sum(-1)
        sums += (each * batch.mask[cut]).sum(1).tolist()
    return sums
