"""Policies and reward models as folders that transformers reads without xling.

A policy is what its stage stored. A reward model that reads a decoder's last state becomes a sequence classifier with
one label; what no class of transformers can say (an encoder-decoder's response in the decoder, a mean of states, a head
on frozen features) goes out as its model with head.safetensors, a log-ratio as both of its models. With each goes
load_reward.py, which scores without xling; whether it does so as xling is tried on a few texts before the folder is
given out.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from xling.errors import ConfigError, StageError
from xling.exports.load_reward import Reward
from xling.grid.records import Sheet
from xling.grid.store import Store
from xling.jsonfiles import read_json, write_json
from xling.models import encoder, ridge
from xling.models.load import DTYPES, load_policy, source
from xling.models.own_forward import TOLERANCE, distance
from xling.models.text import Around, Limits, around, language_model_rooms, separators
from xling.rewards import frozen_lm
from xling.rewards.networks import REFERENCE, ImplicitNet, Net, load_reward

MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*",
               "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "chat_template*",
               "preprocessor_config.json", "processor_config.json")  # fmt: skip
HEAD, HOW, LOADER = "head.safetensors", "load_reward.json", "load_reward.py"
PROBE = [
    ("Is the water warm?", "Yes."),
    ("Summarise: the bridge was closed on Monday, and opened again on Friday.", "A bridge was closed for four days."),
    ("Özetle: köprü pazartesi günü kapatıldı.", "Köprü kapandı; ne zaman açılacağı söylenmedi."),
    ("桥星期一关闭,星期五重新开放。", "桥关闭了四天。"),
    ("Warum?", "Weil es regnet, und weil der Fluss seit Tagen steigt."),
]


@dataclass(frozen=True)
class Exported:
    """What an export wrote, for its card.

    form: as what it is read; worst: distance of its scores from xling's, as a share of their spread.
    """

    form: str
    worst: float | None = None
    notes: tuple[str, ...] = ()


def export_policy(folder: Path, out: Path) -> Exported:
    """The model of an sft or align stage."""
    _copy_model(folder, out)
    encoder_decoder = bool(read_json(out / "config.json").get("is_encoder_decoder"))
    return Exported("AutoModelForSeq2SeqLM" if encoder_decoder else "AutoModelForCausalLM")


def export_reward(store: Store, sheet: Sheet, folder: Path, out: Path) -> Exported:
    """The reward model of a reward stage. ConfigError for one that cannot go out; StageError: it scores otherwise."""
    if (folder / "reward.json").is_file():
        return _network(folder, out)
    name = sheet.spec["rm"]["name"]
    heads = next((folder / file for file in ("head.npz", "heads.npz") if (folder / file).is_file()), None)
    readers = [parent for role, parent in sheet.parents.items() if role.startswith("features_")]
    if heads is None or not (readers or sheet.spec.get("encoder") or name == "sentence_encoder"):
        raise ConfigError(
            f"rm_backbone={name} cannot be exported: it is a control that reads texts by xling's own code. What can: "
            "same_as_policy, implicit, encoder, frozen_lm and sentence_encoder."
        )
    weight, bias = _head(heads)
    save_file({"weight": torch.from_numpy(weight), "bias": torch.tensor(bias, dtype=torch.float64)}, out / HEAD)
    return _frozen(store, store.sheet(readers[0].kind, readers[0].key), out) if readers else _sentences(sheet, weight)


def _head(path: Path) -> tuple[ridge.Array, float]:
    """One linear head: of cross-fitted ones their mean, which is what scores documents that none has seen."""
    found = ridge.load_all(path)
    return np.mean([head.weight for head in found], axis=0), float(np.mean([head.bias for head in found]))


# --- networks -----------------------------------------------------------------------------------------------


def _network(folder: Path, out: Path) -> Exported:
    _, how = source(folder)
    net, notes = load_reward(folder), list[str]()
    limits, chat = net.limits, bool(how.ends)
    if net.pair:
        join = separators(net.tokenizer)
        typed = getattr(net.trunk.config, "type_vocab_size", 0) > 1
        reading = _reading(limits, (limits.prompt, limits.response), "AutoModel", how.dtype, False)
        reading |= asdict(Around(join.before[0], "", "", join.between[0], "", join.after[0]))
        reading |= {"pair": True, "types": list(join.types) if typed else []}
    else:
        two = bool(net.trunk.config.is_encoder_decoder)
        rooms = language_model_rooms(net.tokenizer, limits, two)
        reading = _reading(limits, rooms, "AutoModel", how.dtype, chat) | asdict(around(net.tokenizer, two))
        reading |= {"encoder_decoder": two}
    reading["blocks"] = [net.pooling]
    classifier, form = _classifier(net), "AutoModel and a head"
    if classifier is not None:
        classifier.save_pretrained(out)
        net.tokenizer.save_pretrained(out)
        bias = net.head.bias.item()
        reading |= {"reads": "logit", "class": "AutoModelForSequenceClassification", "bias": bias}
        notes.append(f"The head's bias has no place in that class: xling's score is the logit plus {bias:.9g}.")
    else:
        _copy_model(folder, out)
        weight, offset = net.head.weight[0].detach().contiguous(), net.head.bias[0].detach()
        save_file({"weight": weight, "bias": offset.clone()}, out / HEAD)
    if isinstance(net, ImplicitNet):
        (out / REFERENCE).mkdir()
        _copy_model(folder, out / REFERENCE, REFERENCE)
        kind = "AutoModelForSeq2SeqLM" if net.trunk.config.is_encoder_decoder else "AutoModelForCausalLM"
        reading |= {"reads": "log_ratio", "class": kind}
        form = f"two models of {kind}"
    if chat:
        notes.append("Prompts are one turn of a user; longer conversations and system turns are not for the loader.")
    worst = _tried(out, reading, lambda prompts, said: [row[0] for row in net.score(prompts, [[r] for r in said])])
    return Exported(reading["class"] if classifier is not None else form, worst, tuple(notes))


def _classifier(net: Net) -> Any:
    """A sequence classifier that reads what the net reads; None where transformers has none that does."""
    if net.pair or net.pooling != "last" or net.trunk.config.is_encoder_decoder:
        return None
    config = deepcopy(net.trunk.config)
    config.num_labels, config.id2label, config.label2id = 1, {0: "reward"}, {"reward": 0}
    # The class looks for the end of a text by its padding, so that this must not be what ends a response.
    end, tokenizer = around(net.tokenizer, False).after[-1], net.tokenizer
    usable = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, int(end == 0))
    pad = next(token for token in usable if token is not None and token != end)
    tokenizer.pad_token, config.pad_token_id = tokenizer.convert_ids_to_tokens(pad), pad
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError:
        return None
    if not isinstance(getattr(model, "score", None), nn.Linear):
        return None
    model.base_model.load_state_dict(net.trunk.state_dict(), assign=True)
    model.score.weight = nn.Parameter(net.head.weight.detach().to(net.trunk.dtype))
    return model


# --- heads on frozen readers --------------------------------------------------------------------------------


def _frozen(store: Store, features: Sheet | None, out: Path) -> Exported:
    """A head on what a frozen language model sees, with that model."""
    assert features is not None  # of a finished parent
    lm = features.parents["lm"]
    folder, read = store.load(lm.kind, lm.key), features.spec
    _copy_model(folder, out)
    _, how = source(folder)
    model, tokenizer = load_policy(folder)
    two = bool(model.config.is_encoder_decoder)
    limits = Limits(read["max_prompt_tokens"], read["max_response_tokens"], read["truncation_side"])
    kind, rooms = (
        "AutoModelForSeq2SeqLM" if two else "AutoModelForCausalLM",
        language_model_rooms(tokenizer, limits, two),
    )
    reading = _reading(limits, rooms, kind, how.dtype, bool(how.ends)) | asdict(around(tokenizer, two))
    reading |= {"reads": "features", "encoder_decoder": two, "blocks": list(frozen_lm.BLOCKS[read["features"]])}
    reading |= {"worst": frozen_lm.WORST, "gaps": list(frozen_lm.GAPS)}
    head = _saved_head(out)

    def ours(prompts: Sequence[str], said: Sequence[str]) -> list[float]:
        rows = frozen_lm.read(model, tokenizer, prompts, [[text] for text in said], read["features"], limits)
        return [float(score) for score in head(rows)]

    return Exported(f"{kind} and a linear head", _tried(out, reading, ours))


def _saved_head(out: Path) -> Callable[[Sequence[ridge.Array]], ridge.Array]:
    from safetensors.numpy import load_file

    stored = load_file(out / HEAD)
    return ridge.Linear(stored["weight"], float(stored["bias"]), 0.0, 0.0).predict


def _sentences(sheet: Sheet, weight: ridge.Array) -> Exported:
    """A head alone: its sentence encoder is a package, or somebody's own."""
    blocks = "`[d * r, (d * r).sum(), r] @ weight + bias`"
    named = sheet.spec["rm"]["encoder"]
    which = f"the package {encoder.PACKAGE}" if named == "packaged" else f"the sentence encoder {Path(named).name}"
    width = (len(weight) - 1) // 2
    note = f"The score is {blocks}, d and r the {width} numbers of length 1 that {which} makes of prompt and response."
    return Exported("a linear head on sentence vectors", None, (note,))


# --- in a folder --------------------------------------------------------------------------------------------


def _copy_model(folder: Path, out: Path, part: str = ".") -> None:
    where, how = source(folder, part)
    if how.remote_code:
        raise ConfigError(f"The model comes with code of {how.remote_code}, and an export takes no code along.")
    for path in sorted(where.iterdir()):
        if path.name != HEAD and any(fnmatch(path.name, pattern) for pattern in MODEL_FILES):
            shutil.copyfile(path, out / path.name)


def _reading(limits: Limits, rooms: tuple[int, int], kind: str, dtype: str, chat: bool) -> dict[str, Any]:
    """What load_reward.py goes by, besides what stands around texts."""
    said = {"reads": "states", "class": kind, "dtype": dtype, "bias": 0.0, "template": chat}
    return said | {"limits": [*rooms, limits.side], "pair": False, "types": [], "encoder_decoder": False}


def _tried(out: Path, reading: Mapping[str, Any], ours: Callable[[list[str], list[str]], list[float]]) -> float:
    """Write the loader, score with it what xling scores, and give the distance as a share of the scores' spread.

    It may be as large as that of two ways of reading a model in its dtype.
    """
    write_json(out / HOW, dict(reading))
    shutil.copyfile(Path(__file__).with_name(LOADER), out / LOADER)
    prompts, said = [prompt for prompt, _ in PROBE], [response for _, response in PROBE]
    theirs, own = (torch.tensor([score(prompts, said)], dtype=torch.float64) for score in (Reward(out).score, ours))
    worst, dtype = distance(theirs, own), str(reading["dtype"])
    if not worst <= TOLERANCE[DTYPES[dtype]]:  # also if it is no number
        raise StageError(
            f"The exported reward model scores differently from xling's: in {dtype} by {100 * worst:.3g} % of the "
            f"spread of five scores, where {100 * TOLERANCE[DTYPES[dtype]]:g} % may be rounding. Nothing was exported; "
            "please report the kind of model."
        )
    return worst
