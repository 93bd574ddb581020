"""Trainings by `fit` of several models, written down: one process or, by torchrun, several do the same.

python tests/models/in_processes.py OUT SCRATCH [STOP]      torchrun --nproc-per-node 2 ... the same
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
)

from xling.config.common import Training
from xling.config.policies import Lora
from xling.grid.stage import Interrupted, PartDone
from xling.models import parallel, states
from xling.models.training import adapted, core, fit
from xling.rewards import alignment
from xling.rewards.networks import ImplicitNet, RewardNet, reward_batch, reward_loss
from xling.stages.sft import causal_loss, labelled_batch, seq2seq_loss

WORDS = 501  # odd: shares of the embeddings are unequal
states.VOCABULARY_AT_ONCE = 6 * WORDS  # the logits of some micro-batches are made at once, those of others in 2 or 3
STEPS = 6
Row = tuple[list[int], list[int]]


def rows() -> list[Row]:
    """Responses have 1 to 7 tokens: a mean over tokens is no mean over rows."""
    draw = torch.Generator().manual_seed(1)

    def words(count: int) -> list[int]:
        return torch.randint(3, WORDS, (count,), generator=draw).tolist()

    return [(words(5), words(1 + i % 7)) for i in range(60)]


def decoder(tied: bool = False) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=WORDS, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
                    num_key_value_heads=2, tie_word_embeddings=tied)
    )  # fmt: skip


def encoder_decoder() -> Any:
    torch.manual_seed(0)
    return MT5ForConditionalGeneration(
        MT5Config(vocab_size=WORDS, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0,
                  dropout_rate=0.0)
    )  # fmt: skip


def with_pictures() -> Any:
    """It has weights that no text reaches."""
    torch.manual_seed(0)
    text = {"vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
    seen = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
            "image_size": 28, "patch_size": 14}  # fmt: skip
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=seen, mm_tokens_per_image=1))


def low_rank() -> Any:
    torch.manual_seed(0)
    return adapted(decoder(), "lora", Lora(r=4), "CAUSAL_LM")


class ReadsIds:
    """In place of texts."""

    def _ids(self, prompts: Any, responses: Any) -> Any:
        return list(prompts), [list(row) for row in responses]


class OfIds(ReadsIds, ImplicitNet):
    """A log-ratio."""


class HeadOfIds(ReadsIds, RewardNet):
    """A scalar head."""


def log_ratio() -> Any:
    return OfIds(decoder(), SimpleNamespace(pad_token_id=0), "sum", beta=0.5)


def scalar() -> Any:
    return HeadOfIds(decoder().model, SimpleNamespace(pad_token_id=0), "last")


def aligned(net: Any) -> Any:
    """Pairs, each with three texts of which the second is to be nearer to the first than the third is."""
    texts = list(zip(rows(), rows()[1:], rows()[2:], strict=False))
    return alignment.added(net, (pairs(net), lambda some: reward_batch(some, net.collate), reward_loss), texts, 0.5, 0)


def pairs(net: Any) -> list[Any]:
    """Each response chosen over the next one, with what the reference says of both."""
    asked, said = zip(*rows(), strict=True)
    read = net.rows(asked + asked, said + said[1:] + said[:1])
    return [(chosen, rejected, 1.0) for chosen, rejected in zip(read[:60], read[60:], strict=True)]


def causal(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return causal_loss(core(model), batch)


MODELS: dict[str, tuple[Callable[[], Any], Any]] = {
    "decoder": (decoder, causal),
    "tied decoder": (lambda: decoder(True), causal),
    "encoder_decoder": (encoder_decoder, seq2seq_loss),
    "with pictures": (with_pictures, causal),
    "adapters": (low_rank, causal),
    "log-ratio": (log_ratio, reward_loss),
    "aligned": (scalar, None),
}
CASES = [
    *(
        ("decoder", optimizer, how, micro)
        for how in ("ddp", "fsdp")
        for optimizer, micro in (("adamw", 2), ("adafactor", None))
    ),
    *((model, "adafactor", "layers", 2) for model in ("tied decoder", "encoder_decoder")),
    *(("with pictures", "adamw", how, 2) for how in ("ddp", "fsdp")),
    ("adapters", "adamw", "fsdp", None),
    ("log-ratio", "adamw", "fsdp", 2),
    ("aligned", "adamw", "fsdp", 2),
]


def name_of(case: tuple[str, str, str, int | None]) -> str:
    return " ".join(str(part) for part in case)


def train(case: tuple[str, str, str, int | None], scratch: Path, stop: int | None) -> dict[str, Any] | None:
    """Losses of all steps, validation losses, greedy responses and a sum of the weights at the end."""
    kind, optimizer, how, micro = case
    build, loss = MODELS[kind]
    samples = optimizer == "adafactor"
    gather, how = ("layers", "fsdp") if how == "layers" else ("whole", how)
    begun = build()
    together = whole_beside_blocks(begun)
    data: Any = pairs(begun) if kind == "log-ratio" else rows()
    said: list[list[int]] = []
    seen: list[int] = []

    def metric(model: Any) -> float:
        with torch.no_grad():
            prompt = torch.tensor([[5, 9, 30, 7]])
            if samples:
                said.append(model.generate(input_ids=prompt, max_new_tokens=6, do_sample=False)[0].tolist())
            return float(loss(model, collate(data[:8])))

    def collate(rows: list[Any]) -> dict[str, Tensor]:
        return reward_batch(rows, begun.collate) if kind == "log-ratio" else labelled_batch(begun.config, rows, 0)

    if kind == "aligned":
        data, collate, loss = aligned(begun)
    rate = 1e-3 if kind == "aligned" else 3e-3  # a contrast at a temperature of 0.1 is steep: 3e-3 makes it worse
    budget = Training(steps=STEPS, batch_size=8, learning_rate=rate, eval_every=3, warmup_steps=2, optimizer=optimizer,  # type: ignore[arg-type]
                      micro_batch_size=micro, weight_decay=0.1)  # fmt: skip
    try:
        model, curve = fit(
            begun, data, collate, loss, metric, False, budget, 0, scratch / name_of(case).replace(" ", "-"),
            lambda done, total: seen.append(done), lambda: len(seen) == stop, how=how, gather=gather, samples=samples,
        )  # fmt: skip
    except (Interrupted, PartDone):
        return None
    return {
        "losses": [row["loss"] for row in curve if "loss" in row],
        "validation": [row["metric"] for row in curve if "metric" in row],
        "said": said[-2:],
        "weights": float(sum(weight.detach().double().abs().sum() for weight in model.parameters())),
        "steps": len(seen),
        "whole beside blocks": bool(together),
    }


def whole_beside_blocks(model: Any) -> set[str]:
    """Grows by the names of embeddings and head, if they are there whole while a block computes with gradients."""
    found, inside = set[str](), core(getattr(model, "trunk", model))
    tables = {"table": inside.get_input_embeddings(), "head": inside.get_output_embeddings()}

    def note(*_: Any) -> None:
        if torch.is_grad_enabled():
            found.update(name for name, part in tables.items() if part and not isinstance(part.weight, DTensor))

    parallel.blocks(model)[-1].register_forward_hook(note)
    return found


def main(runs: list[str], folder: Path, each: Callable[[str, int | None], dict[str, Any]]) -> None:
    """Each run, `NAME[=SCRATCH[=STOP]]`: what `each` gives for its scratch and stop goes to NAME.json in `folder`."""
    torch.set_num_threads(1)
    for run in runs:
        name, scratch, stop = [*run.split("="), "", ""][:3]
        results = each(scratch or name, int(stop) if stop else None)
        if parallel.rank() == 0:
            (folder / f"{name}.json").write_text(json.dumps(results), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    out = Path(sys.argv[1])
    main(sys.argv[2:], out, lambda scratch, stop: {name_of(case): train(case, out / scratch, stop) for case in CASES})
