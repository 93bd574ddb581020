"""Several processes that train one model: each holds a share of the weights (torch's FSDP2), or all of them (DDP).

torchrun starts the processes and names them (RANK, WORLD_SIZE). Under FSDP2 a transformer block, the word embeddings
and the LM head are each gathered just before they compute and let go after it: a process needs memory for its share of
weights, gradients and optimizer state, and for the largest of these. The model stays the same object, with four rules:
what calls more of it than its `forward` goes `through` it, what calls its head several times does so in one call
(`at_once` in xling/models/gathering.py), what generates does so `apart`, and what stores it asks for the `whole` one.

Checkpoints are safetensors files of torch's distributed checkpoint: any number of processes reads what any other wrote,
and nothing in them can run code.
"""

import contextlib
import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor import zeros as distributed_zeros
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from xling.models.gathering import Turns, parts_of, tables_apart
from xling.models.sizes import ACCELERATOR_ROOM, SHARED_OUT

T = TypeVar("T")


def rank() -> int:
    """Number of this process among those that run the stage together."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Processes that run this stage together, as torchrun tells each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


# For the others: process 0 alone hashes a checkpoint, which may have hundreds of GB, and the usual ten minutes would
# end a training whose disk is slow. When one of them dies torchrun ends the others at once.
PATIENCE = timedelta(hours=6)


def join(device: torch.device) -> None:
    """Meet the other processes, if there are any; the second call does nothing."""
    if world_size() > 1 and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)  # through which objects are sent
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)


def total(value: float) -> float:
    """The sum over all processes."""
    return added({"": value})[""]


def agreed(value: T) -> T:
    """Process 0's value, in all of them."""
    if world_size() == 1:
        return value
    told = [value]
    distributed.broadcast_object_list(told)
    return told[0]


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of `items`, which stand together; parts are of equal size where there is such a size."""
    count, processes = len(items), world_size()
    return items[rank() * count // processes : (rank() + 1) * count // processes]


def joined(own: list[T]) -> list[T]:
    """What all processes found of their `share`, in the order of the items."""
    if world_size() == 1:
        return own
    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, own)
    return [item for part in found for item in part]


def summed(own: Tensor) -> Tensor:
    """(...) the sum over all processes, in each of them."""
    if world_size() > 1:
        distributed.all_reduce(own)
    return own


def added(own: dict[str, float]) -> dict[str, float]:
    """Sums over all processes by name; all have the same names."""
    if world_size() == 1:
        return own
    names = sorted(own)
    summed(values := _numbers([own[name] for name in names]))
    return dict(zip(names, values.tolist(), strict=True))


def _numbers(values: list[float]) -> Tensor:
    """Where the processes' messages are."""
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    return torch.tensor(values, dtype=torch.float64, device=device)


def meet() -> None:
    """Wait for the others."""
    if world_size() > 1:
        distributed.barrier()


FILE_BYTES = 256 << 20  # of a checkpoint's file, unless one tensor is larger


def chosen(how: str, model: nn.Module, optimizer: str, beside: int = 0, gather: str = "whole", held: float = 0) -> str:
    """ddp; fsdp; or layers: fsdp, of which what is read `apart` is gathered layer by layer, and never whole.

    `how`, where that is ddp or fsdp; of `auto` fsdp if training takes too much of a GPU for activations to fit. gather:
    whole, layers, or of `auto` layers if all weights take too much of a GPU beside that for sampling to fit. The same
    in all processes, whose GPUs may differ in size. Weights in 4 bits cannot be shared out, nor what optimizers that
    take less memory hold of them.
    beside: models of that size that are trained whole besides; held: bytes of what it is held to and rewarded by.
    """
    weights = list(model.parameters())
    device = weights[0].device
    gpu = min(joined([torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0]))
    learning = sum(part.numel() * (part.requires_grad + beside) for part in weights)
    trained = 16 if optimizer == "adamw" else 8  # bytes: weight, gradient and, of AdamW, two moments, in float32
    needed = trained * learning + sum(part.numel() * part.element_size() for part in weights if not part.requires_grad)
    whole = sum(part.numel() * part.element_size() for part in weights) + held
    if how == "auto":
        shareable = optimizer in ("adamw", "adafactor") and gpu > 0 and all(one.is_floating_point() for one in weights)
        sent = 4 * learning  # bytes of the copy of the gradients that DDP averages
        how = "fsdp" if shareable and needed + sent > SHARED_OUT * gpu else "ddp"
    if gather == "auto":
        tight = gpu > 0 and needed / world_size() + whole > (1 - ACCELERATOR_ROOM) * gpu
        gather = "layers" if tight else "whole"
    return "layers" if how == "fsdp" and gather == "layers" else how


# --- one model in several processes ---------------------------------------------------------------------------


def spread(model: nn.Module, how: str) -> nn.Module:
    """`model` in all processes: by `ddp` each has all weights, by `fsdp` or `layers` a share of them (in place).

    Of one that learns gradients are averaged.
    """
    if world_size() == 1:
        return model
    if how == "ddp":
        if not any(weight.requires_grad for weight in model.parameters()):
            return model
        models = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
        unused = any(part.config.get_text_config() is not part.config for part in models)  # what pictures are read by
        return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=unused)
    # mT5's blocks return a view of the biases of attention, which nothing changes in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    empty = _emptied(model)
    for block in blocks(model):
        fully_shard(block)
    fully_shard(model, ignored_params=tables_apart(model))
    model.__dict__["whole_to_be"] = empty  # not a module of its own: past nn.Module's registration
    model.__dict__["by_layer"] = how == "layers"
    for part in _shared(model):
        if distributed.get_backend() == "gloo" and hasattr(part, "set_custom_reduce_scatter"):  # not in torch 2.8
            part.set_custom_reduce_scatter(InPlace())  # type: ignore[arg-type]  # torch's base class is its own affair
        part.unshard()  # makes room for what is gathered, which in torch's inference mode could not be trained
        part.reshard()
    return model


class InPlace:
    """How FSDP2 adds gradients up by gloo, whose reduce-scatter is an all-reduce of a copy: without the copy."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for the gradients of a unit, and for this process's share of their mean."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        """output_tensor: (n,) this process's share of input_tensor, (processes n,), reduced."""
        distributed.all_reduce(input_tensor, op, group)
        output_tensor.copy_(input_tensor.view(group.size(), -1)[group.rank()])


def _shared(model: nn.Module) -> list[FSDPModule]:
    return [part for part in model.modules() if isinstance(part, FSDPModule)]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks inside: the outermost of the classes that transformers names as not to be split."""
    models = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    names = {name for part in models for name in (part._no_split_modules or ())}
    found = [part for part in model.modules() if type(part).__name__ in names and any(True for _ in part.parameters())]
    inside = {part for block in found for part in block.modules() if part is not block}  # attention of mBART's
    return [block for block in found if block not in inside]


def _emptied(model: nn.Module) -> nn.Module:
    """The same modules with the same buffers, and no memory for weights."""
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, memo)


def inner(model: nn.Module) -> nn.Module:
    """The model inside DDP's wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def through(model: nn.Module, call: Callable[[Any], T]) -> T:
    """`call` of the model inside, by way of the hooks that gather weights and average gradients.

    They see nothing but calls of the model itself, so that for the moment its `forward` is `call`.
    """
    own = inner(model)
    if own is model and not isinstance(model, FSDPModule):
        return call(model)
    before = vars(own).get("forward")

    def once() -> T:
        if before is None:
            del own.forward
        else:
            own.forward = before
        return call(own)

    own.forward = once
    return model()  # type: ignore[no-any-return]


def summing(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients of micro-batches add up in each process; DDP averages those of the `last` one over the processes.

    FSDP2 averages each micro-batch's: else it would keep whole gradients until the last, which are what is shared out.
    """
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not last else contextlib.nullcontext()


def apart(models: Sequence[Any], call: Callable[[], T]) -> T:
    """`call`, which reads models without gradients, and need not keep step with the other processes.

    All weights of those that are shared out are in every process for the moment, since sampling would gather each block
    for each token; or else that is what it does, in turns (`layers`).
    """
    roots: list[Any] = [model for model in dict.fromkeys(models) if isinstance(model, FSDPModule)]
    with torch.no_grad():
        if any(model.__dict__["by_layer"] for model in roots):
            turns = Turns([part for model in roots for part in parts_of(model)])
            return _through(roots, partial(turns.taken, call))
        with contextlib.ExitStack() as gathered:
            for model in roots:
                gathered.enter_context(_gathered(model))
            return _through(roots, call)


def _through(models: Sequence[Any], call: Callable[[], T]) -> T:
    return through(models[0], lambda _: _through(models[1:], call)) if models else call()


@contextlib.contextmanager
def _gathered(model: Any) -> Iterator[None]:
    parts = _shared(model)
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model)
            part.reshard()


def whole(model: nn.Module) -> nn.Module:
    """What was `spread`, as one model again. Of a sharded one only process 0 gets the weights, on the CPU."""
    if not isinstance(model, FSDPModule):
        return inner(model)
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    out: nn.Module = model.__dict__.pop("whole_to_be")
    if rank() == 0:
        out.load_state_dict(weights, assign=True)
        for part in out.modules():
            if isinstance(part, PreTrainedModel):
                part.tie_weights()
    return out


# --- checkpoints ----------------------------------------------------------------------------------------------


def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Each process its part of `tensors` (shares are DTensors; of what all have, one writes); names in any order."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        writer = HuggingFaceStorageWriter(str(folder), _files_of(tensors), save_distributed=True)
        save_distributed(dict(tensors), storage_writer=writer, no_dist=world_size() == 1)


class _Files(dict[str, int]):
    """Numbers of files by tensor, from 1; process 0's hold for all, and it does not know names that others have."""

    def __missing__(self, name: str) -> int:
        return 1


def _files_of(tensors: Mapping[str, Tensor]) -> _Files:
    """The writer holds the bytes of one file in memory, twice."""
    out, number, held = _Files(), 1, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if held and held + size > FILE_BYTES:
            number, held = number + 1, 0
        out[name], held = number, held + size
    return out


def load(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` with what was saved under their names, whatever the number of processes was."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_distributed

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load_distributed(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=world_size() == 1)


def optimizer_state(weight: Tensor, optimizer: str) -> dict[str, Any]:
    """The state that AdamW or Adafactor (transformers') begins with, in the form that the weight has.

    Both would make it at their first step; Adafactor's is then no distributed tensor, and cannot be added to one.
    """
    fixed = weight.detach()
    if optimizer == "adamw":
        step = torch.zeros((), dtype=torch.float32, device=weight.device)
        return {"step": step, "exp_avg": torch.zeros_like(fixed), "exp_avg_sq": torch.zeros_like(fixed)}
    begun: dict[str, Any] = {"step": 0, "RMS": 0}
    if weight.dim() < 2:
        return begun | {"exp_avg_sq": torch.zeros_like(fixed)}
    rows, columns = weight.shape[:-1], weight.shape[:-2] + weight.shape[-1:]
    if isinstance(weight, DTensor):  # shares are rows
        mesh = weight.device_mesh
        return begun | {
            "exp_avg_sq_row": distributed_zeros(rows, device_mesh=mesh, placements=[Shard(0)]),
            "exp_avg_sq_col": distributed_zeros(columns, device_mesh=mesh, placements=[Replicate()]),
        }
    return begun | {"exp_avg_sq_row": fixed.new_zeros(rows), "exp_avg_sq_col": fixed.new_zeros(columns)}


def adafactor() -> Any:
    """transformers' Adafactor, for weights that are shared out too, in rows: also those of fewer rows than processes.

    Of such a one, like a scalar head's, torch makes a whole update, and cannot add it to shares.
    """
    from transformers.optimization import Adafactor

    class InRows(Adafactor):
        @staticmethod
        def _approx_sq_grad(exp_avg_sq_row: Tensor, exp_avg_sq_col: Tensor) -> Tensor:
            update: Tensor = Adafactor._approx_sq_grad(exp_avg_sq_row, exp_avg_sq_col)
            return update.redistribute(placements=[Shard(0)]) if isinstance(update, DTensor) else update

    return InRows


def local(value: Tensor) -> Tensor:
    """A number that all processes agree on, out of what may be its distributed form."""
    return value.full_tensor() if isinstance(value, DTensor) else value
