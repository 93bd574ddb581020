"""How many tokens scoring computes for each that it needs, on real texts: what is padded, and what fills a batch.

    python benchmarks/batches.py FILE.jsonl.gz ... [--gpu] [--tokenizer FOLDER]    # a minute for a thousand prompts

A line of a file has `lang`, a `document` with a `response`, or a `prompt` of turns with `chosen` and `rejected`. Texts
are cut to the limits of a reward model (1,024 tokens and 512) and tokenised by the packaged base's tokenizer unless
another is given. Each language is scored by itself, as a grid's stages do it, by a Llama of one layer, as
wide as real models are, and the tokens that go through it are counted. Needed: those of each distinct
prompt, and of each distinct response of a prompt. --gpu: batched as on a GPU; torch's meta device, which computes
nothing, is taken for one.
"""

import argparse
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

from xling.models.hub import BASE_FOLDER
from xling.models.load import load_tokenizer
from xling.models.states import response_states
from xling.models.text import LIMITS, Ids, text_ids

Texts = dict[str, dict[str, list[str]]]  # language -> prompt -> its responses


def read(path: Path) -> Texts:
    found: Texts = defaultdict(lambda: defaultdict(list))
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            prompt = row["document"] if "document" in row else "\n".join(turn["content"] for turn in row["prompt"])
            said = [row["response"]] if "response" in row else [row["chosen"], row["rejected"]]
            found[row["lang"]][prompt] += said
    return found


def trunk(vocabulary: int, device: str) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 32, "num_attention_heads": 4, "head_dim": 8}
    config = LlamaConfig(vocab_size=vocabulary, num_hidden_layers=1, num_key_value_heads=1, **shape)
    return LlamaModel(config).to(device).eval()


def computed(model: Any, prompts: list[Ids], responses: list[list[Ids]]) -> tuple[int, int]:
    """(tokens that went through the model, passes)."""
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: sizes.append(given["input_ids"].numel()), with_kwargs=True
    )
    for _ in response_states(model, prompts, responses, 0):
        pass
    hook.remove()
    return sum(sizes), len(sizes)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--tokenizer", type=Path, default=BASE_FOLDER)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(given.tokenizer)
    model = trunk(len(tokenizer), "meta" if given.gpu else "cpu")
    for path in given.files:
        print(f"\n| {path.name} | prompts | responses | tokens needed | computed | ratio | passes |")
        print("|---|---|---|---|---|---|---|")
        total = [0] * 5
        for lang, texts in sorted(read(path).items()):
            prompts, said = text_ids(tokenizer, list(texts), list(texts.values()), LIMITS, encoder=False)
            responses = [list({tuple(ids): ids for ids in row}.values()) for row in said]
            needed = sum(map(len, prompts)) + sum(len(ids) for row in responses for ids in row)
            row = [len(prompts), sum(map(len, responses)), needed, *computed(model, prompts, responses)]
            total = [a + b for a, b in zip(total, row, strict=True)]
            show(lang, row)
        show("all", total)
    return 0


def show(name: str, row: list[int]) -> None:
    prompts, responses, needed, tokens, passes = row
    print(f"| {name} | {prompts:,} | {responses:,} | {needed:,} | {tokens:,} | {tokens / needed:.2f} | {passes:,} |")


if __name__ == "__main__":
    sys.exit(main())
