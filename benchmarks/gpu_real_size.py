"""Parts of benchmarks/gpu.py at real size: speed beside the roofline, and memory beside the plan."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gpu_trainers import MICRO, MODELS, Row, ids, made, models_of, problem_of, supervised, tiny

PROMPT, RESPONSE, N = 512, 128, 64  # tokens, and samples a prompt
ROWS = 16  # texts of a training step


@contextmanager
def measured(row: Row) -> Iterator[None]:
    """Seconds and, on a GPU, peak memory of what is done inside; what does not fit is said."""
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.monotonic()
    try:
        yield
        if gpu:
            torch.cuda.synchronize()
        row["seconds"] = time.monotonic() - begun
    except torch.OutOfMemoryError:
        row["said"] = "out of memory"
    if gpu:
        row["GiB"] = torch.cuda.max_memory_allocated() / 2**30


def at_real_size(name: str, cpu: bool) -> list[Row]:
    """Sampling, scoring, and a step of SFT, of a reward model and of PPO with adapters, each warmed up once."""
    import gc

    import torch

    from xling.grid.estimate import speed_of
    from xling.models.checkpoints import KNOWN
    from xling.models.checkpoints import _of as parameters_of
    from xling.models.sizes import _of as sizes_of

    config = tiny(name) if cpu else KNOWN[MODELS[name]]
    size = Real(config, parameters_of(config), sizes_of(config), cpu)
    speed = speed_of("" if cpu else torch.cuda.get_device_name())
    rows = []
    for what in (sampling, scoring, sft_step, reward_step, ppo_step):
        row: Row = {"model": name, "what": what.__name__.replace("_", " ")}
        tokens, flops, moved = what(size, row)
        gc.collect()
        torch.cuda.empty_cache()
        if "seconds" in row:
            row["tokens/s"] = tokens / row["seconds"]
            if speed:
                row["of roofline"] = max(flops / speed.flops, moved / speed.bandwidth) / row["seconds"]
        rows.append(row)
    return rows


class Real:
    """A model's sizes, and how long its texts are."""

    def __init__(self, config: Any, parameters: Any, sizes: Any, cpu: bool) -> None:
        self.config, self.parameters, self.sizes = config, parameters, sizes
        self.prompt, self.response, self.n = (32, 8, 4) if cpu else (PROMPT, RESPONSE, N)
        self.rows, self.vocabulary = (8 if cpu else ROWS), config["vocab_size"]

    def texts(self, rows: int) -> tuple[list[list[int]], list[list[int]]]:
        """Random prompts and responses; one prompt is shorter."""
        return ids(rows, self.prompt, 1, self.vocabulary), ids(rows, self.response, 2, self.vocabulary)

    def planned(self, net: Any, row: Row, optimizer: str, written: int = 0) -> None:
        """What the memory plan says of such a step."""
        from xling.planning.memory import Task, Way, worst

        task = Task((net,), 0.0, self.rows, self.rows, 1, self.prompt, self.response, not net.trunk, True, False,
                    optimizer, written, 2.0**40)  # fmt: skip
        row["planned GiB"] = sum(worst(task, Way(1, False, MICRO, False)).values()) / 2**30


def sampling(size: Real, row: Row) -> tuple[int, float, float]:
    """n samples of a prompt each, in bfloat16: reads all weights, and the keys and values, for every token."""
    from types import SimpleNamespace

    from xling.models.sampling import Sampling, sample_chunk
    from xling.planning.memory import drawn

    model, prompts = made(size.config, "bfloat16"), ids(2, size.prompt, 1, size.vocabulary)
    tokenizer: Any = SimpleNamespace(pad_token_id=0, eos_token_id=1)  # all that is asked of one
    names = [str(i) for i in range(len(prompts))]
    sample_chunk(model, tokenizer, names, prompts, Sampling(size.n, 0, "warm", max_new_tokens=4))
    said: list[Any] = []
    with measured(row):
        said = sample_chunk(model, tokenizer, names, prompts, Sampling(size.n, 0, "pool", max_new_tokens=size.response))
    tokens = sum(len(one) for group in said for one in group)
    plan = drawn(size.sizes, len(prompts), size.n, size.prompt, size.response, 2, 2.0**40)
    row["planned GiB"] = (2.0 * size.sizes.weights + sum(plan.values())) / 2**30
    its, steps = size.parameters, max((len(one) for group in said for one in group), default=0)
    moved = 2.0 * (its.response + its.head) * steps
    moved += 2.0 * sum(size.sizes.cache(size.prompt, len(one)) * len(one) for group in said for one in group)
    return tokens, its.forward(len(prompts) * size.prompt, tokens), moved


def scoring(size: Real, row: Row) -> tuple[int, float, float]:
    """Four responses to each prompt, in bfloat16, as a reward model reads them."""
    from xling.models.states import each_response, pool

    trunk, (prompts, said) = made(size.config, "bfloat16", trunk=True), size.texts(size.rows)
    responses = [[one[: len(one) - j] for j in range(4)] for one in said]
    asked = (trunk, prompts, responses, 0, lambda states: pool(states.hidden, states.mask, "last").mean(-1))
    each_response(*asked)
    with measured(row):
        each_response(*asked)
    read, written = sum(map(len, prompts)), sum(len(one) for group in responses for one in group)
    return read + written, size.parameters.forward(read, written, head=False), 2.0 * size.sizes.trunk


def _learning(size: Real, row: Row, trunk: bool) -> tuple[Any, str]:
    """(model, optimizer): trained whole where that fits by the plan, else by adapters."""
    import torch

    from xling.grid.stage import fits
    from xling.planning.memory import Net

    optimizer = "adafactor" if "d_kv" in size.config else "adamw"
    there = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 80.0
    size.planned(Net(size.sizes, 2, trunk=trunk), row, optimizer)
    row["trained"] = "whole"
    if fits(row["planned GiB"], there):
        return made(size.config, "float32", trunk), optimizer
    row["trained"] = "lora"
    size.planned(Net(size.sizes, 2, "lora", 16, trunk), row, optimizer)
    return with_adapters(made(size.config, "bfloat16", trunk), trunk), optimizer


def with_adapters(model: Any, trunk: bool = False) -> Any:
    from xling.config.policies import Lora
    from xling.models.training import adapted

    kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    return adapted(model.requires_grad_(False), "lora", Lora(), None if trunk else kind)


def _step_of(model: Any, rows: list[Any], collate: Any, loss: Any, optimizer: str, row: Row) -> None:
    from xling.config.common import Training
    from xling.models.training import Fitting

    budget = Training(steps=3, batch_size=len(rows), micro_batch_size=MICRO, learning_rate=1e-6, warmup_steps=0,
                      optimizer=optimizer)  # fmt: skip
    fitting = Fitting(model, collate, loss, budget, "bfloat16", len(rows), "ddp")
    warm: Row = {}
    with measured(warm):
        fitting.step(rows, 0)
    row |= {} if "seconds" in warm else warm
    if "seconds" in warm:
        with measured(row):
            fitting.step(rows, 1)


def sft_step(size: Real, row: Row) -> tuple[int, float, float]:
    """A step of fine-tuning in micro-batches, computed in bfloat16."""
    from xling.models.checkpoints import TRAINING
    from xling.models.training import core

    model, optimizer = _learning(size, row, trunk=False)
    collate, loss = supervised(core(model).config)
    texts = list(zip(*size.texts(size.rows), strict=True))
    _step_of(model, texts, collate, lambda net, batch: loss(core(net), batch), optimizer, row)
    read, written = (sum(map(len, part)) for part in zip(*texts, strict=True))
    return read + written, TRAINING * size.parameters.forward(read, written), 0.0


def reward_step(size: Real, row: Row) -> tuple[int, float, float]:
    """A step of a pointwise reward model."""
    from xling.models.checkpoints import TRAINING
    from xling.models.states import padded_batch
    from xling.rewards.networks import RewardNet, reward_batch, reward_loss

    trunk, optimizer = _learning(size, row, trunk=True)
    net, (prompts, said) = RewardNet(trunk, None, "last"), size.texts(size.rows)
    rows = [((p, r), None, 1.0) for p, r in zip(prompts, said, strict=True)]
    padded = partial(padded_batch, trunk.config, pad=0)
    _step_of(net, rows, partial(reward_batch, padded=padded), reward_loss, optimizer, row)
    read, written = sum(map(len, prompts)), sum(map(len, said))
    return read + written, TRAINING * size.parameters.forward(read, written, head=False), 0.0


def ppo_step(size: Real, row: Row) -> tuple[int, float, float]:
    """An iteration of PPO with adapters and a shared trunk: samples, reads, learns; the reward costs nothing."""
    import tempfile

    from msgspec.structs import replace

    from xling.models.training import core
    from xling.optimizers import Costs, ppo
    from xling.planning.memory import Net

    policy, row["trained"] = core(with_adapters(made(size.config, "bfloat16"))).eval(), "lora"
    size.planned(Net(size.sizes, 2, "lora", 16), row, "adamw", written=size.rows)
    settings = ppo.Settings(steps=2, batch_size=size.rows, minibatches=1, micro_batch_size=MICRO, value="shared",
                            value_only_steps=0, learning_rate=1e-6)  # fmt: skip
    prompts = ids(size.rows, size.prompt, 1, size.vocabulary)
    said: Mapping[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        tokens = models_of(Path(scratch)) / "decoder_4b"  # for its tokenizer
        problem = problem_of(tokens, Path(scratch), "bfloat16", policy, names=[str(i) for i in range(size.rows)],
                             prompts=prompts, max_new_tokens=size.response)  # fmt: skip
        learner = ppo.Learner(problem, settings)
        warm: Row = {}
        with measured(warm):
            learner.iterate(0)
        row |= {} if "seconds" in warm else warm
        if "seconds" in warm:
            with measured(row):
                said = learner.iterate(1)
    read, written = sum(map(len, prompts)), size.rows * float(said.get("length", size.response))
    its = size.parameters
    work = ppo.work(replace(settings, steps=1), Costs(its.forward(size.prompt, 0), its.forward(0, size.response), 0.0))
    return int(read + written), sum(work.flops.values()), 0.0
