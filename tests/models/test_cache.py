"""The cache with room to grow holds what transformers' DynamicCache holds."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from xling.models.states import fan_out, stack

PROMPTS = torch.tensor([[1, 40, 41, 42, 43], [1, 50, 51, 52, 53]])
ROWS = torch.tensor([0, 1, 1, 0, 0])


def prefilled(model: Any) -> Any:
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=PROMPTS, past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("width", [1, 3])
def test_fan_out_equals_a_dynamic_cache_with_the_same_rows(tiny: tuple[Any, Any], width: int) -> None:
    model, _ = tiny
    reference = prefilled(model)
    reference.batch_select_indices(ROWS)
    ours = fan_out(prefilled(model), ROWS, 3 * width)
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
        model(input_ids=torch.tensor([[7]] * 5), past_key_values=fan_out(cache, ROWS, 1), use_cache=True)
    assert cache.get_seq_length() == 5
    assert all(torch.equal(layer.keys, old) for layer, old in zip(cache.layers, before, strict=True))


def test_a_fan_out_of_a_fan_out_keeps_what_was_added(tiny: tuple[Any, Any]) -> None:
    model, _ = tiny
    first = fan_out(prefilled(model), ROWS, 2)
    with torch.inference_mode():
        model(input_ids=torch.arange(60, 65).view(5, 1), past_key_values=first, use_cache=True)
    kept = torch.tensor([3, 1])
    second = fan_out(first, kept, 1)
    assert second.get_seq_length() == 6
    for a, b in zip(first.layers, second.layers, strict=True):
        assert torch.equal(a.keys[kept], b.keys) and torch.equal(a.values[kept], b.values)


def test_more_than_there_is_room_for_is_an_error(tiny: tuple[Any, Any]) -> None:
    model, _ = tiny
    cache = fan_out(prefilled(model), ROWS, 1)
    with pytest.raises(RuntimeError), torch.inference_mode():
        model(input_ids=torch.ones(5, 2, dtype=torch.long), past_key_values=cache, use_cache=True)


def test_a_stack_has_the_rows_of_all(tiny: tuple[Any, Any]) -> None:
    model, _ = tiny
    one = prefilled(model)
    both = stack([prefilled(model), prefilled(model)])
    assert both.get_seq_length() == 5
    for a, b in zip(one.layers, both.layers, strict=True):
        assert torch.equal(a.keys.repeat(2, 1, 1, 1), b.keys) and torch.equal(a.values.repeat(2, 1, 1, 1), b.values)
