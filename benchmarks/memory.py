"""Peak memory of training by micro-batches of 8, at batches of 8 and of 64: it is not to grow with the batch.

    python benchmarks/memory.py [TRAINER ...]     # ppo, rloo, dpo, sft unless named; some minutes

A random Llama of 17 million parameters (vocabulary of 32,000), prompts of 32 tokens, responses of up to 48. Each
training is a process of its own, which makes two steps; its peak (resident set) is counted above what it was before any
model was there. Prints a line a trainer; exit code 1 if a ratio is above 1.1.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# glibc keeps what is freed in as many arenas as there are threads: a peak is then of chance
os.environ["MALLOC_ARENA_MAX"] = "1"

TRAINERS = ("ppo", "rloo", "dpo", "sft")
MICRO, SMALL, LARGE, MOST = 8, 8, 64, 1.1
PROMPT, RESPONSE = 32, 48
STEPS: Any = {"steps": 2, "learning_rate": 1e-6, "micro_batch_size": MICRO}


def resident() -> float:
    """Peak of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def made(folder: Path) -> Path:
    """A random model of a size whose layers, and not its vocabulary alone, take memory; with a tokenizer of words."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(vocab_size=32000, hidden_size=256, intermediate_size=1024, num_hidden_layers=8,
                         num_attention_heads=8, pad_token_id=0, eos_token_id=1, bos_token_id=2,
                         tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(32000)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")),
                                        pad_token="w0", eos_token="w1", bos_token="w2")  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def problem_of(folder: Path, scratch: Path) -> Any:
    from xling.models.load import load_policy
    from xling.optimizers.problem import Problem, Watch

    (policy, tokenizer), (reference, _) = load_policy(folder, dropout=0.0), load_policy(folder, dropout=0.0)
    prompts = [[3 + (i * 31 + j * 7) % 30000 for j in range(PROMPT)] for i in range(LARGE)]
    watch = Watch(lambda _: {"reward": 0.0, "kl": 0.0, "entropy": 1.0}, STEPS["steps"], 10**9, 0.1, "last", None,
                  lambda done, total: None)  # fmt: skip
    watch.every = 10**9
    reward = lambda numbers, said: [[float(ids[0] % 2) for ids in row] for row in said]  # noqa: E731
    names = [str(i) for i in range(len(prompts))]
    return Problem(policy, reference.requires_grad_(False), tokenizer, names, prompts, reward, RESPONSE, 0, watch,
                   scratch, lambda: False, {"sft": folder})  # fmt: skip


def training_of(trainer: str, batch: int, folder: Path, scratch: Path) -> Callable[[], Any]:
    """Two steps, without checkpoints."""
    if trainer == "sft":
        from functools import partial

        from xling.config.common import Training
        from xling.models.load import load_policy
        from xling.models.training import Fitting
        from xling.stages.sft import causal_loss, labelled_batch

        model, _ = load_policy(folder)
        rows = [([3 + i] * PROMPT, [5 + i] * RESPONSE) for i in range(batch)]
        budget = Training(batch_size=batch, **STEPS)
        fitting = Fitting(model, partial(labelled_batch, model.config, pad=0), causal_loss, budget, "float32", batch,
                          "ddp")  # fmt: skip
        return lambda: [fitting.step(rows, step) for step in range(STEPS["steps"])]
    from xling.optimizers import dpo, ppo, rloo

    problem = problem_of(folder, scratch)
    if trainer == "dpo":
        pairs = [(i % LARGE, [5 + i] * RESPONSE, [6 + i] * RESPONSE) for i in range(LARGE)]
        learner: Any = dpo.Learner(problem, dpo.Settings(batch_size=batch, **STEPS), pairs)
    elif trainer == "ppo":
        learner = ppo.Learner(problem, ppo.Settings(batch_size=batch, minibatches=1, value_only_steps=0, **STEPS))
    else:
        learner = rloo.Learner(problem, rloo.Settings(batch_size=batch, trainer="own", **STEPS))
    return lambda: [learner.iterate(number) for number in range(STEPS["steps"])]


def peak(trainer: str, batch: int, folder: Path) -> float:
    """MiB above the idle process, which has imported all that it needs."""
    done = subprocess.run([sys.executable, __file__, "--one", trainer, str(batch), str(folder)], capture_output=True,
                          text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(done.stdout.split()[-1])


def one(trainer: str, batch: int, folder: Path) -> None:
    import torch

    import xling.models.sampling
    import xling.models.training
    import xling.stages.sft  # noqa: F401

    torch.manual_seed(0)
    idle = resident()
    with tempfile.TemporaryDirectory() as scratch:
        training_of(trainer, batch, folder, Path(scratch))()
    print(resident() - idle)


def main(trainers: list[str]) -> int:
    ratios = []
    with tempfile.TemporaryDirectory() as where:
        folder = made(Path(where))
        print(f"peak above the idle process, micro-batches of {MICRO}, MiB")
        for trainer in trainers or TRAINERS:
            small, large = (peak(trainer, batch, folder) for batch in (SMALL, LARGE))
            ratios.append(large / small)
            print(f"{trainer:5} batch {SMALL}: {small:7.0f}   batch {LARGE}: {large:7.0f}   ratio {ratios[-1]:.3f}",
                  flush=True)  # fmt: skip
    return int(max(ratios) > MOST)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        raise SystemExit(main(sys.argv[1:]))
