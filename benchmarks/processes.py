"""What a process needs when several train one model: peak memory and CPU seconds of 2 processes beside 1.

    python benchmarks/processes.py            a decoder of 134 million weights; a minute or two on idle cores

Memory is the largest resident set of process 0 above what it is with its libraries imported. One process, DDP and FSDP2
make the same three steps of AdamW in float32, and their losses must be equal to 1e-5.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, BATCH, WIDTH, VOCABULARY = 3, 4, 64, 32_000
# glibc keeps what was freed in the middle of its heap, which gathering and letting go makes much of: large pieces apart
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
LIMIT = 0.65  # memory of a process of two with FSDP2, of that of one alone


def train(how: str, out: Path) -> None:
    """Three steps in this process, which may be one of several; process 0 writes what it saw."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from xling.config.common import Training
    from xling.grid.stage import PartDone
    from xling.models import parallel
    from xling.models.training import fit

    torch.set_num_threads(1)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
                    num_attention_heads=12)
    )  # fmt: skip
    weights = sum(weight.numel() for weight in model.parameters())
    rows = torch.randint(3, VOCABULARY, (STEPS * BATCH, WIDTH), generator=torch.Generator().manual_seed(1)).tolist()

    def collate(batch: list[list[int]]) -> dict[str, Any]:
        ids = torch.tensor(batch)
        return {"input_ids": ids, "labels": ids}

    budget = Training(steps=STEPS, batch_size=BATCH, eval_every=STEPS, micro_batch_size=1, warmup_steps=0)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        shared = parallel.agreed(scratch) if parallel.world_size() > 1 and _joined(torch) else scratch
        try:
            _, curve = fit(model, rows, collate, lambda net, batch: net(**batch).loss, lambda net: 0.0, True, budget, 0,
                           Path(shared), lambda *_: None, how=how)  # fmt: skip
        except PartDone:
            curve = []
        parallel.meet()
    if parallel.rank() == 0:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle
        losses = [row["loss"] for row in curve if "loss" in row]
        out.write_text(json.dumps({"weights": weights, "peak": peak / 1024, "seconds": time.process_time() - begun,
                                   "losses": losses}), encoding="utf-8")  # fmt: skip
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _joined(torch: Any) -> bool:
    from xling.models import parallel

    parallel.join(torch.device("cpu"))
    return True


def measured(how: str) -> dict[str, Any]:
    command = [sys.executable]
    if how != "one":
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seen.json"
        subprocess.run([*command, __file__, how, str(out)], check=True, env=os.environ | ENVIRONMENT)
        seen: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return seen


def main() -> int:
    """Print a row a way of training; 1 if a limit is missed."""
    rows = {how: measured(how) for how in ("one", "ddp", "fsdp")}
    one = rows["one"]
    print(f"A decoder of {one['weights'] / 1e6:.0f} million weights, {STEPS} steps of {BATCH} x {WIDTH} tokens, AdamW")
    print(f"{'':6s} {'MB a process':>12s} {'of one':>7s} {'CPU s a process':>16s} {'loss':>9s}")
    worst = 0.0
    for how, row in rows.items():
        apart = max(abs(a - b) / abs(b) for a, b in zip(row["losses"], one["losses"], strict=True))
        worst = max(worst, apart)
        share = row["peak"] / one["peak"]
        print(f"{how:6s} {row['peak']:12.0f} {share:7.2f} {row['seconds']:16.1f} {row['losses'][-1]:9.5f}")
    print(f"Losses differ by at most {worst:.0e} of their size.")
    return int(worst > 1e-5 or rows["fsdp"]["peak"] > LIMIT * one["peak"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", nargs="*", help=argparse.SUPPRESS)  # of the processes that it starts: how, and a folder
    ours = parser.parse_args().ours
    sys.exit(train(ours[0], Path(ours[1])) if ours else main())
