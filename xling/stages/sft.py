"""sft[l]: fine-tune the base on the demonstrations of a language (or of several, pooled).

The checkpoint with the best ROUGE-L of greedy responses on validation demonstrations is kept (paper, appendix B).
"""

import itertools
from typing import Any

import msgspec
import torch
from msgspec import Struct
from torch import Tensor
from torch.nn.functional import cross_entropy

from xling.analysis.rouge import rouge_l
from xling.config import Task, Training
from xling.grid.stage import Context
from xling.models.load import load_policy, save_policy
from xling.models.sampling import greedy
from xling.models.text import Ids, decode_response, pad_right, prompt_ids, response_ids
from xling.models.training import fit, write_curve
from xling.stages.files import write_json
from xling.tasks import task_module
from xling.tasks.records import Demonstration

VALIDATION_DEMONSTRATIONS = 64  # a language; enough to tell checkpoints apart, cheap enough to do at each evaluation


class SftSpec(Struct, frozen=True):
    """What determines a fine-tuned policy besides its base."""

    task: Task
    digest: str
    langs: tuple[str, ...]
    training: Training
    max_new_tokens: int
    seed: int


def run(context: Context) -> None:
    """Writes the model in Hugging Face format, curve.jsonl and sft.json."""
    spec = msgspec.convert(context.spec, SftSpec)
    module = task_module(spec.task)
    model, tokenizer = load_policy(context.parents["base"])
    rows = [token_row(tokenizer, d) for lang in spec.langs for d in module.demonstrations(spec.task, lang, "train")]
    held_out = [
        d
        for lang in spec.langs
        for d in itertools.islice(module.demonstrations(spec.task, lang, "validation"), VALIDATION_DEMONSTRATIONS)
    ]

    def metric(current: Any) -> float:
        return validation_rouge(current, tokenizer, held_out, spec.max_new_tokens)

    def collate(batch: list[tuple[Ids, Ids]]) -> dict[str, Tensor]:
        return causal_batch(batch, tokenizer.pad_token_id)

    torch.manual_seed(spec.seed)
    curve = fit(
        model,
        rows,
        collate,
        causal_loss,
        metric,
        True,
        spec.training,
        spec.seed,
        context.scratch,
        context.progress,
        context.stopping,
    )
    save_policy(context.out, model, tokenizer)
    write_curve(context.out, curve)
    write_json(context.out / "sft.json", {"demonstrations": len(rows), "validation_rouge_l": metric(model.eval())})


def token_row(tokenizer: Any, demonstration: Demonstration) -> tuple[Ids, Ids]:
    """(prompt ids, response ids)."""
    return (
        prompt_ids(tokenizer, [demonstration.prompt.text])[0],
        response_ids(tokenizer, [demonstration.response])[0],
    )


def causal_batch(rows: list[tuple[Ids, Ids]], pad: int) -> dict[str, Tensor]:
    """input_ids, attention_mask, labels (B, L), right-padded; the loss is on the responses alone."""
    width = max(len(p) + len(r) for p, r in rows)
    ids = torch.from_numpy(pad_right([p + r for p, r in rows], width, pad))
    labels = torch.from_numpy(pad_right([[-100] * len(p) + r for p, r in rows], width, -100))
    lengths = torch.tensor([len(p) + len(r) for p, r in rows])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
        "labels": labels,
    }


def causal_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood of the response tokens, in nats; no logits are computed for the prompts."""
    hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)[0]
    target = batch["labels"][:, 1:]
    counted = target != -100
    return cross_entropy(model.lm_head(hidden[:, :-1][counted]), target[counted])


def validation_rouge(model: Any, tokenizer: Any, held_out: list[Demonstration], max_new_tokens: int) -> float:
    """Mean ROUGE-L F1 of greedy responses against the demonstrations, 0 to 1."""
    replies = greedy(model, tokenizer, [d.prompt.text for d in held_out], max_new_tokens)
    texts = [decode_response(tokenizer, ids) for ids in replies]
    return sum(rouge_l(d.response, text) for d, text in zip(held_out, texts, strict=True)) / len(held_out)
