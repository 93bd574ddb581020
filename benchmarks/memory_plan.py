"""The memory plan beside measured peaks: SFT and reward training of models of 10 to 50 million weights, on the CPU.

    python benchmarks/memory_plan.py           # each case in a process of its own; a few minutes on one core

A peak is the most resident memory while a few steps are trained, above what the process has before the model is made
(torch and transformers loaded, one small model trained, so that libraries have what they take once). It is polled ten
times a second beside the kernel's own high-water mark, whichever is more. Exit code 1 if the plan is off by more than
15 % of the measured peak in a case.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT = 0.15
ROWS, PROMPT, RESPONSE = 8, 96, 32
# what, model, settings that differ: [micro-batch, checkpointing, dtype, optimizer]
CASES = [
    (what, model, *rest)
    for what in ("sft", "reward")
    for model in ("llama", "mt5")
    for rest in ((None, False, "float32", "adamw"), (4, False, "float32", "adamw"), (None, True, "float32", "adamw"),
                 (4, False, "float32", "adafactor"), (None, False, "bfloat16", "adamw"))
]  # fmt: skip


def config_of(name: str) -> Any:
    from transformers import LlamaConfig, MT5Config

    if name == "llama":
        return LlamaConfig(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
                           head_dim=64, intermediate_size=1536, vocab_size=8000, tie_word_embeddings=False)  # fmt: skip
    return MT5Config(d_model=384, num_layers=6, num_decoder_layers=6, num_heads=6, d_kv=64, d_ff=1024, vocab_size=8000,
                     decoder_start_token_id=0, dropout_rate=0.0, tie_word_embeddings=False)  # fmt: skip


def measured(case: tuple[Any, ...], steps: int = 2) -> dict[str, float]:
    """Bytes that a training took at most, and that the plan says."""
    import threading
    import time

    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from xling.config.common import Training
    from xling.models.sizes import _of
    from xling.models.states import padded_batch
    from xling.models.training import fit
    from xling.planning.memory import Net, Task, Way, moments
    from xling.rewards.networks import reward_batch, reward_loss, scalar_head
    from xling.stages.sft import causal_loss, labelled_batch, seq2seq_loss

    what, name, micro, again, dtype, optimizer = case
    sizes = _of(config_of(name).to_dict())

    class Net_(torch.nn.Module):
        """A trunk with a scalar head."""

        def __init__(self, trunk: Any) -> None:
            super().__init__()
            self.trunk, self.head = trunk, scalar_head(trunk)

        def forward(
            self, input_ids: Any, attention_mask: Any, response_mask: Any, decoder_input_ids: Any = None
        ) -> Any:
            read = {} if decoder_input_ids is None else {"decoder_input_ids": decoder_input_ids}
            hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **read)[0]
            return self.head(hidden[:, -1].float())[:, 0]

    def train(rows: int, prompt: int, response: int, config: Any, folder: str) -> None:
        draw = torch.Generator().manual_seed(0)
        lengths = [(prompt, response)] * (rows - 1) + [(prompt // 2, response)]  # one shorter: a mask is there
        words = [[torch.randint(3, 8000, (n,), generator=draw).tolist() for n in pair] for pair in lengths]
        encoder = config.is_encoder_decoder
        if what == "sft":
            model: Any = (AutoModelForSeq2SeqLM if encoder else AutoModelForCausalLM).from_config(config)
            data: list[Any] = [tuple(pair) for pair in words]
            collate: Any = lambda rows: labelled_batch(config, rows, 0)  # noqa: E731
            loss: Any = seq2seq_loss if encoder else causal_loss
        else:
            model = Net_(AutoModel.from_config(config))
            data = [(tuple(pair), None, 1.0) for pair in words]
            collate = lambda rows: reward_batch(rows, lambda ids: padded_batch(config, ids, 0))  # noqa: E731
            loss = reward_loss
        training = Training(steps=steps, batch_size=rows, learning_rate=1e-4, warmup_steps=0, eval_every=1000,
                            optimizer=optimizer, dropout=0.0, gradient_checkpointing=again,
                            micro_batch_size=micro)  # fmt: skip
        fit(model, data, collate, loss, lambda model: 0.0, True, training, 0, Path(folder), peak.note, precision=dtype)

    class Peak:
        """The most resident memory so far, while it is watched; until the last step is made."""

        most, on = 0, True

        def watch(self) -> None:
            while self.on:
                self.most = max(self.most, resident())
                time.sleep(0.01)

        def note(self, done: int, total: int) -> None:
            self.most, self.on = max(self.most, resident()), self.on and done < total

    peak = Peak()
    small = config_of(name)
    for key in ("hidden_size", "d_model"):
        if hasattr(small, key):
            setattr(small, key, 64)
    with tempfile.TemporaryDirectory() as folder:
        train(ROWS, 8, 8, small, folder)
    before, peak.on, peak.most = resident(), True, 0
    threading.Thread(target=peak.watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        train(ROWS, PROMPT, RESPONSE, config_of(name), folder)
    half = dtype != "float32"
    task = Task((Net(sizes, 4, trunk=what == "reward"),), 0.0, ROWS, ROWS, 1, PROMPT, RESPONSE, what == "sft", half,
                False, optimizer, 0, 0.0)  # fmt: skip
    planned = max(sum(parts.values()) for parts in moments(task, Way(1, False, micro, again)).values())
    return {"measured": peak.most - before, "planned": planned, "weights": sizes.weights}


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", type=int, help="one case, in this process")
    given = parser.parse_args()
    if given.case is not None:
        print(json.dumps(measured(CASES[given.case])))
        return 0
    off = 0.0
    columns = ("stage", "model", "micro-batch", "checkpointing", "dtype", "optimizer", "measured, MB", "planned, MB")
    print(f"| {' | '.join(columns)} | planned / measured |")
    print("|---|---|---:|---|---|---|---:|---:|---:|")
    for i, case in enumerate(CASES):
        done = subprocess.run([sys.executable, __file__, "--case", str(i)], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        ratio = found["planned"] / found["measured"]
        off = max(off, abs(ratio - 1))
        words = [str(word) for word in case]
        numbers = f"{found['measured'] / 1e6:,.0f} | {found['planned'] / 1e6:,.0f} | {ratio:.2f}"
        print(f"| {' | '.join(words)} | {numbers} |", flush=True)
    print(f"{'ok  ' if off <= LIMIT else 'MISS'} at most {off:.0%} off")
    return int(off > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
