"""Trained reward models as folders: trunk and tokenizer in Hugging Face format, head and settings beside them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from xling.jsonfiles import read_json, write_json
from xling.models.load import Loading, load_tokenizer, load_trunk, write_loading
from xling.models.pairs import PairModel, PairNet
from xling.models.reward import RewardModel, RewardNet
from xling.models.text import Limits

NEEDED = {"encoder": ("pad",), "language_model": ("pad", "eos")}  # special tokens of the tokenizer


def save_reward(folder: Path, net: RewardNet | PairNet, tokenizer: Any, how: Loading | None = None) -> None:
    """All that `load_reward` reads; `how` the trunk was loaded, and will be."""
    net.trunk.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in net.head.state_dict().items()}, folder / "head.safetensors")
    write_loading(folder, replace(how or Loading(), folder=".", digest=""))
    kind = "encoder" if isinstance(net, PairNet) else "language_model"
    write_json(folder / "reward.json", {"kind": kind, "pooling": net.pooling, "limits": net.limits})


def load_reward(folder: Path) -> RewardModel | PairModel:
    """A reward model from its stage's folder."""
    settings = read_json(folder / "reward.json")
    pair = settings["kind"] == "encoder"
    net = (PairNet if pair else RewardNet)(
        load_trunk(folder, encoder=pair), settings["pooling"], Limits(*settings["limits"])
    )
    net.head.load_state_dict(load_file(folder / "head.safetensors"))
    return as_model(net.eval(), load_tokenizer(folder, NEEDED[settings["kind"]]))


def as_model(net: RewardNet | PairNet, tokenizer: Any) -> RewardModel | PairModel:
    """What scores texts with a trained network."""
    return PairModel(net, tokenizer) if isinstance(net, PairNet) else RewardModel(net, tokenizer)
