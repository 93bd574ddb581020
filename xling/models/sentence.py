"""How a sentence encoder makes a vector of a text, by the files that sentence-transformers keeps beside a checkpoint.

modules.json lists the steps: the model, pooling (1_Pooling/config.json), linear layers (2_Dense), normalising.
sentence_bert_config.json says how many tokens of a text are read, config_sentence_transformers.json what stands before
each text. A checkpoint without modules.json is read as its last hidden states averaged over the tokens.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xling.errors import DataError
from xling.jsonfiles import read_json
from xling.models.hub import checkpoint_digest
from xling.models.text import pad_right

MAX_TOKENS = 512  # of a text, where nothing says how many the encoder was made for
MODES = {  # of pooling, by the names of older files
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = ("Tanh", "Identity", "ReLU", "GELU", "SiLU", "Sigmoid")  # of torch.nn
LENGTHS = "sentence_{}_config.json"
KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")


@dataclass(frozen=True)
class Dense:
    """A linear layer on the vector."""

    folder: Path
    activation: str
    residual: bool


@dataclass(frozen=True)
class Layout:
    """What a checkpoint's files say of its steps."""

    trunk: Path  # folder of the model and its tokenizer
    named: bool = False  # by a modules.json
    pooling: tuple[str, ...] = ("mean",)  # joined in this order
    after: tuple[Dense | None, ...] = ()  # None: a vector is brought to length 1
    most: int | None = None  # tokens, special ones included; None: not said
    lower: bool = False  # texts are read in lower case
    prompt: str = ""  # what stands before each text


def layout(folder: Path) -> Layout:
    """DataError for steps that are not known here, or whose files are not there."""
    if not (folder / "modules.json").is_file():
        return Layout(folder)
    steps = [(str(one["type"]).rpartition(".")[2], folder / one["path"]) for one in read_json(folder / "modules.json")]
    kinds = [kind for kind, _ in steps]
    if kinds[:2] != ["Transformer", "Pooling"] or (others := set(kinds[2:]) - {"Dense", "Normalize", "Dropout"}):
        named = ", ".join(sorted(others)) if kinds[:2] == ["Transformer", "Pooling"] else ", ".join(kinds)
        raise DataError(
            f"modules.json in {folder} has steps that are not read here: {named}. What can be is a Transformer and a "
            "Pooling, and after them Dense and Normalize. Use another encoder."
        )
    trunk, pooled = steps[0][1], _settings(steps[1][1] / "config.json")
    after = tuple(None if kind == "Normalize" else _dense(path) for kind, path in steps[2:] if kind != "Dropout")
    read: dict[str, Any] = next(
        (read_json(trunk / name) for name in map(LENGTHS.format, KINDS) if (trunk / name).is_file()), {}
    )
    said = folder / "config_sentence_transformers.json"
    own = read_json(said) if said.is_file() else {}
    prompt = (own.get("prompts") or {}).get(own.get("default_prompt_name"), "")
    if prompt and pooled.get("include_prompt") is False:
        raise DataError(
            f"The encoder in {folder} pools all tokens but its prompt's, which is not done here. Use another."
        )
    return Layout(
        trunk, True, _modes(pooled), after, read.get("max_seq_length"), bool(read.get("do_lower_case")), prompt
    )


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path} is missing, which modules.json names. Copy or download the whole encoder.")
    return dict(read_json(path))


def _modes(pooling: dict[str, Any]) -> tuple[str, ...]:
    said = pooling.get("pooling_mode")
    named = [said] if isinstance(said, str) else said or [mode for name, mode in MODES.items() if pooling.get(name)]
    if unknown := set(named) - set(MODES.values()):
        raise DataError(f"The encoder's pooling {', '.join(sorted(unknown))} is not known here. Use another encoder.")
    return tuple(named) or ("mean",)


def _dense(folder: Path) -> Dense:
    settings = _settings(folder / "config.json")
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS or settings.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise DataError(f"The linear layer in {folder} is of a kind that is not read here. Use another encoder.")
    if not (folder / "model.safetensors").is_file():
        raise DataError(
            f"{folder} has no model.safetensors, and pickles are not read. Save the encoder again with a recent "
            "sentence-transformers, or use another."
        )
    return Dense(folder, activation, bool(settings.get("use_residual")))


def digest(folder: Path) -> str:
    """sha256 over what decides an encoder's vectors: `checkpoint_digest`, and that of the steps below the folder."""
    whole = checkpoint_digest(folder)
    if not (folder / "modules.json").is_file():
        return whole
    below = sorted({folder / str(one["path"]) for one in read_json(folder / "modules.json")} - {folder})
    parts = [f"{path.name} {checkpoint_digest(path)}" for path in below if path.is_dir()]
    return hashlib.sha256("\n".join([whole, *parts]).encode()).hexdigest()


# --- with torch ---------------------------------------------------------------------------------------------


def vectors(
    model: Any, tokenizer: Any, how: Layout, most: int, places: int | None
) -> Callable[[Sequence[str]], Iterator[tuple[list[int], Any]]]:
    """A function from texts to (their numbers, an array (texts, dimensions) of float32), in batches of any order.

    most: tokens of a text that are read; places: tokens that the model can read at all. Texts are batched by length,
    and a text's vector depends on the text alone (xling/models/states.py).
    """
    import torch
    from safetensors.torch import load_file

    from xling.models.states import filled_batches, rows_per_batch

    layers = [None if one is None else (one, load_file(one.folder / "model.safetensors")) for one in how.after]
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @torch.inference_mode()
    def pooled(rows: list[list[int]], width: int) -> Any:
        width = min(width, places or width)
        lengths = torch.tensor([len(row) for row in rows], device=model.device)
        mask = (torch.arange(width, device=model.device) < lengths[:, None]).long()
        ids = torch.from_numpy(pad_right(rows, width, pad)).to(model.device)
        hidden = model(input_ids=ids, attention_mask=mask)[0].float()
        vector = torch.cat([_pool(hidden, mask, mode) for mode in how.pooling], -1)
        for layer in layers:
            vector = torch.nn.functional.normalize(vector, dim=-1) if layer is None else _through(vector, *layer)
        return vector.cpu().numpy()

    def each(texts: Sequence[str]) -> Iterator[tuple[list[int], Any]]:
        said = [how.prompt + (text.lower() if how.lower else text) for text in texts]
        rows = tokenizer(said, truncation=True, max_length=most)["input_ids"] if said else []
        rows = [row or [pad] for row in rows]  # an empty text, by a tokenizer that puts nothing around texts
        # one column at least is padding, so that the mask is never left out
        widths = {i: len(row) + 1 for i, row in enumerate(rows)}
        for width, real, filled in filled_batches(model, widths, lambda width: rows_per_batch(model, width)):
            yield real, pooled([rows[i] for i in filled], width)[: len(real)]

    return each


def _pool(hidden: Any, mask: Any, mode: str) -> Any:
    """(B, L, D) states padded on the right -> (B, D)."""
    weight = mask[..., None].to(hidden.dtype)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return hidden[range(len(hidden)), mask.sum(1) - 1]
    if mode == "max":
        return hidden.masked_fill(weight == 0, float("-inf")).amax(1)
    if mode == "weightedmean":
        weight = weight * weight.cumsum(1)
    total = weight.sum(1)
    return (hidden * weight).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


def _through(vector: Any, dense: Dense, weights: dict[str, Any]) -> Any:
    """A linear layer, by its weights as they are stored."""
    import torch

    at = {name: one.to(vector) for name, one in weights.items()}
    out = getattr(torch.nn, dense.activation)()(torch.nn.functional.linear(
        vector, at["linear.weight"], at.get("linear.bias")))  # fmt: skip
    if not dense.residual:
        return out
    return out + (vector @ at["residual.weight"].T if "residual.weight" in at else vector)
