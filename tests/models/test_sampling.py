"""Sampling: the right distribution, the same bits again, one stream a prompt, and greedy as transformers has it."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from xling.models import sampling
from xling.models.hub import Recipe
from xling.models.pretrain import build_model
from xling.models.sampling import decode, greedy, pick, sample, uniforms
from xling.models.text import prompt_ids

PROMPTS = [
    ("a", "Ein Festival in Chile."),
    ("b", "In Peru gab es im Mai ein Erdbeben, 130 Häuser sind betroffen. Kurz gesagt:"),
    ("c", "Sel."),
    ("d", "Выставка в Канаде: 21 корабль. Одним предложением:"),
    ("e", "Lũ lụt ở Cuba vào tháng 6, 40 ngôi nhà bị hư hại, và còn nhiều điều khác nữa."),
]
STEPS = 12
N_TINY = 12  # tokens of the tiny vocabulary
DRAWS = 6000


def draws(tiny: tuple[Any, Any], prompts: list[tuple[str, str]], n: int = 4, **changed: Any) -> list[list[list[int]]]:
    settings: dict[str, Any] = {"seed": 3, "purpose": "pool", "max_new_tokens": STEPS, "chunk": 2} | changed
    return [row for block in sample(*tiny, prompts, n, **settings) for row in block]


# --- reproducible, and each prompt on its own ---------------------------------------------------------------


def test_the_same_call_gives_the_same_tokens(tiny: tuple[Any, Any]) -> None:
    assert draws(tiny, PROMPTS) == draws(tiny, PROMPTS)


def test_a_prompts_uniforms_do_not_depend_on_n() -> None:
    assert np.array_equal(uniforms(0, "pool", "x", 16, 8)[:5], uniforms(0, "pool", "x", 5, 8))


def test_streams_differ_by_seed_purpose_and_prompt() -> None:
    names = [(0, "pool", "x"), (1, "pool", "x"), (0, "baseline", "x"), (0, "pool", "y"), (10, "pool", "x")]
    found = [uniforms(*name, 3, 4).tobytes() for name in names]
    assert len(set(found)) == len(names)


def test_a_prompts_samples_do_not_depend_on_the_other_prompts(tiny: tuple[Any, Any]) -> None:
    together = draws(tiny, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        assert draws(tiny, [prompt]) == [together[i]]
    assert draws(tiny, PROMPTS[::-1]) == together[::-1]


def test_the_first_samples_do_not_depend_on_n(tiny: tuple[Any, Any]) -> None:
    assert [row[:2] for row in draws(tiny, PROMPTS, n=4)] == draws(tiny, PROMPTS, n=2)


def test_seed_and_purpose_change_the_samples(tiny: tuple[Any, Any]) -> None:
    base = draws(tiny, PROMPTS)
    assert draws(tiny, PROMPTS, seed=4) != base
    assert draws(tiny, PROMPTS, purpose="baseline") != base


def test_a_prompts_samples_differ_from_one_another(tiny: tuple[Any, Any]) -> None:
    assert all(len({tuple(ids) for ids in row}) == 4 for row in draws(tiny, PROMPTS))


# --- the right distribution ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_vocabulary() -> Any:
    model = build_model(Recipe(hidden_size=16, intermediate_size=32, layers=1, heads=2), N_TINY).eval()
    torch.manual_seed(5)
    torch.nn.init.normal_(model.lm_head.weight, std=0.4)
    return model


def first_tokens(model: Any, temperature: float, top_p: float) -> np.ndarray[Any, Any]:
    noise = torch.from_numpy(np.random.default_rng(11).random((DRAWS, 1)))
    drawn = decode(model, [[1, 5, 6]], DRAWS, noise, temperature, top_p, 2, 0)
    return np.bincount([ids[0] for ids in drawn], minlength=N_TINY)


def distribution(model: Any, temperature: float) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[1, 5, 6]])).logits[0, -1].double()
    return (logits / temperature).softmax(-1).numpy()


def agrees(counts: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> bool:
    """Pearson's test at 0.1 %, over the tokens that can come."""
    possible = expected > 0
    if possible.sum() == 1:
        return bool(counts[possible].sum() == DRAWS)
    statistic = ((counts - DRAWS * expected) ** 2)[possible] / (DRAWS * expected[possible])
    return bool(statistic.sum() < chi2.ppf(0.999, possible.sum() - 1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax_probabilities(small_vocabulary: Any, temperature: float) -> None:
    counts = first_tokens(small_vocabulary, temperature, 1.0)
    assert agrees(counts, distribution(small_vocabulary, temperature))
    assert not agrees(counts, distribution(small_vocabulary, temperature * 1.5))


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9])
def test_top_p_keeps_the_smallest_set_that_has_the_mass(small_vocabulary: Any, top_p: float) -> None:
    full = distribution(small_vocabulary, 1.0)
    kept, mass = [], 0.0
    for token in np.argsort(-full):
        if mass >= top_p:
            break
        kept.append(token)
        mass += full[token]
    expected = np.zeros(N_TINY)
    expected[kept] = full[kept] / full[kept].sum()
    counts = first_tokens(small_vocabulary, 1.0, top_p)
    assert counts[expected == 0].sum() == 0 and len(kept) < N_TINY
    assert agrees(counts, expected)


def test_inversion_at_its_borders() -> None:
    logits = torch.tensor([[0.25, 0.0, 0.25, 0.5]]).log().expand(6, 4)
    noise = torch.tensor([0.0, 0.2499, 0.25, 0.4999, 0.5, 1 - 2**-53], dtype=torch.double)
    assert pick(logits, noise, 1.0).tolist() == [0, 0, 2, 2, 3, 3]


# --- against transformers -----------------------------------------------------------------------------------


def test_greedy_is_what_generate_says(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    texts = [text for _, text in PROMPTS]
    ours = greedy(model, tokenizer, texts, STEPS, chunk=3)
    for ids, reply in zip(prompt_ids(tokenizer, texts), ours, strict=True):
        whole = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=STEPS
        )
        assert whole[0, len(ids) :].tolist() == reply


# --- when sequences end -------------------------------------------------------------------------------------


def endings(tiny: tuple[Any, Any], eos: int, n: int = 24) -> list[list[int]]:
    model, tokenizer = tiny
    rows = prompt_ids(tokenizer, [text for _, text in PROMPTS])
    noise = np.concatenate([uniforms(7, "pool", name, n, STEPS) for name, _ in PROMPTS])
    return decode(model, rows, n, torch.from_numpy(noise), 1.0, 1.0, eos, 0)


@pytest.fixture(scope="module")
def frequent(tiny: tuple[Any, Any]) -> int:
    """The token that the tiny model says most often: as eos it ends many sequences, at different steps."""
    said = np.bincount([t for ids in endings(tiny, eos=-1) for t in ids])
    return int(said.argmax())


def test_without_eos_every_sequence_has_the_full_length(tiny: tuple[Any, Any]) -> None:
    assert {len(ids) for ids in endings(tiny, eos=-1)} == {STEPS}


def test_eos_is_the_last_token_and_cuts_what_would_have_followed(tiny: tuple[Any, Any], frequent: int) -> None:
    endless, ended = endings(tiny, eos=-1), endings(tiny, eos=frequent)
    lengths = {len(ids) for ids in ended}
    assert len(lengths) > 3 and STEPS in lengths
    for long, short in zip(endless, ended, strict=True):
        stop = long.index(frequent) + 1 if frequent in long else STEPS
        assert short == long[:stop]


def test_taking_finished_sequences_out_changes_nothing(
    tiny: tuple[Any, Any], frequent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for share in (0.0, 0.75, 1.0):
        monkeypatch.setattr(sampling, "KEEP_SHARE", share)
        found.append(endings(tiny, eos=frequent))
    assert found[0] == found[1] == found[2]


def test_decoding_stops_when_all_have_ended(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    (first,) = greedy(model, tokenizer, ["Sel."], 1)
    noise = torch.zeros(1, 50, dtype=torch.double)
    rows = prompt_ids(tokenizer, ["Sel."])
    assert decode(model, rows, 1, noise, 1.0, sampling.GREEDY, first[0], 0) == [first]


def test_one_new_token(tiny: tuple[Any, Any]) -> None:
    assert {len(ids) for row in draws(tiny, PROMPTS, max_new_tokens=1) for ids in row} == {1}


def test_blocks_are_chunks_of_prompts(tiny: tuple[Any, Any]) -> None:
    blocks = list(sample(*tiny, PROMPTS, 2, 0, "pool", max_new_tokens=2, chunk=2))
    assert [len(block) for block in blocks] == [2, 2, 1]
    assert {len(row) for block in blocks for row in block} == {2}
