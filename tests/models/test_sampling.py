"""Sampling: the right distribution, the same bits again, one stream a prompt, and a cache with room to grow."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, build, shaken
from scipy.stats import chi2
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from xling.models import sampling, states
from xling.models.checkpoints import cached_numbers
from xling.models.hub import Recipe
from xling.models.pretrain import build_model
from xling.models.sampling import Sampling, decode, greedy, pick, sample_chunk, uniforms
from xling.models.states import GROWTH, fan_out, stack
from xling.models.text import padded_length, prompt_ids

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
    """n samples of each prompt, two prompts decoded together."""
    how = Sampling(**{"n": n, "seed": 3, "purpose": "pool", "max_new_tokens": STEPS} | changed)
    names, rows = [name for name, _ in prompts], prompt_ids(tiny[1], [text for _, text in prompts])
    parts = [slice(start, start + 2) for start in range(0, len(prompts), 2)]
    return [row for part in parts for row in sample_chunk(*tiny, names[part], rows[part], how)]


# --- reproducible, and each prompt on its own ---------------------------------------------------------------


def test_a_prompts_uniforms_do_not_depend_on_n() -> None:
    assert np.array_equal(uniforms(0, "pool", "x", 16, 8)[:5], uniforms(0, "pool", "x", 5, 8))


def test_streams_differ_by_seed_purpose_and_prompt() -> None:
    names = [(0, "pool", "x"), (1, "pool", "x"), (0, "baseline", "x"), (0, "pool", "y"), (10, "pool", "x")]
    found = [uniforms(*name, 3, 4).tobytes() for name in names]
    assert len(set(found)) == len(names)


def test_a_prompts_samples_are_the_same_again_whatever_is_drawn_beside_them(tiny: tuple[Any, Any]) -> None:
    together = draws(tiny, PROMPTS)
    assert draws(tiny, PROMPTS) == together
    for i, prompt in enumerate(PROMPTS):
        assert draws(tiny, [prompt]) == [together[i]]
    assert draws(tiny, PROMPTS[::-1]) == together[::-1]
    assert draws(tiny, PROMPTS, n=2) == [row[:2] for row in together]
    assert all(len({tuple(ids) for ids in row}) == 4 for row in together)
    assert draws(tiny, PROMPTS, seed=4) != together != draws(tiny, PROMPTS, purpose="baseline")


# --- the right distribution ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_vocabulary() -> Any:
    model = build_model(Recipe(hidden_size=16, intermediate_size=32, layers=1, heads=2), N_TINY).eval()
    torch.manual_seed(5)
    torch.nn.init.normal_(model.lm_head.weight, std=0.4)
    return model


def first_tokens(model: Any, temperature: float, top_p: float) -> np.ndarray[Any, Any]:
    noise = torch.from_numpy(np.random.default_rng(11).random((DRAWS, 1)))
    drawn = decode(model, [[1, 5, 6]], DRAWS, noise, temperature, top_p, [2], 0)
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


# --- when sequences end -------------------------------------------------------------------------------------


def endings(tiny: tuple[Any, Any], eos: int, n: int = 24) -> list[list[int]]:
    model, tokenizer = tiny
    rows = prompt_ids(tokenizer, [text for _, text in PROMPTS])
    noise = np.concatenate([uniforms(7, "pool", name, n, STEPS) for name, _ in PROMPTS])
    return decode(model, rows, n, torch.from_numpy(noise), 1.0, 1.0, [eos], 0)


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
    assert decode(model, rows, 1, noise, 1.0, sampling.GREEDY, first, 0) == [first]


def test_one_new_token(tiny: tuple[Any, Any]) -> None:
    assert {len(ids) for row in draws(tiny, PROMPTS, max_new_tokens=1) for ids in row} == {1}


# --- the cache ----------------------------------------------------------------------------------------------

CACHED = torch.tensor([[1, 40, 41, 42, 43], [1, 50, 51, 52, 53]])
CHOSEN = torch.tensor([0, 1, 1, 0, 0])


def prefilled(model: Any) -> Any:
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=CACHED, past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize(("width", "room"), [(1, 3), (3, 9), (1, 0), (3, 4)])
def test_fan_out_equals_a_dynamic_cache_with_the_same_rows(
    tiny: tuple[Any, Any], width: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for all that comes, and where it grows on the way."""
    monkeypatch.setattr(states, "GROWTH", 2)
    model, _ = tiny
    reference = prefilled(model)
    reference.batch_select_indices(CHOSEN)
    ours = fan_out(prefilled(model), CHOSEN, room)
    for step in range(3):
        new = torch.arange(60 + step, 60 + step + 5 * width).view(5, width)
        with torch.inference_mode():
            a = model(input_ids=new, past_key_values=reference, use_cache=True).logits
            b = model(input_ids=new, past_key_values=ours, use_cache=True).logits
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert ours.get_seq_length() == reference.get_seq_length() == 5 + 3 * width
    for mine, theirs in zip(ours.layers, reference.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=0, atol=1e-5)
        torch.testing.assert_close(mine.values, theirs.values, rtol=0, atol=1e-5)


def test_the_original_stays_as_it_was(tiny: tuple[Any, Any]) -> None:
    model, _ = tiny
    cache = prefilled(model)
    before = [layer.keys.clone() for layer in cache.layers]
    with torch.inference_mode():
        model(input_ids=torch.tensor([[7]] * 5), past_key_values=fan_out(cache, CHOSEN, 1), use_cache=True)
    assert cache.get_seq_length() == 5
    assert all(torch.equal(layer.keys, old) for layer, old in zip(cache.layers, before, strict=True))


def test_a_fan_out_of_a_fan_out_keeps_what_was_added(tiny: tuple[Any, Any]) -> None:
    model, _ = tiny
    first = fan_out(prefilled(model), CHOSEN, 2)
    with torch.inference_mode():
        model(input_ids=torch.arange(60, 65).view(5, 1), past_key_values=first, use_cache=True)
    kept = torch.tensor([3, 1])
    second, layers = fan_out(first, kept, 1), list(first.layers)
    assert fan_out(first, kept, 1, keep=False).get_seq_length() == second.get_seq_length() == 6 and not first.layers
    for a, b in zip(layers, second.layers, strict=True):
        assert torch.equal(a.keys[kept], b.keys) and torch.equal(a.values[kept], b.values)


def test_a_stack_has_the_rows_of_all(tiny: tuple[Any, Any]) -> None:
    model, _ = tiny
    one = prefilled(model)
    both = stack([prefilled(model), prefilled(model)])
    assert both.get_seq_length() == 5
    for a, b in zip(one.layers, both.layers, strict=True):
        assert torch.equal(a.keys.repeat(2, 1, 1, 1), b.keys) and torch.equal(a.values.repeat(2, 1, 1, 1), b.values)


# --- memory -------------------------------------------------------------------------------------------------

LONG, MANY = 60, 70  # tokens of a prompt, and of a response
EOS, PAD = 5, 0


@pytest.fixture(scope="module")
def llama() -> Any:
    shape = {"vocab_size": 700, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 8}
    return shaken(LlamaForCausalLM(LlamaConfig(num_attention_heads=2, head_dim=32, **shape)))


def said(model: Any, n: int, prompts: int = 3, **limits: Any) -> list[list[int]]:
    rows = [[1, *range(10, 10 + LONG - 7 * i)] for i in range(prompts)]
    noise = np.concatenate([uniforms(1, "pool", str(i), n, MANY) for i in range(prompts)])
    return decode(model, rows, n, torch.from_numpy(noise), 1.0, 1.0, [EOS], PAD, **limits)


def mebibytes(model: Any, rows: int) -> float:
    """What `rows` samples take by their shapes, logits included."""
    return rows * (4 * cached(model) + sampling.DRAWN * 700) / 2**20


def cached(model: Any) -> int:
    found = cached_numbers(model.config.to_dict(), padded_length(LONG + 1, 8), padded_length(MANY, GROWTH))
    assert found is not None
    return found


@pytest.mark.parametrize("family", ["llama", "mt5"])
def test_samples_are_the_same_whatever_fits_into_memory(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts apart, and one prompt's samples apart; each part as large as it may be, and all of like size."""
    model, parts = build(family), list[tuple[int, int]]()
    whole, inner = said(model, 5), sampling._decode

    def counted(model: Any, rows: Any, n: int, *given: Any) -> Any:
        parts.append((len(rows), n))
        return inner(model, rows, n, *given)

    monkeypatch.setattr(sampling, "_decode", counted)
    for fit, expected in ((30, [(3, 5)]), (10, [(2, 5), (1, 5)]), (4, [(1, 3), (1, 2)] * 3)):
        parts.clear()
        assert said(model, 5, memory=mebibytes(model, fit) * 1.001 / 1024) == whole and parts == expected


class Live(TorchDispatchMode):
    """Bytes of the tensors that are made inside: now, and at most."""

    now = most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and not getattr(storage, "counted", False):
                storage.counted = True
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return made

    def _add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


def peak(run: Callable[[], Any]) -> float:
    """MiB of the tensors that `run` makes, at most."""
    with Live() as live:
        run()
    assert live.now < live.most / 10
    return live.most / 2**20


def test_the_peak_is_that_of_what_fits_and_never_two_caches(llama: Any) -> None:
    """Where samples end at different times, so that some are taken out, and where layers grow, one of eight a time."""
    for rows in (4, 12):
        allowed = mebibytes(llama, rows)
        assert 0.6 * allowed < peak(lambda: said(llama, 12, 1, memory=allowed * 1.001 / 1024)) < 1.3 * allowed  # noqa: B023


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_of_a_text_is_known_from_the_config(family: str) -> None:
    model, ids = build(family), list(range(10, 26))
    with torch.inference_mode():
        reader = sampling.read(model, [ids], PAD)
        reader.take(torch.tensor([0]), 3)
    halves = (
        [reader.cache.self_attention_cache, reader.cache.cross_attention_cache]
        if model.config.is_encoder_decoder
        else [reader.cache]
    )
    kept = sum(layer.keys.numel() + layer.values.numel() for half in halves for layer in half.layers)
    assert cached_numbers(model.config.to_dict(), len(ids), int(model.config.is_encoder_decoder)) == kept
