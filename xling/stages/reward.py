"""reward[s]: train a reward model on the source's feedback.

Pointwise: binary cross-entropy on the logit, as the paper's summarization; pairwise: Bradley-Terry,
-log sigmoid(r(x, y_w) - r(x, y_l)), as its dialog (paper, section 2). The checkpoint with the best validation loss
is kept. One loop of transformers' Trainer serves both (trl's RewardTrainer has no pointwise mode).
"""

from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import Struct
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from xling.config import BagOfWords, FrozenLM, RewardModel, SameAsPolicy, Task
from xling.errors import StageError
from xling.grid.stage import Context
from xling.stages.files import write_json
from xling.tasks import task_module
from xling.tasks.records import Pair, Rating, Split

Row = tuple[list[int], list[int], list[int], float]  # prompt ids, response ids, rejected ids (or none), label


class RewardSpec(Struct, frozen=True):
    """What determines a reward model besides the model it starts from."""

    task: Task
    digest: str
    langs: tuple[str, ...]
    rm: RewardModel
    objective: str
    seed: int
    encoder: str = ""  # identity of a sentence encoder
    folds: int = 0  # of cross-fitted heads, where people rated recorded systems; 0: the feedback has splits


def run(context: Context) -> None:
    """Writes the model, curve.jsonl and reward.json; or, for recorded systems, cross-fitted heads."""
    spec = msgspec.convert(context.spec, RewardSpec)
    if spec.folds:
        _heads(context, spec)
    elif isinstance(spec.rm, SameAsPolicy):
        _language_model(context, spec, spec.rm)
    elif isinstance(spec.rm, FrozenLM):
        _frozen(context, spec, spec.rm.permutation)
    elif isinstance(spec.rm, BagOfWords):
        _bag_of_words(context, spec, spec.rm.permutation)
    else:
        raise StageError(f"{type(spec.rm).__name__} is not trained.")


# --- feedback ---------------------------------------------------------------------------------------------


def feedback(spec: RewardSpec, split: Split, permutation: int) -> list[Any]:
    """The sources' ratings or pairs, pooled; for a control with labels permuted within each language."""
    module, out = task_module(spec.task), list[Any]()
    for lang in spec.langs:
        if spec.objective == "pairwise":
            out += shuffled_pairs(module.pairs(spec.task, lang, split), spec.seed, permutation)
        else:
            out += shuffled_ratings(module.ratings(spec.task, lang, split), spec.seed, permutation)
    return out


def shuffled_ratings(ratings: list[Rating], seed: int, permutation: int) -> list[Rating]:
    """The same responses with their labels dealt out anew (permutation 0: as they were)."""
    if permutation == 0:
        return ratings
    order = np.random.default_rng([seed, permutation]).permutation(len(ratings))
    return [msgspec.structs.replace(r, label=ratings[i].label) for r, i in zip(ratings, order, strict=True)]


def shuffled_pairs(pairs: list[Pair], seed: int, permutation: int) -> list[Pair]:
    """The same pairs, each turned round by a fair coin (permutation 0: as they were)."""
    if permutation == 0:
        return pairs
    coins = np.random.default_rng([seed, permutation]).random(len(pairs)) < 0.5
    return [Pair(p.prompt, p.rejected, p.chosen) if c else p for p, c in zip(pairs, coins, strict=True)]


# --- a language model with a scalar head --------------------------------------------------------------------


def _language_model(context: Context, spec: RewardSpec, rm: SameAsPolicy) -> None:
    from xling.models.load import load_tokenizer, load_trunk
    from xling.models.reward import RewardNet, save_reward
    from xling.models.training import fit, write_curve

    tokenizer = load_tokenizer(context.parents["init"])
    torch.manual_seed(spec.seed)
    net = RewardNet(load_trunk(context.parents["init"]), rm.pooling)
    train, dropped = _distinct(_tokenised(tokenizer, feedback(spec, "train", rm.permutation)))
    held_out, _ = _distinct(_tokenised(tokenizer, feedback(spec, "validation", rm.permutation)))
    adapted = _prepared(net, rm.tuning)

    def collate(rows: list[Row]) -> dict[str, Tensor]:
        return reward_batch(rows, tokenizer.pad_token_id)

    @torch.inference_mode()
    def metric(model: Any) -> float:
        blocks = [held_out[start : start + 64] for start in range(0, len(held_out), 64)]
        losses = [float(reward_loss(model, collate(block))) for block in blocks]
        return float(np.average(losses, weights=list(map(len, blocks))))

    curve = fit(
        net,
        train,
        collate,
        reward_loss,
        metric,
        False,
        rm.training,
        spec.seed,
        context.scratch,
        context.progress,
        context.stopping,
    )
    if adapted is not None:
        net.trunk = adapted.merge_and_unload()
    net.eval()
    save_reward(context.out, net, tokenizer)
    write_curve(context.out, curve)
    _check_stored(context, net, collate, tokenizer, feedback(spec, "validation", 0)[:8])
    report = {"examples": len(train), "dropped_equal_pairs": dropped, "validation_loss": metric(net)}
    write_json(context.out / "training.json", report)


def _check_stored(context: Context, net: Any, collate: Any, tokenizer: Any, probe: list[Any]) -> None:
    """Load what was stored, by the path that scoring takes, and see that it scores as the trained model does."""
    from xling.models.reward import load_reward

    texts = [item.response if isinstance(item, Rating) else item.chosen for item in probe]
    stored = load_reward(context.out).score([item.prompt.reward_text for item in probe], [[text] for text in texts])
    with torch.inference_mode():
        direct = net(*_inputs(collate(_tokenised(tokenizer, probe)), "")).tolist()
    worst = float(np.max(np.abs(np.array(stored)[:, 0] - np.array(direct))))
    if not worst <= 1e-3:  # also if it is no number
        raise StageError(f"The stored reward model scores differently from the trained one (by up to {worst:.3g}).")


def _prepared(net: Any, tuning: str) -> Any:
    """Freeze what is not tuned; returns the adapted trunk for LoRA, else None."""
    if tuning == "full":
        return None
    net.trunk.requires_grad_(False)
    if tuning == "frozen":
        return None
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise StageError("rm_backbone.tuning=lora needs peft: pip install 'xling[lora]'.") from error
    net.trunk = get_peft_model(net.trunk, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    return net.trunk


def _tokenised(tokenizer: Any, items: list[Rating] | list[Pair]) -> list[Row]:
    from xling.models.text import prompt_ids, response_ids

    prompts = prompt_ids(tokenizer, [item.prompt.reward_text for item in items])
    first = response_ids(tokenizer, [item.response if isinstance(item, Rating) else item.chosen for item in items])
    pairs = [item for item in items if isinstance(item, Pair)]
    second = response_ids(tokenizer, [pair.rejected for pair in pairs]) if pairs else [[]] * len(items)
    labels = [item.label if isinstance(item, Rating) else 1.0 for item in items]
    return list(zip(prompts, first, second, labels, strict=True))


def _distinct(rows: list[Row]) -> tuple[list[Row], int]:
    """Rows without the pairs whose two sides read the same (after cutting), and how many those were."""
    kept = [row for row in rows if row[1] != row[2]]
    return kept, len(rows) - len(kept)


def reward_batch(rows: list[Row], pad: int) -> dict[str, Tensor]:
    """Right-padded prompt + response (B, L) with masks and labels (B,); the rejected ones under `rejected_...`."""
    batch = {"labels": torch.tensor([row[3] for row in rows])}
    batch |= _side([(row[0], row[1]) for row in rows], pad, "")
    if rows[0][2]:
        batch |= _side([(row[0], row[2]) for row in rows], pad, "rejected_")
    return batch


def _side(rows: list[tuple[list[int], list[int]]], pad: int, prefix: str) -> dict[str, Tensor]:
    from xling.models.text import pad_right

    border = torch.tensor([len(prompt) for prompt, _ in rows])[:, None]
    end = torch.tensor([len(prompt) + len(response) for prompt, response in rows])[:, None]
    place = torch.arange(int(end.max()))
    ids = pad_right([prompt + response for prompt, response in rows], int(end.max()), pad)
    return {
        f"{prefix}input_ids": torch.from_numpy(ids),
        f"{prefix}attention_mask": (place < end).long(),
        f"{prefix}response_mask": (place >= border) & (place < end),
    }


def _inputs(batch: dict[str, Tensor], prefix: str) -> list[Tensor]:
    return [batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "response_mask")]


def reward_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Binary cross-entropy on the logit, or Bradley-Terry where the batch has rejected responses; in nats."""
    rewards = model(*_inputs(batch, ""))
    if "rejected_input_ids" in batch:
        return -logsigmoid(rewards - model(*_inputs(batch, "rejected_"))).mean()
    return binary_cross_entropy_with_logits(rewards, batch["labels"].to(rewards.dtype))


# --- linear models ------------------------------------------------------------------------------------------


def _frozen(context: Context, spec: RewardSpec, permutation: int) -> None:
    """A ridge on the features that the parents computed, language by language as `feedback` gives them."""
    from xling.models import ridge
    from xling.stages.features import read_blocks

    parts = [read_blocks(context.parents[f"features_{lang}"] / "feedback.npz") for lang in spec.langs]
    blocks = [np.concatenate(part) for part in zip(*parts, strict=True)]
    items = feedback(spec, "train", permutation)
    groups = [item.prompt.group for item in items]
    if spec.objective == "pairwise":
        turned = [a.chosen != b.chosen for a, b in zip(items, feedback(spec, "train", 0), strict=True)]
        sign = np.where(turned, -1.0, 1.0)[:, None]

        def fitted(parts: list[ridge.Array]) -> ridge.Linear:
            return ridge.fit_pairwise([sign * p[0::2] for p in parts], [sign * p[1::2] for p in parts], groups)
    else:
        labels = np.array([2 * rating.label - 1 for rating in items])  # so that 0 parts the two classes

        def fitted(parts: list[ridge.Array]) -> ridge.Linear:
            return ridge.fit(parts, labels, groups)

    ridge.save(context.out / "head.npz", ridge.fit_whitened(blocks, fitted))


def _bag_of_words(context: Context, spec: RewardSpec, permutation: int) -> None:
    from xling.models import bag_of_words

    items = feedback(spec, "train", permutation)
    prompts, groups = [item.prompt.reward_text for item in items], [item.prompt.group for item in items]
    pairs = [item for item in items if isinstance(item, Pair)]
    if pairs:
        model = bag_of_words.fit_pairwise(prompts, [p.chosen for p in pairs], [p.rejected for p in pairs], groups)
    else:
        ratings = [item for item in items if isinstance(item, Rating)]
        labels = [2 * rating.label - 1 for rating in ratings]  # so that 0 parts the two classes
        model = bag_of_words.fit_pointwise(prompts, [rating.response for rating in ratings], labels, groups)
    bag_of_words.save_bag_of_words(context.out, model)


def _heads(context: Context, spec: RewardSpec) -> None:
    from xling.models.recorded import train_heads

    task, module = spec.task, task_module(spec.task)
    sources = [module.recorded(task, lang, spec.digest) for lang in spec.langs]
    embeds = {role.removeprefix("embed_"): folder for role, folder in context.parents.items()}
    train_heads(sources, spec.rm, embeds, spec.folds, (task.seed, spec.seed), context.out)  # type: ignore[arg-type]
