"""Names and shapes of a checkpoint's weights, from the headers of its safetensors. No torch here.

A weight that a model needs and a checkpoint lacks would be a random number, and every score with it. So each door asks
here before anything runs, and again, with the model's own list of weights, when it is loaded (xling/models/load.py).
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from xling.digests import text_digest
from xling.errors import DataError
from xling.jsonfiles import decode, read_json

Use = Literal["policy", "reward", "classifier", "encoder", "translator"]  # how a checkpoint is read
Shapes = Mapping[str, tuple[int, ...]]  # of the weights, by their names

POINTER = b"version https://git-lfs.github.com/spec/"
SMALL = 1024  # bytes; a pointer is not longer
TEXTS = (".json", ".model", ".txt", ".jinja", ".safetensors")
PICKLES = ("*.bin", "*.pt", "*.pth")
HEADER = 100_000_000  # bytes that the format allows a header
# What wrappers of training put before the names of weights: data parallelism and DeepSpeed, torch.compile, FSDP, peft.
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "base_model.model.")
ADAPTED = (".lora_A.", ".lora_B.", ".base_layer.", ".lora_magnitude_vector")
# First parts of the names of heads in transformers' classes, of a sequence classifier and of a language model.
CLASSIFIER_HEADS = (
    "score",
    "classifier",
    "classification_head",
    "logits_proj",
    "sequence_summary",
    "pre_classifier",
)
LM_HEADS = (
    "lm_head",
    "lm_heads",
    "embed_out",
    "output_projection",
    "cls",
    "generator_lm_head",
    "output",
    "head",
    "proj_out",
    "pred_layer",
    "lm_loss",
)
EMBEDDINGS = (  # last parts of the names of input embeddings
    "embed_tokens",
    "word_embeddings",
    "shared",
    "wte",
    "embed_in",
    "tok_embeddings",
    "tokens_embed",
    "word_embedding",
)
# Kinds of config.json that read texts in both directions; others without an encoder of their own write from left to
# right.
ENCODERS = frozenset(
    ["bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "deberta", "deberta-v2", "modernbert", "electra"]
)
LISTS = re.compile(  # lists of layers that hold one entry a layer
    r"(?:(?:model|transformer|gpt_neox|bert|roberta|electra|deberta)\.)?(?:encoder\.)?(?:layers|layer|h)\.(\d+)\."
)
LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
SHARED_LAYERS = ("albert", "zamba", "zamba2")  # whose layers use the same weights
# Some file of a tokenizer has such a name; but for kinds that read bytes or characters and have none.
TOKENIZERS = ("*token*", "vocab*", "merges*", "*.model", "*.spm", "*.bpe", "*.tiktoken", "tekken*")
BYTES = ("canine", "perceiver")
ROLES = ("pad", "eos", "bos")  # of tokens that are read whatever a text says
GPT2_BOS = "<|endoftext|>"  # where its files name none
OWN_TOKENS = {"eos": ("<eos>", 2), "bos": ("<bos>", 1)}  # of the packaged base's tokenizer


# --- files --------------------------------------------------------------------------------------------------


def converted(checkpoint: Path) -> str:
    """What to type where a checkpoint is a file in llama.cpp's format, or a folder with such files; else nothing."""
    names = [checkpoint] if checkpoint.is_file() else sorted(checkpoint.glob("*.gguf"))
    found = [path for path in names if path.suffix.lower() == ".gguf"]
    if not found:
        return ""
    which = f"It holds GGUF ({some([path.name for path in found])})" if checkpoint.is_dir() else "It is a GGUF file"
    command = f"xling convert {shlex.quote(str(found[0]))} FOLDER"
    return f" {which}, which nothing is trained from as it is. Type `{command}`, and name that folder."


def check_files(folder: Path) -> None:
    """DataError for a folder that is no model, or whose files are not whole, not there, or not only weights.

    Pickles can run code when they are read.
    """
    adapters = folder / "adapter_config.json"
    if not (folder / "config.json").exists():
        if adapters.exists():
            raise DataError(f"{folder} holds adapters alone. Merge them into their base (peft's merge_and_unload).")
        raise DataError(f"No model in {folder}: config.json is missing.{converted(folder)}")
    if adapters.exists():
        raise DataError(
            f"{folder} holds adapters (adapter_config.json) beside a model (config.json): with peft installed both "
            "would be read, without it the model alone. Merge them (peft's merge_and_unload) and name what that gives, "
            "or take adapter_config.json away to use the model without them."
        )
    _check_pointers(folder)
    for path in weight_files(folder):
        if not path.is_file():
            raise DataError(
                f"The weights in {folder} are not whole: {path.name}, which its index names, is not there. "
                "Download the folder again (`hf download NAME --local-dir FOLDER`)."
            )
        header_of(path)


def _check_pointers(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.suffix in TEXTS and path.is_file() and path.stat().st_size <= SMALL:
            with path.open("rb") as file:
                if file.read(len(POINTER)) == POINTER:
                    raise DataError(
                        f"{path} is no file but git-lfs's pointer to one. Type `git lfs pull` in that folder, or "
                        "download it by `hf download NAME --local-dir FOLDER`."
                    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers reads of a folder; those that an index names may be missing.

    DataError if there is none that it would read.
    """
    named = settings(folder).get("transformers_weights")
    for name in [str(named)] if named else ["model.safetensors", "model.safetensors.index.json"]:
        if (folder / name).is_file():
            found = _of_index(folder / name) if name.endswith(".index.json") else [folder / name]
            _check_alone(folder, found)
            return found
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        raise DataError(
            f"No weights in {folder} that can be read: {some(others)} is neither model.safetensors nor a part that a "
            "model.safetensors.index.json names. Load and save the model with transformers (save_pretrained)."
        )
    if pickles := sorted(path.name for kind in PICKLES for path in folder.glob(kind)):
        raise DataError(
            f"The weights in {folder} are in pickle format ({some(pickles)}), which can run code when "
            "it is read. Use safetensors: a revision of the repository that has them (refs/pr/N, as the hub's "
            "conversion bot makes them), or convert them and name the local folder."
        )
    raise DataError(f"No weights in {folder}: it has no .safetensors file.{converted(folder)}")


def _check_alone(folder: Path, found: Sequence[Path]) -> None:
    """DataError for a folder with two sets of weights, of which one would be read without a word."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or found == (other := _of_index(index)) or not any(path.is_file() for path in other):
        return
    raise DataError(
        f"{folder} has weights twice: in {some([path.name for path in found])}, which would be read, and in those that "
        f"{index.name} names ({some([path.name for path in other])}). Take away the ones that are not meant."
    )


def _of_index(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (msgspec.DecodeError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{index} is no index of safetensors ({error}). Download it again.") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise DataError(f"{index} names weights outside of its folder: {some(outside)}. Use a model that has its own.")
    return [index.parent / name for name in names]


def settings(folder: Path) -> dict[str, Any]:
    """config.json; DataError if it cannot be read."""
    path = folder / "config.json"
    try:
        found = read_json(path)
    except msgspec.DecodeError as error:
        raise DataError(f"{path} is no JSON ({error}). Download it again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no settings of a model. Download it again.")
    return found


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a folder."""
    return {name: shape for path in weight_files(folder) for name, shape in header_of(path).items()}


def header_of(path: Path) -> Shapes:
    """Names and shapes of one file; DataError unless it is a whole file of safetensors."""
    status = path.stat()
    return _header(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _header(path: Path, size: int, _: int) -> Shapes:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if size >= 8 and length <= min(size - 8, HEADER) else b""
    try:
        entries = {name: value for name, value in decode(text).items() if name != "__metadata__"}
        ends = [int(value["data_offsets"][1]) for value in entries.values()]
        shapes = {name: tuple(map(int, value["shape"])) for name, value in entries.items()}
    except (msgspec.DecodeError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: it is no file of safetensors. Download it again.") from error
    if size != (wanted := 8 + length + max(ends, default=0)):
        raise DataError(f"{path} is damaged: it has {size:,} bytes instead of {wanted:,}. Download it again.")
    return shapes


# --- names --------------------------------------------------------------------------------------------------


def check_names(folder: Path, use: Use) -> None:
    """DataError for weights that a model needs and the folder lacks, as far as names tell without the model's code."""
    config, shapes = settings(folder), shapes_of(folder)
    names = list(shapes)
    _check_wrapped(folder, names)
    if config.get("auto_map"):
        return  # classes of its own
    _check_adapted(folder, names)
    tops = {part for name in names for part in name.split(".")[:2]}
    if use == "classifier":
        if not tops & set(CLASSIFIER_HEADS):
            hint = f"To train a reward model from it type rm_backbone=same_as_policy rm_backbone.init={folder}"
            raise DataError(lacking(folder, ["score.weight"], _outside(names), _architecture(config), hint))
        _check_labels(folder, config, shapes)
    if use in ("policy", "translator"):
        _check_lm_head(folder, config, names, tops)
    if config.get("model_type") not in SHARED_LAYERS and not config.get("is_encoder_decoder"):
        _check_layers(folder, config, names)


def _check_wrapped(folder: Path, names: Collection[str]) -> None:
    for prefix in WRAPPERS:
        if wrapped := [name for name in names if name.startswith(prefix)]:
            raise DataError(
                f"The weights in {folder} have names that begin with '{prefix}' ({some(wrapped)}), as a wrapper of "
                "training left them: none would be read, and random numbers would stand in their places. Save the "
                "model that is inside (unwrap it before save_pretrained), or take the prefix off the names."
            )


def _check_adapted(folder: Path, names: Collection[str]) -> None:
    if adapted := [name for name in names if any(part in name for part in ADAPTED)]:
        raise DataError(
            f"The weights in {folder} have adapters in them that would not be read ({some(adapted)}). Merge them "
            "(peft's merge_and_unload) and save the model."
        )


def _check_labels(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    labels = label_count(config)
    for name in ("score.weight", "classifier.weight", "classifier.out_proj.weight"):
        if (shape := shapes.get(name)) and shape[0] != labels:
            raise DataError(
                f"The head {name} in {folder} gives {shape[0]} numbers, and its config.json says {labels} "
                "(num_labels or id2label). Set them right in config.json."
            )


def check_writes(config: Mapping[str, Any]) -> None:
    """DataError for the config.json of an encoder, which cannot be a policy."""
    architectures = list(map(str, config.get("architectures") or []))
    masked = bool(architectures) and all(name.endswith("ForMaskedLM") for name in architectures)
    if (masked or config.get("model_type") in ENCODERS) and not config.get("is_decoder"):
        raise DataError(
            f"{_architecture(config)} reads texts in both directions: it is an encoder, and cannot write. Name a "
            "language model; of an encoder rm_backbone=xlm_roberta rm_backbone.checkpoint=NAME trains a reward model."
        )


def label_count(config: Mapping[str, Any]) -> int:
    """Numbers that a classification head gives, as transformers reads it: two unless config.json says otherwise."""
    return int(config.get("num_labels") or len(config.get("id2label") or ()) or 2)


def _check_lm_head(folder: Path, config: Mapping[str, Any], names: Collection[str], tops: Collection[str]) -> None:
    if config.get("is_encoder_decoder") and not any("decoder" in name.split(".")[:2] for name in names):
        raise DataError(lacking(folder, ["decoder.*"], [], _architecture(config)))
    separate = config.get("tie_word_embeddings") is False and (not config.get("is_encoder_decoder") or "shared" in tops)
    if separate and not set(tops) & set(LM_HEADS):
        raise DataError(lacking(folder, ["lm_head.weight"], _outside(names), _architecture(config)))


def _check_layers(folder: Path, config: Mapping[str, Any], names: Collection[str]) -> None:
    layers = next((config[key] for key in LAYERS if isinstance(config.get(key), int)), None)
    found = {int(match[1]) for name in names if (match := LISTS.match(name))}
    if layers is None or not found:
        return
    if missing := sorted(set(range(layers)) - found):
        what = [f"layers.{number}.*" for number in missing]
        raise DataError(lacking(folder, what, [], f"{layers} layers, as its config.json says"))
    if torn := _torn(names):
        raise DataError(lacking(folder, torn, [], f"{_architecture(config)}, of which all other layers have them"))


def _torn(names: Iterable[str]) -> list[str]:
    """Weights that one layer lacks, and has nothing else for, of several that are the same but for it.

    The first and the last may have less: some models begin without a normalisation, or end without a gate.
    """
    stacks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        if match := LISTS.match(name):
            stacks[name[: match.start(1)]][int(match[1])].add(name[match.end(1) :])
    for start, layers in stacks.items():
        whole = set.union(*layers.values())
        less = [number for number, its in layers.items() if its != whole]
        if len(less) == 1 and min(layers) < less[0] < max(layers):
            return [f"{start}{less[0]}{rest}" for rest in sorted(whole - layers[less[0]])]
    return []


def _outside(names: Iterable[str]) -> list[str]:
    """Names that belong to no layer: heads, embeddings, norms."""
    ordinary = (*EMBEDDINGS, "norm", "ln_f", "embeddings", "final_layer_norm")
    return [n for n in names if not re.search(r"\.\d+\.", n) and not set(n.split(".")) & set(ordinary)]


def _architecture(config: Mapping[str, Any]) -> str:
    return ", ".join(map(str, config.get("architectures") or [])) or str(config.get("model_type"))


def lacking(folder: Path, missing: Sequence[str], instead: Sequence[str], what: str, hint: str = "") -> str:
    """A sentence for weights that are not there; `instead`: those that nothing reads; `what` the model is."""
    there = f" What nothing would read: {some(instead)}." if instead else ""
    return (
        f"The checkpoint in {folder} ({what}) lacks weights that would be read: {some(missing)}. Random numbers "
        f"would stand in their places.{there} Name a checkpoint of the kind that is asked for, or give its weights the "
        f"names that transformers reads.{hint and f' {hint}.'}"
    )


def some(names: Sequence[str], most: int = 4) -> str:
    """The first of several, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --- tokens -------------------------------------------------------------------------------------------------


def check_rows(folder: Path, pad_token: str | None = None) -> None:
    """DataError for tokens that have no embedding, by tokenizer.json and the names of special tokens.

    Special tokens that have no role and are in no chat template may have none: texts do not use them (Gemma 3's for
    images).
    """
    rows = embedding_rows(shapes_of(folder))
    if rows is None:
        return
    config = settings(folder)
    said = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if isinstance(said, int) and said > rows:
        raise DataError(
            f"config.json in {folder} says vocab_size {said}, and its weights have {rows} embeddings. Save the model "
            "and its config together (save_pretrained)."
        )
    if not (folder / "tokenizer.json").is_file():
        return
    ids, special = _tokens(folder)
    roles = roles_of(folder)
    if names_idle_bos(folder):
        roles.pop("bos", None)
    if pad_token is not None:
        roles.setdefault("pad", pad_token)
    count = max(ids.values(), default=-1) + 1  # what a token that is named and not there would get
    found = {role: (token, ids.get(token, count)) for role, token in roles.items()}
    said = chat_template(folder)
    check_ids(folder, rows, found, {token: n for token, n in ids.items() if token not in special or token in said})


def check_ids(folder: Path, rows: int, roles: Mapping[str, tuple[str, int]], ordinary: Mapping[str, int]) -> None:
    """DataError for tokens past a model's embeddings; `roles`: role -> (token, id), `ordinary`: token -> id."""
    for role, (token, number) in roles.items():
        if number >= rows:
            hint = " (with it as `pad_token` in tokenizer_config.json)" if role == "pad" else ""
            raise DataError(
                f"The {role} token {token!r} of the tokenizer in {folder} has the id {number}, and the model has "
                f"{rows} embeddings (0 to {rows - 1}). Name a token that it has{hint}, or add its embedding: "
                "model.resize_token_embeddings(len(tokenizer)), then save both."
            )
    past = sorted((number, token) for token, number in ordinary.items() if number >= rows)
    if past:
        raise DataError(
            f"The tokenizer in {folder} has {len(past)} tokens past the model's {rows} embeddings: "
            f"{some([f'{token!r} ({number})' for number, token in past])}. It is another model's tokenizer, or the "
            "model was not resized: model.resize_token_embeddings(len(tokenizer)), then save both."
        )


def embedding_rows(shapes: Shapes) -> int | None:
    """Tokens that a model has input embeddings of; None where no name tells."""
    for name in EMBEDDINGS:
        found = [s[0] for n, s in shapes.items() if len(s) == 2 and n.rpartition(".")[0].split(".")[-1] == name]
        if found:
            return max(found)
    return None


def check_tokenizer_there(folder: Path, config: Mapping[str, Any]) -> None:
    """DataError for a folder with a model alone.

    transformers makes an empty tokenizer for some kinds then (T5, mT5, XLM-R), to which all words are unknown.
    """
    if config.get("model_type", "canine") in BYTES or any(True for name in TOKENIZERS for _ in folder.glob(name)):
        return
    raise DataError(
        f"{folder} has no tokenizer, as what a training saves on its way often has none. Save it there, too: "
        f"AutoTokenizer.from_pretrained(NAME).save_pretrained({str(folder)!r})."
    )


def _tokens(folder: Path) -> tuple[dict[str, int], set[str]]:
    """(token -> id, the special ones) of tokenizer.json."""
    path = folder / "tokenizer.json"
    try:
        whole = read_json(path)
        vocabulary = whole["model"].get("vocab") or {}
        if isinstance(vocabulary, list):  # of a unigram model: (piece, score)
            vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        added = whole.get("added_tokens") or []
        ids = dict(vocabulary) | {one["content"]: int(one["id"]) for one in added}
        return ids, {one["content"] for one in added if one.get("special")}
    except (msgspec.DecodeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no tokenizer ({error}). Download it again.") from error


def chat_template(folder: Path) -> str:
    """The text of a folder's chat templates; empty if it has none."""
    path, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    own = read_json(config).get("chat_template") if config.is_file() else None
    return (path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "") + str(own or "")


def template_digest(template: str) -> str:
    """Of a chat template that is filled in with the turns of chats, which once were one user turn."""
    return text_digest(f"turns\0{template}")


def roles_of(folder: Path) -> dict[str, str]:
    """Role -> token, as the tokenizer's small files name them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            for role in ROLES:
                token = read_json(folder / name).get(f"{role}_token")
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str):
                    found[role] = token
    return found


def names_idle_bos(folder: Path) -> bool:
    """Whether a tokenizer names a bos that it puts before no text, by its files: prompts once began with it.

    Where its settings say add_bos_token, true or false, prompts always began as they say.
    """
    small, whole = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not small.is_file() or not whole.is_file():
        return False
    said, roles = read_json(small), roles_of(folder)
    if str(said.get("tokenizer_class")).startswith("GPT2Tokenizer"):
        roles.setdefault("bos", GPT2_BOS)
    if "bos" not in roles or said.get("add_bos_token") is not None:
        return False
    ids, _ = _tokens(folder)
    own = all((token := roles.get(role), ids.get(str(token))) == known for role, known in OWN_TOKENS.items())
    return not own and repr(roles["bos"]) not in str(read_json(whole).get("post_processor"))
