"""Peak memory of training by micro-batches of 8, at batches of 8, 16 and 64: it is not to grow with the batch.

    python benchmarks/memory.py [TRAINER ...]     # sft, reward, ppo, rloo, grpo, dpo unless named; a minute or two

Bytes of tensors (benchmarks/tensors.py) over two steps of a random Llama of 1.2 million weights; prompts of 32 tokens,
responses of up to 32. From 8 to 16 gradients begin to add up, which are then there while the next micro-batch is read:
as many bytes as the weights that learn. Beyond that nothing may grow. Exit code 1 where a batch of 64 takes more than
1.02 times one of 16.
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path

MICRO, BATCHES, MOST = 8, (8, 16, 64), 1.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainers", nargs="*", metavar="TRAINER")
    trainers = parser.parse_args().trainers
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    warnings.simplefilter("ignore")
    from trainings import TRAINERS, Case, peak, saved

    worst = 0.0
    print(f"| trainer | {' | '.join(f'batch {batch}, MB' for batch in BATCHES)} | 64 over 8 | 64 over 16 |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as where:
        folder = saved(Path(where) / "model", "llama", width=128, layers=4, vocabulary=2000)
        for trainer in trainers or TRAINERS:
            micro = MICRO // 2 if trainer == "dpo" else MICRO  # of pairs
            first, second, last = (peak(Case(trainer, batch=batch, micro=micro), folder) for batch in BATCHES)
            worst = max(worst, last / second)
            sizes = " | ".join(f"{size / 1e6:.1f}" for size in (first, second, last))
            print(f"| {trainer} | {sizes} | {last / first:.2f} | {last / second:.2f} |", flush=True)
    print(f"{'ok  ' if worst <= MOST else 'MISS'} 64 over 16 at most {worst:.3f}")
    return int(worst > MOST)


if __name__ == "__main__":
    raise SystemExit(main())
