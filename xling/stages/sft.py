"""sft[l]: fine-tune the base on the demonstrations of a language (or of several, pooled).

The checkpoint with the best ROUGE-L of greedy responses on validation demonstrations is kept (paper, appendix B).
On translated demonstrations these are translated too; ROUGE-L on the language's own is then reported besides.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from xling.errors import StageError
from xling.grid.stage import Context
from xling.jsonfiles import write_json
from xling.measures.words import rouge_l
from xling.models.architecture import logits_of
from xling.models.load import loading
from xling.models.sampling import greedy_ids
from xling.models.states import Batch, hidden_states, log_probabilities, padded_batch, tokens_at_once
from xling.models.text import Ids, decode_response, joined, policy_ids, response_ids
from xling.models.training import core, fit, store_trained, trainable, write_curve
from xling.results.specs import SftSpec
from xling.results.translations import given, translates
from xling.tasks.options import task_module
from xling.tasks.records import Demonstration, Split

VALIDATION_DEMONSTRATIONS = 64  # a language; enough to tell checkpoints apart, cheap enough to do at each evaluation

BLOCK = 1024  # demonstrations tokenised at once; half a million of them are kept as arrays, not as lists of objects
RESPONSE_TOKENS = 512  # the longest response that is learnt from, unless policy.max_new_tokens is more

Row = tuple[Sequence[int], Sequence[int]]  # prompt ids, response ids


def run(context: Context) -> None:
    """Writes the model in Hugging Face format, curve.jsonl and sft.json."""
    spec = msgspec.convert(context.spec, SftSpec)
    torch.manual_seed(spec.seed)
    model, tokenizer = trainable(
        context.parents["base"], spec.tuning, spec.lora, spec.training.dropout, spec.training.optimizer
    )
    encoder = bool(model.config.is_encoder_decoder)
    demonstrations = _demonstrations(context, spec, "train", None)
    train, cut = token_rows(tokenizer, demonstrations, spec, encoder)
    cut |= joined(tokenizer, (one.prompt for one in demonstrations))
    held_out = _demonstrations(context, spec, "validation", VALIDATION_DEMONSTRATIONS)
    metric = _rouge_on(held_out, tokenizer, spec, encoder)

    def collate(rows: list[Row]) -> Batch:
        return labelled_batch(model.config, rows, tokenizer.pad_token_id)

    def loss(current: Any, batch: Batch) -> Tensor:
        return (seq2seq_loss if encoder else causal_loss)(core(current), batch)

    torch.manual_seed(spec.seed)
    model, curve = fit(
        model,
        train,
        collate,
        loss,
        metric,
        True,
        spec.training,
        spec.seed,
        context.scratch,
        context.progress,
        context.stopping,
        loading(context.parents["base"]).dtype,
        spec.where.get("parallel", "auto"),
        spec.where.get("gather", "auto"),
        samples=True,
    )
    model = store_trained(context.parents["base"], context.out, model, tokenizer, spec.lora)
    write_curve(context.out, curve)
    report = {"demonstrations": len(train), "validation_rouge_l": metric(model)} | cut
    if translates(context):
        own = [d for lang in spec.langs for d in task_module(spec.task).demonstrations(spec.task, lang, "validation")]
        organic = _rouge_on(own[:VALIDATION_DEMONSTRATIONS], tokenizer, spec, encoder)
        report["organic_rouge_l"] = organic(model)  # reported, and read by nothing
    write_json(context.out / "sft.json", report)


def _demonstrations(context: Context, spec: SftSpec, split: Split, most: int | None) -> list[Demonstration]:
    """Those of all languages, at most `most` of each."""
    found = [d for own in given(context, spec.task, spec.langs, "demonstrations", split) for d in own[:most]]
    if not found:
        raise StageError(f"Of the {split} demonstrations none is left after translation (translate.json says why).")
    return found


def _rouge_on(
    held_out: Sequence[Demonstration], tokenizer: Any, spec: SftSpec, encoder: bool
) -> Callable[[Any], float]:
    """ROUGE of a model's greedy responses with the demonstrations' own."""
    ids, _ = policy_ids(tokenizer, [d.prompt for d in held_out], spec.max_prompt_tokens, spec.truncation_side, encoder)

    def rouge(model: Any) -> float:
        return validation_rouge(core(model), tokenizer, held_out, ids, spec.max_new_tokens)

    return rouge


def token_rows(
    tokenizer: Any, demonstrations: Sequence[Demonstration], spec: SftSpec, encoder: bool
) -> tuple[list[Row], dict[str, int]]:
    """(prompt ids, response ids) of each demonstration, and how many prompts and responses were too long."""
    rows: list[Row] = []
    cut = {"prompts_cut": 0, "responses_cut": 0}
    for start in range(0, len(demonstrations), BLOCK):
        block, more = _token_block(tokenizer, demonstrations[start : start + BLOCK], spec, encoder)
        rows += [(array("i", prompt), array("i", response)) for prompt, response in block]
        cut = {name: count + more[name] for name, count in cut.items()}
    return rows, cut


def _token_block(
    tokenizer: Any, demonstrations: Sequence[Demonstration], spec: SftSpec, encoder: bool
) -> tuple[list[tuple[Ids, Ids]], dict[str, int]]:
    limit = max(RESPONSE_TOKENS, spec.max_new_tokens)
    prompts, prompts_cut = policy_ids(
        tokenizer, [d.prompt for d in demonstrations], spec.max_prompt_tokens, spec.truncation_side, encoder
    )
    responses = response_ids(tokenizer, [d.response for d in demonstrations], limit + 1)
    cut = {"prompts_cut": prompts_cut, "responses_cut": sum(len(ids) > limit for ids in responses)}
    responses = [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in responses]
    return list(zip(prompts, responses, strict=True)), cut


def labelled_batch(config: Any, rows: Sequence[Row], pad: int) -> Batch:
    """`padded_batch` with labels: the tokens that the decoder reads, of which the responses alone are counted."""
    batch = padded_batch(config, rows, pad)
    counted = batch.pop("response_mask")
    read = batch.get("decoder_input_ids", batch["input_ids"])
    return batch | {"labels": read.masked_fill(~counted, -100)}


def causal_loss(model: Any, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the response tokens, in nats; no logits are computed for the prompts."""
    hidden, target = hidden_states(model, _read(batch))[:, :-1], batch["labels"][:, 1:]
    counted = target != -100
    states, target = hidden[counted], target[counted]
    if len(target) > tokens_at_once(model):
        return _in_chunks(model, states, target)
    return cross_entropy(logits_of(model, states).float(), target)


def seq2seq_loss(model: Any, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the response tokens, in nats."""
    target = batch["labels"][:, 1:]
    counted = target != -100
    if batch["labels"].numel() > tokens_at_once(model):
        return _in_chunks(model, hidden_states(model, _read(batch))[:, :-1][counted], target[counted])
    logits = logits_of(model, hidden_states(model, _read(batch)))[:, :-1]
    return cross_entropy(logits[counted].float(), target[counted])


def _read(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "labels"}


def _in_chunks(model: Any, states: Tensor, target: Tensor) -> Tensor:
    """The same mean where the logits of all tokens would not fit in memory."""
    return -log_probabilities(model, states, target).mean()


def validation_rouge(
    model: Any, tokenizer: Any, held_out: Sequence[Demonstration], prompts: Sequence[Ids], max_new_tokens: int
) -> float:
    """Mean ROUGE-L F1 of greedy responses to `prompts` (ids) against the demonstrations, 0 to 1."""
    texts = [decode_response(tokenizer, ids) for ids in greedy_ids(model, tokenizer, prompts, max_new_tokens)]
    return sum(rouge_l(d.response, text) for d, text in zip(held_out, texts, strict=True)) / len(held_out)
