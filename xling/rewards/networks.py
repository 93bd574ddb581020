"""Networks as reward models: a language model or an encoder with a scalar head, trained on the source's feedback.

A language model reads prompt and response in one go in training, and the prompt once for its responses in scoring
(xling/models/states.py); an encoder reads them as a pair, joined by its tokenizer's own separators.

Pointwise: binary cross-entropy on the logit, as the paper's summarization; pairwise: Bradley-Terry,
-log sigmoid(r(x, y_w) - r(x, y_l)), as its dialog (paper, section 2). The checkpoint with the best validation loss
is kept. One loop of transformers' Trainer serves both (trl's RewardTrainer has no pointwise mode). A trained model is
stored as a folder: trunk and tokenizer in Hugging Face format, head and settings beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from xling.errors import StageError
from xling.grid.stage import WHERE, Context
from xling.jsonfiles import read_json, write_json
from xling.models.architecture import text_config
from xling.models.checkpoints import check_encoder_config
from xling.models.load import DTYPES, Loading, in_dtype, load_tokenizer, load_trunk, loading, write_loading
from xling.models.states import Batch, States, each_response, each_row, padded_batch, pool
from xling.models.text import (
    LIMITS,
    Ids,
    Limits,
    count_cut,
    language_model_rooms,
    pad_right,
    pair_rows,
    separators,
    text_ids,
)
from xling.models.training import adapted, check_gpu, merged, whole_in, write_curve
from xling.models.training import fit as descend
from xling.rewards import Feedback
from xling.tasks.records import Pair, Rating

Row = tuple[Any, Any, float]  # the response as the net reads it, the rejected one (None: there is none), the label
Items = Sequence[Rating] | Sequence[Pair]

CLOSE = 1e-3  # how far the stored model's scores may lie from the trained one's, as a share of the largest


# --- the networks -------------------------------------------------------------------------------------------


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


def scalar_head(trunk: Any) -> nn.Linear:
    """A linear map to one number, in float32, that starts at zero."""
    head = nn.Linear(text_config(trunk.config).hidden_size, 1, device=trunk.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class RewardNet(HeadedNet):
    """A trunk (decoder-only or encoder-decoder) with a scalar head on the pooled states of the response."""

    kind: ClassVar[str] = "language_model"
    pair: ClassVar[bool] = False  # whether it reads prompt and response as a pair, in both directions
    needed: ClassVar[tuple[str, ...]] = ("pad", "eos")  # special tokens of the tokenizer

    def __init__(self, trunk: Any, tokenizer: Any, pooling: str, limits: Limits = LIMITS) -> None:
        super().__init__()
        self.trunk, self.tokenizer, self.pooling, self.limits = trunk, tokenizer, pooling, limits
        self.head = scalar_head(trunk)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, decoder_input_ids: Tensor | None = None
    ) -> Tensor:
        """(B,) rewards of what `padded_batch` makes of prompts and responses."""
        read = {} if decoder_input_ids is None else {"decoder_input_ids": decoder_input_ids}
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **read)[0]
        return self.value(pool(hidden, response_mask, self.pooling))

    def value(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        return self.head(pooled)[:, 0]  # type: ignore[no-any-return]

    def rooms(self) -> tuple[int, int]:
        """Tokens that a prompt and a response may have of their own."""
        return language_model_rooms(self.tokenizer, self.limits, self.trunk.config.is_encoder_decoder)

    def rows(self, prompts: Sequence[str], responses: Sequence[str]) -> list[tuple[Ids, Ids]]:
        """Token ids that are read of aligned prompts and responses."""
        asked, [said] = self._ids(prompts, [responses])
        return list(zip(asked, said, strict=True))

    def _ids(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> tuple[list[Ids], list[list[Ids]]]:
        return text_ids(self.tokenizer, prompts, responses, self.limits, self.trunk.config.is_encoder_decoder)

    def collate(self, rows: Sequence[tuple[Ids, Ids]]) -> Batch:
        """The arguments of `forward`, padded to the longest."""
        return padded_batch(self.trunk.config, rows, self.tokenizer.pad_token_id)

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Reward of each response of each prompt; higher is better, no unit."""

        def rewards(states: States) -> Tensor:
            return self.value(pool(states.hidden, states.mask, self.pooling))

        return each_response(self.trunk, *self._ids(prompts, responses), self.tokenizer.pad_token_id, rewards)


class PairNet(HeadedNet):
    """An encoder with a scalar head on its first state or on the mean of all; otherwise like RewardNet.

    Prompt and response are tokenised and cut apart, so that a long prompt never pushes the response out.
    """

    kind: ClassVar[str] = "encoder"
    pair: ClassVar[bool] = True
    needed: ClassVar[tuple[str, ...]] = ("pad",)

    def __init__(self, trunk: Any, tokenizer: Any, pooling: str, limits: Limits) -> None:
        super().__init__()
        self.trunk, self.tokenizer, self.pooling, self.limits = trunk, tokenizer, pooling, limits
        if getattr(trunk, "pooler", None) is not None:
            trunk.pooler = nn.Identity()  # not read; a checkpoint may lack it
        self.head = scalar_head(trunk)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(B, L) right-padded pairs -> (B,) rewards."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        pooled = hidden[:, 0].float() if self.pooling == "first" else pool(hidden, attention_mask.bool(), "mean")
        return self.head(pooled)[:, 0]  # type: ignore[no-any-return]

    def rooms(self) -> tuple[int, int]:
        return self.limits.prompt, self.limits.response

    def rows(self, prompts: Sequence[str], responses: Sequence[str]) -> list[tuple[Ids, Ids]]:
        """Token ids of the pairs, and their types where the encoder was trained with them."""
        rows = pair_rows(self.tokenizer, prompts, responses, self.limits)
        typed = getattr(self.trunk.config, "type_vocab_size", 0) > 1
        return rows if typed else [(ids, []) for ids, _ in rows]

    def collate(self, rows: Sequence[tuple[Ids, Ids]], width: int = 0) -> Batch:
        """The arguments of `forward`, padded to the longest or to `width`."""
        lengths = torch.tensor([len(ids) for ids, _ in rows])
        width = width or int(lengths.max())
        batch = {
            "input_ids": torch.from_numpy(pad_right([ids for ids, _ in rows], width, self.tokenizer.pad_token_id)),
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
        }
        if rows[0][1]:
            batch["token_type_ids"] = torch.from_numpy(pad_right([types for _, types in rows], width, 0))
        return batch

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        flat = [(prompt, text) for prompt, row in zip(prompts, responses, strict=True) for text in row]
        rows = self.rows([prompt for prompt, _ in flat], [text for _, text in flat])

        def value(some: list[tuple[Ids, Ids]], width: int) -> Tensor:
            return self(**on_device(self, self.collate(some, width)))  # type: ignore[no-any-return]

        scores = iter(each_row(self.trunk, rows, value))
        return [[next(scores) for _ in row] for row in responses]


Net = RewardNet | PairNet


# --- training -----------------------------------------------------------------------------------------------


def train(context: Context, rm: Any, feedback: Feedback, kind: type[Net]) -> None:
    """Train the parent `init` with a fresh head; writes the model, curve.jsonl and training.json.

    rm: settings of same_as_policy (a RewardNet) or of encoder (a PairNet).
    """
    how = loading(context.parents["init"])
    torch.manual_seed(feedback.seed)
    net = new_net(context, rm, feedback.truncation_side, kind)
    examples = feedback.items("train", rm.permutation)
    train, dropped = distinct(rows_of(net, examples))
    held_out, _ = distinct(rows_of(net, feedback.items("validation", rm.permutation)))
    if rm.tuning != "full":
        net.trunk.requires_grad_(False)
    if rm.tuning in ("lora", "qlora"):
        net.trunk = adapted(net.trunk, rm.tuning, rm.lora)

    def collate(rows: list[Row]) -> Batch:
        return reward_batch(rows, net.collate)

    @torch.no_grad()  # weights that are shared out are gathered meanwhile, and trained with afterwards
    def metric(model: Any) -> float:
        blocks = [held_out[start : start + 64] for start in range(0, len(held_out), 64)]
        losses = [float(reward_loss(model, on_device(model, collate(block)))) for block in blocks]
        return float(np.average(losses, weights=list(map(len, blocks))))

    net, curve = descend(
        net,
        train,
        collate,
        reward_loss,
        metric,
        False,
        rm.training,
        feedback.seed,
        context.scratch,
        context.progress,
        context.stopping,
        how.dtype,
        context.spec.get(WHERE, {}).get("parallel", "auto"),
    )
    if rm.tuning == "lora":
        net.trunk = net.trunk.merge_and_unload()
    elif rm.tuning == "qlora":  # into the weights that those in 4 bits were made of
        net.trunk = merged(load_trunk(context.parents["init"], encoder=net.pair), net.trunk)
    net.trunk = in_dtype(net.trunk, DTYPES[how.dtype])
    net.eval()
    save_reward(context.out, net, how)
    write_curve(context.out, curve)
    check_stored(context, net, feedback.items("validation", 0)[:8])
    prompts = [item.prompt.reward_text for item in examples]
    cut = count_cut(net.tokenizer, prompts, [text for item in examples for text in responses_of(item)], net.rooms())
    report = {"examples": len(train), "dropped_equal_pairs": dropped, "validation_loss": metric(net), **cut}
    write_json(context.out / "training.json", report)


def new_net(context: Context, rm: Any, side: str, kind: type[Net]) -> Net:
    """The parent `init` with a fresh head; trained whole it is in what its optimizer trains, else in its own dtype."""
    check_gpu(rm.tuning, "rm_backbone")
    tokenizer = load_tokenizer(context.parents["init"], kind.needed)
    trunk = load_trunk(
        context.parents["init"],
        dtype=whole_in(rm.training.optimizer) if rm.tuning == "full" else None,
        dropout=rm.training.dropout,
        quantized=rm.tuning == "qlora",
        encoder=kind.pair,
    )
    limits = Limits(rm.max_prompt_tokens, rm.max_response_tokens, side)
    if kind.pair:
        check_encoder_config(trunk.config.to_dict(), limits, len(separators(tokenizer)))
    return kind(trunk, tokenizer, rm.pooling, limits)


def check_stored(context: Context, net: Net, probe: list[Any]) -> None:
    """Load what was stored, and see that it scores as the trained model does, by the one path that scores.

    That this path reads as the model's own forward pass does, with which the model was trained, is seen on loading.
    """
    prompts, answers = [item.prompt.reward_text for item in probe], [responses_of(item)[:1] for item in probe]
    stored = np.array(load_reward(context.out).score(prompts, answers))
    trained = np.array(net.score(prompts, answers))
    worst, size = float(np.max(np.abs(stored - trained))), float(np.max(np.abs(trained)))
    if not worst <= CLOSE * size:  # also if it is no number
        raise StageError(f"The stored reward model scores differently from the trained one (by up to {worst:.3g}).")


# --- in a folder --------------------------------------------------------------------------------------------


def save_reward(folder: Path, net: Net, how: Loading | None = None) -> None:
    """All that `load_reward` reads; `how` the trunk was loaded, and will be."""
    net.trunk.save_pretrained(folder)
    net.tokenizer.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in net.head.state_dict().items()}, folder / "head.safetensors")
    write_loading(folder, replace(how or Loading(), folder=".", digest=""))
    write_json(folder / "reward.json", {"kind": net.kind, "pooling": net.pooling, "limits": net.limits})


def load_reward(folder: Path) -> Net:
    """A reward model from its stage's folder."""
    settings = read_json(folder / "reward.json")
    kind: type[Net] = PairNet if settings["kind"] == PairNet.kind else RewardNet
    trunk, tokenizer = load_trunk(folder, encoder=kind.pair), load_tokenizer(folder, kind.needed)
    net = kind(trunk, tokenizer, settings["pooling"], Limits(*settings["limits"]))
    net.head.load_state_dict(load_file(folder / "head.safetensors"))
    return net.eval()


# --- rows and batches ---------------------------------------------------------------------------------------


def responses_of(item: Rating | Pair) -> list[str]:
    """The rated response; or the chosen and the rejected one."""
    return [item.response] if isinstance(item, Rating) else [item.chosen, item.rejected]


def rows_of(net: Net, items: Items) -> list[Row]:
    """Feedback as the net reads it."""
    prompts = [item.prompt.reward_text for item in items]
    first = net.rows(prompts, [responses_of(item)[0] for item in items])
    pairs = [item for item in items if isinstance(item, Pair)]
    second = net.rows(prompts, [pair.rejected for pair in pairs]) if pairs else [None] * len(items)
    labels = [item.label if isinstance(item, Rating) else 1.0 for item in items]
    return list(zip(first, second, labels, strict=True))


def distinct(rows: list[Row]) -> tuple[list[Row], int]:
    """Rows without the pairs whose two sides read the same (after cutting), and how many those were."""
    kept = [row for row in rows if row[0] != row[1]]
    return kept, len(rows) - len(kept)


def reward_batch(rows: list[Row], padded: Callable[[list[Any]], Batch]) -> Batch:
    """The net's input, `padded`, with labels (B,); that of rejected responses is under `rejected_...`."""
    batch = {"labels": torch.tensor([label for _, _, label in rows])}
    batch |= padded([row[0] for row in rows])
    if rows[0][1] is not None:
        rejected = padded([row[1] for row in rows])
        batch |= {f"rejected_{name}": value for name, value in rejected.items()}
    return batch


def on_device(model: Any, batch: Batch) -> Batch:
    """The batch where the model is."""
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


def reward_loss(model: Any, batch: Batch) -> Tensor:
    """Binary cross-entropy on the logit, or Bradley-Terry where the batch has rejected responses; in nats."""
    rejected = {name.removeprefix("rejected_"): value for name, value in batch.items() if name.startswith("rejected_")}
    rewards = model(**{name: batch[name] for name in batch if name != "labels" and not name.startswith("rejected_")})
    if rejected:
        return -logsigmoid(rewards - model(**rejected)).mean()
    return binary_cross_entropy_with_logits(rewards, batch["labels"].to(rewards.dtype))
