"""Fine-tuning on token rows with transformers' Trainer: one loop for SFT and for reward models.

A model is trained whole or by adapters of peft (tuning=lora, qlora). Adapters are merged into the weights before
anything is stored: what is published is a model like any other, so that sampling, reward models and likelihoods have
one path. Evaluation every `eval_every` steps decides which checkpoint is kept; checkpoints in the stage's scratch
folder let a killed stage go on where it was (weights, optimizer, schedule, data order and random state are the
Trainer's).
"""

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, TrainingArguments

from xling.config.common import Training
from xling.config.policies import Lora
from xling.errors import StageError
from xling.grid import files
from xling.grid.stage import Interrupted, PartDone
from xling.models.load import DTYPES, in_dtype, load_policy, loading, save_policy
from xling.models.weights import some

Batch = dict[str, Tensor]

CHECKPOINT = ("optimizer.pt", "scheduler.pt", "trainer_state.json")  # besides weights and random states


class _Fit(Trainer):
    """Trainer with our loss, with our metric in place of its evaluation loop, and with weighted micro-batches."""

    def __init__(
        self,
        *args: Any,
        loss: Callable[[Any, Batch], Tensor],
        metric: Callable[[Any], float],
        precision: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._loss, self._metric, self._precision = loss, metric, precision
        self._share = 1.0  # of the batch's loss, the micro-batch at hand

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One step; the micro-batches count by what their losses are means over, so that their sum is the batch's."""
        if "parts" not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        sizes = [_items(part) for part in inputs["parts"]]
        losses = []
        for part, size in zip(inputs["parts"], sizes, strict=True):
            self._share = size / sum(sizes)
            losses.append(super().training_step(model, part, None))
        self._share = 1.0
        return torch.stack(losses).sum()

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Around the loss, which calls parts of the model that accelerate's own wrapper does not see."""
        return computing_in(self._precision, self.args.device)

    def compute_loss(  # type: ignore[override]  # the fourth argument differs between releases
        self, model: Any, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        loss = self._loss(model, inputs) if model is self.model else _through(model, self._loss, inputs)
        if not torch.isfinite(loss):
            value, step = float(loss.detach()), self.state.global_step
            raise StageError(f"The training loss became {value} at step {step}. Lower the learning rate.")
        if self._share != 1.0:
            loss = loss * self._share
        return (loss, {}) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        model: Any = self.model
        model.eval()
        with torch.inference_mode(), computing_in(self._precision, self.args.device):
            metrics = {"eval_metric": self._metric(model)}
        model.train()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def go_on(self, checkpoint: Path | None) -> None:
        """Train from a checkpoint on; one of the last step is not trained any further."""
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= self.args.max_steps:
                self.state = state
                self._load_best_model()
                return
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _through(parallel: Any, loss: Callable[[Any, Batch], Tensor], inputs: Batch) -> Tensor:
    """The loss by way of the wrapper that averages gradients over processes, which sees no call but its own."""
    inner = parallel.module
    before = vars(inner).get("forward")

    def once(batch: Batch) -> Tensor:
        if before is None:
            del inner.forward
        else:
            inner.forward = before
        return loss(inner, batch)

    inner.forward = once
    value: Tensor = parallel(inputs)
    return value


class _Report(TrainerCallback):
    """Progress to the runner; and its wish to stop, which is granted with a checkpoint.

    Only where the training loss has just been logged: a logged mean must not span a checkpoint.
    """

    def __init__(self, progress: Callable[[int, int], None], stopping: Callable[[], bool]) -> None:
        self.progress, self.stopping = progress, stopping
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps)
        if self.stopping() and state.global_step % args.logging_steps == 0 and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Another user of the root may have to go on from it."""
        files.share(args.output_dir)


def computing_in(precision: str, device: torch.device) -> Any:
    """A context in which matrices are multiplied in `precision`; weights stay as they are."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def _items(batch: Batch) -> int:
    """Number of items of a batch's mean loss: counted tokens, or rows."""
    labels = batch["labels"]
    return int((labels[:, 1:] != -100).sum()) if labels.ndim == 2 else len(labels)


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
) -> list[dict[str, float]]:
    """Train `model` in place, leaving it at the checkpoint with the best `metric`; returns the curve.

    In several processes (torchrun) the batch is shared out equally, and only process 0 returns.
    Raises Interrupted, with a checkpoint in `scratch`, soon after `stopping` has become true.
    `loss` is a mean over the batch's rows or, where `labels` has two dimensions, over its counted tokens; it is
    computed in `precision` (float32, bfloat16, float16). Gradients are clipped to norm 1. The curve has a dict with
    `step` for each logged training loss (`loss`) and each evaluation (`metric`).
    """
    if training.steps == 0:
        return []
    if len(rows) < training.batch_size:
        raise StageError(
            f"There are {len(rows)} training examples and a batch has {training.batch_size}. "
            "Lower batch_size or raise the number of examples."
        )
    report = _Report(progress, stopping)
    trainer = _Fit(
        model=model,
        args=_arguments(training, seed, scratch, greater_is_better, precision),
        train_dataset=list(rows),
        eval_dataset=list(rows[:1]),
        data_collator=_in_parts(collate, training.micro_batch_size),
        loss=loss,
        metric=metric,
        precision=precision,
        callbacks=[report],
    )
    with _checkpointed(model, training.gradient_checkpointing):
        trainer.go_on(last_checkpoint(scratch))
    if report.stopped:
        raise Interrupted(f"after step {trainer.state.global_step} of {training.steps}, with a checkpoint")
    if int(os.environ.get("RANK", "0")) > 0:
        raise PartDone
    return _curve(trainer.state.log_history)


def _arguments(
    training: Training, seed: int, scratch: Path, greater_is_better: bool, precision: str
) -> TrainingArguments:
    """Our settings in the Trainer's words."""
    processes, gpu = world_size(), torch.cuda.is_available()
    if precision == "float16" and not gpu:
        raise StageError("Training in float16 needs a GPU. Type policy.dtype=bfloat16 or float32.")
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=training.steps,
        per_device_train_batch_size=_share(training, processes),
        ddp_backend=("nccl" if gpu else "gloo") if processes > 1 else None,
        ddp_find_unused_parameters=False if processes > 1 else None,
        optim="adafactor" if training.optimizer == "adafactor" else "adamw_torch_fused",
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        lr_scheduler_type="constant_with_warmup" if training.schedule == "constant" else "linear",
        eval_strategy="steps",
        eval_steps=training.eval_every,
        save_steps=training.eval_every,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_metric",
        greater_is_better=greater_is_better,
        logging_steps=_divisor(training.eval_every, training.eval_every // 5),
        use_cpu=not gpu,
        bf16=False,  # `computing_in` instead
        fp16=precision == "float16",  # for its scaling of the loss
        seed=seed,
        data_seed=seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_drop_last=True,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several GPUs are used by several processes, never by nn.DataParallel
    return arguments


def _share(training: Training, processes: int) -> int:
    """Examples a step of one process."""
    if training.batch_size % processes:
        raise StageError(f"A global batch of {training.batch_size} cannot be shared by {processes} processes equally.")
    share, micro = training.batch_size // processes, training.micro_batch_size
    if micro is not None and share % micro:
        raise StageError(
            f"micro_batch_size={micro} does not divide the {share} examples that each of {processes} processes has of "
            f"batch_size={training.batch_size}. Use a divisor."
        )
    return share


def _in_parts(collate: Callable[[list[Any]], Batch], size: int | None) -> Callable[[list[Any]], Any]:
    """`collate`, or for micro-batches {"parts": [batch, ...]}, each padded to its own width."""
    if size is None:
        return collate
    return lambda rows: {"parts": [collate(rows[start : start + size]) for start in range(0, len(rows), size)]}


@contextlib.contextmanager
def _checkpointed(model: nn.Module, wanted: bool) -> Iterator[None]:
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


def world_size() -> int:
    """Processes that run this stage together, as torchrun tells each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _divisor(number: int, limit: int) -> int:
    """The largest divisor up to `limit`: no logged mean loss spans a checkpoint, where a resumed run starts anew."""
    return next(k for k in range(max(1, limit), 0, -1) if number % k == 0)


def last_checkpoint(scratch: Path) -> Path | None:
    """The newest whole checkpoint; those that a kill left half written or half deleted are removed."""
    found = sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    whole = [path for path in found if _is_whole(path)]
    for path in set(found) - set(whole):
        shutil.rmtree(path, ignore_errors=True)  # another process may be at it
    return whole[0] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """The Trainer writes the weights first and its state last; files go in any order."""
    if len(files.matching(checkpoint, "rng_state*.pth")) < world_size():
        return False
    if not all((checkpoint / name).exists() for name in CHECKPOINT) or not files.matching(checkpoint, "*.safetensors"):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return True


def _curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Trainer's log without its clocks, which would make results differ from run to run."""
    names = {
        "loss": "loss",
        "eval_metric": "metric",
        "learning_rate": "learning_rate",
        "grad_norm": "grad_norm",
    }
    rows = [{"step": row["step"], **{names[k]: v for k, v in row.items() if k in names}} for row in history]
    return [row for row in rows if len(row) > 1]


def write_curve(folder: Path, curve: Sequence[dict[str, float]]) -> None:
    """`curve.jsonl`, read by the tracker and the report."""
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in curve)
    (folder / "curve.jsonl").write_text(text, encoding="utf-8")


# --- what is trained, whole or by adapters, and how a trained policy is stored ------------------------------


def trainable(folder: Path, tuning: str, lora: Lora | None, dropout: float | None) -> tuple[Any, Any]:
    """(model, tokenizer) of a stage's folder: whole and in float32, or frozen with adapters in its own dtype.

    For qlora the frozen weights are in 4 bits.
    """
    if lora is None:
        return load_policy(folder, dtype="float32", dropout=dropout)
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
