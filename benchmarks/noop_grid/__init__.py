"""Stages that write one small file, to measure what lies around them (benchmarks/hydra_overhead.py)."""

from xling.grid.stage import Context, Kind


def write_value(context: Context) -> None:
    (context.out / "value.json").write_bytes(b'{"win_rate": 50.0}\n')


KINDS = {
    name: Kind(name, 1, write_value, seconds=0.001, gpu=lambda stage: False)
    for name in ("base", "sft", "reward", "pool", "score")
}
