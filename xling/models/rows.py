"""Features of texts on disk, found again by the text itself: computed once, read for any selection of rows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xling.errors import StageError
from xling.models.ridge import Array

Keys = np.ndarray[Any, np.dtype[np.uint64]]


def write_rows(path: Path, texts: Sequence[str], blocks: Sequence[Array]) -> None:
    """An .npz of blocks (len(texts), columns), sorted by the texts' keys; `texts` holds each once."""
    keys = _keys(texts)
    order = np.argsort(keys)
    np.savez(path, keys[order], *(block[order] for block in blocks))


def read_rows(path: Path, texts: Sequence[str]) -> list[Array]:
    """The blocks' rows of these texts, in their order; StageError for one that is not there."""
    with np.load(path) as stored:
        keys: Keys = stored["arr_0"]
        blocks = [stored[f"arr_{i}"] for i in range(1, len(stored.files))]
    wanted = _keys(texts)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    missing = np.flatnonzero(keys[places] != wanted)
    if len(missing):
        raise StageError(f"{path.parent.parent.name}: {len(missing)} texts of {len(texts)} have no features there.")
    return [block[places] for block in blocks]


def pair_text(document: str, response: str) -> str:
    """What stands for a response to a document."""
    return f"{document}\0{response}"


def _keys(texts: Sequence[str]) -> Keys:
    """(n,) the first eight bytes of each text's sha256."""
    found = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
    return np.frombuffer(found, dtype=">u8").astype(np.uint64)
