"""Policies trained against a reward model: every optimizer on both architectures, from the plan to the verdict."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from families import saved
from small_grid import BUDGET, TASK, M, Runner, by_kind, changed, contents, counted, experiment, read, refused

from xling.config.policies import Lora
from xling.errors import ConfigError, StageError
from xling.experiment import Experiment
from xling.grid.plan import make_plan
from xling.grid.records import Done, Sheet
from xling.grid.records import read as read_record
from xling.grid.stage import Cell, Interrupted, Stage
from xling.grid.store import Store
from xling.judges.target_rm import Settings as TargetRM
from xling.models.load import load_policy
from xling.models.states import kl_along
from xling.optimizers import PolicyTraining
from xling.optimizers.dpo import Settings as DPO
from xling.optimizers.grpo import Settings as GRPO
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.rloo import Settings as RLOO
from xling.planning import KINDS
from xling.planning.controls import REFERENCES_TRAINED
from xling.planning.dag import cells_from, judge_stage
from xling.results.samples import read_samples
from xling.results.specs import AlignSpec, located
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.untrained import Settings as Untrained
from xling.runners.execute import Executor, Job
from xling.runners.local.runner import run_local
from xling.runners.local.schedule import Outcome
from xling.runners.ranks import Payload

FEW: dict[str, Any] = {"steps": 4, "batch_size": 8, "eval_every": 2, "eval_prompts": 6, "reward_samples": 12}
PPO_FEW = PPO(**FEW, value_only_steps=1)
OPTIMIZERS: dict[str, PolicyTraining] = {
    "ppo": PPO_FEW,
    "rloo": RLOO(**FEW, k=2),
    "rloo own": RLOO(**FEW, k=2, trainer="own"),
    "grpo": GRPO(**FEW, k=2),
    "dpo": DPO(**FEW, n=3, prompts=20),
}
DECODER_ONLY = ("grpo",)
MEASURED = ("reward", "kl", "entropy", "length", "eos", "in_language", "repetition", "quality")


@pytest.fixture(scope="module")
def mt5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("mt5"), "mt5")


def cell(folder: Path, optimizer: PolicyTraining, **more: Any) -> Experiment:
    return experiment(folder, optimizer=optimizer, **({"rm": BagOfWords()} | more))


def aligned(stage: Stage) -> Stage:
    return stage.parents["pool"].parents["sft"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("family", ["llama", "mt5"])
def test_every_optimizer_fills_a_cell(
    name: str, family: str, tiny_folder: Path, mt5_folder: Path, runner: Runner
) -> None:
    folder, optimizer = tiny_folder if family == "llama" else mt5_folder, OPTIMIZERS[name]
    if family == "mt5" and name in DECODER_ONLY:
        with pytest.raises(ConfigError, match=r"decoder-only policies.*Use one of ppo, rloo"):
            judge_stage(cell(folder, optimizer))
        return
    stage, out = runner.cell(cell(folder, optimizer))
    training, pool = runner.folder(aligned(stage)), runner.folder(stage.parents["pool"])
    _check_training(training, optimizer)
    said, items = read_samples(pool), read(out / "items.json")
    assert not (out / "curve.npy").exists() and read(out / "summary.json")["kl_bound"] is None
    assert [len(row.responses) for row in said] == [M] * TASK.test_prompts
    assert items["kl"] == [np.mean(row.kl) for row in said] and min(items["kl"]) >= 0 and max(items["kl"]) > 0
    rewards = np.load(runner.folder(stage.parents["score"]) / "pool.npy")
    assert items["reward"] == rewards.mean(axis=1).tolist()  # all samples count, none is picked
    start, policy = (load_policy(path)[0] for path in (runner.folder(aligned(stage).parents["sft"]), training))
    assert any((a != b).any() for a, b in zip(start.parameters(), policy.parameters(), strict=True))


def _check_training(folder: Path, optimizer: PolicyTraining) -> None:
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert all(np.isfinite(list(row.values())).all() for row in curve)
    for row in curve:
        assert all((f"validation_{what}" in row) == (row["step"] % 2 == 0) for what in MEASURED)
    report = read(folder / "align.json")
    assert report["step"] == 4 and report["reward_std"] > 0 and report["prompts"] == TASK.demonstrations
    assert ("pairs" in report) == isinstance(optimizer, DPO)


@pytest.mark.parametrize("name", ["ppo", "dpo"])
def test_the_stage_in_two_processes_is_the_stage_in_one(
    name: str, tiny_folder: Path, runner: Runner, tmp_path: Path
) -> None:
    """With shares of all weights: pool, standardising, validation and what is stored."""
    stage = aligned(judge_stage(cell(tiny_folder, OPTIMIZERS[name])))
    one, parents = runner.folder(stage), {role: str(runner.folder(up)) for role, up in stage.parents.items()}
    (out := tmp_path / "out").mkdir()
    (scratch := tmp_path / "scratch").mkdir()
    spec = json.loads(json.dumps(stage.spec)) | {"where": {**stage.spec.get("where", {}), "parallel": "fsdp"}}
    payload = Payload("xling.planning:KINDS", "align", spec, parents, str(out), str(scratch))
    (tmp_path / "payload.json").write_bytes(msgspec.json.encode(payload))
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "xling.runners.ranks", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    _are_the_same(one, out)


def _are_the_same(one: Path, other: Path) -> None:
    """But for rounding; samples are the same, so that rewards and lengths are."""
    curves = [
        [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()] for folder in (one, other)
    ]
    for row, its in zip(*curves, strict=True):
        assert its == pytest.approx(row, rel=1e-3, abs=1e-4)
        assert its.get("validation_length") == row.get("validation_length")
    assert read(other / "align.json") == pytest.approx(read(one / "align.json"))
    weights = [dict(load_policy(folder)[0].named_parameters()) for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.nightly
def test_this_machine_trains_in_two_processes_and_goes_on_after_a_kill(
    tiny_folder: Path, runner: Runner, tmp_path: Path
) -> None:
    """The pool is ranked by both; one of them is killed once there is a checkpoint, and the stage is run again."""
    stage = aligned(judge_stage(cell(tiny_folder, DPO(**FEW | {"steps": 60, "eval_every": 10}, n=3, prompts=20))))
    store = Store(tmp_path / "root")

    def launched() -> Outcome:
        plan = make_plan([Cell({}, stage)], store, kinds=KINDS)
        return run_local(plan, workers=2, show=False, processes={"align": 2})

    killer = threading.Thread(target=_kill_a_rank, args=(store.root,))
    killer.start()
    [failed] = launched().failures
    killer.join()
    assert "processes were killed by signal 9" in failed.last or "Process " in failed.last
    again = launched()
    assert again.executed == {"align": 1} and again.exit_code == 0
    assert re.search(r"Goes on after step \d+ in 2 processes\.", store.log("align", stage.key).read_text())
    done = store.check("align", stage.key).done
    assert done is not None and done.run.processes == 2
    _are_the_same(runner.folder(stage), store.folder("align", stage.key))


def _kill_a_rank(root: Path) -> None:
    """Process 1 of the stage of that root that is running, once it has a checkpoint."""
    deadline, found = time.monotonic() + 300, list[Path]()
    while time.monotonic() < deadline and not found:
        time.sleep(0.02)
        with contextlib.suppress(OSError):  # folders come and go
            found = list((root / "stages" / "align").rglob("checkpoint-*/state.json"))
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            words = (path.parent / "cmdline").read_bytes()
            if str(root).encode() in words and b"ranks" in words and b"\0RANK=1\0" in b"\0" + path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


def test_the_divergence_of_test_samples_is_that_of_the_stored_policies(tiny_folder: Path, runner: Runner) -> None:
    stage, _ = runner.cell(cell(tiny_folder, PPO_FEW))
    pool = stage.parents["pool"]
    policy, tokenizer = load_policy(runner.folder(pool.parents["sft"]))
    reference, _ = load_policy(runner.folder(pool.parents["reference"]))
    prompts, responses = [[1, 5, 6], [1, 7]], [[8, 9, 2], [11, 2]]
    found = kl_along(policy, reference, prompts, responses, tokenizer.pad_token_id, 0.7)
    for prompt, response, value in zip(prompts, responses, found, strict=True):
        import torch

        ids = torch.tensor([prompt + response])
        with torch.inference_mode():
            p, q = ((model(ids).logits[0] / 0.7).log_softmax(-1) for model in (policy, reference))
        places = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
        assert value == pytest.approx(float((p[places].exp() * (p[places] - q[places])).sum()), abs=1e-5)
    same = kl_along(policy, policy, prompts, responses, tokenizer.pad_token_id)
    assert same == [0.0, 0.0]


@pytest.mark.parametrize("rm", [FrozenLM(), Untrained("random"), Untrained("length"), Untrained("likelihood_base")])
def test_kinds_of_rewards(rm: Any, tiny_folder: Path, runner: Runner) -> None:
    stage, out = runner.cell(cell(tiny_folder, PPO_FEW, rm=rm))
    assert ("reward" in aligned(stage).parents) == isinstance(rm, FrozenLM)
    assert len(read(out / "items.json")["kl"]) == TASK.test_prompts


def test_a_value_model_may_start_as_the_reward_model(tiny_folder: Path, runner: Runner) -> None:
    settings = msgspec.structs.replace(PPO_FEW, value_init="reward")
    stage = judge_stage(experiment(tiny_folder, optimizer=settings))
    assert read(runner.folder(aligned(stage)) / "align.json")["step"] == 4


def test_adapters_are_merged(tiny_folder: Path, runner: Runner) -> None:
    asked = changed(cell(tiny_folder, PPO_FEW), "policy", tuning="lora", lora=Lora(r=2))
    stage = aligned(judge_stage(asked))
    names = {path.name for path in runner.folder(stage).iterdir()}
    assert "model.safetensors" in names and "adapter_config.json" not in names


@pytest.mark.parametrize("name", ["ppo", "grpo", "dpo"])
def test_a_stopped_stage_goes_on_to_the_same_bytes(
    name: str, tiny_folder: Path, runner: Runner, tmp_path: Path
) -> None:
    stage = aligned(judge_stage(cell(tiny_folder, OPTIMIZERS[name])))
    whole = contents(runner.folder(stage))
    parents = {role: runner.folder(parent) for role, parent in stage.parents.items()}
    cut = Runner(tmp_path)
    with pytest.raises(Interrupted):
        cut.run(stage, parents, tmp_path / "out", stopping=lambda: True)
    assert not (tmp_path / "out" / "align.json").exists()
    cut.run(stage, parents, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_a_policy_that_goes_too_far_stops_with_the_reason(tiny_folder: Path, runner: Runner) -> None:
    asked = cell(tiny_folder, msgspec.structs.replace(PPO_FEW, kl_budget=1e-6, learning_rate=1e-2))
    with pytest.raises(StageError, match=r"diverged: KL .* above optimizer.kl_budget=1e-06"):
        runner.folder(aligned(judge_stage(asked)))


@pytest.mark.nightly
def test_weights_that_were_dropped_are_trained_again_to_the_same_bytes(
    tiny_folder: Path, runner: Runner, tmp_path: Path
) -> None:
    """keep_weights=none: the verdicts are the same without them; a stage that comes new reads them anew."""
    asked = cell(tiny_folder, PPO_FEW, rm=SameAsPolicy(training=BUDGET))
    drops, store = ["sft", "reward", "align"], Store(tmp_path)

    def ran(asked: Experiment) -> list[str]:
        plan = replace(make_plan([Cell({}, judge_stage(asked))], store, kinds=KINDS, name="one"), drops=drops)
        plan.clear_lost()
        plan.write()
        executor = Executor(store, KINDS, drops=plan.dropping)
        assert {executor.execute(Job(stage.key, Sheet.of(stage))).event for stage in plan.to_run} == {"done"}
        return [stage.label for stage in plan.to_run]

    def dropped(stage: Stage) -> Mapping[str, str]:
        done = read_record(Done, str(store.folder(stage.kind, stage.key) / "done.json"))
        return {name: fact.sha256 for name, fact in done.dropped.items()}

    ran(asked)
    stage = judge_stage(asked)
    assert not list(tmp_path.glob("stages/*/*/model*.safetensors"))
    whole, lean = runner.folder(stage), store.folder(stage.kind, stage.key)
    assert (lean / "items.json").read_bytes() == (whole / "items.json").read_bytes()
    trained = [aligned(stage), *(aligned(stage).parents[role] for role in ("sft", "reward"))]
    first = [dropped(one) for one in trained]
    assert all({"model.safetensors", "tokenizer.json"} <= names.keys() for names in first)
    assert (store.folder("align", aligned(stage).key) / "curve.jsonl").exists()
    again = ran(changed(asked, "policy", baseline_samples=M + 1))
    assert {one.label for one in trained} <= set(again) and [dropped(one) for one in trained] == first


# --- keys, counts, refusals ---------------------------------------------------------------------------------


def test_a_grid_trains_one_policy_a_cell_and_shares_the_rest(no_model: Path) -> None:
    codes = ("de", "en", "tr")
    asked = [
        cell(no_model, OPTIMIZERS[o], source=s, target=t, axes={"source_lang": s, "target_lang": t, "optimizer": o})
        for s in codes
        for t in codes
        for o in ("ppo", "dpo")
    ]
    found = counted(cells_from(asked))
    assert found["align"] == found["aligned"] == 18
    assert found["pool"] == found["baseline"] == found["sft"] == found["reward"] == 3  # dpo's pools; none for ppo


def test_the_judge_and_the_test_prompts_do_not_train_again(no_model: Path) -> None:
    asked = cell(no_model, PPO_FEW)
    assert by_kind(asked)["align"] == by_kind(msgspec.structs.replace(asked, judge=TargetRM()))["align"]
    assert by_kind(asked)["align"] == by_kind(changed(asked, "task", test_prompts=13))["align"]
    more = changed(asked, "optimizer", samples=3)
    assert by_kind(asked)["align"] == by_kind(more)["align"] and by_kind(asked)["aligned"] != by_kind(more)["aligned"]
    assert by_kind(asked)["align"] != by_kind(changed(asked, "optimizer", beta=0.2))["align"]


def test_controls_of_trained_policies(no_model: Path) -> None:
    axes = {"rm_backbone": "bag_of_words", "source_lang": "en", "target_lang": "tr", "optimizer": "ppo"}
    cells = cells_from([cell(no_model, PPO_FEW, axes=axes)], controls=True)
    assert [one.axes["rm_backbone"] for one in cells] == [
        "bag_of_words", "shuffled_1:bag_of_words", *REFERENCES_TRAINED
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (RLOO(batch_size=10), "optimizer.k=4 responses a prompt do not divide optimizer.batch_size=10"),
        (PPO(batch_size=9), "optimizer.minibatches=2 does not divide optimizer.batch_size=9"),
        (PPO(value_only="inside", value_only_steps=40), "leaves none of optimizer.steps=40"),
        (PPO(value_init="reward"), "rm_backbone=bag_of_words is no network.*value_init=sft"),
        (DPO(prompts=4), "optimizer.prompts=4 give at most 4 pairs"),
        (DPO(prompts=None, batch_size=48), "The task's 40 training prompts give at most 40 pairs, .*batch_size=48"),
    ],
)
def test_what_does_not_go_together_is_refused(optimizer: PolicyTraining, words: str, no_model: Path) -> None:
    refused(cell(no_model, optimizer), words)


def test_controls_start_no_value_model_from_what_was_not_trained(no_model: Path) -> None:
    axes = {"rm_backbone": "same_as_policy", "source_lang": "en", "target_lang": "tr"}
    asked = experiment(no_model, optimizer=msgspec.structs.replace(PPO_FEW, value_init="reward"), axes=axes)
    assert len(cells_from([asked], controls=True)) == 2 + len(REFERENCES_TRAINED)


def test_a_likelihood_rewards_as_it_is_reported(tiny_folder: Path, runner: Runner) -> None:
    """The prompt is cut alike while the policy is trained and when its samples are scored."""
    asked = changed(cell(tiny_folder, PPO_FEW, rm=Untrained("likelihood_base")), "policy", max_prompt_tokens=40)
    stage = judge_stage(asked)
    spec = msgspec.convert(json.loads(json.dumps(aligned(stage).spec)), AlignSpec)
    scored = stage.parents["score"].spec
    assert (spec.max_prompt_tokens, spec.truncation_side) == (scored["max_prompt_tokens"], scored["truncation_side"])
    assert spec.max_prompt_tokens == 40


def test_trl_does_not_take_encoder_decoders(mt5_folder: Path) -> None:
    refused(cell(mt5_folder, RLOO(trainer="trl")), r"optimizer\.trainer=own")


# --- memory, and precision ----------------------------------------------------------------------------------


def test_settings_of_memory_are_in_no_key(no_model: Path) -> None:
    """They reach the stages all the same."""
    rm = SameAsPolicy(training=BUDGET)
    asked = cell(no_model, PPO_FEW, rm=rm)
    lean = changed(changed(asked, "optimizer", micro_batch_size=2), "policy", gradient_checkpointing=True)
    lean = changed(lean, "sft", micro_batch_size=4)
    lean = changed(lean, "rm_backbone", training=msgspec.structs.replace(BUDGET, micro_batch_size=1))
    one, other = judge_stage(asked), judge_stage(lean)
    assert one.key == other.key and "where" not in aligned(one).spec
    align = located(aligned(other).spec)
    assert align["optimizer"]["micro_batch_size"] == 2 and align["gradient_checkpointing"] is True
    sft = located(aligned(other).parents["sft"].spec)["training"]
    assert (sft["micro_batch_size"], sft["gradient_checkpointing"]) == (4, True)
    reward = located(aligned(other).parents["reward"].spec)["rm"]["training"]
    assert (reward["micro_batch_size"], reward["gradient_checkpointing"]) == (1, False)


def test_a_cell_whose_weights_are_trained_in_bfloat16(tiny_folder: Path, runner: Runner, tmp_path: Path) -> None:
    """Fine-tuning, reward model, policy and value model; stopped and gone on with it is the same."""
    half = changed(cell(tiny_folder, PPO_FEW, rm=SameAsPolicy(training=BUDGET)), "policy", dtype="bfloat16")
    lean = changed(half, "optimizer", optimizer="adamw_kahan")
    for part, inner in (("sft", None), ("rm_backbone", "training")):
        lean = changed(lean, part, **(
            {inner: msgspec.structs.replace(BUDGET, optimizer="adamw_stochastic")} if inner
            else {"optimizer": "adamw_stochastic"}
        ))  # fmt: skip
    weights = []
    for asked in (half, lean):
        sft = aligned(judge_stage(asked)).parents["sft"]
        model, _ = load_policy(runner.folder(sft))
        weights.append(torch.cat([weight.detach().float().flatten() for weight in model.parameters()]))
    assert 0 < float((weights[0] - weights[1]).norm() / weights[0].norm()) < 0.05
    stage = aligned(judge_stage(lean))
    whole, cut = contents(runner.folder(stage)), Runner(tmp_path)
    parents = {role: runner.folder(parent) for role, parent in stage.parents.items()}
    with pytest.raises(Interrupted):
        cut.run(stage, parents, tmp_path / "out", stopping=lambda: True)
    cut.run(stage, parents, tmp_path / "out")
    assert contents(tmp_path / "out") == whole
    refused(changed(cell(tiny_folder, GRPO()), "optimizer", optimizer="adamw_kahan"), "is trl's trainer, which follows")


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_policies_in_bfloat16_compute_in_it(name: str, tiny_folder: Path, runner: Runner) -> None:
    """With micro-batches and layers that are computed again; trl's trainer takes the same settings, and adapters."""
    few = FEW | {"steps": 2}
    ours, theirs = PPO(**few, value_only_steps=1, micro_batch_size=2), GRPO(**few, k=2, micro_batch_size=4)
    asked = changed(cell(tiny_folder, ours if name == "ppo" else theirs), "policy", dtype="bfloat16")
    asked = changed(asked, "policy", gradient_checkpointing=True, tuning="full" if name == "ppo" else "lora")
    training = aligned(judge_stage(asked))
    curve = [json.loads(line) for line in (runner.folder(training) / "curve.jsonl").read_text().splitlines()]
    assert training.spec["precision"] == "bfloat16"
    assert 0 <= curve[-1]["validation_kl"] < 5 and curve[-1]["entropy"] > 0
