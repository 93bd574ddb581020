"""Makes the micro base: a tiny decoder-only LM and its tokenizer, from scratch on the embedded world's text.

    make base                                    # the recipe below, some 27 CPU-minutes
    python -m xling.models.pretrain [FOLDER]     # the same; FOLDER: by default xling/models/micro_base/
    python -m xling.models.pretrain FOLDER surprise     # with a second stage, some 4 CPU-minutes more

The text is the embedded world's unlabelled corpus, whose facts none of the task's splits contains. Beside the weights
it writes the record that a test checks them against. Llama architecture (rotary positions, RMSNorm, SwiGLU) in
Hugging Face format, so that the rest of the program loads it like any other causal LM. What made it learn to copy at
this size: embeddings of unit scale with the output started as their copy; mimetic attention with biases; lessons of
plain copying first; text that restates a document in another order; a loss that hardly counts a word's first
occurrence.
"""

import bisect
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from xling.jsonfiles import read_json, write_json
from xling.models.hub import BASE_FOLDER, Recipe, Surprise, corpus_digest, written
from xling.models.sampling import greedy
from xling.models.text import decode_response
from xling.models.weights import OWN_TOKENS
from xling.tasks import micro_summarization
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro.writing import copying_lessons, pretraining_texts
from xling.tasks.micro_summarization import Settings as MicroSummarization

# --- model, tokenizer and training --------------------------------------------------------------------------

PAD, (BOS, _), (EOS, _) = "<pad>", OWN_TOKENS["bos"], OWN_TOKENS["eos"]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
OUTPUT_SCALE = 0.1  # the output starts as the embedding scaled down: what is attended to is what is said
BIAS_SCALE = 0.5  # of queries and keys: without a part that ignores the token, no head can look one place back
POOL = 400  # texts waiting to be packed


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every string can be written, and the world's words are one or two pieces.

    Numbers are kept apart from letters and punctuation, and whole, so that a number is copied as one piece.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = Regex(r" ?\p{L}[\p{L}\p{M}'’]*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, vocab_size: int) -> LlamaForCausalLM:
    """A fresh model; token ids 0, 1, 2 are pad, bos, eos."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=recipe.max_positions,
            tie_word_embeddings=False,
            attention_bias=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    with torch.no_grad():
        model.lm_head.weight.copy_(OUTPUT_SCALE * model.model.embed_tokens.weight)
    for layer in model.model.layers:
        _mimetic(layer.self_attn, recipe.hidden_size)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def _mimetic(attention: Any, hidden_size: int) -> None:
    """Heads start out looking for their own token and passing it on (mimetic initialisation, arXiv 2305.09828).

    Queries equal keys and the output is half the transposed values: the way from there to copying is short.
    """
    with torch.no_grad():
        for projection in (attention.k_proj, attention.v_proj):
            projection.weight.normal_(std=hidden_size**-0.5)
        attention.q_proj.weight.copy_(attention.k_proj.weight)
        attention.k_proj.bias.normal_(std=BIAS_SCALE)
        attention.q_proj.bias.copy_(attention.k_proj.bias)
        attention.o_proj.weight.copy_(0.5 * attention.v_proj.weight.T)


def packed_batches(ids: Iterable[list[int]], newline: int, recipe: Recipe) -> Iterator[Batch]:
    """Pack texts into rows without cutting any: yields (input_ids, position_ids, text_index, weights), each (B, L).

    Positions restart with every text and a text attends to itself alone (index -1 is padding). Texts wait in a pool
    and each row takes the longest that still fits, so that little is padding.
    """
    rows, length = recipe.tokens_per_batch // recipe.row_length, recipe.row_length
    source, waiting = iter(ids), list[list[int]]()
    while True:
        waiting += itertools.islice(source, POOL - len(waiting))
        if sum(map(len, waiting)) < rows * length:
            return
        waiting.sort(key=len)
        batch = torch.zeros(rows, length, dtype=torch.long)
        positions, owners, weights = torch.zeros_like(batch), torch.full_like(batch, -1), torch.zeros(batch.shape)
        for row in range(rows):
            _fill_row(waiting, newline, recipe, batch[row], positions[row], owners[row], weights[row])
        yield batch, positions, owners, weights


def _fill_row(
    waiting: list[list[int]],
    newline: int,
    recipe: Recipe,
    ids: Tensor,
    positions: Tensor,
    owners: Tensor,
    weights: Tensor,
) -> None:
    """Move texts from `waiting` (sorted by length) into one row, the longest fitting first."""
    used, count = 0, 0
    while fitting := bisect.bisect_right(waiting, len(ids) - used, key=len):
        text = waiting.pop(fitting - 1)
        span = slice(used, used + len(text))
        ids[span] = torch.tensor(text)
        positions[span] = torch.arange(len(text))
        owners[span] = count
        weights[span] = 1.0
        if newline in text:
            weights[used : used + text.index(newline)] = recipe.first_line_weight
        used, count = used + len(text), count + 1


def packed_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Weighted mean next-token loss over the texts of a packed batch, in nats.

    First lines state facts out of the blue: what can be learnt is in the lines that take them up again.
    """
    ids, _, owners, weights = batch
    counted = weights[:, 1:] * (owners[:, 1:] == owners[:, :-1])
    losses = _surprises(model.lm_head(_packed_states(model, batch)), ids)
    return (losses * counted).sum() / counted.sum()


def _packed_states(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """(B, L, D) last hidden states; no text sees another."""
    ids, positions, owners, _ = batch
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same_text = owners[:, :, None] == owners[:, None, :]
    mask = (causal & same_text)[:, None]  # (B, 1, L, L)
    hidden: Tensor = model.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)[0]
    return hidden


def _surprises(logits: Tensor, ids: Tensor) -> Tensor:
    """(B, L - 1): -log p, in nats, of each token but the first."""
    predicted, said = logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
    flat = torch.nn.functional.cross_entropy(predicted, said, reduction="none")
    return flat.view(len(ids), -1)


def learning_rate_scale(step: int, steps: int) -> float:
    """Linear warm-up over 100 steps, constant, then linear to zero over the last 40 %."""
    return min(1.0, (step + 1) / 100, max(0.0, (steps - step) / (0.4 * steps)))


def pretrain(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], report: Any = print
) -> LlamaForCausalLM:
    """Train the base; bfloat16 where it is safe, weights and optimizers in float32."""
    model = build_model(recipe, len(tokenizer))
    encoded = (encode_text(tokenizer, text) for text in texts)

    def loss(batch: Batch) -> Tensor:
        return packed_loss(model, batch)

    _descend(
        model, packed_batches(encoded, newline_id(tokenizer), recipe), recipe.steps, recipe.learning_rate, loss, report
    )
    return model


def _descend(
    trained: torch.nn.Module,
    batches: Iterable[Batch],
    steps: int,
    peak: float,
    loss_of: Callable[[Batch], Tensor],
    report: Any,
) -> None:
    """AdamW on what is trained, one step a batch; the learning rate peaks at `peak`."""
    optimizer = torch.optim.AdamW(trained.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
    for step, batch in zip(range(steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = peak * learning_rate_scale(step, steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            report(step, float(loss.detach()))


def newline_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The piece that ends a line."""
    return int(tokenizer("\n", add_special_tokens=False)["input_ids"][0])


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """bos, the text's pieces, eos."""
    return [1, *tokenizer(text, add_special_tokens=False)["input_ids"], 2]


# --- the second stage: states that tell how surprising a word was ------------------------------------------

# The state at a word says the next one, not whether this one fitted: a head on states cannot read what the likelihood
# knows, and what else it finds there is of one language (docs/results.md). So new layers are put on top, and beside the
# next word two linear maps are learnt: from the state at a token to its own surprise (-log p under the model itself,
# with no gradient through it), from the state of eos to the mean over its line. Both are thrown away. The text is that
# of the first stage, and in some of it tokens are exchanged by chance, so that there is something to be surprised at:
# nothing says what is true, or good, or which fact is the main one. After ELECTRA (arXiv 2003.10555), with chance in
# place of its generator and the likelihood in place of its two classes.

SURPRISE = Recipe(surprise=Surprise())


class Telling(torch.nn.Module):
    """A base and the two maps: what `says` first is of tokens, in units of UNIT nats, then of lines, in nats."""

    UNIT = 2.0

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model, self.says = model, torch.nn.Linear(model.config.hidden_size, 2)


def deeper(model: LlamaForCausalLM, layers: int, seed: int) -> LlamaForCausalLM:
    """A copy with new layers on top, which add next to nothing at first."""
    torch.manual_seed(seed)
    settings = model.config.to_dict() | {"num_hidden_layers": model.config.num_hidden_layers + layers}
    settings.pop("layer_types", None)
    taller = LlamaForCausalLM(LlamaConfig(**settings))
    taller.load_state_dict(model.state_dict(), strict=False)
    for layer in taller.model.layers[model.config.num_hidden_layers :]:
        _mimetic(layer.self_attn, model.config.hidden_size)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        with torch.no_grad():
            layer.self_attn.o_proj.weight.mul_(0.02)
    return taller


def exchanged(batch: Batch, newline: int, how: Surprise, chance: torch.Generator) -> Batch:
    """The batch with some tokens exchanged for others of its row; they weigh 0. First lines, ends and marks stay."""
    ids, positions, owners, weights = batch
    noisy = torch.rand(len(ids), int(owners.max()) + 1, generator=chance) < how.noisy
    chosen = noisy.gather(1, owners.clamp(min=0)) & (torch.rand(ids.shape, generator=chance) < how.rate)
    others = ids.gather(1, torch.randint(ids.shape[1], ids.shape, generator=chance))
    chosen &= (weights == 1.0) & (owners >= 0) & ~_ends(ids, newline) & ~_ends(others, newline) & (ids != others)
    return torch.where(chosen, others, ids), positions, owners, weights.masked_fill(chosen, 0.0)


def _ends(ids: Tensor, newline: int) -> Tensor:
    """pad, bos, eos and ends of lines."""
    return (ids <= 2) | (ids == newline)


def telling_loss(telling: Telling, batch: Batch, clean: Batch, newline: int, how: Surprise) -> Tensor:
    """Loss of the next word on an `exchanged` batch, and that of telling surprises, whose squares are averaged."""
    ids, _, owners, weights = batch
    hidden = _packed_states(telling.model, batch)
    surprise = _surprises(telling.model.lm_head(hidden), ids)
    inside = owners[:, 1:] == owners[:, :-1]
    counted = weights[:, 1:] * inside
    next_word = (surprise * counted).sum() / counted.sum()
    told, target = telling.says(hidden[:, 1:].float()), surprise.detach().clamp(max=how.most)
    read = inside & (clean[3][:, 1:] == 1.0)
    tokens = read & ~_ends(ids, newline)[:, 1:]
    line = (ids == newline).cumsum(1) + ids.shape[1] * owners
    same = (line[:, 1:, None] == line[:, None, 1:]) & tokens[:, None, :]  # (B, L - 1, L - 1)
    lengths = same.sum(2)
    ends = read & (ids[:, 1:] == 2) & (lengths > 0)
    mean = (same * target[:, None, :]).sum(2) / lengths.clamp(min=1)
    of_tokens, of_lines = (told[..., 0] - target / Telling.UNIT)[tokens], (told[..., 1] - mean)[ends]
    loss: Tensor = next_word + how.weight * (of_tokens.square().mean() + of_lines.square().mean())
    return loss


def taught_surprise(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], recipe: Recipe, report: Any
) -> LlamaForCausalLM:
    """The second stage: a taller model."""
    how = recipe.surprise
    assert how is not None
    telling = Telling(deeper(model, how.layers, recipe.seed))
    newline, chance = newline_id(tokenizer), torch.Generator().manual_seed(recipe.seed)

    def loss(batch: Batch) -> Tensor:
        return telling_loss(telling, exchanged(batch, newline, how, chance), batch, newline, how)

    encoded = (encode_text(tokenizer, text) for text in texts)
    _descend(telling, packed_batches(encoded, newline, recipe), how.steps, how.learning_rate, loss, report)
    return telling.model


# --- the run, and its record --------------------------------------------------------------------------------

TOKENIZER_TEXTS = 24_000
HELD_OUT_SEED, HELD_OUT_TEXTS = 1_000_003, 600
COPY_PROMPTS = 16  # a language


def endless(recipe: Recipe) -> Iterable[str]:
    """Lessons in copying, then fresh text for as long as training lasts: no text is seen twice."""
    yield from copying_lessons(recipe.seed, recipe.lessons)
    for block in itertools.count():
        yield from pretraining_texts(recipe.seed + 7919 * block, 10_000)


def held_out_loss(model: Any, tokenizer: Any, recipe: Recipe) -> float:
    """Mean next-token loss in nats on pretraining text of a seed that training does not use."""
    encoded = [encode_text(tokenizer, text) for text in pretraining_texts(HELD_OUT_SEED, HELD_OUT_TEXTS)]
    batches = list(packed_batches(encoded, newline_id(tokenizer), recipe))
    with torch.inference_mode():
        return sum(float(packed_loss(model, batch)) for batch in batches) / len(batches)


def attribution(model: Any, tokenizer: Any) -> float:
    """Mean `attributable` of greedy replies, before any fine-tuning, to validation prompts of all languages.

    Whether the base copies a fact whole. Quality does not say it: a fact that is true but not the main one loses there.
    """
    task = MicroSummarization(languages=LANGUAGES, validation=COPY_PROMPTS)
    scores: list[float] = []
    for lang in LANGUAGES:
        prompts = micro_summarization.prompts(task, lang, "validation")
        replies = [decode_response(tokenizer, ids) for ids in greedy(model, tokenizer, [p.text for p in prompts], 40)]
        rows = micro_summarization.quality_by_dimension(task, prompts, [[reply] for reply in replies])
        scores += [row[0].attributable for row in rows]
    return sum(scores) / len(scores)


def make_base(folder: Path, progress: Callable[[int, int], None], recipe: Recipe | None = None) -> None:
    """Tokenizer, model (float16 on disk) and recipe.json into `folder`."""
    recipe = recipe or Recipe()
    tokenizer = train_tokenizer(pretraining_texts(recipe.seed, TOKENIZER_TEXTS), recipe.vocab_size)
    tokenizer.save_pretrained(folder)
    start, first, second = time.monotonic(), recipe.steps, recipe.surprise.steps if recipe.surprise else 0

    def report(step: int, loss: float) -> None:
        progress(step, first + second)
        print(f"step {step} loss {loss:.4f} {time.monotonic() - start:.0f} s", flush=True)

    texts = endless(recipe)
    model = pretrain(recipe, tokenizer, texts, report)
    if recipe.surprise is not None:
        model = taught_surprise(model, tokenizer, texts, recipe, lambda step, loss: report(first + step, loss))
    model = model.half()
    model.save_pretrained(folder)
    model = model.float().eval()
    record = {
        "recipe": written(recipe),
        "corpus_digest": corpus_digest(recipe.seed),
        "held_out_loss": round(held_out_loss(model, tokenizer, recipe), 4),
        "attribution": round(attribution(model, tokenizer), 4),
        "torch": torch.__version__,
    }
    write_json(folder / "recipe.json", record)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if sys.argv[2:] not in ([], ["surprise"]):
        sys.exit(f"{' '.join(sys.argv[2:])}: after the folder there is nothing, or the word surprise.")
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else BASE_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    make_base(target, lambda done, total: None, SURPRISE if sys.argv[2:] == ["surprise"] else None)
    print(read_json(target / "recipe.json"))
