"""Make the micro base again: tokenizer, pretraining, and the record that a test checks the shipped weights against.

    python -m xling.models.pretrain [FOLDER]     # about half an hour on one core

The text is the embedded world's unlabelled corpus, whose facts none of the task's splits contains.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch

from xling.jsonfiles import read_json, write_json
from xling.models.micro import encode_text, newline_id, packed_batches, packed_loss, pretrain, train_tokenizer
from xling.models.recipe import BASE_FOLDER, Recipe, corpus_digest
from xling.models.sampling import greedy
from xling.models.text import decode_response
from xling.tasks import micro_summarization
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro.writing import copying_lessons, pretraining_texts
from xling.tasks.micro_summarization import Settings as MicroSummarization

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
    start = time.monotonic()

    def report(step: int, loss: float) -> None:
        progress(step, recipe.steps)
        print(f"step {step} loss {loss:.4f} {time.monotonic() - start:.0f} s", flush=True)

    model = pretrain(recipe, tokenizer, endless(recipe), report).half()
    model.save_pretrained(folder)
    model = model.float().eval()
    record = {
        "recipe": msgspec.to_builtins(recipe),
        "corpus_digest": corpus_digest(recipe.seed),
        "held_out_loss": round(held_out_loss(model, tokenizer, recipe), 4),
        "attribution": round(attribution(model, tokenizer), 4),
        "torch": torch.__version__,
    }
    write_json(folder / "recipe.json", record)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else BASE_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    make_base(target, lambda done, total: None)
    print(read_json(target / "recipe.json"))
