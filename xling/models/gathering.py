"""When several processes gather weights that they share out (FSDP2), besides those of transformer blocks.

Word embeddings and the LM head are units like blocks: gathered for a call, and let go after it. What calls the head
several times does so in one call of its unit (`at_once`). Without gradients each process may call what it likes, if
they take turns (`Turns`): every call is then one of all processes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from xling.models.architecture import text_config, trunk_of

T = TypeVar("T")


# --- word embeddings and LM head ------------------------------------------------------------------------------


class Unit(nn.Module):
    """Modules with one weight, which is gathered for a call of any of them, or for a `call` that calls them often."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts, self.inside = nn.ModuleList(parts), False

    def forward(self, call: Callable[..., T], *given: Any, **named: Any) -> T:
        """`call` of what is given."""
        self.inside = True
        try:
            return call(*given, **named)
        finally:
            self.inside = False


def tables_apart(model: nn.Module) -> set[nn.Parameter]:
    """The weights of word embeddings and LM head, which have been shared out: in one where they are the same.

    A value model that reads the policy's states has neither.
    """
    if (inside := outermost(model)) is None:
        return set()
    table, head = inside.get_input_embeddings(), inside.get_output_embeddings()
    heads = {id(head.weight)} if head is not None else set()
    weights: dict[int, Any] = {
        id(part.weight): part.weight for part in (table, head) if isinstance(part, nn.Embedding | nn.Linear)
    }
    out = set[nn.Parameter]()
    for key, weight in weights.items():
        parts = [part for part in model.modules() if part._parameters.get("weight") is weight]
        unit = Unit(parts)
        fully_shard(unit, ignored_params={other for other in unit.parameters() if other is not weight})
        unit.set_unshard_in_backward(key in heads)  # type: ignore[operator]  # gradients of embeddings do not need them
        del unit.parts  # their names stay those of the model
        for part in parts:
            part.unit = unit  # found by FSDP2 below the model
            part.forward = _by_way_of(unit, part.forward)
        out.add(parts[0].get_parameter("weight"))
    return out


def _by_way_of(unit: Unit, own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*given: Any, **named: Any) -> Any:
        return own(*given, **named) if unit.inside else unit(own, *given, **named)

    return forward


def at_once(model: Any, call: Callable[..., T], *given: Tensor) -> T:
    """`call` of tensors, which computes with the model's LM head as often as it likes.

    Several processes may do so more or less often: the head's weights are gathered once, its gradients averaged once.
    """
    unit = _unit_of(model.get_output_embeddings())
    return call(*given) if unit is None or unit.inside else unit(call, *given)


def _unit_of(part: nn.Module | None) -> Any:
    """None where it is not shared out."""
    return getattr(part, "unit", None)


# --- calls in turn --------------------------------------------------------------------------------------------

Part = tuple[nn.Module, Callable[[], Any]]  # what is called, and a call of it whose result means nothing


class Turns:
    """Processes that call parts of models each in its own order, and as often as it likes.

    Before each call they agree which part is next: the last of those that any is about to call. Who is about to call
    another one, or has nothing left to call, joins in with one token, and forgets what comes of it.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts, self.joining = parts, -1
        self.hooks = [
            module.register_forward_pre_hook(partial(self._before, number), prepend=True)
            for number, (module, _) in enumerate(parts)
        ]

    def taken(self, call: Callable[[], T]) -> T:
        """`call` of this process; returns when no process has anything left to call."""
        try:
            found = call()
            self._wait(-1)
        finally:
            for hook in self.hooks:
                hook.remove()
        return found

    def _before(self, number: int, *_: Any) -> None:
        if self.joining == number:
            self.joining = -1
        else:
            self._wait(number)

    def _wait(self, number: int) -> None:
        while (turn := _largest(number)) != number:
            self.joining = turn
            self.parts[turn][1]()


def _largest(number: int) -> int:
    found = torch.tensor(number, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def parts_of(model: nn.Module) -> list[Part]:
    """What is called of the transformers model inside: decoder, or encoder and decoder, and the LM head."""
    inside: Any = outermost(model)
    token = torch.zeros(1, 1, dtype=torch.long, device=inside.device)
    head = inside.get_output_embeddings()
    if inside.config.is_encoder_decoder:
        encoder, decoder = inside.get_encoder(), inside.get_decoder()
        width = text_config(encoder.config).hidden_size
        read = torch.zeros(1, 1, width, dtype=inside.dtype, device=inside.device)
        found: list[Part] = [
            (encoder, partial(encoder, input_ids=token)),
            (decoder, partial(decoder, input_ids=token, encoder_hidden_states=read, use_cache=False)),
        ]
    else:
        trunk = trunk_of(inside)
        found = [(trunk, partial(trunk, input_ids=token, use_cache=False))]
    if (unit := _unit_of(head)) is not None:
        weight = head.weight
        states = torch.zeros(1, weight.shape[1], dtype=weight.dtype, device=inside.device)
        found.append((unit, partial(head, states)))
    return found


def outermost(model: nn.Module) -> PreTrainedModel | None:
    """The transformers model inside, if there is one."""
    return next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
