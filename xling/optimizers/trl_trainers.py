"""trl's trainers for rloo (Ahmadian et al. 2024) and grpo (Shao et al. 2024): decoder-only policies.

trl makes the responses, the advantages and the loss. From here come the prompts (token ids, never tokenised again),
their order, the reward of a response's ids, the reference, the updates, and what is watched and kept for a killed run.
trl's version is pinned: what `_Ours` overrides is not all public.

Several processes train by accelerate's DDP, each with all weights and whole groups of responses. Responses are drawn by
torch's one stream of random numbers: each process draws all of a step's, as one process would, and keeps its own, so
that their number decides nothing but rounding.
"""

import contextlib
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import GenerationConfig, PrinterCallback, TrainerCallback, TrainerState, TrainingArguments
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import add_fused_lm_head

from xling.errors import StageError
from xling.grid import files
from xling.grid.stage import Interrupted
from xling.models.lean import without_adapters
from xling.models.parallel import agreed, joined, meet, rank, share, world_size
from xling.models.resuming import is_sealed, say_gone_on, seal
from xling.models.text import Ids
from xling.models.training import LARGEST_NORM, gradient_optimizer
from xling.optimizers import GroupTraining, learning_rate
from xling.optimizers.problem import Problem, Row, prompts_of_step

WATCHED = "watched.pt"  # in a checkpoint of the Trainer
RANDOM_STATES = ("rng_state.pth", "rng_state_0.pth")  # process 0's, where it is the only one and where it is not

# transformers 5.0's name and, of the same, later ones'
CHECKPOINTING = (
    f"{'activation' if hasattr(TrainingArguments, 'activation_checkpointing') else 'gradient'}_checkpointing"
)

# trl's names of what is logged a step: ours. Its KL is a mean over tokens; ours is in nats a response.
LOGGED = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "reward": "reward",
    "reward_std": "reward_spread",
    "frac_reward_zero_std": "groups_without_spread",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "eos": "eos",
}


def train_by_rloo(problem: Problem, settings: GroupTraining) -> None:
    """The KL penalty (k1, whole responses) is part of the reward, advantages are not normalised, one update a batch.

    Raises StageError where training diverges, and Interrupted, with a checkpoint, soon after `problem.stopping` has
    become true.
    """
    own = RLOOConfig(**_arguments(problem, settings), normalize_advantages=False, reward_clip_range=None)
    _train(problem, settings, _RLOO, own)


def train_by_grpo(problem: Problem, settings: GroupTraining, kl_ratio: bool) -> None:
    """Advantages in standard deviations of their group, one update a batch, as in Shao et al. (2024).

    The loss is a mean over each response's tokens and then over responses (trl's own default is DAPO's), and has the
    KL penalty (k3), which is theirs without kl_ratio. Raises as `train_by_rloo` does.
    """
    given = _arguments(problem, settings)
    own = GRPOConfig(**given, loss_type="grpo", scale_rewards="group", use_bias_correction_kl=kl_ratio)
    _train(problem, settings, _GRPO, own)


def _train(problem: Problem, settings: GroupTraining, kind: Any, arguments: Any) -> None:
    watching = _Watching(problem)
    with _borrowed(problem), warnings.catch_warnings():
        # trl 1.16 asks models by names that transformers has given up
        names = r"`(is_gradient_checkpointing|gradient_checkpointing_(en|dis)able)` is deprecated"
        warnings.filterwarnings("ignore", names, FutureWarning)
        trainer = _trainer(problem, settings, kind, arguments, watching)
        _go_on(trainer, agreed(last_checkpoint(problem.scratch) if rank() == 0 else None))
    if watching.stopped:
        raise Interrupted(f"after step {trainer.state.global_step} of {settings.steps}, with a checkpoint")
    if watching.best is not None:
        problem.policy.load_state_dict(watching.best)


class _Ours:
    """Overrides of trl's trainers that both share."""

    problem: Problem
    watching: "_Watching"
    args: Any
    accelerator: Any
    state: TrainerState
    stream: torch.Tensor | None = None  # of several processes: torch's random state for the next responses

    def _tokenize_prompts(self, prompts: list[Ids]) -> tuple[list[Ids], None, dict[str, Any]]:
        """The prompts are token ids."""
        return prompts, None, {}

    def _generate_single_turn(self, prompt_ids: list[Ids], *rest: Any) -> Any:
        """Of the prompts of all processes, as one would draw them; returns what belongs to this one's."""
        if world_size() == 1:
            return super()._generate_single_turn(prompt_ids, *rest)  # type: ignore[misc]
        every, device = joined(prompt_ids), self.accelerator.device
        self._continue_stream()
        torch.set_rng_state(agreed(torch.get_rng_state()))
        if device.type == "cuda":
            torch.cuda.set_rng_state(agreed(torch.cuda.get_rng_state(device)), device)
        said = super()._generate_single_turn(every, *rest)  # type: ignore[misc]
        now = torch.get_rng_state()
        torch.randperm(len(every))  # trl shuffles a step's responses: a process its own, one process all of them
        self.stream = torch.get_rng_state()
        torch.set_rng_state(now)
        return (share(said[0]), *said[1:]) if isinstance(said, tuple) else share(said)

    def _continue_stream(self) -> None:
        """Random numbers from where one process would be."""
        if self.stream is not None:
            torch.set_rng_state(self.stream)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        return _Order(len(self.problem.prompts), self.args)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """With the watch's state; the hashes of all files are written last, and older checkpoints go after that."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        folder.mkdir(exist_ok=True)
        if rank() == 0:
            more = {"best_weights": self.watching.best, "processes": world_size()}
            save(folder / WATCHED, self.problem.watch.state() | more)
        self._continue_stream()
        super()._save_checkpoint(model, trial)  # type: ignore[misc]  # of the trainer beside this class
        meet()
        if rank() == 0:
            seal(folder)
            for other in files.matching(folder.parent, "checkpoint-*"):
                if other.name != folder.name:
                    shutil.rmtree(other, ignore_errors=True)
        meet()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: a checkpoint is not published."""

    def _send_telemetry(self) -> None:
        """Nothing is sent anywhere."""


class _RLOO(_Ours, RLOOTrainer):
    pass


class _GRPO(_Ours, GRPOTrainer):
    pass


class _Order(Sampler[int]):
    """Each step's prompts as for every optimizer, each as often as it has responses: once a micro-batch.

    trl asks for a step's prompts with each of its micro-batches, and answers those that come with the first.
    """

    def __init__(self, prompts: int, args: Any) -> None:
        self.prompts, self.k, self.seed, self.steps = prompts, args.num_generations, args.seed, args.max_steps
        self.size, self.times = args.generation_batch_size // self.k, args.steps_per_generation

    def __len__(self) -> int:
        return int(self.steps * self.size * self.k * self.times)

    def __iter__(self) -> Iterator[int]:
        for step in range(self.steps):
            numbers = prompts_of_step(self.prompts, self.size, self.seed, step)
            yield from [number for number in numbers for _ in range(self.k)] * self.times


class _Watching(TrainerCallback):
    """Tells the watch of each step; and grants the runner's wish to stop, with a checkpoint."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.stopped = False
        self.best: dict[str, Any] | None = None  # weights of the best step, if that is to be kept

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        """After every step; the Trainer saves and stops, where it has to, after this."""
        if "grad_norm" not in logs:
            return  # the summary at the end
        policy = self.problem.policy
        policy.eval()
        watch = self.problem.watch
        watch.after_step(policy, state.global_step, _row(logs))
        if watch.keep == "best" and watch.best_step == state.global_step:
            self.best = {name: value.detach().cpu().clone() for name, value in policy.state_dict().items()}
        policy.train()
        if state.global_step < state.max_steps and self.problem.stopping():
            self.stopped = control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Another user of the root may have to go on from it."""
        files.share(args.output_dir)


def _row(logs: dict[str, Any]) -> Row:
    """A step's row from what trl logged; a number that trl could not take a mean of is NaN."""
    row = {ours: math.nan if logs[name] is None else float(logs[name]) for name, ours in LOGGED.items() if name in logs}
    if "kl" in row:
        row["kl"] *= row["length"]
    return row


class _Reward:
    """The problem's reward as trl calls it: of token ids, eos last where it came, in groups of one prompt each."""

    __name__ = "reward"  # by which trl logs it

    def __init__(self, problem: Problem, k: int) -> None:
        self.problem, self.k = problem, k

    def __call__(self, completion_ids: Sequence[Ids], number: Sequence[int], log_metric: Any, **_: Any) -> list[float]:
        groups = [list(completion_ids[start : start + self.k]) for start in range(0, len(number), self.k)]
        rewards = [value for group in self.problem.reward(number[:: self.k], groups) for value in group]
        for value in rewards:
            if not math.isfinite(value):  # trl would leave the response out
                raise StageError(f"The reward of a response is {value}. Look at the reward model's scores.")
        log_metric("eos", sum(ids[-1] in self.problem.ends for ids in completion_ids) / len(completion_ids))
        return rewards


def _trainer(problem: Problem, settings: GroupTraining, kind: Any, arguments: Any, watching: _Watching) -> Any:
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process uses one GPU
    optimizer = gradient_optimizer(settings.optimizer, list(problem.policy.parameters()))

    def rate(step: int) -> float:
        return learning_rate(settings.learning_rate, step, settings.steps, settings.warmup_steps, settings.schedule)

    trainer = kind(
        model=problem.policy,
        reward_funcs=_Reward(problem, arguments.num_generations),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": list(problem.prompts), "number": range(len(problem.prompts))}),
        processing_class=problem.tokenizer,
        callbacks=[watching],
        optimizers=(optimizer, LambdaLR(optimizer, rate)),  # the optimizer's own learning rate is 1
    )
    trainer.problem, trainer.watching = problem, watching
    trainer.remove_callback(PrinterCallback)
    if settings.beta > 0:  # trl would read a reference from the disk a second time, and not as a stage's folder is read
        trainer.beta, trainer.ref_model = settings.beta, _reference(problem)
    return trainer


def _reference(problem: Problem) -> Any:
    """What trl calls as it calls the policy."""
    if problem.reference is not problem.policy:
        add_fused_lm_head(problem.reference)
        return problem.reference

    def read(**inputs: Any) -> Any:
        with without_adapters(problem.policy) as policy:
            return policy(**inputs)

    return read


def _arguments(problem: Problem, settings: GroupTraining) -> dict[str, Any]:
    """Our settings in trl's words, as far as both trainers have them."""
    own = settings.batch_size // world_size()
    micro = min(own, settings.micro_batch_size or own)
    return {
        "output_dir": str(problem.scratch),
        "max_steps": settings.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": own // micro,  # of a step, whose responses are made together
        "ddp_find_unused_parameters": False,
        "num_generations": settings.k,
        "num_iterations": 1,
        "max_completion_length": problem.max_new_tokens,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "beta": 0.0,  # set with the reference
        "max_grad_norm": LARGEST_NORM,
        "save_strategy": "steps",
        "save_steps": settings.eval_every,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": problem.precision == "bfloat16",
        CHECKPOINTING: problem.gradient_checkpointing,
        "disable_dropout": True,
        "pad_to_multiple_of": None,
        "seed": problem.seed,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _go_on(trainer: Any, checkpoint: Path | None) -> None:
    """Train from a checkpoint on; one of the last step is not trained any further."""
    if checkpoint is None:
        trainer.train()
        return
    if (
        rank() == 0 and not (checkpoint / RANDOM_STATES[world_size() > 1]).exists()
    ):  # saved by another number of processes
        saved = next(name for name in RANDOM_STATES if (checkpoint / name).exists())
        shutil.copyfile(checkpoint / saved, checkpoint / RANDOM_STATES[world_size() > 1])
    meet()
    watched = torch.load(checkpoint / WATCHED, map_location="cpu", weights_only=True)
    trainer.problem.watch.restore(watched)
    trainer.watching.best = watched["best_weights"]
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    say_gone_on(state.global_step, watched.get("processes", 1))
    if state.global_step < trainer.args.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    else:
        trainer._load_from_checkpoint(str(checkpoint))


def save(file: Path, state: dict[str, Any]) -> None:
    """Plain numbers and tensors to a file; a reader sees the old one or the new one, whole."""
    partial = file.with_suffix(files.UNFINISHED)
    torch.save(state, partial)
    files.sync(str(partial))
    partial.replace(file)
    files.sync(str(file.parent))


def last_checkpoint(scratch: Path) -> Path | None:
    """The Trainer's newest whole checkpoint; those half written or half deleted, or that have rotted, are removed."""
    for path in sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if is_sealed(path):
            return path
        shutil.rmtree(path, ignore_errors=True)
    return None


@contextlib.contextmanager
def _borrowed(problem: Problem) -> Iterator[None]:
    """Policy and reference, which trl changes, are as before after it but for the policy's weights.

    Meanwhile the tokens are those of the tokenizer, and the model's own habits of generating (top_k, penalties, other
    tokens that end a text) are left out.
    """
    policy, tokenizer = problem.policy, problem.tokenizer
    tokens = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    if len(problem.ends) > 1:
        tokens["eos_token_id"] = list(problem.ends)
    habits = policy.generation_config
    before = {name: getattr(policy.config, name, None) for name in (*tokens, "use_cache")}
    forwards = [(model, vars(model).get("forward")) for model in (policy, problem.reference)]
    policy.generation_config = GenerationConfig(**tokens)
    _set(policy.config, tokens)
    try:
        yield
    finally:
        policy.generation_config = habits
        _set(policy.config, before)
        for model, forward in forwards:
            vars(model).pop("forward", None)
            if forward is not None:
                model.forward = forward
            model.eval()


def _set(config: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(config, name, value)
