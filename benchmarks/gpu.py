"""docs/gpu.md: every trainer on a GPU beside the CPU, and at real size: speed and memory beside roofline and plan.

    make gpu-check                 # or: python benchmarks/gpu.py [--only PART ...]; under 8 minutes on one H100 or H200
    python benchmarks/gpu.py --cpu # the same code on the CPU, with tiny models: what can be tested without a GPU

Models have random weights: nothing is downloaded. A part is a process of its own and leaves its result in
<root>/PART.json. The same command goes on where it was stopped: finished parts are not run again (delete their file for
that), and a part for which too little of the eight minutes is left is left out, and said. Exit code 1 if a part failed,
or if a number of the GPU is not the CPU's. The page is written on a GPU alone.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT = 480.0  # seconds of one command
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of a number's size: the GPU sums in another order; 8 bits
MODELS = {"mt5_xl": "google/mt5-xl", "decoder_4b": "Qwen/Qwen3-4B-Base", "decoder_8b": "Qwen/Qwen3-8B-Base"}
PARTS: Mapping[str, float] = {  # name -> seconds that it is given
    "trainers": 90,
    "flash_attention": 40,
    "qlora": 40,
    "vllm": 90,
    "two_processes": 60,
    **dict.fromkeys(MODELS, 120),
}
TINY = {"num_layers": 2, "num_hidden_layers": 2, "d_model": 64, "hidden_size": 64, "d_ff": 128,
        "intermediate_size": 128, "num_heads": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "d_kv": 16,
        "head_dim": 16, "vocab_size": 512}  # fmt: skip
PROMPT, RESPONSE, N = 512, 128, 64  # tokens, and samples a prompt
ROWS, MICRO = 16, 4  # texts of a training step, and those read at once

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that have no result yet, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT / "outputs" / "gpu")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "gpu.md")
    parser.add_argument("--cpu", action="store_true", help="tiny models on the CPU, in this process; no page")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        write(given.root / f"{given.part}.json", results_of(given.part, given.root, given.cpu))
        return 0
    if not given.cpu and not _there():
        print("There is no GPU here. Type python benchmarks/gpu.py --cpu for the same code on the CPU.")
        return 1
    begun, bad = time.monotonic(), False
    given.root.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        path, left = given.root / f"{name}.json", given.limit - (time.monotonic() - begun)
        if not path.exists() and left < PARTS[name]:
            print(f"{name}: left out, it is given {PARTS[name]:.0f} s and {left:.0f} are left. Type the same again.")
            continue
        if not path.exists():
            print(f"{name} ...", flush=True)
            _run(name, given.root, given.cpu)
        if not path.exists():
            bad = True
            continue
        for row in read(path)["rows"]:
            print("  " + ", ".join(f"{key} {_short(value)}" for key, value in row.items()))
            bad = bad or bool(row.get("off"))
    if not given.cpu:
        given.page.write_text(page(given.root), "utf-8")
    return int(bad)


def _run(name: str, root: Path, cpu: bool) -> None:
    if cpu:
        write(root / f"{name}.json", results_of(name, root, cpu))
        return
    command = [sys.executable, __file__, "--part", name, "--root", str(root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            _, told = process.communicate(timeout=PARTS[name])
            said = told[-1500:] if process.returncode else ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # with what it has started itself
            said = f"it was stopped after {PARTS[name]:.0f} s."
    if said:
        print(f"{name} failed: {said}", file=sys.stderr)


def _there() -> bool:
    import torch

    return torch.cuda.is_available()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(path: Path, value: Any) -> None:
    """Whole, or not at all."""
    path.with_suffix(".partial").write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    path.with_suffix(".partial").replace(path)


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def results_of(name: str, root: Path, cpu: bool) -> Row:
    """A part's rows, and where and how long it ran."""
    import torch

    torch.manual_seed(0)
    begun = time.monotonic()
    folder = models_of(root / "models")
    rows = at_real_size(name, cpu) if name in MODELS else SMALL[name](folder, root, cpu)
    device = "CPU" if cpu else torch.cuda.get_device_name()
    return {"device": device, "torch": torch.__version__, "seconds": time.monotonic() - begun, "rows": rows}


# --- tiny models: the numbers of the CPU --------------------------------------------------------------------


def shaped(config: Mapping[str, Any], layers: bool = True) -> Any:
    """transformers' settings of an architecture by its sizes."""
    from transformers import MT5Config, Qwen3Config

    sizes = {name: value for name, value in config.items() if name != "feed_forward_proj"}
    if "d_kv" in config:
        return MT5Config(**sizes, num_decoder_layers=config["num_layers"], dropout_rate=0.0, decoder_start_token_id=0,
                         pad_token_id=0, eos_token_id=1)  # fmt: skip
    return Qwen3Config(**sizes, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=2)


def tiny(name: str) -> dict[str, Any]:
    from xling.models.checkpoints import KNOWN

    return {key: TINY.get(key, value) for key, value in KNOWN[MODELS[name]].items()}


def models_of(folder: Path) -> Path:
    """Two tiny checkpoints with a tokenizer of words, made once."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(TINY["vocab_size"])}
    for name, kind in (("decoder_4b", AutoModelForCausalLM), ("mt5_xl", AutoModelForSeq2SeqLM)):
        if (folder / name / "tokenizer.json").exists():
            continue
        torch.manual_seed(0)
        model = kind.from_config(shaped(tiny(name)))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.1)
        model.save_pretrained(folder / name)
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")), pad_token="w0",
                                eos_token="w1", bos_token="w2").save_pretrained(folder / name)  # fmt: skip
    return folder


def ids(rows: int, length: int, seed: int, vocabulary: int = 0) -> list[list[int]]:
    """Rows of random token ids, one of them shorter."""
    import numpy as np

    drawn = np.random.default_rng(seed).integers(3, vocabulary or TINY["vocab_size"], (rows, length)).tolist()
    return [row[: length // 2] if i == 1 else row for i, row in enumerate(drawn)]


def numbers(folder: Path, precision: str) -> dict[str, dict[str, float]]:
    """What one step of each trainer says, of both architectures; and what is sampled and scored."""
    found: dict[str, dict[str, float]] = {}
    for name in ("decoder_4b", "mt5_xl"):
        for trainer, step in trainers(folder / name, precision):
            said = step()
            found[f"{trainer} {name}"] = {key: float(value) for key, value in said.items() if key in COMPARED}
    return found


# trl counts a step's own time and sizes beside these
COMPARED = ("loss", "gradient_norm", "reward", "length", "kl_k1", "kl", "entropy", "policy_loss", "value_loss",
            "log_likelihood", "tokens")  # fmt: skip


def trainers(folder: Path, precision: str) -> Iterator[tuple[str, Callable[[], Mapping[str, float]]]]:
    """(name, one step) of each, from the model as it is stored."""
    import tempfile

    import torch

    from xling.config.common import Training
    from xling.models.load import load_policy, load_tokenizer, load_trunk
    from xling.models.sampling import Sampling, sample_chunk
    from xling.models.states import log_likelihood
    from xling.models.training import Fitting
    from xling.optimizers import dpo, grpo, ppo, rloo
    from xling.rewards.networks import RewardNet, reward_batch, reward_loss

    prompts, said, other = ids(8, 24, 1), ids(8, 12, 2), ids(8, 10, 3)
    budget = Training(steps=2, batch_size=8, micro_batch_size=4, learning_rate=1e-4, warmup_steps=0)

    def fitted(model: Any, rows: list[Any], collate: Any, loss: Any) -> dict[str, float]:
        value, norm = Fitting(model, collate, loss, budget, precision, 8, "ddp").step(rows, 0)
        return {"loss": value, "gradient_norm": norm}

    def sft() -> dict[str, float]:
        model, _ = load_policy(folder, dtype="float32", dropout=0.0)
        return fitted(model, list(zip(prompts, said, strict=True)), *_supervised(model.config))

    def reward(paired: bool) -> dict[str, float]:
        net = RewardNet(load_trunk(folder, dtype="float32", dropout=0.0), load_tokenizer(folder), "last")
        with torch.no_grad():  # drawn on the CPU: a GPU draws others
            net.head.weight.copy_(torch.randn(net.head.weight.shape, generator=torch.Generator().manual_seed(0)) / 8)
        rows = [((p, a), (p, b) if paired else None, 1.0) for p, a, b in zip(prompts, said, other, strict=True)]
        return fitted(net, rows, partial(reward_batch, padded=net.collate), reward_loss)

    def iterated(kind: Any, settings: Any, *more: Any) -> Mapping[str, float]:
        with tempfile.TemporaryDirectory() as scratch:
            return dict(kind(problem_of(folder, Path(scratch), precision), settings, *more).iterate(0))

    def by_trl() -> Mapping[str, float]:
        with tempfile.TemporaryDirectory() as scratch:
            problem = problem_of(folder, Path(scratch), precision)
            grpo.train(problem, grpo.Settings(k=4, **STEP))
            return problem.watch.curve[0]

    def sampled() -> dict[str, float]:
        model, tokenizer = load_policy(folder, dtype=precision)
        rows = sample_chunk(model, tokenizer, [str(i) for i in range(8)], prompts, Sampling(4, 0, "pool"))
        each = log_likelihood(model, prompts, rows, 0)
        mean = sum(sum(row) / len(row) for row in each) / len(each)
        return {"tokens": float(sum(sum(one) for row in rows for one in row)), "log_likelihood": mean}

    yield "sft", sft
    yield "reward", lambda: reward(False)
    yield "reward, pairwise", lambda: reward(True)
    yield "ppo", lambda: iterated(ppo.Learner, ppo.Settings(minibatches=1, value_only_steps=0, **STEP))
    yield "rloo", lambda: iterated(rloo.Learner, rloo.Settings(k=4, trainer="own", **STEP))
    pairs = [dpo.Pair(i, [*a, 1], [*b, 1]) for i, (a, b) in enumerate(zip(said, other, strict=True))]
    yield "dpo", lambda: iterated(dpo.Learner, dpo.Settings(**STEP), pairs)
    if folder.name != "mt5_xl":
        yield "grpo", by_trl
    yield "sampling", sampled


STEP: Any = {"steps": 1, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-4, "eval_every": 1}


def _supervised(config: Any) -> tuple[Any, Any]:
    """(collate, loss) of fine-tuning."""
    from xling.stages.sft import causal_loss, labelled_batch, seq2seq_loss

    return partial(labelled_batch, config, pad=0), seq2seq_loss if config.is_encoder_decoder else causal_loss


def problem_of(folder: Path, scratch: Path, precision: str = "float32", policy: Any = None, **changed: Any) -> Any:
    """A policy, its reference and a reward of token ids; read from `folder`, or `policy` with its adapters off."""
    from xling.models.load import load_policy, load_tokenizer
    from xling.optimizers.problem import Problem, Watch

    reference = policy
    if policy is None:
        policy = load_policy(folder, dtype="float32", dropout=0.0)[0]
        reference = load_policy(folder, dtype=precision, dropout=0.0)[0].requires_grad_(False)
    watch = Watch(lambda _: {"reward": 0.0, "kl": 0.0, "entropy": 1.0}, 1, 10**9, 0.1, "last", None, lambda *_: None)
    watch.every = 10**9
    settings: dict[str, Any] = {
        "names": [str(i) for i in range(8)],
        "prompts": ids(8, 24, 1),
        "reward": lambda numbers, said: [[float(sum(one) % 7) - 3 for one in row] for row in said],
        "max_new_tokens": 16,
    }
    settings |= changed
    return Problem(policy, reference, load_tokenizer(folder), settings["names"], settings["prompts"],
                   settings["reward"], settings["max_new_tokens"], 0, watch, scratch, lambda: False, {"sft": folder},
                   precision=precision)  # fmt: skip


def compared(folder: Path, root: Path, cpu: bool) -> list[Row]:
    """Each number of each trainer on the GPU beside the CPU's in float32, which a process without a GPU says."""
    if cpu:
        expected = numbers(folder, "float32")
    else:
        code = f"import json, pathlib, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import gpu; "
        code += f"print(json.dumps(gpu.numbers(pathlib.Path({str(folder)!r}), 'float32')))"
        hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([sys.executable, "-c", code], env=hidden, capture_output=True, text=True, check=True)
        expected = json.loads(done.stdout.splitlines()[-1])
    return [row for precision in TOLERANCE for row in beside(numbers(folder, precision), expected, precision)]


def beside(found: Mapping[str, Any], expected: Mapping[str, Any], precision: str) -> list[Row]:
    """A row a trainer: the number that differs most from the expected one."""
    rows = []
    for name, values in found.items():
        other = expected[name]
        apart = {key: abs(value - other[key]) / max(1.0, abs(other[key]))
                 for key, value in values.items() if key != "tokens"}  # fmt: skip
        worst = max(apart, key=lambda key: apart[key])
        # what is sampled decides all that follows, and the last bits of a logit may decide a sample
        same = all(values.get(key) == other.get(key) for key in ("length", "reward", "tokens"))
        rows.append({"trainer": name, "precision": precision, "same samples": same, "differs most": worst,
                     "by": apart[worst], "off": same and apart[worst] > TOLERANCE[precision]})  # fmt: skip
    return rows


# --- what may be there --------------------------------------------------------------------------------------


def flash_attention(folder: Path, root: Path, cpu: bool) -> list[Row]:
    """The loss with flash_attention_2 beside sdpa's, in bfloat16."""
    if importlib.util.find_spec("flash_attn") is None:
        return [{"said": "flash-attn is not installed"}]
    import torch

    losses = []
    for attention in ("sdpa", "flash_attention_2"):
        torch.manual_seed(0)
        model = made(tiny("decoder_4b"), "bfloat16")
        model.set_attn_implementation(attention)
        losses.append(_one_step(model, list(zip(ids(8, 24, 1), ids(8, 12, 2), strict=True)), "bfloat16"))
    return [{"sdpa": losses[0], "flash": losses[1], "off": abs(losses[0] - losses[1]) > 0.1 * abs(losses[0])}]


def _one_step(model: Any, rows: list[Any], precision: str, optimizer: str = "adamw") -> float:
    from xling.config.common import Training
    from xling.models.training import Fitting, core

    collate, loss = _supervised(core(model).config)
    budget = Training(steps=2, batch_size=len(rows), micro_batch_size=MICRO, learning_rate=1e-4, warmup_steps=0,
                      optimizer=optimizer)  # fmt: skip
    fitting = Fitting(model, collate, lambda net, batch: loss(core(net), batch), budget, precision, len(rows), "ddp")
    return fitting.step(rows, 0)[0]


def qlora(folder: Path, root: Path, cpu: bool) -> list[Row]:
    """Two steps of adapters on 4-bit weights."""
    if importlib.util.find_spec("bitsandbytes") is None or cpu:
        return [{"said": "bitsandbytes is not installed" if not cpu else "4 bits need a GPU"}]
    from xling.config.policies import Lora
    from xling.models.training import trainable

    model, _ = trainable(folder / "decoder_4b", "qlora", Lora(), 0.0)
    rows = list(zip(ids(8, 24, 1), ids(8, 12, 2), strict=True))
    first, second = (_one_step(model, rows, "bfloat16") for _ in range(2))
    return [{"first loss": first, "second loss": second, "off": not second < first}]


def vllm(folder: Path, root: Path, cpu: bool) -> list[Row]:
    """Samples by vLLM of the tiny decoder."""
    if importlib.util.find_spec("vllm") is None:
        return [{"said": "vllm is not installed"}]
    from xling.models.sampling import Sampling
    from xling.models.vllm import load_vllm

    draw, _ = load_vllm(folder / "decoder_4b", Sampling(4, 0, "pool"), 256)
    rows = draw([str(i) for i in range(8)], ids(8, 24, 1))
    return [{"samples": sum(map(len, rows)), "tokens": sum(len(one) for row in rows for one in row)}]


def two_processes(folder: Path, root: Path, cpu: bool) -> list[Row]:
    """Two processes on one device: DDP and FSDP2 beside one process; by gloo where NCCL refuses the same GPU twice."""
    rows = [_launched(how, root) for how in ("one", "ddp", "fsdp")]
    for row in rows[1:]:
        row["off"] = "loss" in row and abs(row["loss"] - rows[0]["loss"]) > 1e-4 * abs(rows[0]["loss"])
    return rows


def _launched(how: str, root: Path) -> Row:
    together = [] if how == "one" else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import gpu; gpu.together({how!r})"
    script = root / f"together_{how}.py"
    script.write_text(code, "utf-8")
    done = subprocess.run([sys.executable, *together, str(script)], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"how": how, "said": done.stderr.strip()[-300:], "off": True}


def together(how: str) -> None:
    """One step in this process, which may be one of two; the first prints what it saw."""
    import torch
    from torch import distributed

    from xling.config.common import Training
    from xling.models import parallel
    from xling.models.training import Fitting

    os.environ["LOCAL_RANK"] = "0"  # both on the first GPU
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    by = "nccl" if device.type == "cuda" and how != "one" else "gloo"
    try:
        parallel.join(device)
        parallel.total(1.0)
    except Exception:  # NCCL's errors are of several classes
        distributed.destroy_process_group()
        by = "gloo"
        distributed.init_process_group(by)
    torch.manual_seed(0)
    model = made(tiny("decoder_4b"), "float32")
    collate, loss = _supervised(model.config)
    share = 8 // parallel.world_size()
    budget = Training(steps=2, batch_size=8, micro_batch_size=2, learning_rate=1e-4, warmup_steps=0)
    fitting = Fitting(model, collate, loss, budget, "float32", share, how if how != "one" else "ddp")
    rows = list(zip(ids(8, 24, 1), ids(8, 12, 2), strict=True))
    value = [fitting.step(rows, step)[0] for step in range(2)][-1]
    if parallel.rank() == 0:
        print(json.dumps({"how": how, "by": by if how != "one" else "", "loss": value}))
    if distributed.is_initialized():
        distributed.destroy_process_group()


SMALL: Mapping[str, Callable[[Path, Path, bool], list[Row]]] = {
    "trainers": compared,
    "flash_attention": flash_attention,
    "qlora": qlora,
    "vllm": vllm,
    "two_processes": two_processes,
}


# --- at real size -------------------------------------------------------------------------------------------


def made(config: Mapping[str, Any], dtype: str, trunk: bool = False) -> Any:
    """A language model with random weights, on the device; trunk: without its LM head."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from xling.models.load import device

    settings = shaped(config)
    kind: Any = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with torch.device(device()):
        return (AutoModel if trunk else kind).from_config(settings, dtype=getattr(torch, dtype)).eval()


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
    collate, loss = _supervised(core(model).config)
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


# --- the page -----------------------------------------------------------------------------------------------


def page(root: Path) -> str:
    """docs/gpu.md of the results that are there."""
    found = {name: read(root / f"{name}.json") for name in PARTS if (root / f"{name}.json").exists()}
    devices = sorted({f"{one['device']}, torch {one['torch']}" for one in found.values()})
    lines = ["# On a GPU", "", f"`make gpu-check` on {'; '.join(devices)}.",
             "Random weights; `benchmarks/gpu.py` says what each part does.", ""]  # fmt: skip
    for name in PARTS:
        lines += [f"## {name}", ""]
        rows = found.get(name, {"rows": [{"said": "not run"}]})["rows"]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(_short(row.get(column, '')) for column in columns)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
