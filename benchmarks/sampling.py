"""Tokens a second of our sampling against transformers' `generate(num_return_sequences=n)`, prompt by prompt.

    python benchmarks/sampling.py [PROMPTS]     # of the micro policy, 48 unless given; about a minute

Both in one process and in turns, with one thread and the same settings: n = 16 samples a prompt at temperature 0.8, up
to 32 new tokens, eos counted. Of each the fastest of three rounds, by wall clock and by processor time. Once with the
micro policy and its prompts, once with an mT5 of random weights that reads the same prompts (its samples hardly ever
end). Exit code 1 if the micro policy's ratio of processor times is below 2.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import MT5Config, MT5ForConditionalGeneration

from xling.models.hub import BASE_FOLDER
from xling.models.load import load_policy
from xling.models.sampling import Sampling, sample_chunk
from xling.models.text import Ids, prompt_ids
from xling.tasks import micro_summarization
from xling.tasks.micro_summarization import Settings as MicroSummarization

N, STEPS, TEMPERATURE, CHUNK, ROUNDS = 16, 32, 0.8, 32, 3
Timed = tuple[int, float, float]  # tokens, seconds, processor seconds


def timed(draw: Callable[[], int]) -> Timed:
    start, processor = time.perf_counter(), time.process_time()
    tokens = draw()
    return tokens, time.perf_counter() - start, time.process_time() - processor


def ours(model: Any, tokenizer: Any, texts: list[str], seed: int) -> int:
    how = Sampling(N, seed, "pool", TEMPERATURE, 1.0, STEPS)
    tokens, rows = 0, prompt_ids(tokenizer, texts, encoder=model.config.is_encoder_decoder)
    for start in range(0, len(rows), CHUNK):
        names = list(map(str, range(start, min(start + CHUNK, len(rows)))))
        said = sample_chunk(model, tokenizer, names, rows[start : start + CHUNK], how)
        tokens += sum(len(ids) for row in said for ids in row)
    return tokens


def theirs(model: Any, tokenizer: Any, texts: list[str], seed: int) -> int:
    torch.manual_seed(seed)
    encoder, tokens = model.config.is_encoder_decoder, 0
    for ids in prompt_ids(tokenizer, texts, encoder=encoder):
        said = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            top_p=1.0,
            num_return_sequences=N,
            max_new_tokens=STEPS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        tokens += sum(_length(row, tokenizer.eos_token_id) for row in said[:, 1 if encoder else len(ids) :].tolist())
    return tokens


def _length(row: Ids, eos: int) -> int:
    return row.index(eos) + 1 if eos in row else len(row)


def compare(name: str, model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Both in turns, the fastest round of each; the ratio by processor time."""
    rounds: dict[str, list[Timed]] = {"ours": [], "generate": []}
    ours(model, tokenizer, texts[:2], 0), theirs(model, tokenizer, texts[:2], 0)  # warm
    for seed in range(ROUNDS):
        rounds["ours"].append(timed(lambda: ours(model, tokenizer, texts, seed)))  # noqa: B023
        rounds["generate"].append(timed(lambda: theirs(model, tokenizer, texts, seed)))  # noqa: B023
    wall = {kind: max(tokens / seconds for tokens, seconds, _ in found) for kind, found in rounds.items()}
    processor = {kind: max(tokens / seconds for tokens, _, seconds in found) for kind, found in rounds.items()}
    for what, rates in (("wall clock", wall), ("processor time", processor)):
        ratio = rates["ours"] / rates["generate"]
        print(
            f"{name}, {what}: ours {rates['ours']:,.0f} tokens/s, generate {rates['generate']:,.0f}, ratio {ratio:.2f}"
        )
    return ratio


def mt5(vocabulary: int) -> Any:
    """As wide as the micro policy, with random weights."""
    torch.manual_seed(0)
    config = MT5Config(
        vocab_size=vocabulary, d_model=128, d_kv=32, d_ff=384, num_layers=4, num_heads=4, initializer_factor=0.1
    )
    return MT5ForConditionalGeneration(config).eval()


def main() -> int:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="?", type=int, default=48)
    count = parser.parse_args().prompts
    task = MicroSummarization(languages=("de", "en", "tr"))
    texts = [p.text for lang in task.languages for p in micro_summarization.prompts(task, lang, "test")[: count // 3]]
    model, tokenizer = load_policy(BASE_FOLDER)
    print(f"{len(texts)} prompts, n = {N}, up to {STEPS} tokens; load {os.getloadavg()[0]:.1f} at the start")
    ratio = compare("micro", model, tokenizer, texts)
    compare("mT5", mt5(len(tokenizer)), tokenizer, texts)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    return int(ratio < 2)


if __name__ == "__main__":
    sys.exit(main())
