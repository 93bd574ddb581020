"""Sentence encoders as sentence-transformers stores them: each step of modules.json, against the step written out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from xling.errors import ConfigError
from xling.models import encoder

TEXTS = ["a flood in Chile", "März: 130 Häuser, viele davon NEU " * 9, "наводнение в Чили", "a", "a flood " * 4]
D = 32


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def stored(folder: Path, base: Path, steps: dict[str, dict[str, Any]], **read: Any) -> Path:
    """A folder as sentence-transformers 2 to 5 write it; `steps`: folder -> config, of the modules after the model."""
    shutil.copytree(base, folder)
    names = [("", "Transformer"), *((name, name.partition("_")[2]) for name in steps)]
    kinds = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
             for i, (path, kind) in enumerate(names)]  # fmt: skip
    write(folder / "modules.json", kinds)
    for name, config in steps.items():
        write(folder / name / "config.json", config)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False} | read)
    return folder


def pooled_by(*modes: str) -> dict[str, Any]:
    named = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens",
             "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken"}  # fmt: skip
    return {"word_embedding_dimension": D, **{f"pooling_mode_{name}": mode in modes for mode, name in named.items()}}


def dense(folder: Path, size: tuple[int, int], activation: str, **settings: Any) -> dict[str, torch.Tensor]:
    """A linear layer in a folder that `stored` has made."""
    generator = torch.Generator().manual_seed(1)
    weights = {"linear.weight": torch.randn(size[::-1], generator=generator)}
    weights |= {"linear.bias": torch.randn(size[1], generator=generator)} if settings.get("bias", True) else {}
    config = {"in_features": size[0], "out_features": size[1], "activation_function": activation, **settings}
    write(folder / "config.json", config)
    save_file(weights, folder / "model.safetensors")
    return weights


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny real checkpoints by family, each made once."""
    made: dict[str, Path] = {}

    def base(family: str) -> Path:
        if family not in made:
            make = families.saved_encoder if family in families.ENCODERS else families.saved
            made[family] = make(tmp_path_factory.mktemp(family), family)
        return made[family]

    return base


def plain(base: Path, text: str, most: int = 24) -> torch.Tensor:
    """(L, D) last hidden states of one text, read alone by transformers."""
    tokens = AutoTokenizer.from_pretrained(base)(text, truncation=True, max_length=most, return_tensors="pt")
    with torch.inference_mode():
        model = AutoModel.from_pretrained(base).eval()
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        return model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])[0][0]


def by_hand(mode: str, states: torch.Tensor) -> torch.Tensor:
    places = torch.arange(1.0, len(states) + 1)
    return {
        "cls": lambda: states[0],
        "max": lambda: states.max(0).values,
        "mean": lambda: states.mean(0),
        "mean_sqrt_len": lambda: states.sum(0) / len(states) ** 0.5,
        "weightedmean": lambda: (states * places[:, None]).sum(0) / places.sum(),
        "lasttoken": lambda: states[-1],
    }[mode]()


def unit(vector: torch.Tensor) -> np.ndarray:
    return (vector / vector.norm()).numpy()


@pytest.mark.parametrize(
    ("family", "modes"),
    [
        ("xlm_roberta", ["cls"]), ("bert", ["max"]), ("deberta_v2", ["mean"]), ("bert", ["mean_sqrt_len"]),
        ("bert", ["weightedmean"]), ("qwen3", ["lasttoken"]), ("mt5", ["mean"]), ("bert", ["cls", "max", "mean"]),
    ],
)  # fmt: skip
def test_states_are_pooled_as_the_encoder_says(
    family: str, modes: list[str], bases: Callable[[str], Path], tmp_path: Path
) -> None:
    """In batches of texts of several lengths, equal to each text read alone; a text's vector depends on it alone."""
    folder = stored(tmp_path / "e", bases(family), {"1_Pooling": pooled_by(*modes)})
    encode = encoder.load_encoder(str(folder))
    rows = encode(TEXTS)
    assert rows.shape == (len(TEXTS), D * len(modes)) and rows.dtype == np.float32
    for text, row in zip(TEXTS, rows, strict=True):
        states = plain(bases(family), text)
        expected = torch.cat([by_hand(mode, states) for mode in modes])
        np.testing.assert_allclose(row, unit(expected), atol=2e-6)
        assert np.array_equal(encode([text])[0], row)


@pytest.mark.parametrize("normalised_first", [True, False])
def test_linear_layers_and_normalising_come_in_their_order(
    normalised_first: bool, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    steps = ["2_Normalize", "3_Dense"] if normalised_first else ["2_Dense", "3_Normalize"]
    folder = stored(tmp_path / "e", bases("bert"), {"1_Pooling": pooled_by("mean"), **{name: {} for name in steps}})
    linear = next(name for name in steps if "Dense" in name)
    weights = dense(folder / linear, (D, 12), "torch.nn.modules.activation.Tanh")
    (row,) = encoder.load_encoder(str(folder))(TEXTS[:1])
    vector = plain(bases("bert"), TEXTS[0]).mean(0)
    vector = vector / vector.norm() if normalised_first else vector
    expected = torch.tanh(weights["linear.weight"] @ vector + weights["linear.bias"])
    np.testing.assert_allclose(row, unit(expected), atol=2e-6)


def test_length_case_and_prompt_are_the_encoders_own(bases: Callable[[str], Path], tmp_path: Path) -> None:
    pooling = {"1_Pooling": {"embedding_dimension": D, "pooling_mode": "mean", "include_prompt": True}}  # newer files
    folder = stored(tmp_path / "e", bases("xlm_roberta"), pooling, max_seq_length=16, do_lower_case=True)
    said = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}
    write(folder / "config_sentence_transformers.json", said)
    (row,) = encoder.load_encoder(str(folder))([TEXTS[1]])
    expected = plain(bases("xlm_roberta"), "query: " + TEXTS[1].lower(), 16).mean(0)
    np.testing.assert_allclose(row, unit(expected), atol=2e-6)
    assert encoder.cut_counter(str(folder))(TEXTS[1:2], ["a"]) == {"cut_prompts": 1, "cut_responses": 0}


def test_all_places_of_a_model_are_read_and_no_more(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """BERT has no place for a column of padding behind its last one."""
    folder = stored(tmp_path / "e", bases("bert"), {"1_Pooling": pooled_by("mean")}, max_seq_length=None)
    long = TEXTS[1] * 60
    (row,) = encoder.load_encoder(str(folder))([long])
    np.testing.assert_allclose(row, unit(plain(bases("bert"), long, 512).mean(0)), atol=2e-6)


def test_what_is_pooled_decides_the_identity(bases: Callable[[str], Path], tmp_path: Path) -> None:
    folder = stored(tmp_path / "e", bases("bert"), {"1_Pooling": pooled_by("mean")})
    before = encoder.encoder_identity(str(folder))
    write(folder / "1_Pooling" / "config.json", pooled_by("cls"))
    assert encoder.encoder_identity(str(folder)) != before != encoder.encoder_identity(str(bases("bert")))


@pytest.mark.parametrize(
    ("steps", "report"),
    [
        ({"1_Pooling": pooled_by("mean"), "2_CNN": {}}, "has steps that are not read here: CNN"),
        ({"1_WordWeights": {}}, "not read here: Transformer, WordWeights"),
        ({"1_Pooling": {"pooling_mode": "median"}}, "pooling median is not known here"),
        ({"1_Pooling": pooled_by("mean"), "2_Dense": {}}, "has no model.safetensors, and pickles are not read"),
        (
            {"1_Pooling": pooled_by("mean"), "2_Dense": {"activation_function": "x.Own"}},
            "linear layer in .* is of a kind",
        ),
    ],
)
def test_steps_that_are_not_known_are_refused_while_planning(
    steps: dict[str, Any], report: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = stored(tmp_path / "e", bases("bert"), steps)
    with pytest.raises(ConfigError, match=rf"(?s)rm_backbone\.encoder=.*{report}"):
        encoder.check_encoder(str(folder))
