"""Networks as reward models: a language model or an encoder with a scalar head, trained on the source's feedback.

Pointwise: binary cross-entropy on the logit, as the paper's summarization; pairwise: Bradley-Terry,
-log sigmoid(r(x, y_w) - r(x, y_l)), as its dialog (paper, section 2). The checkpoint with the best validation loss
is kept. One loop of transformers' Trainer serves both (trl's RewardTrainer has no pointwise mode). A trained model is
stored as a folder: trunk and tokenizer in Hugging Face format, head and settings beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from xling.errors import StageError
from xling.grid.stage import Context
from xling.jsonfiles import read_json, write_json
from xling.models.adapters import put_back
from xling.models.checkpoints import check_encoder_config
from xling.models.load import DTYPES, Loading, in_dtype, load_tokenizer, load_trunk, loading, write_loading
from xling.models.pairs import PairModel, PairNet
from xling.models.reward import RewardModel, RewardNet
from xling.models.text import Limits, count_cut, separators
from xling.models.training import fit as descend
from xling.models.training import write_curve
from xling.rewards.hooks import Feedback
from xling.tasks.records import Pair, Rating

Row = tuple[Any, Any, float]  # the response as the net reads it, the rejected one (None: there is none), the label
Items = Sequence[Rating] | Sequence[Pair]

NEEDED = {"encoder": ("pad",), "language_model": ("pad", "eos")}  # special tokens of the tokenizer
CLOSE = 1e-3  # how far the stored model's scores may lie from the trained one's, as a share of the largest


def train(context: Context, rm: Any, feedback: Feedback, pair: bool) -> None:
    """Train the parent `init` with a fresh head; writes the model, curve.jsonl and training.json.

    rm: settings of same_as_policy; pair: or of encoder, which reads prompt and response as a pair.
    """
    how = loading(context.parents["init"])
    tokenizer = load_tokenizer(context.parents["init"], NEEDED["encoder" if pair else "language_model"])
    torch.manual_seed(feedback.seed)
    net = new_net(context, rm, tokenizer, feedback.truncation_side, pair)
    examples = feedback.items("train", rm.permutation)
    train, dropped = distinct(rows_of(net, tokenizer, examples))
    held_out, _ = distinct(rows_of(net, tokenizer, feedback.items("validation", rm.permutation)))
    prepare(net, rm)

    padded = partial(net.collate, pad=tokenizer.pad_token_id)

    def collate(rows: list[Row]) -> dict[str, Tensor]:
        return reward_batch(rows, padded)

    @torch.inference_mode()
    def metric(model: Any) -> float:
        blocks = [held_out[start : start + 64] for start in range(0, len(held_out), 64)]
        losses = [float(reward_loss(model, on_device(model, collate(block)))) for block in blocks]
        return float(np.average(losses, weights=list(map(len, blocks))))

    curve = descend(
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
    )
    net.trunk = in_dtype(whole(context, net.trunk, rm, pair), DTYPES[how.dtype])
    net.eval()
    save_reward(context.out, net, tokenizer, how)
    write_curve(context.out, curve)
    check_stored(context, net, tokenizer, feedback.items("validation", 0)[:8])
    cut = count_cut(tokenizer, *texts(examples), net.rooms(tokenizer))
    report = {"examples": len(train), "dropped_equal_pairs": dropped, "validation_loss": metric(net), **cut}
    write_json(context.out / "training.json", report)


def new_net(context: Context, rm: Any, tokenizer: Any, side: str, pair: bool) -> RewardNet | PairNet:
    """The parent `init` with a fresh head; in float32 if all of it is trained, else in its own dtype."""
    if rm.tuning == "qlora" and not torch.cuda.is_available():
        raise StageError("rm_backbone.tuning=qlora needs a GPU. Type rm_backbone.tuning=lora.")
    trunk = load_trunk(
        context.parents["init"],
        dtype="float32" if rm.tuning == "full" else None,
        dropout=rm.training.dropout,
        quantized=rm.tuning == "qlora",
        encoder=pair,
    )
    limits = Limits(rm.max_prompt_tokens, rm.max_response_tokens, side)
    if not pair:
        return RewardNet(trunk, rm.pooling, limits)
    check_encoder_config(trunk.config.to_dict(), limits, len(separators(tokenizer)))
    return PairNet(trunk, rm.pooling, limits)


def prepare(net: Any, rm: Any) -> None:
    """Freeze what is not tuned, and add adapters where they are."""
    if rm.tuning == "full":
        return
    net.trunk.requires_grad_(False)
    if rm.tuning == "frozen":
        return
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if rm.tuning == "qlora":
        net.trunk = prepare_model_for_kbit_training(net.trunk, use_gradient_checkpointing=False)
    names = rm.lora.target_modules
    config = LoraConfig(
        r=rm.lora.r,
        lora_alpha=rm.lora.alpha,
        lora_dropout=rm.lora.dropout,
        target_modules=names if isinstance(names, str) else list(names),
    )
    net.trunk = get_peft_model(net.trunk, config)


def whole(context: Context, trunk: Any, rm: Any, pair: bool) -> Any:
    """The trunk with what its adapters learnt; of 4-bit weights those that they were made of, read again."""
    if rm.tuning not in ("lora", "qlora"):
        return trunk
    if rm.tuning == "lora":
        return trunk.merge_and_unload()
    from peft import get_peft_model, get_peft_model_state_dict

    trained = {name: value.detach() for name, value in get_peft_model_state_dict(trunk).items()}
    fresh = get_peft_model(load_trunk(context.parents["init"], encoder=pair), trunk.peft_config["default"])
    put_back(fresh, trained)
    return fresh.merge_and_unload()


def check_stored(context: Context, net: Any, tokenizer: Any, probe: list[Any]) -> None:
    """Load what was stored, and see that it scores as the trained model does, by the one path that scores.

    That this path reads as the model's own forward pass does, with which the model was trained, is seen on loading.
    """
    answers = [[item.response if isinstance(item, Rating) else item.chosen] for item in probe]
    prompts = [item.prompt.reward_text for item in probe]
    stored = np.array(load_reward(context.out).score(prompts, answers))
    trained = np.array(as_model(net, tokenizer).score(prompts, answers))
    worst, size = float(np.max(np.abs(stored - trained))), float(np.max(np.abs(trained)))
    if not worst <= CLOSE * size:  # also if it is no number
        raise StageError(f"The stored reward model scores differently from the trained one (by up to {worst:.3g}).")


# --- in a folder --------------------------------------------------------------------------------------------


def save_reward(folder: Path, net: RewardNet | PairNet, tokenizer: Any, how: Loading | None = None) -> None:
    """All that `load_reward` reads; `how` the trunk was loaded, and will be."""
    net.trunk.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in net.head.state_dict().items()}, folder / "head.safetensors")
    write_loading(folder, replace(how or Loading(), folder=".", digest=""))
    kind = "encoder" if isinstance(net, PairNet) else "language_model"
    write_json(folder / "reward.json", {"kind": kind, "pooling": net.pooling, "limits": net.limits})


def load_reward(folder: Path) -> RewardModel | PairModel:
    """A reward model from its stage's folder."""
    settings = read_json(folder / "reward.json")
    pair = settings["kind"] == "encoder"
    net = (PairNet if pair else RewardNet)(
        load_trunk(folder, encoder=pair), settings["pooling"], Limits(*settings["limits"])
    )
    net.head.load_state_dict(load_file(folder / "head.safetensors"))
    return as_model(net.eval(), load_tokenizer(folder, NEEDED[settings["kind"]]))


def as_model(net: RewardNet | PairNet, tokenizer: Any) -> RewardModel | PairModel:
    """What scores texts with a trained network."""
    return PairModel(net, tokenizer) if isinstance(net, PairNet) else RewardModel(net, tokenizer)


# --- rows and batches ---------------------------------------------------------------------------------------


def texts(items: Items) -> tuple[list[str], list[str]]:
    """Prompts as reward models read them, and all responses."""
    said = [[i.response] if isinstance(i, Rating) else [i.chosen, i.rejected] for i in items]
    return [item.prompt.reward_text for item in items], [text for row in said for text in row]


def rows_of(net: Any, tokenizer: Any, items: Items) -> list[Row]:
    """Feedback as the net reads it."""
    prompts = [item.prompt.reward_text for item in items]
    first = net.rows(tokenizer, prompts, [i.response if isinstance(i, Rating) else i.chosen for i in items])
    pairs = [item for item in items if isinstance(item, Pair)]
    second = net.rows(tokenizer, prompts, [pair.rejected for pair in pairs]) if pairs else [None] * len(items)
    labels = [item.label if isinstance(item, Rating) else 1.0 for item in items]
    return list(zip(first, second, labels, strict=True))


def distinct(rows: list[Row]) -> tuple[list[Row], int]:
    """Rows without the pairs whose two sides read the same (after cutting), and how many those were."""
    kept = [row for row in rows if row[0] != row[1]]
    return kept, len(rows) - len(kept)


def reward_batch(rows: list[Row], padded: Callable[[list[Any]], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the net takes, `padded`, with labels (B,); of the rejected ones under `rejected_...`."""
    batch = {"labels": torch.tensor([label for _, _, label in rows])}
    batch |= padded([row[0] for row in rows])
    if rows[0][1] is not None:
        rejected = padded([row[1] for row in rows])
        batch |= {f"rejected_{name}": value for name, value in rejected.items()}
    return batch


def on_device(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch where the model is."""
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


def _inputs(batch: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    own = {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}
    return {name: value for name, value in own.items() if name != "labels" and not name.startswith("rejected_")}


def reward_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Binary cross-entropy on the logit, or Bradley-Terry where the batch has rejected responses; in nats."""
    rewards = model(**_inputs(batch, ""))
    if "rejected_input_ids" in batch:
        return -logsigmoid(rewards - model(**_inputs(batch, "rejected_"))).mean()
    return binary_cross_entropy_with_logits(rewards, batch["labels"].to(rewards.dtype))
