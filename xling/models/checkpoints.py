"""Checks of a checkpoint by its small files before anything runs, and its size. No torch."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from xling.config.policies import LanguageModel
from xling.errors import ConfigError, DataError
from xling.models import weights
from xling.models.hub import BASE_FOLDER, UNRESOLVED, cached, check_code, commit_of, is_repository, settings_of
from xling.models.text import row_width, widest

SEPARATORS = 4  # of XLM-R, which has the most
ROBERTA = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")  # positions begin after the padding's number
# Kinds that look up places in a table of so many, and fail beyond it. Rotary positions have no end, if they have a
# length that a model was trained on.
_TABLES = (
    "gpt2 gpt-sw3 gpt_bigcode gpt_neo gptj codegen openai-gpt ctrl opt xglm biogpt bart mbart plbart mvp led pegasus "
    "bigbird_pegasus blenderbot blenderbot-small marian prophetnet bert roberta roberta-prelayernorm xlm-roberta "
    "xlm-roberta-xl camembert electra albert distilbert mpnet ernie megatron-bert xmod ibert big_bird nystromformer "
    "luke longformer roformer rembert convbert data2vec-text xlm flaubert fnet mobilebert deberta deberta-v2"
)
TABLES = frozenset(_TABLES.split())
RELATIVE = ("deberta", "deberta-v2")  # positions without end, unless they are added to the words too


@lru_cache(maxsize=64)
def check_policy(policy: LanguageModel, use: weights.Use = "policy") -> None:
    """ConfigError for a checkpoint that no policy can be read from."""
    if policy.checkpoint not in ("packaged", "pretrain"):
        check_config = weights.check_writes if use == "policy" else lambda config: None
        check_checkpoint("policy.checkpoint", policy, use, ("pad", "eos"), check_config)


def check_folder(folder: Path, use: weights.Use, pad_token: str | None = None, remote_code: str | None = None) -> None:
    """DataError for a checkpoint on this machine that is not whole, or not what it is to be read as."""
    files = ((path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    state = tuple((path.name, status.st_size, status.st_mtime_ns) for path, status in files)
    _check_folder(folder, use, pad_token, remote_code, state)


@lru_cache(maxsize=64)
def _check_folder(folder: Path, use: weights.Use, pad_token: str | None, remote_code: str | None, _: object) -> None:
    """Once for each state of the folder's files: every cell of a grid asks."""
    weights.check_files(folder)
    check_code(folder, remote_code)
    weights.check_names(folder, use)
    weights.check_rows(folder, pad_token)


def check_lengths(policy: LanguageModel, sides: tuple[int, int], group: str) -> None:
    """ConfigError for a policy with fewer positions than it is given tokens; `group` has set the limits `sides`."""
    if policy.checkpoint not in ("packaged", "pretrain"):  # whose texts are short
        with naming("policy.checkpoint", policy.checkpoint):
            check_table(_looked_up("policy.checkpoint", policy.checkpoint, policy.revision)[1], sides, 0, group)


def check_checkpoint(
    setting: str,
    model: LanguageModel,
    use: weights.Use,
    needed: Sequence[str],
    check_config: Callable[[Mapping[str, Any]], None] = lambda config: None,
) -> None:
    """ConfigError for a checkpoint that cannot be what `use` needs of it. What is looked at: its files, as far as they
    are on this machine; its config.json, empty if it cannot be had; `needed` tokens of its tokenizer.

    What cannot be looked at without a network is looked at once it has been downloaded.
    """
    folder, config = _looked_up(setting, model.checkpoint, model.revision)
    with naming(setting, model.checkpoint):
        if folder is not None and downloaded(folder, model.checkpoint):
            check_folder(folder, use, model.pad_token, model.remote_code)
        check_config(config)
        if folder is not None and model.remote_code is None:
            if not is_repository(model.checkpoint):  # of which it may come yet
                weights.check_tokenizer_there(folder, config)
            check_tokenizer(folder, needed, model.pad_token, f"{setting.partition('.')[0]}.pad_token")


@contextmanager
def naming(setting: str, checkpoint: str) -> Iterator[None]:
    """A DataError about a checkpoint as a ConfigError that begins with what was typed."""
    try:
        yield
    except DataError as error:
        report = str(error).replace("policy.remote_code", f"{setting.partition('.')[0]}.remote_code")
        raise ConfigError(f"{setting}={checkpoint}: {report}") from error


def downloaded(folder: Path, checkpoint: str) -> bool:
    """Whether a folder is to be looked at: of a repository the parts that are not there yet will be downloaded."""
    try:
        return not is_repository(checkpoint) or all(path.is_file() for path in weights.weight_files(folder))
    except DataError:
        return False


@lru_cache(maxsize=64)
def _looked_up(setting: str, checkpoint: str, revision: str | None) -> tuple[Path | None, dict[str, Any]]:
    """(folder on this machine, config.json); ConfigError at once for a repository that cannot be had."""
    if is_repository(checkpoint):
        commit_of(checkpoint, revision, setting)
    return folder_of(checkpoint, revision), settings_of(checkpoint, revision)


@lru_cache(maxsize=64)
def chat_template(model: LanguageModel) -> str:
    """The chat template that a decoder-only policy's prompts go through; empty: they are read as they are.

    ConfigError for template=tokenizer of a model that has none.
    """
    if model.template == "plain" or model.checkpoint in ("packaged", "pretrain"):
        return ""
    asked, revision = model.template == "tokenizer", model.revision
    if is_repository(model.checkpoint):
        revision = commit_of(model.checkpoint, revision)
        folder = _templates(model.checkpoint, revision)
    else:
        folder = folder_of(model.checkpoint, None)
    causal = not settings_of(model.checkpoint, revision).get("is_encoder_decoder")
    found = weights.chat_template(folder) if folder is not None and causal else ""
    if asked and folder is not None and not found:
        raise ConfigError(
            f"policy.template=tokenizer: the tokenizer of {model.checkpoint} has no chat template"
            f"{'' if causal else ' that is used: it is an encoder-decoder'}. Type policy.template=plain, or null."
        )
    return found


def template_of(render: str) -> Literal["plain"] | None:
    """Whether a published reward model's texts may go through its chat template, as a policy's setting says it."""
    return None if render in ("auto", "chat") else "plain"


def _templates(repository: str, commit: str) -> Path | None:
    """The folder with what a repository has of a chat template; None if it cannot be had."""
    from huggingface_hub import hf_hub_download

    folder = cached(repository, commit)
    if folder is not None and downloaded(folder, repository):
        return folder
    for name in ("chat_template.jinja", "tokenizer_config.json") if commit != UNRESOLVED else ():
        try:
            folder = Path(hf_hub_download(repository, name, revision=commit)).parent
        except Exception:  # no such file, or no network: of whatever kind the client's transport raises
            continue
    return folder


def folder_of(checkpoint: str, revision: str | None) -> Path | None:
    """Where a checkpoint lies on this machine; None if it does not, or has no config.json."""
    found = cached(checkpoint, revision) if is_repository(checkpoint) else Path(checkpoint)
    return found if found is not None and (found / "config.json").is_file() else None


def check_tokenizer(folder: Path, needed: Sequence[str], pad_token: str | None, setting: str) -> None:
    """DataError for a tokenizer without a token of a needed role; `pad_token`, by its setting, may stand for pad."""
    ids, pieces, eos = _special_tokens(folder)
    for role in needed:
        if role in ids or (role == "pad" and pad_token in pieces):
            continue
        if role != "pad":
            raise DataError(f"its tokenizer has no {role} token. Set `{role}_token` in its tokenizer_config.json.")
        why = f"its tokenizer has no piece {pad_token!r}" if pad_token else "its tokenizer has no pad token"
        raise DataError(f"{why}. Name a piece of it to pad with, as in \"{setting}='{eos or 'PIECE'}'\".")


@lru_cache(maxsize=64)
def _special_tokens(folder: Path) -> tuple[frozenset[str], Collection[str], str]:
    """Which of pad and eos a tokenizer has, its pieces if it lacks one, and its eos.

    Those that its files name are taken at their word. Otherwise it is loaded, since some kinds have tokens of their
    own; one that is not there yet, or that cannot be loaded here, counts as whole.
    """
    whole = frozenset(("pad", "eos")), frozenset[str](), ""
    files = ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
    if {"pad", "eos"} <= weights.roles_of(folder).keys() or not any((folder / name).is_file() for name in files):
        return whole
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # of whatever kind: the stage that loads the model says it
        return whole
    ids = frozenset(role for role in ("pad", "eos") if getattr(tokenizer, f"{role}_token_id") is not None)
    return ids, tokenizer.get_vocab().keys(), tokenizer.eos_token or ""


def check_encoder_config(config: Mapping[str, Any], sides: tuple[Any, ...], separators: int) -> None:
    """DataError for what is no bidirectional encoder, or has too few positions for a pair of the limits' lengths."""
    kind, causal = config.get("model_type"), any(n.endswith("CausalLM") for n in config.get("architectures") or ())
    if config.get("is_encoder_decoder") or causal or config.get("is_decoder"):
        raise DataError(
            f"a {kind} is no encoder, as rm_backbone=encoder needs. Name an encoder (XLM-R, mDeBERTa), or type "
            "rm_backbone=same_as_policy rm_backbone.init=FOLDER."
        )
    check_room(config, sides, separators, "rm_backbone")


def check_table(
    config: Mapping[str, Any], sides: tuple[int, int], separators: int = 0, group: str = "rm_backbone"
) -> None:
    """`check_room` of what is no encoder: where positions come from a table, or change with a text's length."""
    if text_settings(config).get("model_type") in TABLES:
        check_room(config, sides, separators, group)
    else:
        _check_alike(config, sides, separators, group)


def text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json on what writes texts: T5Gemma's decoder; of texts and images, where it has its own."""
    parts = [part for name in ("decoder", "text_config") if isinstance(part := config.get(name), Mapping)]
    return (parts or [config])[0]


def alike_up_to(text: Mapping[str, Any]) -> tuple[int, str] | None:
    """(tokens, kind) up to which rotary positions do not depend on a text's length; None: for any length.

    `text` are the settings of what writes texts, as transformers or config.json have them.
    """
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    most, found = text.get("max_position_embeddings"), list[tuple[int, str]]()
    for one in (scaling, *scaling.values()):  # some have one for each kind of layer
        kind = (one.get("rope_type") or one.get("type")) if isinstance(one, Mapping) else None
        if kind == "su" or (kind == "yarn" and text.get("model_type") == "phi3"):  # Phi-3's first names for it
            kind = "longrope"
        first = isinstance(one, Mapping) and one.get("original_max_position_embeddings")
        room = (first or text.get("original_max_position_embeddings") or most) if kind == "longrope" else most
        if kind in ("dynamic", "longrope") and isinstance(room, int):
            found.append((room, kind))
    return min(found, default=None)


def _check_alike(config: Mapping[str, Any], sides: tuple[int, int], separators: int, group: str) -> None:
    """DataError where the limits of a prompt and a response allow texts that would be refused when they are read.

    Sampling pads prompts alone; what reads responses too pads both (xling/models/sampling.py and states.py).
    """
    text, sampling = text_settings(config), group == "policy"
    window = text.get("sliding_window") if config.get("is_encoder_decoder") and not sampling else None
    limit = (window, f"an attention window of {window} tokens") if isinstance(window, int) else alike_up_to(text)
    if limit is None:
        return
    room, why = limit
    why = why if " " in why else f"rotary scaling of the kind {why}, which changes at {room} tokens,"
    prompt, response = sides
    fits = room - response if sampling else widest(room) - row_width(response + separators + bool(separators))
    if prompt <= fits and (not sampling or -(-prompt // 8) * 8 <= room):
        return
    other = f"{group}.{'max_new_tokens' if sampling else 'max_response_tokens'}"
    way = (
        f"Set {group}.max_prompt_tokens={fits if prompt > fits else room // 8 * 8}."
        if fits >= 2
        else f"Lower {other}={response} and {group}.max_prompt_tokens={prompt}."
    )
    raise DataError(
        f"a {config.get('model_type')} with {why} is not read alike with up to {prompt} tokens of a prompt, {response} "
        f"of a response and padding. {way}"
    )


def check_room(config: Mapping[str, Any], sides: tuple[Any, ...], separators: int, group: str) -> None:
    """DataError for a model with fewer positions than the limits of a prompt and a response, and separators, need.

    An encoder-decoder has as many for each of the two.
    """
    places, sides = positions(config), sides[:2]  # a third is the side that is cut
    if places is None:
        return
    limits = [
        f"{group}.max_prompt_tokens",
        f"{group}.{'max_new_tokens' if group == 'policy' else 'max_response_tokens'}",
    ]
    if config.get("is_encoder_decoder"):
        over, fits = max(sides) > places, [min(side, places) for side in sides]
    else:
        response = min(sides[1], max(places // 4, 1)) if sides[1] + separators + 1 >= places else sides[1]
        over, fits = sum(sides) + separators > places, [places - response - separators, response]
    if over:
        framed = f", {sides[1]} of a response and {separators} separators" if separators else ""
        types = [f"{name}={fit}" for name, fit, side in zip(limits, fits, sides, strict=True) if fit != side]
        raise DataError(
            f"a {config.get('model_type')} with {places} positions cannot read {sides[0]} tokens of a prompt"
            f"{framed or f' and {sides[1]} of a response'}. Set {' '.join(types)}."
        )


def positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model can tell the places of; None: any number."""
    config = text_settings(config)
    kind, most = config.get("model_type"), config.get("max_position_embeddings") or config.get("n_positions")
    if not isinstance(most, int) or (kind in RELATIVE and not config.get("position_biased_input", True)):
        return None
    return most - (int(config.get("pad_token_id") or 0) + 1 if kind in ROBERTA else 0)


def check_labels(labels: int, label: int | None) -> None:
    """DataError unless the head gives one number, or two and the good one is named."""
    if labels == 1 and label in (None, 0):
        return
    if labels == 2 and label is None:
        raise DataError(
            "This classifier has 2 labels. Say which is the good one: rm_backbone.label=0 or rm_backbone.label=1."
        )
    if labels != 2 or label not in (0, 1):
        raise DataError(
            f"This classifier has {labels} labels (num_labels in config.json), with rm_backbone.label="
            f"{'null' if label is None else label}. A reward model has 1, or 2 and rm_backbone.label=0 or 1."
        )


def check_date(group: str, date: str) -> None:
    """ConfigError for a template_date that is in no calendar."""
    try:
        datetime.strptime(date, "%Y-%m-%d")
    except ValueError:
        raise ConfigError(
            f"{group}.template_date={date} is no day. Type one like {group}.template_date=2024-07-26."
        ) from None


# --- how many parameters a token passes ---------------------------------------------------------------------

# For estimates of cost, from config.json. Where none can be had (a dry run without a network) a table has what those of
# conf/ and of the paper say. Biases, norms and embeddings, which are looked up rather than multiplied, are left out.

TRAINING = 3  # forward and backward, in forward passes


class Parameters(NamedTuple):
    """`prompt`: of the layers that read a prompt; `response`: that read or write a response; `head`: of the LM head."""

    prompt: int
    response: int
    head: int

    def forward(self, prompt: float, response: float, head: bool = True) -> float:
        """Floating-point operations of one pass over so many tokens: 2 a parameter and token, attention left out."""
        return 2 * (self.prompt * prompt + (self.response + self.head * head) * response)


def _t5(width: int, key: int, heads: int, inner: int, layers: int, vocabulary: int = 250112) -> dict[str, Any]:
    sizes = {"d_model": width, "d_kv": key, "num_heads": heads, "d_ff": inner, "num_layers": layers}
    own = {"feed_forward_proj": "gated-gelu", "is_encoder_decoder": True, "tie_word_embeddings": False}
    return sizes | {"vocab_size": vocabulary} | own


def _llama(
    width: int, layers: int, inner: int, heads: int, groups: int, vocabulary: int, tied: bool = True
) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner, "head_dim": 128}
    own = {"num_attention_heads": heads, "num_key_value_heads": groups, "tie_word_embeddings": tied}
    return sizes | {"vocab_size": vocabulary} | own


def _m2m(width: int, layers: int, inner: int) -> dict[str, Any]:
    sizes = {"d_model": width, "encoder_layers": layers, "decoder_layers": layers, "encoder_ffn_dim": inner}
    own = {"vocab_size": 256206, "is_encoder_decoder": True, "tie_word_embeddings": True}
    return sizes | {"decoder_ffn_dim": inner} | own


# From the config.json of each repository.
KNOWN: dict[str, dict[str, Any]] = {
    "google/mt5-small": _t5(512, 64, 6, 1024, 8),
    "google/mt5-base": _t5(768, 64, 12, 2048, 12),
    "google/mt5-large": _t5(1024, 64, 16, 2816, 24),
    "google/mt5-xl": _t5(2048, 64, 32, 5120, 24),
    "google/madlad400-3b-mt": _t5(1024, 128, 16, 8192, 32, 256000),
    "facebook/nllb-200-distilled-600M": _m2m(1024, 12, 4096),
    "facebook/nllb-200-3.3B": _m2m(2048, 24, 8192),
    "Qwen/Qwen3-0.6B-Base": _llama(1024, 28, 3072, 16, 8, 151936),
    "Qwen/Qwen3-1.7B-Base": _llama(2048, 28, 6144, 16, 8, 151936),
    "Qwen/Qwen3-4B-Base": _llama(2560, 36, 9728, 32, 8, 151936),
    "Qwen/Qwen3-4B-Instruct-2507": _llama(2560, 36, 9728, 32, 8, 151936),
    "Qwen/Qwen3-8B-Base": _llama(4096, 36, 12288, 32, 8, 151936, tied=False),
    "microsoft/Phi-4-mini-instruct": _llama(3072, 32, 8192, 24, 8, 200064),
    "HuggingFaceTB/SmolLM3-3B-Base": _llama(2048, 36, 11008, 16, 4, 128256),
    "utter-project/EuroLLM-1.7B": _llama(2048, 24, 5632, 16, 8, 128000, tied=False),
}


def config_of(checkpoint: str, revision: str | None) -> Mapping[str, Any]:
    """config.json of a checkpoint as a base stage names it, or as it is published; empty where nothing tells."""
    if checkpoint in ("packaged", "pretrain"):
        checkpoint = str(BASE_FOLDER)
    return KNOWN.get(checkpoint) or settings_of(checkpoint, revision)


@lru_cache(maxsize=64)
def parameters_of(checkpoint: str, revision: str | None) -> Parameters | None:
    """Of a checkpoint as a base stage names it; None where nothing tells."""
    config = config_of(checkpoint, revision)
    try:
        return _of(config) if config else None
    except KeyError:  # an architecture with other names for its sizes
        return None


def _of(config: Mapping[str, Any]) -> Parameters:
    config = text_settings(config)
    if "d_kv" in config:
        return _of_t5(config)
    if config.get("is_encoder_decoder"):
        width = config["d_model"]
        encoder = config["encoder_layers"] * (4 * width**2 + 2 * width * config["encoder_ffn_dim"])
        decoder = config["decoder_layers"] * (8 * width**2 + 2 * width * config["decoder_ffn_dim"])
        return Parameters(encoder, decoder, width * config["vocab_size"])
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or width // heads
    attention = 2 * width * size * (heads + config.get("num_key_value_heads", heads))
    layers = config["num_hidden_layers"] * (attention + 3 * width * config["intermediate_size"])
    return Parameters(layers, layers, width * config["vocab_size"])


def _of_t5(config: Mapping[str, Any]) -> Parameters:
    width = config["d_model"]
    attention = 4 * width * config["d_kv"] * config["num_heads"]
    inner = (3 if str(config.get("feed_forward_proj", "")).startswith("gated") else 2) * width * config["d_ff"]
    decoders = config.get("num_decoder_layers") or config["num_layers"]
    return Parameters(
        config["num_layers"] * (attention + inner), decoders * (2 * attention + inner), width * config["vocab_size"]
    )


# --- keys and values that are kept of a text ----------------------------------------------------------------


def cached_numbers(config: Mapping[str, Any], prompt: int, response: int) -> int | None:
    """Numbers that sampling keeps of one sample of so many tokens after a prompt of so many; None: nothing tells.

    `config` is that of config.json. Of an encoder-decoder they are the decoder's of the response, and what it looks up
    of the prompt. Windows save nothing: layers that have one are kept whole (xling/models/sampling.py).
    """
    parts = [part for name in ("decoder", "text_config") if isinstance(part := config.get(name), Mapping)]
    own = (parts or [config])[0]
    layers = _named(own, "num_decoder_layers decoder_layers num_hidden_layers n_layer num_layers n_layers")
    heads = _named(own, "decoder_attention_heads num_attention_heads n_head num_heads n_heads")
    width = _named(own, "hidden_size n_embd d_model")
    if not (layers and heads and width):
        return None
    if own.get("kv_lora_rank") and own.get("qk_rope_head_dim"):  # DeepSeek's: latents, which all heads share
        token = int(own["kv_lora_rank"] + own["qk_rope_head_dim"])
    else:
        grouped = 1 if own.get("multi_query") else _named(own, "num_key_value_heads num_kv_heads") or heads
        token = 2 * grouped * (_named(own, "d_kv head_dim") or width // heads)
    return layers * token * (prompt + response)


def _named(config: Mapping[str, Any], names: str) -> int | None:
    """The first of some names' values that is a number."""
    values = (config.get(name) for name in names.split())
    return next((value for value in values if isinstance(value, int) and value), None)
