"""Where a stage computes, for runners on this machine: whether with a network, and in how much main memory, roughly.

The factors are made of two figures for a model of 0.27 billion weights in float32 on a CPU that were reported and not
measured again: 7.2 GB at the peak of fine-tuning, 12.4 GB of PPO (policy, value model, reference, reward model).
"""

from xling.grid.stage import Stage
from xling.models.encoder import PACKAGE
from xling.planning.costs import budget, sized

IDLE = 0.7e9  # bytes of a process that has read no model yet
# Bytes a weight: gradients and AdamW's moments, the best model so far, activations and logits of a small batch.
TRAINED = {"sft": 24.0, "reward": 24.0, "align": 43.0}
ADAPTED = 10.0  # where the weights themselves stay as they are: in float32, and activations
READ = 6.0


def on_gpu(stage: Stage) -> bool:
    """Whether it reads, samples or trains a network: one is among its parents, or it reads with a local encoder."""
    if any(up.kind in ("base", "sft", "align") or _is_network(up) for up in stage.parents.values()):
        return True
    encoder = stage.spec.get("encoder", "") if stage.kind in ("embed", "features") else ""
    return bool(encoder) and encoder != "packaged" and not encoder.startswith(PACKAGE)  # which computes on the CPU


def memory(stage: Stage) -> float:
    """Bytes; 0 for what reads no network, and where nothing tells how large one is."""
    found = sized(stage) if on_gpu(stage) else None
    if found is None:
        return 0.0
    settings = stage.spec["rm"] if stage.kind == "reward" else stage.spec
    trained = TRAINED.get(stage.kind)
    each = READ if trained is None else trained if settings.get("tuning", "full") == "full" else ADAPTED
    return IDLE + each * found[0].weights


def _is_network(stage: Stage) -> bool:
    return stage.kind == "reward" and budget(stage) is not None
