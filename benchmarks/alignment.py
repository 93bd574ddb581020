"""How far a model's states of parallel texts lie together across languages: retrieval, by layer and pair of languages.

    python benchmarks/alignment.py [FOLDER]     # a model in Hugging Face format; the packaged base unless given

A text's state is the mean over its tokens, or the state of the eos behind it, which a reward model's head reads unless
it is told to read the mean. Parallel are a sentence (the main fact, in a frame drawn for each language by itself) and
a document (three facts, the same). A text of one language finds its like among `COUNT` of another by the largest
cosine; the mean state of each language is taken off first, which leaves fewer hubs (texts that lie near to all). Chance
is 100 / COUNT percent. The facts are of the validation prompts; nothing is trained.
"""

import argparse
import itertools
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xling.models.hub import BASE_FOLDER
from xling.models.load import load_policy
from xling.models.pretrain import encode_text
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro.writing import document, fact_set, random_summary

COUNT, SEED = 256, 0
KINDS, STATES = ("sentences", "documents"), ("mean", "last")


def texts(kind: str, lang: str, count: int) -> list[str]:
    """The i-th one is of the same facts in every language."""
    found = []
    for index in range(count):
        facts, rng = fact_set(SEED, "validation-prompts", index), random.Random(f"alignment/{kind}/{lang}/{index}")
        sentence = kind == "sentences"
        found.append(random_summary(facts.facts[facts.main], lang, rng) if sentence else document(facts, lang, rng))
    return found


@torch.inference_mode()
def states(model: Any, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Mean and last states of token rows (bos first, eos last), each (layers + 1, rows, D); layer 0: embeddings."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    read = torch.arange(ids.shape[1]) < lengths[:, None]
    # what is padded stands behind all that is read
    hidden = torch.stack(model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states).float()
    weight = (read & (torch.arange(ids.shape[1]) > 0))[:, :, None]
    mean = (hidden * weight).sum(2) / weight.sum(1)
    return {"mean": mean, "last": hidden[:, torch.arange(len(ids)), lengths - 1]}


def found(first: Tensor, second: Tensor) -> float:
    """Percent of the rows (n, D) of `first` whose nearest row of `second` is their own."""
    one, other = (torch.nn.functional.normalize(x - x.mean(0), dim=1) for x in (first, second))
    return 100 * float(((one @ other.T).argmax(1) == torch.arange(len(one))).float().mean())


def retrieval(
    model: Any, tokenizer: Any, kind: str, count: int = COUNT
) -> dict[str, dict[tuple[str, str], list[float]]]:
    """Kind of state -> (language, language) -> percent found at each layer."""
    by_lang = {
        lang: states(model, [encode_text(tokenizer, text) for text in texts(kind, lang, count)]) for lang in LANGUAGES
    }
    return {
        which: {
            (a, b): [found(x, y) for x, y in zip(by_lang[a][which], by_lang[b][which], strict=True)]
            for a, b in itertools.permutations(LANGUAGES, 2)
        }
        for which in STATES
    }


def main() -> int:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=BASE_FOLDER)
    folder = parser.parse_args().folder
    model, tokenizer = load_policy(folder)
    print(f"percent of {COUNT} texts that find their like in another language; chance {100 / COUNT:.1f}")
    for kind in KINDS:
        for which, pairs in retrieval(model, tokenizer, kind).items():
            layers = [sum(column) / len(pairs) for column in zip(*pairs.values(), strict=True)]
            print(f"\n{kind}, {which} state, mean of {len(pairs)} pairs, layer 0 to {len(layers) - 1}:")
            print("  " + "  ".join(f"{value:.1f}" for value in layers))
            print(f"  last layer, from (row) to (column): {'  '.join(f'{lang:>5}' for lang in LANGUAGES)}")
            for a in LANGUAGES:
                row = "  ".join("    -" if a == b else f"{pairs[a, b][-1]:5.1f}" for b in LANGUAGES)
                print(f"  {a:>35} {row}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
