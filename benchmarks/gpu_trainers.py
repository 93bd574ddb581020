"""Parts of benchmarks/gpu.py with tiny models: each trainer's numbers beside the CPU's, and what may be installed."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of a number's size: the GPU sums in another order; 8 bits
MODELS = {"mt5_xl": "google/mt5-xl", "decoder_4b": "Qwen/Qwen3-4B-Base", "decoder_8b": "Qwen/Qwen3-8B-Base"}
TINY = {"num_layers": 2, "num_hidden_layers": 2, "d_model": 64, "hidden_size": 64, "d_ff": 128,
        "intermediate_size": 128, "num_heads": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "d_kv": 16,
        "head_dim": 16, "vocab_size": 512}  # fmt: skip
MICRO = 4  # texts of a training step that are read at once

Row = dict[str, Any]


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


def made(config: Mapping[str, Any], dtype: str, trunk: bool = False) -> Any:
    """A language model with random weights, on the device; trunk: without its LM head."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from xling.models.load import device

    settings = shaped(config)
    kind: Any = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with torch.device(device()):
        return (AutoModel if trunk else kind).from_config(settings, dtype=getattr(torch, dtype)).eval()


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
        return fitted(model, list(zip(prompts, said, strict=True)), *supervised(model.config))

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


def supervised(config: Any) -> tuple[Any, Any]:
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
        code = f"import json, pathlib, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import gpu_trainers; "
        code += f"print(json.dumps(gpu_trainers.numbers(pathlib.Path({str(folder)!r}), 'float32')))"
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

    collate, loss = supervised(core(model).config)
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
    rows = [launched(how, root) for how in ("one", "ddp", "fsdp")]
    for row in rows[1:]:
        row["off"] = "loss" in row and abs(row["loss"] - rows[0]["loss"]) > 1e-4 * abs(rows[0]["loss"])
    return rows


def launched(how: str, root: Path) -> Row:
    together = [] if how == "one" else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import gpu_trainers as own; "
    code += f"own.together({how!r})"
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
    collate, loss = supervised(model.config)
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
