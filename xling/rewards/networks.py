"""Networks as reward models: a language model or an encoder with a scalar head, or a language model's own log-ratio.

A language model reads prompt and response in one go in training, and the prompt once for its responses in scoring
(xling/models/states.py); an encoder reads them as a pair, joined by its tokenizer's own separators.

Pointwise: binary cross-entropy on the logit, as the paper's summarization; pairwise: Bradley-Terry,
-log sigmoid(r(x, y_w) - r(x, y_l)), as its dialog (paper, section 2), which for a log-ratio is DPO. The checkpoint with
the best validation loss is kept. One loop serves all (trl's RewardTrainer has no pointwise mode). A trained model is
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
from xling.models import parallel
from xling.models.architecture import text_config
from xling.models.checkpoints import check_encoder_config
from xling.models.load import (
    DTYPES,
    Loading,
    in_dtype,
    load_policy,
    load_tokenizer,
    load_trunk,
    loading,
    save_policy,
)
from xling.models.states import (
    Batch,
    States,
    each_response,
    each_row,
    hidden_states,
    log_likelihood,
    log_probabilities,
    padded_batch,
    pool,
)
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
from xling.models.training import adapted, check_gpu, computing_in, core, merged, whole_in, write_curve
from xling.models.training import fit as descend
from xling.rewards import Feedback, alignment, alignment_of
from xling.tasks.records import GOOD, Pair, Rating

Row = tuple[Any, Any, float]  # the response as the net reads it, the rejected one (None: there is none), the label
Items = Sequence[Rating] | Sequence[Pair]

REFERENCE = "reference"  # folder, below its own, of what a log-ratio is held to
CLOSE = 1e-3  # how far the stored model's scores may lie from the trained one's, as a share of the largest


# --- the networks -------------------------------------------------------------------------------------------


class HeadedNet(nn.Module):
    """A trunk and a head whose state names a weight once where a trunk uses it under several names, as mT5 does.

    The Trainer's checkpoints are safetensors, which refuse the same memory under two names.
    """

    pair: ClassVar[bool] = False  # whether it reads prompt and response as a pair, in both directions

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_without_aliases)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_miss_no_aliases)  # type: ignore[no-untyped-call]

    @classmethod
    def read(cls, folder: Path, **how: Any) -> Any:
        """What is trained, from a stage's folder."""
        return load_trunk(folder, encoder=cls.pair, **how)


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
    needed: ClassVar[tuple[str, ...]] = ("pad", "eos")  # special tokens of the tokenizer

    def __init__(self, trunk: Any, tokenizer: Any, pooling: str, limits: Limits = LIMITS) -> None:
        super().__init__()
        self.trunk, self.tokenizer, self.pooling, self.limits = trunk, tokenizer, pooling, limits
        self.head = scalar_head(trunk)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, decoder_input_ids: Tensor | None = None
    ) -> Tensor:
        """(B,) rewards of what `padded_batch` makes of prompts and responses."""
        return self.value(self.state(input_ids, attention_mask, response_mask, decoder_input_ids))

    def state(
        self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, decoder_input_ids: Tensor | None = None
    ) -> Tensor:
        """(B, D) float32 of the same: what the head reads."""
        read = {} if decoder_input_ids is None else {"decoder_input_ids": decoder_input_ids}
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **read)[0]
        return pool(hidden, response_mask, self.pooling)

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


class ImplicitNet(RewardNet):
    """beta (log p(y | x) - log p_reference(y | x)), the reward of a policy that DPO trains, and a learnt constant.

    Rafailov et al. (2023), section 4. `trunk` is a whole language model, and it is the reference as well until it is
    trained: log-probabilities under that stand in the rows, computed once. pooling: sum over a response's tokens (DPO),
    or their mean. The constant is for ratings, where a logit of 0 is even; pairs do not see it.
    """

    kind: ClassVar[str] = "implicit"
    reference: Any = None  # what scoring compares with

    def __init__(self, trunk: Any, tokenizer: Any, pooling: str, limits: Limits = LIMITS, beta: float = 1.0) -> None:
        HeadedNet.__init__(self)
        self.trunk, self.tokenizer, self.pooling, self.limits = trunk, tokenizer, pooling, limits
        self.head = nn.Linear(1, 1, device=trunk.device, dtype=torch.float32)
        nn.init.constant_(self.head.weight, beta).requires_grad_(False)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def read(cls, folder: Path, **how: Any) -> Any:
        return load_policy(folder, **how)[0]

    def held_to(self, reference: Any) -> None:
        """Score beside a language model."""
        self.__dict__["reference"] = reference  # no part of the module, for it learns nothing

    def forward(  # type: ignore[override]  # with the log-probabilities under the reference
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor,
        reference: Tensor,
        decoder_input_ids: Tensor | None = None,
    ) -> Tensor:
        """(B,) rewards; reference: (B,) log-probabilities in nats."""
        model, read = core(self.trunk), {"input_ids": input_ids, "attention_mask": attention_mask}
        if decoder_input_ids is not None:
            read["decoder_input_ids"] = decoder_input_ids
        said, counted = read.get("decoder_input_ids", input_ids)[:, 1:], response_mask[:, 1:]
        hidden = hidden_states(model, read)[:, :-1]
        tokens = log_probabilities(model, hidden[counted], said[counted])
        owners = torch.arange(len(said), device=tokens.device)[:, None].expand_as(said)[counted]
        whole = tokens.new_zeros(len(said)).index_add(0, owners, tokens)
        if self.pooling == "mean":
            whole = whole / counted.sum(1)
        return self.value((whole - reference)[:, None])

    def rows(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Any]:
        """Token ids of prompt and response, and the log-probability in nats of the response as the model is now.

        Each process reads its share; a prompt is read once for its responses.
        """
        parallel.join(self.trunk.device)
        read = super().rows(prompts, responses)
        groups: dict[tuple[int, ...], list[Ids]] = {}
        for asked, said in read:
            groups.setdefault(tuple(asked), []).append(said)
        own = parallel.share(list(groups.items()))
        found = self._log_probabilities(self.trunk, [list(asked) for asked, _ in own], [said for _, said in own])
        values = dict(zip(groups, map(iter, parallel.joined(found)), strict=True))
        return [(asked, said, next(values[tuple(asked)])) for asked, said in read]

    def collate(self, rows: Sequence[Any]) -> Batch:
        batch = super().collate([(asked, said) for asked, said, _ in rows])
        return batch | {"reference": torch.tensor([value for _, _, value in rows])}

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Reward of each response of each prompt: nats times beta, and the constant."""
        asked, said = self._ids(prompts, responses)
        ours, theirs = (self._log_probabilities(model, asked, said) for model in (self.trunk, self.reference))
        beta, constant = self.head.weight.item(), self.head.bias.item()
        return [
            [beta * (a - b) + constant for a, b in zip(*both, strict=True)] for both in zip(ours, theirs, strict=True)
        ]

    def _log_probabilities(self, model: Any, asked: list[Ids], said: list[list[Ids]]) -> list[list[float]]:
        return log_likelihood(model, asked, said, self.tokenizer.pad_token_id, total=self.pooling == "sum")


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
        return self.head(self.state(input_ids, attention_mask, token_type_ids))[:, 0]  # type: ignore[no-any-return]

    def state(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(B, D) float32: what the head reads."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        return hidden[:, 0].float() if self.pooling == "first" else pool(hidden, attention_mask.bool(), "mean")

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
KINDS: dict[str, type[Net]] = {kind.kind: kind for kind in (RewardNet, ImplicitNet, PairNet)}


# --- training -----------------------------------------------------------------------------------------------


def train(context: Context, rm: Any, feedback: Feedback, kind: type[Net]) -> None:
    """Train the parent `init` with a fresh head; writes the model, curve.jsonl and training.json.

    rm: settings of same_as_policy (a RewardNet), implicit (an ImplicitNet) or encoder (a PairNet).
    """
    how = loading(context.parents["init"])
    torch.manual_seed(feedback.seed)
    net = new_net(context, rm, feedback.truncation_side, kind)
    examples = feedback.items("train", rm.permutation)
    with computing_in(how.dtype, net.trunk.device):  # as what is trained is
        train, dropped = distinct(rows_of(net, examples))
        held_out, _ = distinct(rows_of(net, feedback.items("validation", rm.permutation)))
    if getattr(rm, "ratings", "labels") == "pairs" and feedback.objective == "pointwise":
        train, held_out = (opposed(rows, feedback.seed) for rows in (train, held_out))
    if rm.tuning != "full":
        net.trunk.requires_grad_(False)
    if rm.tuning in ("lora", "qlora"):
        net.trunk = adapted(net.trunk, rm.tuning, rm.lora)

    def collate(rows: list[Row]) -> Batch:
        return reward_batch(rows, net.collate)

    learnt: alignment.Learnt = (train, collate, reward_loss)
    watched, texts = dict[str, float](), feedback.parallel()
    if (aligned := alignment_of(rm)) is not None:
        watched = {"parallel_texts": len(texts), "nearer_before": alignment.nearer(net, texts)}
        learnt = alignment.added(net, learnt, texts, aligned.weight, feedback.seed)

    @torch.no_grad()  # weights that are shared out are gathered meanwhile, and trained with afterwards
    def metric(model: Any) -> float:
        blocks = [held_out[start : start + 64] for start in range(0, len(held_out), 64)]
        losses = [float(reward_loss(model, on_device(model, collate(block)))) for block in blocks]
        return float(np.average(losses, weights=list(map(len, blocks))))

    net, curve = descend(
        net,
        *learnt,
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
        net.trunk = merged(kind.read(context.parents["init"]), net.trunk)
    net.trunk = in_dtype(net.trunk, DTYPES[how.dtype])
    net.eval()
    if isinstance(net, ImplicitNet):
        net.held_to(kind.read(context.parents["init"]))
    save_reward(context.out, net, how)
    write_curve(context.out, curve)
    check_stored(context, net, feedback.items("validation", 0)[:8])
    prompts = [item.prompt.reward_text for item in examples]
    cut = count_cut(net.tokenizer, prompts, [text for item in examples for text in responses_of(item)], net.rooms())
    if watched:
        watched["nearer"] = alignment.nearer(net, texts)
    report = {"examples": len(train), "dropped_equal_pairs": dropped, "validation_loss": metric(net), **cut, **watched}
    write_json(context.out / "training.json", report)


def new_net(context: Context, rm: Any, side: str, kind: type[Net]) -> Net:
    """The parent `init` with a fresh head; trained whole it is in what its optimizer trains, else in its own dtype."""
    check_gpu(rm.tuning, "rm_backbone")
    tokenizer = load_tokenizer(context.parents["init"], kind.needed)
    trunk = kind.read(
        context.parents["init"],
        dtype=whole_in(rm.training.optimizer) if rm.tuning == "full" else None,
        dropout=rm.training.dropout,
        quantized=rm.tuning == "qlora",
    )
    limits = Limits(rm.max_prompt_tokens, rm.max_response_tokens, side)
    if kind.pair:
        check_encoder_config(trunk.config.to_dict(), limits, len(separators(tokenizer)))
    scale = {"beta": rm.beta} if issubclass(kind, ImplicitNet) else {}
    return kind(trunk, tokenizer, rm.pooling, limits, **scale)


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
    how = replace(how or Loading(), folder=".", digest="")
    save_policy(folder, net.trunk, net.tokenizer, how)
    save_file({k: v.contiguous() for k, v in net.head.state_dict().items()}, folder / "head.safetensors")
    if isinstance(net, ImplicitNet):
        save_policy(folder / REFERENCE, net.reference, net.tokenizer)
    write_json(folder / "reward.json", {"kind": net.kind, "pooling": net.pooling, "limits": net.limits})


def load_reward(folder: Path) -> Net:
    """A reward model from its stage's folder."""
    settings = read_json(folder / "reward.json")
    kind = KINDS[settings["kind"]]
    net = kind(kind.read(folder), load_tokenizer(folder, kind.needed), settings["pooling"], Limits(*settings["limits"]))
    net.head.load_state_dict(load_file(folder / "head.safetensors"))
    if isinstance(net, ImplicitNet):
        net.held_to(kind.read(folder, part=REFERENCE))
    return net.eval()


# --- rows and batches ---------------------------------------------------------------------------------------


def responses_of(item: Rating | Pair) -> list[str]:
    """The rated response; or the chosen and the rejected one."""
    return [item.response] if isinstance(item, Rating) else [item.chosen, item.rejected]


def rows_of(net: Net, items: Items) -> list[Row]:
    """Feedback as the net reads it."""
    prompts = [item.prompt.reward_text for item in items]
    sides = list(zip(*map(responses_of, items), strict=True))
    rows = net.rows(prompts * len(sides), [text for side in sides for text in side])
    first, second = rows[: len(items)], list[Any](rows[len(items) :]) or [None] * len(items)
    labels = [item.label if isinstance(item, Rating) else 1.0 for item in items]
    return list(zip(first, second, labels, strict=True))


def opposed(rows: list[Row], seed: int) -> list[Row]:
    """Rated responses as pairs: each good one chosen over a bad one, of whatever prompts; StageError without either.

    In one random order of both, each as often as the more frequent kind needs it.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    good, bad = ([rows[i][0] for i in order if (rows[i][2] >= GOOD) == kind] for kind in (True, False))
    if not good or not bad:
        raise StageError(
            f"Of {len(rows)} rated responses {len(good)} are good: there are no pairs of a good and a bad one. Type "
            "rm_backbone.ratings=labels."
        )
    return [(good[i % len(good)], bad[i % len(bad)], 1.0) for i in range(max(len(good), len(bad)))]


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
