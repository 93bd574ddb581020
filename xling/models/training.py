"""Fine-tuning on rows of tokens, in one process or several: one loop for SFT and for reward models.

A model is trained whole or by adapters of peft (tuning=lora, qlora). Adapters are merged into the weights before
anything is stored: what is published is a model like any other, so that sampling, reward models and likelihoods have
one path.

Evaluation every `eval_every` steps decides which checkpoint is kept; checkpoints in the stage's scratch folder let a
killed stage go on where it was, also in another number of processes.
"""

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from xling.config.common import IN_BFLOAT16, Training
from xling.config.policies import Lora
from xling.errors import StageError
from xling.grid.stage import Interrupted, PartDone
from xling.models import parallel
from xling.models.load import DTYPES, in_dtype, load_policy, loading, save_policy
from xling.models.precision import HalfAdamW, eight_bits
from xling.models.resuming import Checkpoints, say_measured
from xling.models.weights import some

Batch = dict[str, Tensor]
Curve = list[dict[str, float]]

LARGEST_NORM = 1.0  # gradients are clipped to it


class Descent:
    """AdamW (of a kind) or Adafactor on the weights of a model that are trained, with gradients clipped to norm 1.

    what, setting: the model and the setting of its learning rate, which errors name. Weight decay leaves out biases and
    the weights of norms, as transformers' Trainer does. The model may be `spread` over several processes.
    """

    def __init__(self, what: str, model: nn.Module, optimizer: str, setting: str, weight_decay: float = 0.0) -> None:
        self.what, self.setting, self.steps, self.model = what, setting, 0, model
        own = parallel.inner(model)
        self.parameters = {name: weight for name, weight in own.named_parameters() if weight.requires_grad}
        decayed = _decayed(own)
        groups = [
            {"params": [weight for name, weight in self.parameters.items() if name in decayed],
             "weight_decay": weight_decay},
            {"params": [weight for name, weight in self.parameters.items() if name not in decayed],
             "weight_decay": 0.0},
        ]  # fmt: skip
        self.optimizer = gradient_optimizer(optimizer, [group for group in groups if group["params"]])
        # What it holds is there from the start, so that a checkpoint has somewhere to go to.
        for number, group in enumerate(self.optimizer.param_groups):
            for place, weight in enumerate(group["params"]):
                if optimizer in ("adamw", "adafactor"):
                    self.optimizer.state[weight] = parallel.optimizer_state(weight, optimizer)
                else:
                    self.optimizer.init_state(group, weight, number, place)

    def step(self, learning_rate: float, scaler: torch.amp.GradScaler | None = None) -> float:
        """Follow the gradients, and forget them; returns their norm before clipping. StageError if it is no number.

        scaler: of float16's losses; a step whose gradients overflowed is left out, and the scale lowered.
        """
        self.steps += 1
        scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        scaler.unscale_(self.optimizer)
        norm = float(parallel.local(nn.utils.clip_grad_norm_(self.parameters.values(), LARGEST_NORM)))
        if not norm < float("inf") and not scaler.is_enabled():
            raise StageError(f"The gradient of the {self.what} became {norm}. Lower {self.setting}.")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def weights(self) -> dict[str, Tensor]:
        """Those that are trained, to be saved, or filled in place."""
        return {f"weights.{name}": weight.detach() for name, weight in self.parameters.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint has of it but `steps`: `weights`, and what the optimizer holds of each."""
        out = self.weights()
        for name, weight in self.parameters.items():
            held = self.optimizer.state[weight].items()
            out |= {f"{key}.{name}": value for key, value in held if isinstance(value, Tensor)}
        return out

    def restored(self, steps: int) -> None:
        """Count from `steps` on, after `tensors` were filled."""
        self.steps = steps
        for state in self.optimizer.state.values():
            if not isinstance(state["step"], Tensor):
                state["step"] = steps


def _decayed(model: nn.Module) -> set[str]:
    from transformers.trainer_pt_utils import get_parameter_names

    patterns = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    return set(get_parameter_names(model, [nn.LayerNorm], patterns))


def gradient_optimizer(name: str, groups: list[Any]) -> Any:
    """That of `Following` on parameters, or on groups of them; without weight decay where a group does not say."""
    if name == "adafactor":
        optimizer = parallel.adafactor()
        return optimizer(groups, lr=1.0, scale_parameter=False, relative_step=False)  # as transformers' Trainer
    if name == "adamw_8bit":
        return eight_bits(groups)
    if name in IN_BFLOAT16:
        return HalfAdamW(groups, kahan=name == "adamw_kahan")
    return torch.optim.AdamW(groups, lr=1.0, weight_decay=0.0, fused=True)


def computing_in(precision: str, device: torch.device) -> Any:
    """A context in which matrices are multiplied in `precision`; weights stay as they are."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


# --- the loop -------------------------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    rows: Sequence[Any],
    collate: Callable[[list[Any]], Batch],
    loss: Callable[[Any, Batch], Tensor],
    metric: Callable[[Any], float],
    greater_is_better: bool,
    training: Training,
    seed: int,
    scratch: Path,
    progress: Callable[[int, int], None],
    stopping: Callable[[], bool] = lambda: False,
    precision: str = "float32",
    how: str = "auto",
    gather: str = "whole",
    samples: bool = False,
) -> tuple[Any, Curve]:
    """(model, curve): `model` at the checkpoint with the best `metric`; the same object unless it was sharded.

    In several processes (torchrun) the batch is shared out equally, weights by `how` (auto, ddp, fsdp), and only
    process 0 returns. samples: `metric` samples the model, token by token, for which shared out weights are gathered as
    `gather` says (auto, whole, layers).
    Raises Interrupted, with a checkpoint in `scratch`, soon after `stopping` has become true.
    `loss` is a mean over the batch's rows or, where `labels` has two dimensions, over its counted tokens; it is
    computed in `precision` (float32, bfloat16, float16). Gradients are clipped to norm 1. The curve has a dict with
    `step` for each recorded training loss (`loss`, the mean since the last one) and each evaluation (`metric`).
    """
    if training.steps == 0:
        return model, []
    if len(rows) < training.batch_size:
        raise StageError(
            f"There are {len(rows)} training examples and a batch has {training.batch_size}. Lower sft.batch_size, or "
            "(of a reward model) rm_backbone.training.batch_size, or give it more examples."
        )
    share = _share(training, parallel.world_size())
    with checkpointed(model, training.gradient_checkpointing):
        fitting = Fitting(model, collate, loss, training, precision, share, how, gather)
        memory = Memory(scratch, fitting.descent, seed)
        every = max(1, training.eval_every // 5)
        for step in range(memory.step, training.steps):
            value, norm = fitting.step(
                [rows[i] for i in rows_of_step(len(rows), training.batch_size, seed, step)], step
            )
            memory.losses.append(value)
            made = step + 1
            if made % every == 0 or made == training.steps:
                followed = {"grad_norm": norm} if math.isfinite(norm) else {}  # else float16's, and the step left out
                memory.record({"loss": sum(memory.losses) / len(memory.losses), **followed,
                               "learning_rate": rate(training, step)}, made)  # fmt: skip
                memory.losses.clear()
            progress(made, training.steps)
            stopped = made < training.steps and stopping()
            if made % training.eval_every == 0 or made == training.steps:
                value = fitting.measured(metric, samples)
                memory.record({"metric": value}, made)
                say_measured(made, training.steps, {"loss": memory.last_loss(), "metric": value})
                memory.judge(value if greater_is_better else -value, made)
                memory.save(made)
            elif stopped:
                memory.save(made)
            if stopped:
                raise Interrupted(f"after step {made} of {training.steps}, with a checkpoint")
        memory.load_best()
        model, device, curve = fitting.model, fitting.device, memory.curve
        del fitting, memory  # the optimizer's state, before process 0 gets all weights
        whole = parallel.whole(model)
    if parallel.rank() > 0:
        raise PartDone
    del model  # shares of weights, where they were sharded
    return whole.to(device), curve


class Fitting:
    """A model with its gradient optimizer, one batch at a time."""

    def __init__(
        self,
        model: nn.Module,
        collate: Callable[[list[Any]], Batch],
        loss: Callable[[Any, Batch], Tensor],
        training: Training,
        precision: str,
        share: int,
        how: str,
        gather: str = "whole",
    ) -> None:
        self.device = next(model.parameters()).device
        if precision == "float16" and self.device.type == "cpu":
            raise StageError("Training in float16 needs a GPU. Type policy.dtype=bfloat16 or float32.")
        parallel.join(self.device)
        self.collate, self.loss, self.training, self.precision, self.share = collate, loss, training, precision, share
        name, decay = training.optimizer, training.weight_decay
        if precision == "float16":
            how = "ddp"  # of shares each process would lower the scale of its losses by itself
        self.model = parallel.spread(model.train(), parallel.chosen(how, model, name, gather=gather))
        self.descent = Descent("model", self.model, name, "the learning rate", decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")

    def step(self, rows: list[Any], step: int) -> tuple[float, float]:
        """Mean loss of the batch `rows` (of all processes), and the norm of its gradient, which has been followed.

        Micro-batches count by what their losses are means over, so that their sum is the batch's.
        """
        own = rows[parallel.rank() * self.share :][: self.share]
        micro = self.training.micro_batch_size or self.share
        parts = [self._on_device(self.collate(own[start : start + micro])) for start in range(0, self.share, micro)]
        counts = [_items(part) for part in parts]
        count, value = parallel.total(sum(counts)), 0.0
        for i, (part, size) in enumerate(zip(parts, counts, strict=True)):
            with parallel.summing(self.model, last=i == len(parts) - 1):
                with computing_in(self.precision, self.device):
                    loss = parallel.through(self.model, partial(self._loss_of, part))
                if not torch.isfinite(loss):
                    raise StageError(
                        f"The training loss became {float(loss.detach())} at step {step}. Lower the learning rate."
                    )
                # Gradients are averaged over the processes, and this one's share of the batch is size / count.
                weight = size * parallel.world_size() / count
                self.scaler.scale(loss if weight == 1.0 else loss * weight).backward()
            value += float(loss.detach()) * size
        return parallel.total(value) / count, self.descent.step(rate(self.training, step), self.scaler)

    def _loss_of(self, part: Batch, model: Any) -> Tensor:
        return self.loss(model, part)

    def _on_device(self, batch: Batch) -> Batch:
        return {name: value.to(self.device) for name, value in batch.items()}

    def measured(self, metric: Callable[[Any], float], samples: bool) -> float:
        """`metric` of the model in evaluation mode, with process 0's word for it."""
        self.model.eval()
        with torch.no_grad(), computing_in(self.precision, self.device):
            if samples:
                value = parallel.apart([self.model], partial(metric, parallel.inner(self.model)))
            else:
                value = parallel.through(self.model, metric)
            value = parallel.agreed(value)
        self.model.train()
        return value


def rate(training: Training, step: int) -> float:
    """Learning rate of step `step` (from 0): linear warm-up from 0, then down to 0 or on as it is."""
    peak, warmup = training.learning_rate, training.warmup_steps
    if step < warmup:
        return peak * (step / warmup)
    if training.schedule == "constant":
        return peak
    return peak * max(0.0, (training.steps - step) / max(1, training.steps - warmup))


def rows_of_step(count: int, size: int, seed: int, step: int) -> list[int]:
    """Numbers of the rows of a batch: each pass over all of them has an order of its own (seed + pass)."""
    batches = count // size  # of a pass; the rows left over wait for the next one
    turn, place = divmod(step, batches)
    return _order(count, seed + turn)[place * size : (place + 1) * size].tolist()


@lru_cache(maxsize=1)
def _order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _items(batch: Batch) -> int:
    """Number of items of a batch's mean loss: counted tokens, or rows."""
    labels = batch["labels"] if "labels" in batch else next(iter(batch.values()))
    return int((labels[:, 1:] != -100).sum()) if "labels" in batch and labels.ndim == 2 else len(labels)


def _share(training: Training, processes: int) -> int:
    """Examples a step of one process."""
    if training.batch_size % processes:
        raise StageError(f"A global batch of {training.batch_size} cannot be shared by {processes} processes equally.")
    share, micro = training.batch_size // processes, training.micro_batch_size
    if micro is not None and micro < share and share % micro:
        raise StageError(
            f"micro_batch_size={micro} does not divide the {share} examples that each of {processes} processes has of "
            f"batch_size={training.batch_size}. Use a divisor."
        )
    return share


@contextlib.contextmanager
def checkpointed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing in the outermost transformers models inside `model`, if wanted."""
    found = [module for module in model.modules() if isinstance(module, PreTrainedModel)] if wanted else []
    inner = {id(part) for module in found for part in module.modules() if part is not module}
    outermost = [module for module in found if id(module) not in inner]
    word = "activation" if hasattr(PreTrainedModel, "activation_checkpointing_enable") else "gradient"
    for module in outermost:
        getattr(module, f"{word}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        for module in outermost:
            getattr(module, f"{word}_checkpointing_disable")()


# --- what survives a kill ---------------------------------------------------------------------------------------


class Memory:
    """Where a training is, in checkpoints: the newest, and the one with the best metric so far."""

    def __init__(self, scratch: Path, descent: Descent, seed: int) -> None:
        self.checkpoints, self.descent = Checkpoints(scratch), descent
        self.step, self.best_step = 0, 0
        self.best: float | None = None
        self.losses: list[float] = []  # since the last recorded one
        self.curve: Curve = []
        torch.manual_seed(seed + parallel.rank())
        if (state := self.checkpoints.newest()) is not None:
            self._restore(state)

    def record(self, row: Mapping[str, float], step: int) -> None:
        self.curve.append({"step": step, **row})

    def last_loss(self) -> float:
        """The training loss that was recorded last: there is one before any evaluation."""
        return next(row["loss"] for row in reversed(self.curve) if "loss" in row)

    def judge(self, goodness: float, step: int) -> None:
        """Of equally good ones the first is kept."""
        if self.best is None or goodness > self.best:
            self.best, self.best_step = goodness, step

    def save(self, step: int) -> None:
        """A checkpoint of now."""
        numbers = {"best": self.best, "best_step": self.best_step, "losses": self.losses, "curve": self.curve}
        self.checkpoints.save(step, self.descent.tensors() | _random_states(), numbers, self.best_step)

    def _restore(self, state: Mapping[str, Any]) -> None:
        random = {name: value for name, value in _random_states().items() if parallel.rank() < state["processes"]}
        self.checkpoints.load(state["step"], self.descent.tensors() | random)
        self.descent.restored(state["step"])
        _set_random_states(random)
        self.step, self.best, self.best_step = state["step"], state["best"], state["best_step"]
        self.losses, self.curve = state["losses"], state["curve"]

    def load_best(self) -> None:
        """The weights of the checkpoint with the best metric."""
        self.checkpoints.load(self.best_step, self.descent.weights())


def _random_states() -> dict[str, Tensor]:
    """Copies of this process's random states, under names of its own."""
    states = {f"random.cpu.{parallel.rank()}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"random.cuda.{parallel.rank()}"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    for name, value in states.items():
        torch.cuda.set_rng_state(value) if ".cuda." in name else torch.set_rng_state(value)


def write_curve(folder: Path, curve: Sequence[dict[str, float]]) -> None:
    """`curve.jsonl`, read by the tracker and the report."""
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in curve)
    (folder / "curve.jsonl").write_text(text, encoding="utf-8")


# --- what is trained, whole or by adapters, and how a trained policy is stored ------------------------------


def whole_in(optimizer: str) -> str:
    """The dtype of weights that are trained whole."""
    return "bfloat16" if optimizer in IN_BFLOAT16 else "float32"


def trainable(
    folder: Path, tuning: str, lora: Lora | None, dropout: float | None, optimizer: str = "adamw"
) -> tuple[Any, Any]:
    """(model, tokenizer) of a stage's folder: whole in what `optimizer` trains, or frozen in its dtype, with adapters.

    For qlora the frozen weights are in 4 bits.
    """
    if lora is None:
        return load_policy(folder, dtype=whole_in(optimizer), dropout=dropout)
    check_gpu(tuning, "policy")
    model, tokenizer = load_policy(folder, dropout=dropout, quantized=tuning == "qlora")
    return adapted(model, tuning, lora, "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"), tokenizer


def store_trained(start: Path, out: Path, model: Any, tokenizer: Any, lora: Lora | None) -> Any:
    """Write the trained model in the dtype of the one it started as, adapters merged, to be loaded as that was."""
    how = loading(start)
    if lora is not None:
        model = merged(load_policy(start)[0], model)
    model = in_dtype(model, DTYPES[how.dtype]).eval()
    save_policy(out, model, tokenizer, replace(how, folder=".", digest=""))
    return model


def check_gpu(tuning: str, group: str) -> None:
    """StageError for 4-bit weights where there is no GPU."""
    if tuning == "qlora" and not torch.cuda.is_available():
        raise StageError(f"{group}.tuning=qlora needs a GPU. Type {group}.tuning=lora, or run it where there is one.")


def adapted(model: Any, tuning: str, lora: Lora, task: str | None = None) -> Any:
    """A peft model in training: the frozen `model` with new adapters. task: its kind in peft's words; None: no LM."""
    from peft import LoraConfig, prepare_model_for_kbit_training

    if tuning == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    names = lora.target_modules
    config = LoraConfig(
        task_type=task,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=names if isinstance(names, str) else list(names),
    )
    return _with_adapters(model, config)


def _with_adapters(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that has been renamed
        return get_peft_model(model, config)


def core(model: Any) -> Any:
    """The transformers model inside, adapters and all."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def merged(fresh: Any, trained: Any) -> Any:
    """The model `fresh` with the adapters of `trained` added to its weights, in eval mode; StageError if any is lost.

    `fresh` is read again from where `trained` began: weights trained on may be in 4 bits, and adding to those would
    lose the adapters.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    adapters = {name: value.detach().cpu() for name, value in get_peft_model_state_dict(trained).items()}
    both = _with_adapters(fresh, trained.peft_config["default"])
    report: Any = set_peft_model_state_dict(both, adapters)
    if lost := report.unexpected_keys:
        raise StageError(f"The model has no place for trained adapters: {some(sorted(lost))}. Nothing was stored.")
    return both.merge_and_unload().eval()
