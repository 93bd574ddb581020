"""Reward models from the hub as they are: sequence classifiers, and the log-ratio of two language models.

How prompt and response become one text is a setting, `render`: `chat` by the tokenizer's chat template, `pair` as two
texts with its separators, `plain` as the prompt, a line break and the response; `auto` is chat where the tokenizer has
a template, else pair (classifiers) or plain (language models). Long texts are cut before they are rendered.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xling.config.common import TEMPLATE_DATE
from xling.errors import DataError
from xling.models.architecture import text_config, trunk_of
from xling.models.chats import Chat
from xling.models.checkpoints import check_labels
from xling.models.load import load_classifier, load_policy, load_tokenizer
from xling.models.own_forward import Scoring, check_classifier
from xling.models.states import States, each_response, each_row, log_likelihood, pool
from xling.models.text import (
    Ids,
    Limits,
    Row,
    language_model_rooms,
    pad_right,
    pair_rows,
    pieces,
    text_ids,
)
from xling.tasks.records import Turns, turns_of

Scores = list[list[float]]


def cut(tokenizer: Any, texts: Sequence[str], limit: int, side: str = "right") -> list[str]:
    """Texts of at most `limit` tokens, cut on one side."""
    ids = pieces(tokenizer, texts)
    return [
        text if len(own) <= limit else str(tokenizer.decode(own[-limit:] if side == "left" else own[:limit])).strip()
        for text, own in zip(texts, ids, strict=True)
    ]


def rendering(tokenizer: Any, render: str, otherwise: str) -> str:
    """chat, pair or plain; DataError for chat without a template."""
    template = bool(getattr(tokenizer, "chat_template", None))
    if render == "auto":
        return "chat" if template else otherwise
    if render == "chat" and not template:
        raise DataError(
            "rm_backbone.render=chat needs a tokenizer with a chat template, and this one has none. "
            "Type rm_backbone.render=pair or rm_backbone.render=plain."
        )
    return render


def cut_turns(tokenizer: Any, turns: Turns, limit: int, side: str) -> Turns:
    """Those of a prompt, of at most `limit` tokens: the oldest questions go first, then part of the last one."""
    told, rest = [one for one in turns if one[0] == "system"], [one for one in turns if one[0] != "system"]
    lengths = [len(ids) for ids in pieces(tokenizer, [text for _, text in (*told, *rest)])]
    while len(rest) > 2 and sum(lengths) > limit:
        rest, lengths = rest[2:], lengths[: len(told)] + lengths[len(told) + 2 :]
    *before, (role, last) = *told, *rest
    room = limit - sum(lengths[:-1])
    before, room = (before, room) if room > 0 else ([], limit)
    return (*before, (role, cut(tokenizer, [last], room, side)[0]))


# --- sequence classifiers -----------------------------------------------------------------------------------


@dataclass
class Classifier:
    """A model of AutoModelForSequenceClassification; `label` is the index of its good class if it has two.

    What it says of a text is what its own forward pass says of that text alone, so that its own rule for the token that
    is read off holds (decoders: the last one that is not its config's pad token, which may be the end of the text).
    `way` is the fastest that gives the same: once a prompt (decoders), texts in padded batches, or each text alone.
    """

    model: Any
    tokenizer: Any
    render: str
    label: int | None
    limits: Limits
    date: str = TEMPLATE_DATE  # that chat templates are told is today

    def __post_init__(self) -> None:
        check_labels(self.model.config.num_labels, self.label)
        if self.model.config.num_labels == 1:
            self.label = None
        self.render = rendering(self.tokenizer, self.render, "pair")
        padding = getattr(text_config(self.model.config), "pad_token_id", None)
        self.pad = self.tokenizer.pad_token_id if padding is None else padding
        self.ends = padding is not None  # whether the forward pass looks for the end of a text by its padding
        self._chat = Chat(self.tokenizer, date=self.date, quiet=False) if self.render == "chat" else None
        ways: dict[str, Scoring] = {
            "once a prompt": self._after_the_prompt,
            "padded": lambda rows, _: each_row(self.model, rows, self._logits),
            "alone": self._alone,
        }
        if not self.decoder():
            del ways["once a prompt"]
        self.way = check_classifier(self.model, ways, self.pad, self.tokenizer.eos_token_id, self.label)
        self._read = ways[self.way]

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> Scores:
        """The logit of each response, or the log-odds of the good class; higher is better."""
        flat = [(prompt, text) for prompt, row in zip(prompts, responses, strict=True) for text in row]
        found = iter(self._read(*self._rows([prompt for prompt, _ in flat], [text for _, text in flat])))
        return [[next(found) for _ in row] for row in responses]

    def rooms(self) -> tuple[int, int]:
        """Tokens that a prompt and a response may have of their own."""
        return self.limits.prompt, self.limits.response

    def decoder(self) -> bool:
        """Whether the head sits on each state of a decoder: then the prompt is read once for its responses."""
        return hasattr(self.model, "score") and not self.model.config.is_encoder_decoder

    def _rows(self, prompts: Sequence[str], responses: Sequence[str]) -> tuple[list[Row], list[int]]:
        """Texts, and how many tokens of each depend on the prompt alone, where the tokenizer lets one tell."""
        if self.render == "pair" and not self.decoder():
            pairs = pair_rows(self.tokenizer, prompts, responses, self.limits)
            return pairs, [0] * len(pairs)
        longest, longest_response, side = self.limits
        said = cut(self.tokenizer, responses, longest_response)
        if self._chat is not None:
            chats = [tuple(turns_of(text)) for text in prompts]  # equal texts may be other turns
            asked = {turns: cut_turns(self.tokenizer, turns, longest, side) for turns in dict.fromkeys(chats)}
            begins = self._chat.rows([(turns, "") for turns in asked.values()], sys.maxsize, side)[0]
            read = dict(zip(asked, begins, strict=True))
            answered = [([*asked[turns], ("assistant", text)], "") for turns, text in zip(chats, said, strict=True)]
            begun = [read[turns] for turns in chats]
            whole = self._chat.rows(answered, sys.maxsize, side)[0]
        else:
            texts = cut(self.tokenizer, prompts, longest, side)
            begun = [self._ids(text) for text in texts]
            whole = [self._ids(*_plain(self.render, *both)) for both in zip(texts, said, strict=True)]
        return [(ids, []) for ids in whole], [_common(*both) for both in zip(begun, whole, strict=True)]

    def _ids(self, *texts: str) -> Ids:
        ids: Ids = self.tokenizer(*texts)["input_ids"]
        return ids

    @torch.inference_mode()
    def _alone(self, rows: list[Row], _: list[int]) -> list[float]:
        """Each text by the model's own forward pass, with nothing beside it."""
        distinct = {(tuple(ids), tuple(types)): (ids, types) for ids, types in rows}
        found = {name: self._logits([row], len(row[0])).item() for name, row in distinct.items()}
        return [found[tuple(ids), tuple(types)] for ids, types in rows]

    def _logits(self, rows: list[Row], width: int) -> Tensor:
        """(R,) of rows padded to `width`."""
        ids = torch.from_numpy(pad_right([row for row, _ in rows], width, self.pad))
        mask = torch.arange(width) < torch.tensor([len(row) for row, _ in rows])[:, None]
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        if getattr(self.model.config, "type_vocab_size", 0) > 1 and rows[0][1]:
            inputs["token_type_ids"] = torch.from_numpy(pad_right([types for _, types in rows], width, 0))
        return self._value(self.model(**{k: v.to(self.model.device) for k, v in inputs.items()}).logits)

    def _value(self, logits: Tensor) -> Tensor:
        """(R, labels) -> (R,)."""
        logits = logits.float()
        if self.label is None:
            return logits[:, 0]
        return logits[:, self.label] - logits[:, 1 - self.label]

    def _after_the_prompt(self, rows: list[Row], borders: list[int]) -> list[float]:
        """Each (first part of a text) is a prompt of its own: almost always one a prompt.

        What follows the token that is read off is not read: a decoder's state does not see it.
        """
        parts = []
        for (ids, _), border in zip(rows, borders, strict=True):
            end = self._end(ids)
            parts.append((tuple(ids[: min(border, end)]), ids[min(border, end) : end + 1]))
        groups: dict[tuple[int, ...], list[Ids]] = {}
        for before, after in parts:
            groups.setdefault(before, []).append(after)
        single = groups.pop((), [])  # texts of one token: nothing to read first

        def value(states: States) -> Tensor:
            pooled = pool(states.hidden, states.mask, "last").to(self.model.dtype)
            return self._value(self.model.score(pooled))

        found = each_response(trunk_of(self.model), list(map(list, groups)), list(groups.values()), self.pad, value)
        values = {before: iter(row) for before, row in zip(groups, found, strict=True)}
        values[()] = iter(self._alone([(ids, []) for ids in single], []))
        return [next(values[before]) for before, _ in parts]

    def _end(self, ids: Ids) -> int:
        """The place that the model's own forward pass reads its score off."""
        return max((i for i, token in enumerate(ids) if not self.ends or token != self.pad), default=0)


def _plain(render: str, prompt: str, response: str) -> tuple[str, ...]:
    return (prompt, response) if render == "pair" else (f"{prompt}\n{response}",)


def _common(prompt: Ids, whole: Ids) -> int:
    """Tokens that both begin with; at least one."""
    same = 0
    while same < min(len(prompt), len(whole)) and prompt[same] == whole[same]:
        same += 1
    return max(same, 1)


def load_published_classifier(
    folder: Path, render: str, label: int | None, limits: Limits, date: str = TEMPLATE_DATE
) -> Classifier:
    """From the folder of a stage."""
    return Classifier(load_classifier(folder), load_tokenizer(folder, ("pad",)), render, label, limits, date)


# --- log-ratio of two language models -----------------------------------------------------------------------


@dataclass
class LogRatio:
    """The implicit reward of direct preference optimisation (Rafailov et al. 2023, section 4).

    r(x, y) = beta (log p_policy(y | x) - log p_reference(y | x)), summed over the tokens of y, eos included.
    """

    policy: Any
    reference: Any
    tokenizer: Any
    render: str
    beta: float
    limits: Limits
    date: str = TEMPLATE_DATE

    def __post_init__(self) -> None:
        self.render = rendering(self.tokenizer, self.render, "plain")
        self.tokenizer.chat = Chat(self.tokenizer, date=self.date) if self.render == "chat" else None

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> Scores:
        """In nats times beta."""
        asked, said = self._ids(prompts, responses)
        pad = self.tokenizer.pad_token_id
        ours, theirs = (log_likelihood(m, asked, said, pad, total=True) for m in (self.policy, self.reference))
        return [[self.beta * (a - b) for a, b in zip(*rows, strict=True)] for rows in zip(ours, theirs, strict=True)]

    def rooms(self) -> tuple[int, int]:
        """Tokens that a prompt and a response may have of their own."""
        return language_model_rooms(self.tokenizer, self.limits, self.policy.config.is_encoder_decoder)

    def _ids(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> tuple[list[Ids], list[list[Ids]]]:
        return text_ids(self.tokenizer, prompts, responses, self.limits, self.policy.config.is_encoder_decoder)


def check_same_tokenizer(policy: Any, reference: Any) -> None:
    """DataError for two models that do not read the same tokens: their probabilities cannot be compared."""
    if policy.get_vocab() != reference.get_vocab():
        raise DataError(
            f"The policy and the reference of rm_backbone=log_ratio have different tokenizers ({len(policy)} and "
            f"{len(reference)} tokens): the probabilities of their tokens cannot be compared. Name the model that "
            "the policy was trained from: rm_backbone.reference=FOLDER or a hub id."
        )


def load_log_ratio(
    policy: Path, reference: Path, render: str, beta: float, limits: Limits, date: str = TEMPLATE_DATE
) -> LogRatio:
    """From the folders of two stages; DataError if they do not read the same tokens."""
    tokenizer = load_tokenizer(policy)
    check_same_tokenizer(tokenizer, load_tokenizer(reference))
    return LogRatio(load_policy(policy)[0], load_policy(reference)[0], tokenizer, render, beta, limits, date)
