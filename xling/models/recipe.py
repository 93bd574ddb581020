"""What identifies a model without loading it: the micro base's recipe, and digests of folders. No torch here."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct

from xling.digests import file_digest

# Of a checkpoint's folder what transformers may read: weights, settings, tokenizer, code. And what others leave there.
READ = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py", ".spm", ".codes", ".vocab", ".bpe", ".tiktoken")
LEFT_THERE = re.compile(
    r"(readme|licen[sc]e|notice|changelog|citation|requirements|use_policy|training_args|trainer_state|trainer_log"
    r"|(all|train|eval|test|predict)_results|optimizer|scheduler|rng_state|zero_to_fp32|dataset_infos?|wandb)\b.*"
    r"|(done|spec|load|sft|reward|base)\.json",  # the last: a result of ours
    re.IGNORECASE,
)
BASE_FOLDER = Path(__file__).parent / "micro_base"  # the weights that ship


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that determines the micro base, apart from library versions."""

    vocab_size: int = 4096
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    max_positions: int = 512
    steps: int = 10_000
    tokens_per_batch: int = 1536
    row_length: int = 192
    first_line_weight: float = 0.1
    learning_rate: float = 1e-3
    lessons: int = 12_000  # texts of plain copying that come first
    seed: int = 0


@lru_cache(maxsize=8)
def corpus_digest(seed: int = 0) -> str:
    """sha256 over the first texts of the pretraining corpus: changes when the world, its words or CLDR change."""
    from xling.tasks.micro.writing import pretraining_texts

    digest = hashlib.sha256()
    for text in pretraining_texts(seed, 2000):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def recipe_digest(recipe: Recipe | None = None) -> str:
    """sha256 of recipe and corpus."""
    recipe = recipe or Recipe()
    return hashlib.sha256(msgspec.json.encode(recipe) + corpus_digest(recipe.seed).encode()).hexdigest()


@lru_cache(maxsize=64)
def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files, in name order."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def checkpoint_digest(folder: Path) -> str:
    """sha256 over what of a folder in Hugging Face format decides the model: wherever it lies, whatever lies beside it.

    A card, a licence, states of optimizers, checkpoints in folders below and hidden files decide nothing.
    """
    templates = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in READ and path.is_file()]
    named = [path for path in found if not (path.name.startswith(".") or LEFT_THERE.fullmatch(path.name))]
    digest = hashlib.sha256()
    for path in [*named, *templates]:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()
