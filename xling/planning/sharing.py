"""What several processes of one stage can share: the hook `shared` of a Kind, and what a plan says of sharing.

Whoever plans asks, for a dry run or to run (xling/launching.py), so that what a cluster would be asked for in vain is
refused at a desk. Of policies xling/optimizers knows what their trainers can share.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from xling.errors import ConfigError
from xling.grid.plan import Plan
from xling.grid.stage import WHERE, Gpus, Stage
from xling.models.checkpoints import config_of
from xling.optimizers import OPTIMIZERS, check_processes, trains
from xling.planning.costs import base_of, budget
from xling.results.specs import located


def sft(stage: Stage, processes: int) -> None:
    """ConfigError unless so many processes can share a batch of demonstrations."""
    _equally(stage, "sft", located(stage.spec)["training"], processes)


def reward(stage: Stage, processes: int) -> None:
    """The same of feedback; linear heads, which have no batches, are trained by one of them."""
    if budget(stage) is not None:
        _equally(stage, "rm_backbone.training", located(stage.spec)["rm"]["training"], processes)


def align(stage: Stage, processes: int) -> None:
    """ConfigError unless so many processes can train the policy together."""
    settings, base = OPTIMIZERS.read(stage.spec["optimizer"]), base_of(stage)
    assert trains(settings) and base is not None  # no other asks for this stage
    config = config_of(located(base.spec)["checkpoint"], base.spec.get("commit") or None)
    how = stage.spec.get(WHERE, {}).get("parallel", "auto")
    try:
        check_processes(settings, processes, bool(config.get("is_encoder_decoder")), how)
    except ConfigError as error:
        here = f"hydra.launcher.stages.{stage.kind}"
        raise ConfigError(f"{stage.label}: {error} Processes are nodes x tasks_per_node of {here}.") from error


def _equally(stage: Stage, group: str, training: Mapping[str, Any], processes: int) -> None:
    """Batch sizes are those of all processes together; micro-batches are parts of what each has."""
    size, micro = training["batch_size"], training["micro_batch_size"]
    if size % processes:
        fitting = ", ".join(str(number) for number in range(1, size + 1) if size % number == 0)
        raise ConfigError(
            f"{stage.label} has a global batch size of {size}, which {processes} processes cannot share equally "
            f"({group}.batch_size={size}). Processes that can: {fitting}; they are nodes x tasks_per_node of "
            f"hydra.launcher.stages.{stage.kind}."
        )
    if micro is not None and micro < (share := size // processes) and share % micro:
        raise ConfigError(
            f"{stage.label}: {group}.micro_batch_size={micro} does not divide the {share} examples that each of "
            f"{processes} processes has of {group}.batch_size={size}. Use a divisor."
        )


def check(plan: Plan, gpus: Callable[[str], Gpus]) -> None:
    """ConfigError for a stage that its processes cannot share; `gpus` of a kind: one a process."""
    for stage in plan.to_run:
        kind, count = plan.kinds.get(stage.kind), gpus(stage.kind).count
        if kind is not None and kind.shared is not None and count > 1:
            kind.shared(stage, count)


def notes(plan: Plan, gpus: Callable[[str], Gpus]) -> list[str]:
    """A sentence on each kind whose weights are shared out although each GPU has room for all of them."""
    found = dict[str, str]()
    for stage in plan.to_run:
        kind, own = plan.kinds.get(stage.kind), gpus(stage.kind)
        where = stage.spec.get(WHERE, {})
        if stage.kind in found or own.count == 1 or own.gib is None or where.get("parallel") != "fsdp":
            continue
        whole = replace(stage, spec={**stage.spec, WHERE: where | {"parallel": "ddp"}})
        needed = kind.needs(whole, own) if kind is not None and kind.needs is not None else None
        if needed is not None and needed.fits:
            found[stage.kind] = (
                f"{stage.label} takes {needed.gib:,.0f} GB of a GPU of {own.gib:,.0f} with all weights in each of "
                f"{own.count} processes: policy.parallel=fsdp saves memory that is there, and costs messages. "
                "Type policy.parallel=auto."
            )
    return list(found.values())
