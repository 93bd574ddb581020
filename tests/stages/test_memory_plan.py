"""The memory plan: formulas by hand, what fits, and what is refused before anything is submitted."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from small_grid import BUDGET, N, changed, every, experiment
from transformers import LlamaConfig, LlamaForCausalLM

from xling.console import Console
from xling.errors import ConfigError
from xling.grid.estimate import Rates, rates_from
from xling.grid.plan import make_plan, needs_of
from xling.grid.plan_table import print_plan, too_large
from xling.grid.stage import Cell, Gpus, Memory, Stage, fits
from xling.grid.store import Store
from xling.launching import on_gpus
from xling.models import parallel
from xling.models.checkpoints import KNOWN
from xling.models.sizes import Sizes, rows_on_accelerator, sizes_of
from xling.optimizers.dpo import Settings as DPO
from xling.optimizers.grpo import Settings as GRPO
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.rloo import Settings as RLOO
from xling.planning import KINDS, memory, sharing
from xling.planning.dag import judge_stage
from xling.planning.memory import Net, Task, Way, main_memory, moments, trained
from xling.results.specs import located
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.implicit import Settings as Implicit
from xling.runners import slurm

XL, QWEN = sizes_of("google/mt5-xl", None), sizes_of("Qwen/Qwen3-8B-Base", None)
SMALL = sizes_of("Qwen/Qwen3-1.7B-Base", None)
assert XL is not None and QWEN is not None and SMALL is not None
NAMES = ("sft.micro_batch_size", "sft.gradient_checkpointing")
GIB = 2**30
# Weights as the models' cards have them, in billions.
CARDS = {
    "google/mt5-small": 0.300, "google/mt5-base": 0.582, "google/mt5-large": 1.23, "google/mt5-xl": 3.74,
    "google/madlad400-3b-mt": 2.94, "facebook/nllb-200-distilled-600M": 0.615, "facebook/nllb-200-3.3B": 3.34,
    "Qwen/Qwen3-0.6B-Base": 0.596, "Qwen/Qwen3-1.7B-Base": 1.72, "Qwen/Qwen3-4B-Base": 4.02,
    "Qwen/Qwen3-4B-Instruct-2507": 4.02, "Qwen/Qwen3-8B-Base": 8.19, "microsoft/Phi-4-mini-instruct": 3.84,
    "HuggingFaceTB/SmolLM3-3B-Base": 3.08, "utter-project/EuroLLM-1.7B": 1.66,
}  # fmt: skip


def task(sizes: Sizes, **changed: Any) -> Task:
    """Fine-tuning of all weights in bfloat16 on 32 texts."""
    usual = Task((Net(sizes, 2),), 0.0, 32, 32, 1, 1024, 512, True, True, False, "adamw", 32, 20 * 2**30)
    return usual._replace(**changed)


def stages(asked: Any) -> dict[str, Stage]:
    return {stage.kind: stage for stage in every(judge_stage(asked)).values()}


def needed(stage: Stage, gpus: Gpus = Gpus()) -> Memory:  # noqa: B008
    hook = KINDS[stage.kind].needs
    found = hook(stage, gpus) if hook else None
    assert found is not None
    return found


@pytest.mark.parametrize("checkpoint", KNOWN)
def test_weights_are_those_of_the_cards(checkpoint: str) -> None:
    sizes = sizes_of(checkpoint, None)
    assert sizes is not None and sizes.weights == pytest.approx(1e9 * CARDS[checkpoint], rel=0.005)


def test_what_an_update_holds() -> None:
    n = QWEN.weights
    adamw = moments(task(QWEN), Way())["updating"]
    assert sum(adamw.values()) == 16 * n  # weight, gradient and two moments
    for optimizer, each in (("adamw_8bit", 10.03125), ("adamw_kahan", 10), ("adamw_stochastic", 8)):
        lean = moments(task(QWEN, optimizer=optimizer), Way())
        assert sum(lean["updating"].values()) - lean["updating"]["update"] == each * n
        assert ("copies in 16 bits" in lean["learning"]) == (optimizer == "adamw_8bit")
    adafactor = moments(task(QWEN, optimizer="adafactor"), Way())["updating"]
    assert sum(adafactor.values()) == pytest.approx(8 * n + 12 * QWEN.table, rel=0.001)
    low_rank = moments(task(QWEN, nets=(Net(QWEN, 2, "lora", 16),)), Way())["updating"]
    assert sum(low_rank.values()) == 2 * n + 16 * 16 * QWEN.linear  # in their own 16 bits, and the adapters' 4 times 4
    quantized = moments(task(QWEN, nets=(Net(QWEN, 2, "qlora", 16),)), Way())["updating"]
    assert sum(quantized.values()) < 0.45 * sum(low_rank.values())


def test_shares_of_what_is_sharded() -> None:
    alone, shared = (moments(task(QWEN), Way(gpus, gpus > 1)) for gpus in (1, 8))
    assert shared["updating"]["optimizer"] == alone["updating"]["optimizer"] / 8
    assert shared["updating"]["gradients"] == alone["updating"]["gradients"] / 8
    assert shared["learning"]["gathered"] == 4 * (2 * QWEN.table + QWEN.block)  # the head, its gradient, and a block
    assert shared["sampling"]["weights"] == 4 * QWEN.weights * (1 + 1 / 8)
    layers = moments(task(QWEN, anchor=8.0, scorer=16.0), Way(8, True, layers=True))["sampling"]
    assert layers["weights"] == 4 * QWEN.weights / 8 and layers["other models"] == 1 + 2
    assert layers["gathered"] == 4 * (QWEN.table + QWEN.block)
    assert "sampling" not in moments(task(QWEN, written=0), Way(8, True))  # of what is never gathered whole
    copied = moments(task(QWEN), Way(2, False))
    assert copied["updating"]["gradients"] == 2 * alone["updating"]["gradients"]  # DDP's buckets beside the gradients
    assert copied["sampling"]["gradients"] == alone["updating"]["gradients"] and not shared["sampling"]["gradients"]


def test_weights_are_sampled_layer_by_layer_where_they_leave_no_room() -> None:
    """On 80 GiB, of which a quarter is for keys and values: 33 GB of weights and as many of another model are too much.

    Of the reference, or of a reward model, which is whole in every process or could be shared out.
    """
    held = task(QWEN, anchor=4.0 * QWEN.weights)
    cases = (held, 4), (task(QWEN), 8), (task(SMALL), 4), (held._replace(gather="whole"), 4)
    for rewarded in (task(QWEN, scorer=4.0 * QWEN.weights), task(QWEN, others=4.0 * QWEN.weights)):
        assert memory._spread(rewarded, Way(4), Gpus(4, 80)).layers
    ways = [memory._spread(one, Way(gpus), Gpus(gpus, 80)) for one, gpus in cases]
    assert [(way.sharded, way.layers) for way in ways] == [(True, True), (True, False), (False, False), (True, False)]
    assert memory._spread(task(SMALL, gather="layers", how="fsdp"), Way(2), Gpus(2, 80)).layers


def test_what_trains_shares_weights_out_where_the_plan_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three billion weights: by DDP 20 bytes each, the gradients and a copy of them that is sent among these."""
    config = LlamaConfig(hidden_size=2560, intermediate_size=10240, num_hidden_layers=28, num_attention_heads=20,
                         tie_word_embeddings=True)  # fmt: skip
    config.save_pretrained(tmp_path)
    sizes = sizes_of(str(tmp_path), None)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert sizes is not None
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(parallel, "joined", lambda own: [80 * GIB])  # of two GPUs that are not here
    found = []
    for optimizer, held in (("adamw", 0.0), ("adamw", 25e9), ("adamw", 30e9), ("adafactor", 0.0)):
        found.append(parallel.chosen("auto", model, optimizer, gather="auto", held=held))
        planned = memory._spread(task(sizes, optimizer=optimizer, anchor=held), Way(2), Gpus(2, 80))
        assert found[-1] == ("layers" if planned.layers else "fsdp" if planned.sharded else "ddp")
    assert found == ["fsdp", "fsdp", "layers", "ddp"]


def test_activations_go_by_what_is_read_at_once() -> None:
    whole, micro, again = (moments(task(QWEN), way)["learning"]["activations"]
                           for way in (Way(), Way(micro=4), Way(micro=4, again=True)))  # fmt: skip
    assert micro == whole / 8
    assert again < micro / 8
    assert moments(task(QWEN, batch=64, at_once=64), Way(micro=4)) == moments(task(QWEN), Way(micro=4))
    tiled = moments(task(QWEN, tiled=True), Way())["learning"]["logits"]  # by trl, in tiles of 16 bits
    assert tiled == 2 * 4096 * 2**15 + 4 * (QWEN.table + 32 * (1024 + 512) * QWEN.width)
    low_rank = task(QWEN, nets=(Net(QWEN, 2, "lora", 16),))
    assert moments(low_rank, Way())["learning"]["logits"] == 12 * 2**27  # in chunks
    assert moments(low_rank._replace(response=1), Way(micro=1))["learning"]["logits"] == 12 * QWEN.vocabulary


def test_gradients_of_embeddings_and_head() -> None:
    """Autograd's sums on the way, as they were measured of a Llama and an mT5 (docs/scale.md)."""

    def gradients(sizes: Sizes, micro: int | None, trunk: bool = False) -> float:
        one = task(sizes, nets=(Net(sizes, 4, trunk=trunk),))
        return (moments(one, Way(micro=micro))["summing"]["gradients"] - one.nets[0].gradients("adamw")) / sizes.table

    assert QWEN.head and not SMALL.head
    tied = XL._replace(head=0)
    for sizes, trunk, whole in ((QWEN, False, 0), (SMALL, False, 8), (SMALL, True, 0), (XL, True, 8), (tied, False, 8)):
        assert gradients(sizes, None, trunk) == whole
        assert gradients(sizes, 4, trunk) == whole + 4
    few = moments(task(QWEN, response=64), Way(micro=1))["learning"]["logits"]
    assert few == 4 * 64 * QWEN.vocabulary + 4 * QWEN.head  # more than the 12 a logit before the head's gradient
    chunks = moments(task(QWEN), Way())["learning"]["logits"]
    assert chunks == max(12 * 2**27 + 4 * QWEN.head, 4 * 2**27 + 8 * QWEN.head)


def test_rows_longer_than_a_batch_are_read_one_by_one() -> None:
    assert [rows_on_accelerator(width) for width in (16, 512, 1500, 2048, 2049, 8192)] == [32, 4, 1, 1, 1, 1]


def test_a_micro_batch_above_a_share_is_the_share() -> None:
    assert moments(task(QWEN), Way(4, True, 16)) == moments(task(QWEN), Way(4, True, 8))  # of 32 texts


def test_the_cheapest_setting_comes_first() -> None:
    asked = [(task(QWEN, optimizer="adafactor"), 80), (task(QWEN), 80), (task(XL), 96), (task(SMALL), 40)]
    told = [trained(one, Way(), NAMES, "sft", Gpus(1, gib, more=True)) for one, gib in asked]
    assert "hydra.launcher.stages.sft.tasks_per_node=4 hydra.launcher.stages.sft.gpus_per_node=4" in told[1].setting
    assert re.fullmatch(r"sft.micro_batch_size=\d", told[2].setting)
    for (one, gib), found in zip(asked, told, strict=True):
        typed = dict(word.split("=") for word in found.setting.split())
        gpus = int(typed.get("hydra.launcher.stages.sft.tasks_per_node", 1))
        micro = int(typed.get("sft.micro_batch_size", 0)) or None
        way = Way(gpus, gpus > 1, micro, "sft.gradient_checkpointing" in typed)
        after = Memory(memory.worst(one, way), Gpus(gpus, gib))
        assert not found.fits and after.fits, found.setting  # what is to be typed does what it says
        assert found.then is not None and found.then[1] == gpus and fits(found.then[0], gib)
    alone = trained(task(QWEN), Way(), NAMES, "sft", Gpus(1, 80))
    assert alone.setting == ""  # nothing helps where a stage runs in one process


def test_what_is_to_be_typed_is_not_refused() -> None:
    """16 responses a prompt: 8 processes, which would do, cannot share a step's 4 prompts."""
    for k, processes in ((8, "8"), (16, "")):
        own = memory.aligned(
            RLOO(trainer="own", k=k, batch_size=64), Net(QWEN, 2), True, 1024, 512, 0.0, 12 * GIB, "auto"
        )
        told = trained(own, Way(), NAMES, "align", Gpus(1, 48, more=True)).setting
        assert told.partition("align.tasks_per_node=")[2][:1] == processes


def test_by_kind_of_stage(tiny_folder: Path) -> None:
    found, sizes = stages(experiment(tiny_folder)), sizes_of(str(tiny_folder), None)
    assert sizes is not None
    assert needed(found["sft"]).parts["weights"] == 4 * sizes.weights
    assert needed(found["reward"]).parts["weights"] == 4 * sizes.trunk
    pool = located(found["pool"].spec)
    rows = pool["chunk"] * N
    assert needed(found["pool"]).parts["keys and values"] == 4 * (
        (1 + 1 / sizes.decoder) * rows * sizes.cache(pool["max_prompt_tokens"], pool["max_new_tokens"])
        + pool["chunk"] * sizes.cache(pool["max_prompt_tokens"], 0)
    )
    assert KINDS["reward"].needs is not None
    linear = stages(experiment(tiny_folder, rm=BagOfWords()))["reward"]
    assert KINDS["reward"].needs(linear, Gpus()) is None
    implicit = stages(experiment(tiny_folder, rm=Implicit()))
    assert needed(implicit["reward"]).parts["weights"] == 4 * sizes.weights  # which are their own reference
    assert needed(implicit["score"]).parts["weights"] == 2 * needed(found["score"]).parts["weights"]
    assert main_memory(implicit["score"]) > main_memory(found["score"])


def test_an_optimizer_says_what_it_holds(tiny_folder: Path) -> None:
    def align(optimizer: Any) -> Memory:
        return needed(stages(experiment(tiny_folder, optimizer=optimizer))["align"])

    own, shared = align(PPO(steps=2, batch_size=8)), align(PPO(steps=2, batch_size=8, value="shared"))
    sizes = sizes_of(str(tiny_folder), None)
    assert sizes is not None and own.parts["weights"] - shared.parts["weights"] == 4 * sizes.trunk
    whole, quarters = (align(PPO(steps=2, batch_size=4096, minibatches=parts)) for parts in (1, 4))
    assert quarters.parts["activations"] == whole.parts["activations"] / 4
    assert align(DPO(steps=2, batch_size=8)).parts["activations"] > 0
    ours, theirs, grpo = align(RLOO(k=2, trainer="own")), align(RLOO(k=2)), align(GRPO(k=2))
    assert ours.parts["logits"] < theirs.parts["logits"] == grpo.parts["logits"]

    def held(optimizer: Any) -> float:
        one = memory.aligned(optimizer, Net(QWEN, 2), True, 1024, 512, 0.0, 20 * GIB, "auto")
        return moments(one, Way())["sampling"]["keys and values"]

    assert (
        held(GRPO(k=8, batch_size=512)) == 4 * held(GRPO(k=8, batch_size=128)) > 4 * 20 * GIB
    )  # trl draws all at once
    assert held(RLOO(trainer="own", k=8, batch_size=512)) == held(RLOO(trainer="own", k=8, batch_size=128))


def test_what_cannot_be_shared_out_is_not_planned_so(tiny_folder: Path) -> None:
    """Fsdp is refused for 4 bits, and for the scaled losses of float16: a plan that names it would help nobody."""
    asked = experiment(tiny_folder, optimizer=PPO(steps=2, batch_size=8))

    def how(kind: str, **policy: Any) -> str:
        return memory._how(stages(changed(asked, "policy", **policy))[kind])

    for kind in ("sft", "reward", "align"):
        assert (how(kind), how(kind, parallel="fsdp"), how(kind, dtype="bfloat16")) == ("auto", "fsdp", "auto")
    assert [how(kind, dtype="float16") for kind in ("sft", "reward", "align")] == ["ddp", "ddp", "auto"]
    for stage in (stages(asked)[kind] for kind in ("sft", "align")):
        assert memory._how(replace(stage, spec={**stage.spec, "tuning": "qlora"})) == "ddp"
    one = task(QWEN, nets=(Net(QWEN, 2),) * 2, how="ddp")
    assert "fsdp" not in trained(one, Way(), NAMES, "sft", Gpus(1, 80, more=True)).setting


def launched(folder: Path, parallel: str = "auto", rates: Rates | None = None, **settings: Any) -> Any:
    """The plan of a small grid for a cluster with those settings of hydra.launcher."""
    stage = judge_stage(changed(experiment(folder), "policy", parallel=parallel))
    plan = make_plan([Cell({}, stage)], Store(folder / "none"), kinds=KINDS, rates=rates)
    return on_gpus(plan, slurm, slurm.read(settings, KINDS))


def test_what_does_not_fit_is_said_with_what_to_type(tiny_folder: Path) -> None:
    assert launched(tiny_folder).needs == {}  # nobody knows the GPUs, and nobody looks
    assert list(too_large(launched(tiny_folder, gpu_mem_gb=80))) == []
    fitting = shown(launched(tiny_folder, gpu_mem_gb=80))
    assert re.search(r"Fits as it is set: Every kind of stage\. Most takes \w+, \d GB of one GPU of 80 GB\.", fitting)
    plan = launched(tiny_folder, gpu_mem_gb=80, stages={"sft": {"gpu_mem_gb": 1.06}})
    (told, found) = next(iter(too_large(plan)))
    assert re.search(r"^sft\[\w+\] takes up to .* GB of a GPU .* hydra\.launcher\.stages\.sft\.gpu_mem_gb=1\.06", told)
    assert found.gpus.stated and not found.fits


def test_processes_that_cannot_share_a_stage_are_refused_by_whoever_plans(tiny_folder: Path) -> None:
    for kind in ("sft", "reward"):
        said = rf"{kind}\[\w+\] has a global batch size of 8, which 3 processes .* that can: 1, 2, 4, 8;"
        with pytest.raises(ConfigError, match=said):
            launched(tiny_folder, stages={kind: {"tasks_per_node": 3}})
        launched(tiny_folder, stages={kind: {"tasks_per_node": 2, "nodes": 2}})
    asked, whole = experiment(tiny_folder), {"batch_size": 24, "micro_batch_size": 8}
    own = stages(changed(asked, "sft", **whole))["sft"]
    sharing.sft(own, 3)  # a micro-batch each
    with pytest.raises(ConfigError, match=r"sft\.micro_batch_size=8 does not divide the 12 .* each of 2 processes"):
        sharing.sft(own, 2)
    replaced = structs.replace(BUDGET, **whole)
    heard = stages(changed(asked, "rm_backbone", training=replaced))["reward"]
    with pytest.raises(ConfigError, match=r"rm_backbone\.training\.micro_batch_size=8 does not divide the 12 "):
        sharing.reward(heard, 2)
    policy = stages(experiment(tiny_folder, optimizer=DPO(steps=2, batch_size=8)))["align"]
    said = r"align\[.*16 processes cannot share a step's 8 prompts\. Use at most 8\. .* hydra\.launcher\.stages\.align"
    with pytest.raises(ConfigError, match=said):
        sharing.align(policy, 16)


def test_sharing_out_a_model_that_fits_is_said(tiny_folder: Path) -> None:
    two = {"gpu_mem_gb": 80, "stages": {"sft": {"tasks_per_node": 2}}}
    [said] = [one for one in launched(tiny_folder, "fsdp", **two).warnings if "policy.parallel=fsdp" in one]
    assert re.match(r"sft\[\w+\] takes \d+ GB of a GPU of 80 with all weights in each of 2 processes", said)
    assert not [one for one in launched(tiny_folder, **two).warnings if "fsdp" in one]


def test_hours_are_shared_by_processes(tiny_folder: Path) -> None:
    """The hours of GPUs stay what they were."""
    cost = {"flops_per_second": 1e4, "utilisation": dict.fromkeys(("training", "reading", "sampling"), 1.0)}
    rates = rates_from(cost | {"prompt_tokens": None, "response_tokens": None})
    plans = [launched(tiny_folder, rates=rates, stages={"sft": {"tasks_per_node": count}}) for count in (1, 2)]
    one, two = (plan.estimates["sft"] for plan in plans)
    assert one.modelled and two.seconds == one.seconds / 2 and (one.processes, two.processes) == (1, 2)
    hours = [re.search(r"([\d,.]+) hours of", shown(plan)) for plan in plans]
    assert hours[0] and hours[1] and hours[0][1] == hours[1][1]
    assert "sft in 2 processes: taken to be as many times as fast" in shown(plans[1])


def test_gib_are_left_to_cuda() -> None:
    assert fits(75, 80) and not fits(76, 80)
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.gpu_mem_gb=-1 does not fit"):
        slurm.read({"gpu_mem_gb": -1}, KINDS)


def shown(plan: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    print_plan(plan, console)
    return console.export_text()


def test_the_plan_shows_what_is_worth_showing(tiny_folder: Path) -> None:
    large = shown(launched(tiny_folder, gpu_mem_gb=80, stages={"sft": {"gpu_mem_gb": 1.06}}))
    assert re.search(r"sft  .* GB !", large) and "Does not fit: sft[tr] takes up to" in large
    small = launched(tiny_folder)
    assert "GPU" not in shown(replace(small, needs=needs_of(small, lambda kind: Gpus())))


def test_where_nobody_knows_the_gpus_the_plan_says_how_to_ask(tiny_folder: Path) -> None:
    plan, parts = launched(tiny_folder), {"weights": 20.0 * 2**30}
    for gpus, hinted in ((Gpus(), True), (Gpus(gib=80.0), False)):
        text = shown(replace(plan, needs={"sft": ("sft[tr]", Memory(parts, gpus))}))
        assert ("hydra.launcher.gpu_mem_gb=80 a dry run" in text) is hinted and "20 GB" in text
