"""Loading and saving language models from stages' folders: safetensors only, remote code only where it is named.

A stage's folder says in load.json where its weights are and how they are read: {"folder", "dtype", "attention",
"remote_code", "pad_token"}, and "ends" where prompts go through the tokenizer's chat template. A folder without it is
a model in Hugging Face format, read in float32. Decoder-only and encoder-decoder models come through the same doors;
`model.config.is_encoder_decoder` tells them apart.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils.logging import disable_progress_bar

from xling.errors import DataError
from xling.jsonfiles import read_json, write_json
from xling.models import own_forward, weights
from xling.models.architecture import check_architecture, text_config
from xling.models.chats import Chat
from xling.models.hub import COMMIT, check_code, checkpoint_digest, trusted
from xling.models.own_forward import check_encoder, check_policy, check_trunk, looks_ahead
from xling.models.text import puts_bos, separators
from xling.models.weights import check_files

disable_progress_bar()

DROPOUTS = (
    "dropout",
    "dropout_rate",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
BUFFERS = (  # ends of names of what older checkpoints have and models make themselves
    "position_ids",
    "inv_freq",
    "masked_bias",
    ".attn.bias",
    ".attention.bias",
    "embed_positions.weight",
    "embed_positions.weights",
    "num_batches_tracked",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loading:
    """How a stage's model is read. `folder` is relative to the stage's folder, or absolute where it lies elsewhere."""

    folder: str = "."
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None  # None: transformers' choice
    remote_code: str | None = None  # the repository whose code may run; None: none
    pad_token: str | None = None  # where the tokenizer names none
    commit: str = ""  # of the code that may run; found when it is read, not written
    digest: str = ""  # of a model that lies elsewhere: what it must still be
    ends: tuple[int, ...] = ()  # tokens that end a turn, if prompts go through the chat template; else empty


def device() -> torch.device:
    """The GPU if there is one (of several processes each has its own), else the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def loading(stage_folder: Path) -> Loading:
    """Reads load.json."""
    path = stage_folder / "load.json"
    if not path.exists():
        return Loading()
    try:
        return msgspec.convert(read_json(path), Loading)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DataError(f"{path} does not say how a model is read ({error}). Delete that result.") from error


def write_loading(stage_folder: Path, how: Loading) -> None:
    """load.json."""
    left = {"commit"} | {name for name in ("digest", "ends") if not getattr(how, name)}
    written = {name: value for name, value in asdict(how).items() if name not in left}
    write_json(stage_folder / "load.json", written)


# --- from a stage's folder to a model -----------------------------------------------------------------------


def load_policy(
    folder: Path, dtype: str | None = None, dropout: float | None = None, quantized: bool = False, part: str = "."
) -> tuple[Any, Any]:
    """(model on `device()` in eval mode, tokenizer) of a stage's folder, or of a part of it.

    dtype: in place of the stage's own; dropout: in place of the model's own, for training; quantized: 4-bit weights.
    """
    where, how = source(folder, part)
    model, tokenizer = _read(AutoModelForCausalLM, where, how, dtype, dropout, quantized), _tokenizer(where, how)
    check_architecture(where, model)
    check_tokens(where, model, tokenizer)
    check_policy(where, model, tokenizer)
    return model, tokenizer


def load_trunk(
    folder: Path,
    dtype: str | None = None,
    dropout: float | None = None,
    quantized: bool = False,
    encoder: bool | None = None,
) -> Any:
    """The same without the LM head, for reward models: an AutoModel on `device()` in eval mode.

    encoder: whether it is to read pairs in both directions, or responses after prompts; None: as it is built. Of a
    model of texts and images it is the part that reads texts.
    """
    where, how = source(folder)
    trunk = _read(AutoModel, where, how, dtype, dropout, quantized)
    if not trunk.config.is_encoder_decoder and trunk.config.get_text_config() is not trunk.config:
        trunk = trunk.get_decoder()
    if looks_ahead(trunk) if encoder is None else encoder:
        check_encoder(where, trunk, _tokenizer(where, how, ("pad",)).pad_token_id)
    else:
        check_trunk(where, trunk)
    return trunk


def load_classifier(folder: Path) -> Any:
    """A sequence classifier as it was published, on `device()` in eval mode."""
    return _read(AutoModelForSequenceClassification, *source(folder))


def load_translator(folder: Path) -> tuple[Any, Any]:
    """(model on `device()` in eval mode, tokenizer) of an encoder-decoder that translates."""
    where, how = source(folder)
    model, tokenizer = _read(AutoModelForSeq2SeqLM, where, how), _tokenizer(where, how)
    check_tokens(where, model, tokenizer)
    return model, tokenizer


def load_encoder(folder: Path) -> tuple[Any, Any]:
    """(model on `device()` in float32 and eval mode, tokenizer) of a checkpoint that gives texts their states.

    Of an encoder-decoder its encoder; the decoder's weights may be missing.
    """
    check_files(folder)
    check_code(folder, None)
    model = _from_pretrained(AutoModel, folder, Loading(), ("pooler", "decoder"), dtype=torch.float32)
    tokenizer = _tokenizer(folder, Loading(), ())
    check_tokens(folder, model, tokenizer)
    halves = {name for name, _ in model.named_children()} >= {"encoder", "decoder"}  # whatever a config says of it
    return (model.get_encoder() if halves else model).to(device()).eval(), tokenizer


def load_tokenizer(folder: Path, needed: Sequence[str] = ("pad", "eos")) -> Any:
    """The folder's tokenizer; one without pad or eos is refused, since padding would be mistaken for text."""
    return _tokenizer(*source(folder), needed)


def load_config(folder: Path) -> Any:
    """The transformers config of a stage's model, after a look at the files: weights are not read."""
    return _config(*source(folder))


def source(stage_folder: Path, part: str = ".") -> tuple[Path, Loading]:
    """(where the model of a stage's folder lies, how it is read); code that may run is what its spec names.

    part: the folder, below that of the model, of another one that is read in the same way.
    """
    how = loading(stage_folder)
    where = stage_folder / how.folder / part
    if not where.is_dir():
        raise DataError(f"The model in {where} is no longer there. Put it back, or run the same command again.")
    if how.digest and checkpoint_digest(where) != how.digest:
        raise DataError(f"The model in {where} is another one than was planned with. Run the same command again.")
    if how.remote_code:
        commit = trusted(stage_folder, how.remote_code, where)
        how = replace(how, commit=commit or (where.name if COMMIT.fullmatch(where.name) else ""))
    check_code(where, how.remote_code)
    return where, how


# --- from where it lies, by transformers --------------------------------------------------------------------


def _tokenizer(where: Path, how: Loading, needed: Sequence[str] = ("pad", "eos")) -> Any:
    if how.remote_code is None and (where / "config.json").is_file():
        weights.check_tokenizer_there(where, read_json(where / "config.json"))
    with warnings.catch_warnings(), _naming_code(where):
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")  # Marian's, which it does not use
        tokenizer = AutoTokenizer.from_pretrained(where, **_code(how))
    if needed and tokenizer.pad_token_id is None and how.pad_token in tokenizer.get_vocab():
        tokenizer.pad_token = how.pad_token
    for role in needed:
        if getattr(tokenizer, f"{role}_token_id") is None:
            named = f", nor the piece {how.pad_token!r}" if role == "pad" and how.pad_token else ""
            hint = (
                ", or name a piece of it as policy.pad_token (rm_backbone.pad_token, if that names the model)"
                if role == "pad"
                else ""
            )
            raise DataError(
                f"The tokenizer in {where} has no {role} token{named}. Set `{role}_token` in its "
                f"tokenizer_config.json{hint}."
            )
    if how.ends:
        tokenizer.chat = Chat(tokenizer, how.ends)
    return tokenizer


def turn_ends(folder: Path, use: str = "policy") -> tuple[int, ...]:
    """Tokens that end what a stage's model says in a chat: the template's, the tokenizer's, and those of `generate`.

    DataError for a chat template that cannot be used.
    """
    where, how = source(folder)
    path = where / "generation_config.json"
    found = (read_json(path) if path.is_file() else {}).get("eos_token_id")
    more = [] if found is None else [found] if isinstance(found, int) else list(found)
    return Chat(_tokenizer(where, how, ("pad", "eos") if use == "policy" else ("pad",)), more).ends


def _code(how: Loading) -> dict[str, Any]:
    """Whether code that a checkpoint brings may run, and which revision of it: said outright each time.

    Where it is not said transformers asks whoever sits at the terminal.
    """
    if not how.remote_code:
        return {"trust_remote_code": False}
    return {"trust_remote_code": True, "code_revision": how.commit or None}


@contextmanager
def _naming_code(where: Path) -> Iterator[None]:
    """transformers' refusal to run code that a checkpoint brings, with what to type."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise DataError(
            f"The model in {where} can be read with code of its own alone, which would run with your rights. If you "
            "trust it, name its repository: policy.remote_code=OWNER/NAME (rm_backbone.remote_code of a classifier), "
            "the same as its checkpoint. Or use a model that transformers has a class for."
        ) from error


def _config(where: Path, how: Loading) -> Any:
    check_files(where)
    with _naming_code(where):
        config = AutoConfig.from_pretrained(where, **_code(how))
    _set_start(config, where)
    return config


def _read(
    kind: Any,
    where: Path,
    how: Loading,
    dtype: str | None = None,
    dropout: float | None = None,
    quantized: bool = False,
) -> Any:
    config = _config(where, how)
    kind = _class(kind, config)
    if dropout is not None:
        _set_dropout(config, dropout)
    chosen = DTYPES[dtype or how.dtype]
    spared = ("pooler",) if kind is AutoModel else ()
    if quantized:
        _unfilled(kind, where, how, spared)  # what is missing is told by names as they are without quantisation
        extra = {"quantization_config": _four_bits(chosen), "device_map": {"": device()}}
        return _from_pretrained(kind, where, how, None, config=config, dtype=chosen, **extra).eval()
    return _from_pretrained(kind, where, how, spared, config=config, dtype=chosen).to(device()).eval()


def _unfilled(kind: Any, where: Path, how: Loading, spared: Sequence[str] = ()) -> Any:
    """A model without weights (on torch's meta device), to look at how it is built; its weights' names are compared.

    `spared`: parts whose weights may be missing. What is stored in fewer bits is compared when it is loaded.
    """
    config = _config(where, how)
    kind = _class(kind, config)
    if getattr(config, "quantization_config", None) is not None:
        extra = {"attn_implementation": how.attention} if how.attention else {}
        with torch.device("meta"):
            return kind.from_config(config, **_code(how), **extra)
    return _from_pretrained(kind, where, how, spared, config=config, dtype=DTYPES[how.dtype], device_map={"": "meta"})


def _class(kind: Any, config: Any) -> Any:
    """The auto class that reads a policy: of an encoder-decoder, or a model of texts and images, another one."""
    if kind is not AutoModelForCausalLM:
        return kind
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    seeing = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForImageTextToText if seeing else kind


def _from_pretrained(kind: Any, where: Path, how: Loading, spared: Sequence[str] | None, **settings: Any) -> Any:
    """The one place where weights are read. DataError if some are missing, have other shapes, or are not used.

    spared: parts whose weights may be missing, since nothing reads them; None: names are not compared.
    """
    attention = {"attn_implementation": how.attention} if how.attention else {}
    with _naming_code(where):
        model, report = kind.from_pretrained(
            where,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name
            **_code(how),
            **attention,
            **settings,
        )
    if spared is not None:
        _check_report(where, model, report, spared)
    return model


def _check_report(where: Path, model: Any, report: dict[str, Any], spared: Sequence[str]) -> None:
    """DataError for a model that has random weights, or that leaves out weights of parts that it has."""
    prefix, name = f"{model.base_model_prefix}.", type(model).__name__

    def part(weight: str) -> str:
        return weight.removeprefix(prefix).split(".")[0]

    def computed(weight: str) -> bool:  # Marian's positions are never stored
        return "Sinusoidal" in type(model.get_submodule(weight.rpartition(".")[0])).__name__

    if wrong := sorted(report["mismatched_keys"]):
        shapes = [f"{weight} {tuple(there)} instead of {tuple(wanted)}" for weight, there, wanted in wrong]
        raise DataError(
            f"Weights in {where} have other shapes than its config.json says ({name}): {weights.some(shapes)}. "
            "Save the model and its config together (save_pretrained)."
        )
    unread = sorted(report["unexpected_keys"])
    missing = sorted(one for one in report["missing_keys"] if part(one) not in spared and not computed(one))
    if missing:
        raise DataError(weights.lacking(where, missing, unread, name))
    parts = {child for one in (model, model.base_model) for child, _ in one.named_children()} - set(spared)
    heads = "lm_head.weight", *BUFFERS  # Llava's stands within the model of texts, and reward models read none
    left = [one for one in unread if part(one) in parts and not one.endswith(heads)]
    if left and getattr(model.config, "quantization_config", None) is None:
        raise DataError(
            f"The checkpoint in {where} has weights that {name} would leave out, by what its config.json says: "
            f"{weights.some(left)}. It is a model of another architecture, or of more layers. Set config.json right."
        )


# --- what a model must be, before anything is trained --------------------------------------------------------


def check_base(folder: Path, use: str) -> None:
    """DataError unless a stage's folder has a whole model for `use` (that of stages/base.py); weights are not read.

    A reward model may start from a checkpoint without an LM head; whoever asks for one is told by `load_policy`.
    """
    kinds = {
        "encoder": AutoModel,
        "classifier": AutoModelForSequenceClassification,
        "translator": AutoModelForSeq2SeqLM,
    }
    where, how = source(folder)
    if use in kinds:
        model = _unfilled(kinds[use], where, how, ("pooler",) if use == "encoder" else ())
        tokenizer = _tokenizer(where, how, ("pad",))
        if use == "encoder":
            separators(tokenizer)  # refused here, before anything is trained
    else:
        model = _unfilled(AutoModelForCausalLM, where, how, weights.LM_HEADS)
        check_architecture(where, model)
        tokenizer = _tokenizer(where, how)
    check_tokens(where, model, tokenizer)


def check_twin(folder: Path, use: str) -> None:
    """DataError if a small model built like that of a stage's folder is read otherwise than by its own forward pass."""
    where, how = source(folder)
    if use in ("policy", "encoder") and how.remote_code is None:
        own_forward.check_twin(where, _config(where, how), use)


def check_tokens(folder: Path, model: Any, tokenizer: Any) -> None:
    """DataError for a tokenizer with tokens that the model has no embedding of."""
    rows, vocabulary = model.get_input_embeddings().weight.shape[0], tokenizer.get_vocab()
    roles = {
        role: (str(getattr(tokenizer, f"{role}_token")), number)
        for role in weights.ROLES
        if (number := getattr(tokenizer, f"{role}_token_id", None)) is not None
    }
    if not puts_bos(tokenizer):
        roles.pop("bos", None)
    last = max(tokenizer("a")["input_ids"], default=0)  # with what a tokenizer puts around a text
    roles["framing"] = (str(tokenizer.convert_ids_to_tokens(last)), last)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    said = str(tokenizer.chat_template or "")
    ordinary = {token: n for token, n in vocabulary.items() if n not in special or token in said}
    weights.check_ids(folder, rows, roles, ordinary)


def in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """The model with the weights that are stored in `dtype`.

    What is computed from the config (rotary frequencies) stays in float32, and so do the layers that transformers loads
    in it (of T5 in float16), as they do where a model is loaded: `model.to` would round them as well, and the model in
    memory would not be the one that is stored.
    """
    spared = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        spared |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for place, module in model.named_modules():
        if spared & set(place.split(".")):
            continue
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        for name, buffer in module._buffers.items():
            if name not in module._non_persistent_buffers_set and buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.to(dtype)
    return model


def _four_bits(compute: torch.dtype) -> Any:
    """The quantisation of QLoRA (Dettmers et al. 2023): 4-bit normal floats, their scales quantised too."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _set_dropout(config: Any, rate: float) -> None:
    """Every dropout that the architecture has; its config says which those are."""
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        for name in DROPOUTS:
            if hasattr(part, name):
                setattr(part, name, rate)


def _set_start(config: Any, where: Path) -> None:
    """Sets the token that a decoder begins with, as `generate` finds it: it may stand in generation_config.json."""
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        path = where / "generation_config.json"
        said = read_json(path) if path.exists() else {}
        first = said.get("decoder_start_token_id", said.get("bos_token_id", getattr(config, "bos_token_id", None)))
        config.decoder_start_token_id = getattr(text_config(config), "bos_token_id", None) if first is None else first


def save_policy(folder: Path, model: Any, tokenizer: Any, how: Loading | None = None) -> None:
    """Write weights and tokenizer in Hugging Face format, and `how` they are read back."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if how is not None:
        write_loading(folder, how)
