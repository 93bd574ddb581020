"""Our reading of a model against its own forward pass, on a small fixed input, when it is loaded.

Prompts are read once for all their responses, batches are padded, heads are applied to the states that are asked for:
each of these could be wrong for an architecture with another kind of cache, position, mask or head, and nothing else
would tell. So everything that reads a model (sampling, likelihoods, training, reward models, classifiers) is compared
here with what the model itself says of each text alone; a model that we would read wrongly is refused before anything
is trained or scored with it.

What is compared depends on how a model is built and not on its weights: of models that differ in their weights alone a
process compares the first. Of every model it sees that what comes out are numbers.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from xling.errors import DataError
from xling.models.architecture import logits_of, text_config, trunk_of
from xling.models.sampling import read
from xling.models.states import padded_batch, predicting_states, response_states, responses_of
from xling.models.text import Ids, Row, pad_right

# Of the distance to the model's own numbers, as a share of their spread. Half precision rounds: two right ways of
# reading a deep model in bfloat16 lie 5 to 12 % apart; what is read wrongly lies 50 % and more.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
LENGTHS = ((7, 5), (4, 2))  # tokens of prompts and of their responses: padded and not, in one batch
CHARACTERS = 256  # token ids of a model without a vocabulary, which reads characters by their code points
Probe = tuple[list[Ids], list[list[Ids]]]  # prompts, and the responses of each
Told = dict[tuple[int, int], Tensor]  # (places, columns) of each response of each prompt
Reading = Callable[[Any, Probe, int], Told]  # of a model, with what it pads with
Scoring = Callable[[list[Row], list[int]], list[float]]  # of texts, and how many tokens of each are the prompt's

_right: set[str] = set()  # what has been compared, by how it is built
_ways: dict[str, str] = {}  # how a classifier is read


def check_policy(folder: Path, model: Any, tokenizer: Any, tolerance: float | None = None) -> None:
    """DataError unless sampling, likelihoods and training read a language model as its own forward pass does."""
    ways = {
        "its prompt is read once for all samples": _sampled,
        "its prompt is read once for all responses": _scored,
        "texts are padded": _trained,
    }
    probe = probe_of(model.config, tokenizer.eos_token_id)
    _compare(folder, model, probe, tokenizer.pad_token_id, own_logits, ways, "logits", tolerance=tolerance)


def check_trunk(folder: Path, trunk: Any) -> None:
    """The same of what reads for a reward model or a value model: its hidden states."""
    ways = {"a prompt is read once for all responses": _continued_states, "texts are padded": _padded_states}
    _compare(folder, trunk, probe_of(trunk.config, trunk.config.eos_token_id), 0, _own_states, ways, "hidden states")


def check_encoder(folder: Path, trunk: Any, pad: int, tolerance: float | None = None) -> None:
    """The same of a bidirectional encoder, which reads padded texts whole: any state depends on all tokens."""
    probe, ways, like = probe_of(trunk.config, None), {"texts are padded": _padded_encoded}, "XLM-R or mDeBERTa"
    _compare(folder, trunk, probe, pad, own_encoded, ways, "encoded states", like, tolerance)
    states = own_encoded(trunk, ([probe[0][0], [probe[0][1][0], *probe[0][0][1:]]], [[[]], [[]]]))
    width = text_config(trunk.config).hidden_size
    if states[0, 0].shape[-1] != width:
        raise DataError(
            f"{type(trunk).__name__} in {folder} gives states of {states[0, 0].shape[-1]} numbers where its config "
            f"says hidden_size={width}: no head fits both. Use a model built like {like}."
        )
    if torch.equal(states[0, 0][-1], states[1, 0][-1]):
        raise DataError(_blind(trunk, folder))


@torch.inference_mode()
def looks_ahead(trunk: Any) -> bool:
    """Whether the state of a token depends on what comes after it: an encoder's does, a decoder's does not."""
    if trunk.config.is_encoder_decoder:
        return False
    prompts, _ = probe_of(trunk.config, None)
    both = torch.tensor([prompts[0], [*prompts[0][:-1], prompts[1][0]]], device=trunk.device)
    one, other = trunk(input_ids=both, attention_mask=torch.ones_like(both))[0][:, :-1]
    return distance(one, other) > TOLERANCE[trunk.dtype]


def check_classifier(model: Any, ways: Mapping[str, Scoring], pad: int, eos: int | None, label: int | None) -> str:
    """The first of `ways` that scores as the last one does: each text by the model's own forward pass alone.

    Texts end in all ways that a tokenizer or a chat template may end them: in eos, in pad, in neither; with an eos
    inside or not. A way that fails on any of these is not taken. DataError for scores that are no numbers, or that do
    not depend on what stands between a text's first and last token.
    """
    *others, own = ways
    prompts, responses = probe_of(model.config, None)
    stop = [] if eos is None else [eos]
    ends = [[], [pad], stop, [*stop, pad], [*stop, pad, pad], [responses[0][0][0]]]
    texts = [(prompt, said + end) for prompt in prompts for said, end in zip(responses[0] * 3, ends, strict=True)]
    texts += [([*prompts[0], *stop], responses[1][0] + stop), (prompts[0][:1], responses[1][1])]
    built = built_like(model, f"scores {pad} {eos} {label}")
    texts = [texts[2]] if built in _ways else texts  # one with an eos, which some models want
    rows: list[Row] = [([*before, *after], []) for before, after in texts]
    borders = [len(before) for before, _ in texts]
    if built not in _ways:
        errors = [_error(ways[own], row) for row in rows]
        if all(errors):
            raise DataError(f"{type(model).__name__} scores no text: it says {errors[0]}. Use another model.")
        taken = [i for i, error in enumerate(errors) if not error]
        rows, borders = [rows[i] for i in taken], [borders[i] for i in taken]
    theirs = torch.tensor(ways[own](rows, borders))
    if not bool(torch.isfinite(theirs).all()):
        raise DataError(f"{type(model).__name__} gives scores that are no numbers. Use another model.")
    if built not in _ways:
        kept = {pad, eos}  # some models look for these
        inner = ([one if one in kept else ids[0] for one in ids[:-1]] for ids, _ in rows[:3])
        changed: list[Row] = [([*ids, row[-1]], []) for ids, (row, _) in zip(inner, rows, strict=False)]
        if ways[own](changed, borders[:3]) == theirs[:3].tolist():
            raise DataError(_blind(model))
        _ways[built] = own
        for name in others:
            try:
                ours = torch.tensor(ways[name](rows, borders))
            except Exception:  # of whatever kind: its own forward pass takes no padding, or no cache of ours
                continue
            if distance(ours[None], theirs[None]) <= TOLERANCE[model.dtype]:
                _ways[built] = name
                break
    return _ways[built]


@torch.inference_mode()
def _compare(
    folder: Path,
    model: Any,
    probe: Probe,
    pad: int,
    own: Callable[[Any, Probe], Told],
    ways: Mapping[str, Reading],
    what: str,
    instead: str = "Llama, Qwen, Gemma or T5",
    tolerance: float | None = None,
) -> None:
    """DataError unless every way gives what `own` gives; see the module's text for when that is looked at again."""
    name, built = type(model).__name__, built_like(model, f"{what} {pad} {probe}")
    known = built in _right
    asked = ([probe[0][0]], [probe[1][0][:1]]) if known else probe
    theirs = _tried(folder, model, "its own forward pass is asked", lambda: own(model, asked))
    if not all(bool(torch.isfinite(value).all()) for value in theirs.values()):
        raise DataError(f"{name} in {folder} gives {what} that are no numbers. Train it again, or use another model.")
    if known:
        return
    for how, way in ways.items():
        ours = _tried(folder, model, how, lambda way=way: way(model, probe, pad))  # type: ignore[misc]
        worst = max(distance(ours[key], theirs[key]) for key in theirs)
        if not worst <= (tolerance or TOLERANCE[model.dtype]):  # also if it is no number
            raise DataError(
                f"{name} in {folder} gives other {what} (by {100 * worst:.2g} % of their spread) when {how} "
                f"than by its own forward pass{_why(model)}. Use a model built like {instead}."
            )
    _right.add(built)


def _blind(model: Any, folder: Path | None = None) -> str:
    """The refusal of a model whose attention does nothing: MRA's without its kernel, which gives zeros."""
    where = "" if folder is None else f" in {folder}"
    return (
        f"{type(model).__name__}{where} says the same of texts that differ in all but a few tokens: its attention does "
        "nothing here, as of some kinds that need a GPU kernel which is not installed. Use another model."
    )


def _error(own: Scoring, row: Row) -> str:
    """The model's own error for a text that it does not take (some want an eos in it), or an empty string."""
    try:
        own([row], [1])
    except Exception as error:  # of whatever kind a model's code raises
        return f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    return ""


@torch.inference_mode()
def _why(model: Any) -> str:
    """A known reason why a language model is read wrongly, or an empty string."""
    if model.get_output_embeddings() is None:
        return ""
    takes = signature(model.forward).parameters
    keyless = "" if "past_key_values" in takes else " (it takes no cache of keys and values)"
    try:
        if looks_ahead(model):
            return " (it reads texts in both directions: an encoder, or its config lacks is_decoder)"
        if keyless or model.config.is_encoder_decoder:
            return keyless
        ids = _alone(model, probe_of(model.config, None)[0][0])
        states = trunk_of(model)(input_ids=ids, use_cache=False)[0]
        if distance(logits_of(model, states), model(input_ids=ids, use_cache=False).logits) > TOLERANCE[model.dtype]:
            return " (its head does more than its output embeddings)"
    except Exception:  # of whatever kind: then nothing more is known
        return keyless
    return "" if "position_ids" in takes else " (it takes no position_ids, so that what is padded would count)"


def _tried(folder: Path, model: Any, how: str, way: Callable[[], Told]) -> Told:
    try:
        return way()
    except DataError:
        raise
    except Exception as error:  # of whatever kind a model's code raises
        first = str(error).partition("\n")[0][:300]
        raise DataError(
            f"{type(model).__name__} in {folder} cannot be read: when {how}, it says {type(error).__name__}: "
            f"{first}{_why(model)}. Use another model."
        ) from error


def built_like(model: Any, what: str) -> str:
    """All that the comparison depends on but the weights."""
    device, attention = model.device.type, model.config._attn_implementation
    settings = model.config.to_json_string(use_diff=False)
    return f"{what} {type(model).__name__} {model.dtype} {device} {attention} {settings}"


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest distance of (places, columns), as a share of the spread of a place's columns."""
    ours, theirs = ours.double(), theirs.double()
    apart = (ours - theirs).norm(dim=-1)
    spread = (theirs - theirs.mean(-1, keepdim=True)).norm(dim=-1)
    return float((apart / spread.clamp_min(1e-30)).masked_fill(apart == 0, 0.0).max())


# --- what is read -------------------------------------------------------------------------------------------


def probe_of(config: Any, eos: int | None) -> Probe:
    """Prompts and responses of a few token ids that are no special ones; responses end with `eos`."""
    special = set(_special(config.to_dict()))
    if isinstance(eos, list):  # some configs name several
        eos = eos[0]
    size = getattr(text_config(config), "vocab_size", None) or CHARACTERS
    if eos is not None and eos >= size:
        eos = None
    ids = cycle([i for i in range(3, size) if i not in special] or range(size))
    prompts = [[next(ids) for _ in range(length)] for length in LENGTHS[0]]
    end = [] if eos is None else [eos]
    if config.is_encoder_decoder:
        prompts = [[*prompt, *end] for prompt in prompts]
    return prompts, [[[next(ids) for _ in range(length - len(end))] + end for length in LENGTHS[1]] for _ in prompts]


def _special(settings: Mapping[str, Any]) -> Iterator[int]:
    """The token ids that a config names: of images, of the end and the like."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _special({str(key): one for key, one in value.items()})
        elif "token" in name:
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def _pairs(probe: Probe) -> list[tuple[int, int]]:
    return [(i, j) for i, responses in enumerate(probe[1]) for j in range(len(responses))]


def _alone(model: Any, row: Ids) -> Tensor:
    return torch.tensor([row], device=model.device)


# --- by the model itself ------------------------------------------------------------------------------------


def _from_the_border(model: Any, prompt: Ids, said: Ids) -> Tensor:
    """(1 + tokens, columns) of the place before a response's first token, and of each of its tokens."""
    if model.config.is_encoder_decoder:
        start = _alone(model, [model.config.decoder_start_token_id, *said])
        whole = model(input_ids=_alone(model, prompt), decoder_input_ids=start, use_cache=False)[0][0]
    else:
        whole = model(input_ids=_alone(model, [*prompt, *said]), use_cache=False)[0][0, len(prompt) - 1 :]
    return whole  # type: ignore[no-any-return]


def own_logits(model: Any, probe: Probe) -> Told:
    """(tokens, vocabulary) before each token of each response, by the model's own forward pass of each text alone."""
    return {(i, j): _from_the_border(model, probe[0][i], probe[1][i][j])[:-1] for i, j in _pairs(probe)}


def _own_states(trunk: Any, probe: Probe) -> Told:
    """(tokens, D) at each token of each response."""
    return {(i, j): _from_the_border(trunk, probe[0][i], probe[1][i][j])[1:] for i, j in _pairs(probe)}


def own_encoded(trunk: Any, probe: Probe) -> Told:
    """(tokens, D) at each token of each text."""
    rows = {(i, j): _alone(trunk, [*probe[0][i], *probe[1][i][j]]) for i, j in _pairs(probe)}
    return {pair: trunk(input_ids=ids, attention_mask=torch.ones_like(ids))[0][0] for pair, ids in rows.items()}


# --- by us --------------------------------------------------------------------------------------------------


def _sampled(model: Any, probe: Probe, pad: int) -> Told:
    """By the reader that samples, made to say the responses."""
    pairs, steps = _pairs(probe), max(LENGTHS[1])
    said = torch.from_numpy(pad_right([probe[1][i][j] for i, j in pairs], steps, pad)).to(model.device)
    prompt = torch.tensor([i for i, _ in pairs], device=model.device)
    reader = read(model, probe[0], pad)
    logits = [reader.logits[prompt]]
    reader.take(prompt, steps)
    logits += [reader.step(said[:, step]) for step in range(steps - 1)]
    every = torch.stack(logits, 1)
    return {(i, j): every[row, : len(probe[1][i][j])] for row, (i, j) in enumerate(pairs)}


def _scored(model: Any, probe: Probe, pad: int) -> Told:
    """By the states that likelihoods are read off."""
    found = {}
    for states in response_states(trunk_of(model), *probe, pad):
        hidden = torch.cat([states.before[:, None], states.hidden[:, :-1]], 1)
        for row, (i, j) in enumerate(states.owners):
            found[i, j] = logits_of(model, hidden[row, : len(probe[1][i][j])])
    return found


def _trained(model: Any, probe: Probe, pad: int) -> Told:
    """As training reads them: whole, in one padded batch."""
    pairs = _pairs(probe)
    batch = responses_of(model, [probe[0][i] for i, _ in pairs], [probe[1][i][j] for i, j in pairs], pad)
    every = logits_of(model, predicting_states(model, batch))
    return {(i, j): every[row, : len(probe[1][i][j])] for row, (i, j) in enumerate(pairs)}


def _continued_states(trunk: Any, probe: Probe, pad: int) -> Told:
    """As a trained reward model scores."""
    found = {}
    for states in response_states(trunk, *probe, pad):
        for row, (i, j) in enumerate(states.owners):
            found[i, j] = states.hidden[row, : len(probe[1][i][j])]
    return found


def _padded_states(trunk: Any, probe: Probe, pad: int) -> Told:
    """As a reward model is trained."""
    rows = [(probe[0][i], probe[1][i][j]) for i, j in _pairs(probe)]
    batch = {name: value.to(trunk.device) for name, value in padded_batch(trunk.config, rows, pad).items()}
    mask = batch.pop("response_mask")
    hidden = trunk(**batch, use_cache=False)[0]
    return {pair: hidden[row, mask[row]] for row, pair in enumerate(_pairs(probe))}


def _padded_encoded(trunk: Any, probe: Probe, pad: int) -> Told:
    """As an encoder reads pairs of texts, some columns of padding behind the longest."""
    rows = [[*probe[0][i], *probe[1][i][j]] for i, j in _pairs(probe)]
    width = max(map(len, rows)) + 2
    ids = torch.from_numpy(pad_right(rows, width, pad)).to(trunk.device)
    mask = (torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]).long().to(trunk.device)
    hidden = trunk(input_ids=ids, attention_mask=mask)[0]
    return {pair: hidden[row, : len(rows[row])] for row, pair in enumerate(_pairs(probe))}


# --- before anything is trained: a small random model built like a checkpoint -------------------------------

# Its config is the checkpoint's with smaller sizes: heads, scales, caps, kinds of positions, masks and layers are the
# same; windows are so short that the texts of the comparison reach beyond them.

TWIN_TOLERANCE = 0.02  # random weights make more of roundings than trained ones; what is wrong lies 10 % apart and more
LAYERS, HEADS, VOCABULARY = 4, 4, 320
TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2, "sep_token_id": 1}
SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "emb_dim", "dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "swa_num_attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("ffn_hidden_size", "dim_ff", "hidden_dim", "dff", "intermediate_size_mlp", "d_inner"), 64),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size", "moe_intermediate_size"), 16),
    **dict.fromkeys(("expert_ffn_hidden_size", "expert_intermediate_size", "embedding_size"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_head_dim"), 16),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "swa_head_dim", "swa_v_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("kv_channels", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "dim_head"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "n_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "moe_topk"), 1),
    **dict.fromkeys(("sliding_window", "attention_window_size", "local_attention", "window_size"), 6),
    "rotary_dim": 4,
    "pooler_hidden_size": 32,
    "d_head": 8,
    "hidden_size_per_layer_input": 8,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
PARTS = ("(?<!per_)layer", "head")  # what counts these has it in its name
KEYS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "swa_num_key_value_heads")  # fewer where they are fewer


def check_twin(where: Path, config: Any, use: str) -> None:
    """DataError if a small model with such a config is read otherwise than by its own forward pass.

    Nothing is said of models whose twin cannot be built or does not work: those are looked at when they are loaded.
    """
    try:
        small = smaller(config)
        kind: Any = AutoModelForSeq2SeqLM if small.is_encoder_decoder else AutoModelForCausalLM
        twin = shaken((AutoModel if use == "encoder" else kind).from_config(small, trust_remote_code=False))
        with torch.inference_mode():
            (own_encoded if use == "encoder" else own_logits)(twin, probe_of(twin.config, None))
    except Exception:  # of whatever kind: sizes that do not go together
        return
    if use == "encoder":
        check_encoder(where, twin, TOKENS["pad_token_id"], TWIN_TOLERANCE)
    else:
        check_policy(where, twin, SimpleNamespace(pad_token_id=0, eos_token_id=1), TWIN_TOLERANCE)


def smaller(config: Any, **settings: Any) -> Any:
    """A config of the same kind with the sizes above where it has them; `settings` come last."""
    left = ("quantization_config", "model_type", "architectures", "per_layer_config")
    plain = {name: value for name, value in config.to_dict().items() if name not in left}
    layers, heads = (
        next((plain[name] for name in SIZES if re.search(part, name) and plain.get(name)), 0) for part in PARTS
    )
    given = dict(plain)
    for name, value in plain.items():
        try:
            inner = getattr(config, name, None)
        except Exception:  # of a kind of its own: it differs by layer
            inner = None
        if isinstance(inner, PreTrainedConfig):
            wide = config.is_encoder_decoder and getattr(inner, "sliding_window", None)  # which are not read of these
            given[name] = smaller(inner, **({"sliding_window": 256} if wide else {})).to_dict()
        elif isinstance(value, dict):  # factors of long rotary scaling, one for each two of a head's numbers
            given[name] = {
                k: v[:4] if str(k).endswith("_factor") and isinstance(v, list) else v for k, v in value.items()
            }
        elif name in TOKENS and value is not None:
            given[name] = TOKENS[name]
        elif name in SIZES and isinstance(value, int) and not isinstance(value, bool):
            given[name] = SIZES[name]
        elif name == "num_layers_per_stack":  # HRM's, which follow from num_hidden_layers
            given[name] = None
        elif name == "num_kv_shared_layers" and isinstance(value, int):  # Gemma 3n's last ones
            given[name] = min(value, LAYERS // 2)
        elif name in KEYS and isinstance(value, int):
            given[name] = HEADS if value == heads else min(value, 2)
        elif isinstance(value, list) and layers and len(value) == layers:
            kinds = list(dict.fromkeys(value)) if all(isinstance(one, str | float) for one in value) else value
            kinds = [SIZES[name]] if name in SIZES else kinds
            given[name] = (kinds * LAYERS)[:LAYERS]
    halves = [plain.get(f"qk_{half}_head_dim") or 0 for half in ("nope", "rope")]
    if all(halves) and plain.get("head_dim") == sum(halves):  # of Mistral 4, of whose rotary width it is the base
        given["head_dim"] = SIZES["qk_nope_head_dim"] + SIZES["qk_rope_head_dim"]
    return type(config)(**(given | settings))


def shaken(model: Any) -> Any:
    """The model with random weights of a scale at which what it says depends on all of the text."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                scale = 0.1 if any(part in name for part in ("embed", "shared", "wte")) else 0.3
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            elif parameter.ndim == 1:  # a bias that is 0, or a norm's weight that is 1, is not told from none
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.float().eval()
