"""How much work a stage is: units and operations by hand, and which recorded times count."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from own_files import jsonl, paired
from small_grid import BUDGET, TASK, M, N, changed, every, experiment

from xling.config.policies import LanguageModel
from xling.grid.estimate import SPEEDS, Estimate, Rates, rates_from, speed_of
from xling.grid.plan import make_plan
from xling.grid.stage import Cell, Stage, Tokens, Work
from xling.grid.store import Store
from xling.judges.llm import Settings as LlmJudge
from xling.models.checkpoints import parameters_of
from xling.models.hub import UNRESOLVED
from xling.models.sizes import sizes_of
from xling.optimizers.ppo import Settings as PPO
from xling.planning import KINDS, costs, memory, unresolved
from xling.planning.dag import judge_stage
from xling.planning.judging import notes
from xling.results.specs import located
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.implicit import Settings as Implicit
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.runners import local, slurm
from xling.runners.slurm.settings import Resources, Slurm
from xling.tasks.files import Settings as Files
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.options import Task, task_module, tokens_of
from xling.translators.seq2seq import Settings as Seq2Seq

COST: dict[str, Any] = {
    "flops_per_second": 1e9,
    "utilisation": {"training": 0.5, "reading": 0.5, "sampling": 0.1},
    "prompt_tokens": 20,
    "response_tokens": 5,
}
LENGTHS = Tokens(20, 5)


def stages(asked: Any) -> dict[str, Stage]:
    """By kind, one of each."""
    return {stage.kind: stage for stage in every(judge_stage(asked)).values()}


def work(stage: Stage, tokens: Tokens = LENGTHS) -> Any:
    found = KINDS[stage.kind].work
    assert found is not None
    return found(stage, tokens)


def test_training_sampling_and_scoring(tiny_folder: Path) -> None:
    found, model = stages(experiment(tiny_folder)), parameters_of(str(tiny_folder), None)
    assert model is not None
    seen = BUDGET.steps * BUDGET.batch_size
    once = 2 * (model.prompt * 20 + (model.response + model.head) * 5)
    assert work(found["sft"]).flops["training"] == 3 * seen * once
    assert work(found["reward"]).flops["training"] == 3 * seen * 2 * model.prompt * 25
    assert work(found["reward"]).flops["reading"] == BUDGET.steps // BUDGET.eval_every * TASK.validation * (
        2 * model.prompt * 25
    )
    pool = work(found["pool"])
    assert pool.units == {"samples": N * TASK.test_prompts}
    assert pool.flops["reading"] == TASK.test_prompts * 2 * model.prompt * 20
    assert pool.flops["sampling"] == N * TASK.test_prompts * 2 * (model.response + model.head) * 5
    assert work(found["score"]).units == {
        "scorings of answers": N * TASK.test_prompts, "of opponents": M * TASK.test_prompts,
        "of held-out feedback": TASK.test_prompts,
    }  # fmt: skip


def test_a_log_ratio_is_of_two_models_with_their_heads(tiny_folder: Path) -> None:
    own, headed = (stages(experiment(tiny_folder, rm=rm)) for rm in (Implicit(BUDGET), SameAsPolicy(BUDGET)))
    model = parameters_of(str(tiny_folder), None)
    assert model is not None
    once = 2 * (model.prompt * 20 + (model.response + model.head) * 5)
    trained, evaluated = work(own["reward"]), BUDGET.steps // BUDGET.eval_every * TASK.validation
    assert trained.flops["training"] == 3 * BUDGET.steps * BUDGET.batch_size * once
    assert trained.flops["reading"] == (evaluated + TASK.ratings + TASK.validation) * once  # the reference's, once
    texts = TASK.test_prompts * (N + M + 1)
    heads = 2 * model.head * 5 * texts
    assert work(own["score"]).flops["reading"] == 2 * (work(headed["score"]).flops["reading"] + heads)
    pairs = stages(experiment(tiny_folder, rm=Implicit(BUDGET, ratings="pairs")))
    assert work(pairs["reward"]).flops["training"] == 2 * trained.flops["training"]


def test_no_text_is_longer_than_it_may_be(tiny_folder: Path) -> None:
    pool = stages(experiment(tiny_folder))["pool"]
    longest, short = work(pool, Tokens(2000, 2000)), work(pool)
    assert longest.flops["reading"] / short.flops["reading"] == pool.spec["max_prompt_tokens"] / 20
    assert work(pool, Tokens(10**6, 10**6)).flops == longest.flops  # no longer than they may be


def test_ppo_trains_two_networks_and_reads_with_four(tiny_folder: Path) -> None:
    ppo = PPO(steps=3, batch_size=8, value_only_steps=2, epochs=2)
    found, model = stages(experiment(tiny_folder, optimizer=ppo)), parameters_of(str(tiny_folder), None)
    assert model is not None
    align = work(found["align"])
    once = model.forward(20, 5)
    assert align.units == {"responses learnt from": 8 * 5}
    assert align.flops["training"] == 3 * 2 * once * 8 * (3 + 5)  # policy 3 steps, value model 5
    reading = model.forward(20, 0) + 3 * once + model.forward(20, 5, head=False)
    assert align.flops["reading"] == pytest.approx(8 * 5 * reading)
    within = msgspec.structs.replace(ppo, value_only="inside", value_only_steps=1)
    inside = work(stages(experiment(tiny_folder, optimizer=within))["align"])
    assert inside.units == {"responses learnt from": 8 * 3}


def test_what_reads_nothing_costs_nothing(tiny_folder: Path) -> None:
    found = stages(experiment(tiny_folder, rm=BagOfWords()))
    assert work(found["reward"]).flops == {} and work(found["score"]).flops == {}
    assert work(found["score"]).units["scorings of answers"] == N * TASK.test_prompts


def test_calls_of_a_server_are_counted_and_cost_no_operations(tiny_folder: Path) -> None:
    judge = LlmJudge(base_url="http://localhost:1/v1", model="m")
    asked = experiment(tiny_folder, rm=BagOfWords(), judge=judge)
    assert work(stages(asked)["llm"]) == Work({}, {"judge calls": 2 * TASK.test_prompts})


def test_a_plan_without_an_llm_judge_has_nothing_to_say_of_one(tiny_folder: Path, tmp_path: Path) -> None:
    cells = [Cell({"target_lang": "tr"}, judge_stage(experiment(tiny_folder, rm=SentenceEncoder())))]
    assert notes(make_plan(cells, Store(tmp_path), kinds=KINDS)) == []


def test_an_estimate_is_the_work_at_the_rate_but_no_less_than_the_guess(tiny_folder: Path, tmp_path: Path) -> None:
    pool, store = stages(experiment(tiny_folder))["pool"], Store(tmp_path)

    def estimate(rates: Rates | None) -> Estimate:
        return make_plan([Cell({}, pool)], store, kinds=KINDS, rates=rates).estimates["pool"]

    flops = work(pool).flops
    fast, slow = (rates_from(COST | {"flops_per_second": speed}) for speed in (1e12, 1.0))
    guessed = estimate(fast)
    assert (guessed.seconds, guessed.modelled, guessed.recorded) == (KINDS["pool"].seconds, False, False)
    modelled = estimate(slow)
    assert modelled.modelled and modelled.seconds == pytest.approx(flops["reading"] / 0.5 + flops["sampling"] / 0.1)
    assert modelled.units == {"samples": N * TASK.test_prompts}
    assert estimate(None).units == {}  # without rates nothing is asked


def test_lengths_are_those_of_the_data_where_it_is_here(tiny_folder: Path, tmp_path: Path) -> None:
    """Bytes of the first rows over 4; what is named goes before."""
    rows = paired("en", 80) + paired("tr", 80)
    task = Files(str(jsonl(tmp_path / "own.jsonl", rows)), ("en", "tr"), feedback="pairwise")
    assert costs.measured(stages(experiment(tiny_folder))["pool"], Tokens()) == Tokens(50, 14)  # made, and not read
    assert tokens_of(Oasst("published"), "en") is None
    pool = stages(experiment(tiny_folder, task=task, judge="target_rm"))["pool"]
    demonstrated = task_module(task).demonstrations(pool_task(pool), "tr", "train")[:64]
    texts = zip(*((row.prompt.text, row.response) for row in demonstrated), strict=True)
    means = [sum(len(text.encode()) for text in column) / len(demonstrated) / 4 for column in texts]
    assert costs.measured(pool, Tokens()) == Tokens(*map(round, means)) and means[0] > 4
    assert costs.measured(pool, Tokens(7, None)) == Tokens(7, round(means[1]))
    model, seen = parameters_of(str(tiny_folder), None), work(pool, Tokens()).flops
    assert model is not None and seen["reading"] == 2 * model.prompt * round(means[0]) * pool_prompts(pool)


def pool_task(stage: Stage) -> Any:
    return msgspec.convert(located(stage.spec)["task"], Task)


def pool_prompts(stage: Stage) -> int:
    return len(task_module(pool_task(stage)).prompts(pool_task(stage), "tr", "test"))


def test_hours_are_those_of_the_device_that_would_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked: dict[str, Any] = {"gpus_per_node": 2}
    found = [
        local.speed(local.Settings(threads=2)),
        *(slurm.speed(Slurm(Resources(**one))) for one in (
            {"cpus_per_task": 4}, asked, asked | {"constraint": "a100&nvlink"}, {"gres": "gpu:H200:1"},
            {"additional_parameters": {"gpus": "v100:1"}},
        )),
    ]  # fmt: skip
    assert [one and one.name for one in found] == ["2 CPU threads", "4 CPU threads", None, "A100", "H200", "V100"]
    cost, once = COST | {"flops_per_second": None}, Work({"training": 1e15}, {})
    seconds = [rates_from(cost, one).seconds(once) for one in found]
    assert seconds[2] == rates_from(cost, SPEEDS["h100"]).seconds(once) == pytest.approx(2e15 / 9.89e14)
    assert seconds[0] == 2 * seconds[1] == pytest.approx(2e15 / 2e11)
    assert rates_from(COST, found[0]).seconds(once) == 2e15 / 1e9  # what is stated goes before
    assert speed_of("NVIDIA H100 80GB HBM3") == SPEEDS["h100"] and speed_of("RTX A4000") is None


def test_what_is_computed_in_float32_takes_longer_on_a_gpu(tiny_folder: Path) -> None:
    """A policy in bfloat16 is trained in it from weights in float32."""
    for dtype, single in (("float32", True), ("bfloat16", False)):
        asked = changed(experiment(tiny_folder, optimizer=PPO(steps=2, batch_size=8)), "policy", dtype=dtype)
        assert {kind: work(stage).single for kind, stage in stages(asked).items() if kind in PRICED} == dict.fromkeys(
            PRICED, single
        )
    gpu, once = rates_from(COST | {"flops_per_second": None}), Work({"training": 1.0}, {})
    assert gpu.seconds(replace(once, single=True)) / gpu.seconds(once) == pytest.approx(9.89e14 / 6.7e13)


PRICED = ("sft", "reward", "align", "aligned", "score")


# --- the hub --------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    unresolved._known.cache_clear()
    unresolved._settled.cache_clear()


def test_revisions_that_nobody_can_be_asked_for(offline: None) -> None:
    asked = msgspec.structs.replace(
        experiment(Path("here"), rm=SameAsPolicy(init="owner/reward", revision="v1")),
        policy=LanguageModel("owner/policy"), judge=LlmJudge(checkpoint="owner/judge"), task=Oasst("x"),
    )  # fmt: skip
    found, names = unresolved._without_commits(asked)
    assert names == {"owner/policy", "owner/reward", "owner/judge"}
    assert {found.policy.revision, found.rm_backbone.revision, found.judge.revision} == {UNRESOLVED}  # type: ignore[union-attr]
    assert found.task == asked.task
    own = experiment(Path("folder"))
    assert unresolved._without_commits(own) == (own, frozenset())


def test_a_translation_model_a_pair_is_asked_for_by_pair(offline: None, tiny_folder: Path) -> None:
    model = Seq2Seq(checkpoint="owner/opus-{source}-{target}")
    organic = msgspec.structs.replace(experiment(tiny_folder, "en", "tr"), translator=model)
    assert unresolved._without_commits(organic) == (organic, frozenset())
    there, names = unresolved._without_commits(msgspec.structs.replace(organic, reward_data="translated"))
    assert names == {"owner/opus-en-tr"}
    assert {s.label for s in stages(there)["translate"].parents.values()} == {"base owner/opus-en-tr@?"}
    _, names = unresolved._without_commits(msgspec.structs.replace(organic, sft_data="round_trip"))
    assert names == {"owner/opus-en-tr", "owner/opus-tr-en"}


def test_an_unresolved_model_is_planned_and_never_cached(offline: None) -> None:
    asked, _ = unresolved._without_commits(changed(experiment(Path("x")), "policy", checkpoint="google/mt5-small"))
    base = stages(asked)["base"]
    assert base.label == "base google/mt5-small@?" and base.spec["commit"] == UNRESOLVED
    assert work(stages(asked)["pool"]).flops["sampling"] > 0  # by the table


def test_kinds_know_what_computes_and_how_much_memory_it_takes(tiny_folder: Path) -> None:
    """A reward model that counts words computes nothing, one that is a network does."""
    model = sizes_of(str(tiny_folder), None)
    assert model is not None

    def computing(asked: Any) -> set[str]:
        return {kind for kind, stage in stages(asked).items() if KINDS[kind].gpu(stage)}

    policies = {"sft", "pool", "baseline"}
    assert computing(experiment(tiny_folder)) == {*policies, "reward", "score"}
    assert computing(experiment(tiny_folder, rm=BagOfWords())) == policies
    trained = stages(experiment(tiny_folder, optimizer=PPO()))
    assert computing(experiment(tiny_folder, optimizer=PPO())) == {
        "sft",
        "reward",
        "align",
        "aligned",
        "baseline",
        "score",
    }
    sizes = {kind: found(stage) for kind, stage in trained.items() if (found := KINDS[kind].memory) is not None}
    assert sizes["sft"] == sizes["reward"] == memory.IDLE + 24 * model.weights and sizes["align"] > sizes["sft"]
    assert sizes["aligned"] == memory.IDLE + 6 * model.weights
    endpoint = experiment(tiny_folder, judge=LlmJudge(base_url="http://127.0.0.1:9/v1", model="m"))
    assert "llm" in stages(endpoint) and "llm" not in computing(endpoint)
    assert "llm" in computing(experiment(tiny_folder, judge=LlmJudge(checkpoint=str(tiny_folder))))
