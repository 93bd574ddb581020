"""What identifies a model without loading it: the micro base's recipe, and digests of folders. No torch here."""

import hashlib
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct

from xling.digests import file_digest

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
    from xling.tasks.micro.corpus import pretraining_texts

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
