"""What a stage's key depends on, how many stages a grid has, and what is refused before anything runs."""

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_grid import TASK, changed, experiment

from xling.config.policies import Recorded
from xling.errors import ConfigError
from xling.experiment import Experiment, experiment_from
from xling.grid.stage import Cell, Stage
from xling.planning.dag import SHUFFLES, SOURCELESS, cells_from, judge_stage
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.system import Settings as SystemIdentity
from xling.rewards.untrained import Settings as Untrained
from xling.tasks.files import Settings as Files
from xling.tasks.m_rewardbench import Settings as MRewardBench
from xling.tasks.micro.words import LANGUAGES

RECORDED = Path(__file__).parent / "recorded.jsonl"


def stages(cells: list[Cell]) -> Counter[str]:
    """Number of different stages of each kind."""
    found: dict[str, Stage] = {}

    def walk(stage: Stage) -> None:
        if stage.key not in found:
            found[stage.key] = stage
            for parent in stage.parents.values():
                walk(parent)

    for cell in cells:
        walk(cell.stage)
    return Counter(stage.kind for stage in found.values())


def by_kind(asked: Experiment) -> dict[str, set[str]]:
    """Keys of a cell's stages."""
    out: dict[str, set[str]] = {}

    def walk(stage: Stage) -> None:
        out.setdefault(stage.kind, set()).add(stage.key)
        for parent in stage.parents.values():
            walk(parent)

    walk(judge_stage(asked))
    return out


def grid(folder: Path, langs: tuple[str, ...], **settings: Any) -> list[Experiment]:
    axes = {"rm_backbone": "same_as_policy", "seed": 0}
    return [
        experiment(folder, s, t, axes=axes | {"source_lang": s, "target_lang": t}, **settings)
        for s, t in itertools.product(langs, langs)
    ]


# --- nothing is done twice ----------------------------------------------------------------------------------


def test_a_6x6_grid(no_model: Path) -> None:
    cells = cells_from(grid(no_model, LANGUAGES))
    assert stages(cells) == {
        "base": 1,
        "sft": 6,
        "reward": 6,
        "pool": 6,
        "baseline": 6,
        "score": 36,
        "gold": 6,
        "judge": 36,
    }


def test_a_frozen_language_model_reads_each_text_once(no_model: Path) -> None:
    """Features are a language's, whatever the sources, and shuffled labels read the same."""
    cells = cells_from(grid(no_model, LANGUAGES, rm=FrozenLM()))
    expected = {"base": 1, "sft": 6, "features": 12, "reward": 6, "pool": 6, "baseline": 6}
    assert stages(cells) == expected | {"score": 36, "gold": 6, "judge": 36}
    with_controls = stages(cells_from(grid(no_model, LANGUAGES, rm=FrozenLM()), controls=True))
    assert with_controls["features"] == 12 and with_controls["reward"] == 6 * (1 + SHUFFLES)


def test_features_are_of_the_objective_and_of_what_the_model_sees(no_model: Path) -> None:
    asked = experiment(no_model, rm=FrozenLM())
    states = by_kind(experiment(no_model, rm=FrozenLM("states")))
    pairwise = by_kind(changed(asked, "task", feedback="pairwise"))
    more = by_kind(changed(asked, "task", ratings=60))
    own = by_kind(asked)
    assert not own["features"] & (states["features"] | pairwise["features"])
    assert own["sft"] == states["sft"] == pairwise["sft"] == more["sft"]


def test_a_6x6_grid_with_controls(no_model: Path) -> None:
    """Five permutations a source, scored on every target; seven references that have no source."""
    cells = cells_from(grid(no_model, LANGUAGES), controls=True)
    per_pair = 36 * (1 + SHUFFLES) + 6 * len(SOURCELESS)
    assert len(cells) == per_pair == 258
    assert stages(cells) == {
        "base": 1,
        "sft": 6,
        "reward": 6 * (1 + SHUFFLES),
        "pool": 6,
        "baseline": 6,
        "score": per_pair,
        "gold": 6,
        "judge": per_pair,
    }
    assert len({cell.stage.key for cell in cells}) == len(cells)


def test_controls_are_told_by_their_axes(no_model: Path) -> None:
    cells = cells_from(grid(no_model, ("de", "tr")), controls=True)[4:]
    axes = Counter((cell.axes["rm_backbone"], cell.axes["source_lang"]) for cell in cells)
    shuffled = {(f"shuffled_{k}:same_as_policy", source): 2 for k in range(1, SHUFFLES + 1) for source in ("de", "tr")}
    assert axes == shuffled | {(name, "-"): 2 for name in SOURCELESS}


def test_each_seed_has_its_controls(no_model: Path) -> None:
    [first] = grid(no_model, ("de",))
    second = msgspec.structs.replace(first, seed=1, axes=first.axes | {"seed": 1})
    assert len(cells_from([first, second], controls=True)) == 2 * (1 + SHUFFLES + len(SOURCELESS))


def test_references_do_not_depend_on_how_the_reward_model_is_tuned(no_model: Path) -> None:
    [one] = grid(no_model, ("de",))
    asked = [
        msgspec.structs.replace(
            changed(one, "rm_backbone", tuning=tuning), axes=one.axes | {"rm_backbone.tuning": tuning}
        )
        for tuning in ("full", "frozen")
    ]
    cells = cells_from(asked, controls=True)
    assert len(cells) == 2 * (1 + SHUFFLES) + len(SOURCELESS)
    assert all("rm_backbone.tuning" not in c.axes for c in cells if c.axes["source_lang"] == "-")


def test_a_pooled_source_is_one_more_sft_and_reward(no_model: Path) -> None:
    asked = [
        experiment(no_model, s, t, axes={"source_lang": s, "target_lang": t})
        for s in ("de", "en", "de+en")
        for t in ("de", "en")
    ]
    assert stages(cells_from(asked)) == {
        "base": 1,
        "sft": 3,
        "reward": 3,
        "pool": 2,
        "baseline": 2,
        "score": 6,
        "gold": 2,
        "judge": 6,
    }


def test_the_order_of_pooled_sources_does_not_matter(no_model: Path) -> None:
    assert judge_stage(experiment(no_model, "de+en")).key == judge_stage(experiment(no_model, "en+de")).key


def test_judging_by_the_targets_reward_model_uses_its_scores(no_model: Path) -> None:
    cells = cells_from(grid(no_model, ("de", "en", "tr"), judge="target_rm"))
    assert stages(cells)["score"] == 9 and "gold" not in stages(cells)
    for cell in cells:
        home = judge_stage(experiment(no_model, cell.axes["target_lang"], cell.axes["target_lang"]))  # type: ignore[arg-type]
        assert cell.stage.parents["verdict"].key == home.parents["score"].key


def test_two_judges_share_all_that_is_below(no_model: Path) -> None:
    gold, target = (by_kind(experiment(no_model, judge=judge)) for judge in ("gold", "target_rm"))
    assert gold["score"] < target["score"] and gold["pool"] == target["pool"]
    assert gold["reward"] < target["reward"]


# --- keys ---------------------------------------------------------------------------------------------------

ALL = {"base", "sft", "reward", "pool", "baseline", "score", "gold", "judge"}
AFTER_POOL = {"pool", "score", "gold", "judge"}
AFTER_SAMPLES = AFTER_POOL | {"baseline"}
AFTER_REWARD = {"reward", "score", "judge"}
TASK_CHANGES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("task", {"test_prompts": 13}, AFTER_SAMPLES),
    ("task", {"seed": 1}, ALL - {"base"}),
    ("task", {"demonstrations": 41}, ALL - {"base"}),
    ("task", {"demonstration_error": 0.5}, ALL - {"base"}),
    ("task", {"ratings": 41}, AFTER_REWARD),
    ("task", {"rating_error": 0.6}, AFTER_REWARD),
    ("task", {"lead_bias": 0.3}, ALL - {"base"}),
    ("task", {"label_noise": 0.2}, AFTER_REWARD),
    ("task", {"validation": 17}, ALL - {"base"}),
    ("task", {"languages": ("en", "tr")}, set()),
    ("policy", {"n": 5}, AFTER_POOL),
    ("policy", {"baseline_samples": 3}, (AFTER_SAMPLES - {"pool"})),
    ("policy", {"temperature": 0.9}, AFTER_SAMPLES),
    ("policy", {"top_p": 0.9}, AFTER_SAMPLES),
    ("policy", {"sampling_chunk": 9}, AFTER_SAMPLES),
    ("policy", {"max_new_tokens": 9}, ALL - {"base"}),
    ("sft", {"steps": 7}, ALL - {"base"}),
    ("rm_backbone", {"tuning": "frozen"}, AFTER_REWARD),
    ("rm_backbone", {"pooling": "mean"}, AFTER_REWARD),
    ("rm_backbone", {"permutation": 1}, AFTER_REWARD),
    ("rm_backbone", {"objective": "pairwise"}, AFTER_REWARD),
    ("rm_backbone", {"init": "base"}, AFTER_REWARD),
    ("optimizer", {"n": 2}, {"judge"}),
]


@pytest.mark.parametrize(
    ("part", "values", "touched"), TASK_CHANGES, ids=[f"{p}.{next(iter(v))}" for p, v, _ in TASK_CHANGES]
)
def test_a_setting_changes_the_stages_that_read_it_and_those_below(
    no_model: Path, part: str, values: dict[str, Any], touched: set[str]
) -> None:
    before, after = by_kind(experiment(no_model)), by_kind(changed(experiment(no_model), part, **values))
    # An RM from the base needs no SFT of its source: there are fewer of them, and the target's is the same.
    differing = {kind for kind in before if not after[kind] <= before[kind]}
    assert differing == touched


@pytest.mark.parametrize("rm", [SameAsPolicy(), SameAsPolicy(objective="pairwise"), Untrained("length")])
def test_only_stages_that_draw_summaries_know_their_lead_bias(no_model: Path, rm: Any) -> None:
    """The others depend on it through their parents, if at all; their own spec holds the default."""
    default, other = TASK.lead_bias, 0.3
    read: dict[str, set[float]] = {}

    def walk(stage: Stage) -> None:
        if "task" in stage.spec:
            read.setdefault(stage.kind, set()).add(stage.spec["task"]["lead_bias"])
        for parent in stage.parents.values():
            walk(parent)

    walk(judge_stage(changed(experiment(no_model, rm=rm), "task", lead_bias=other)))
    reward = {} if isinstance(rm, Untrained) else {"reward": {other}}
    assert read == reward | {
        "sft": {other},
        "score": {other},
        "pool": {default},
        "baseline": {default},
        "gold": {default},
    }


def test_the_seed_changes_all_but_the_base(no_model: Path) -> None:
    before = by_kind(experiment(no_model))
    after = by_kind(msgspec.structs.replace(experiment(no_model), seed=1))
    assert {kind for kind in before if before[kind] & after[kind]} == {"base"}


def test_names_of_languages_are_in_no_key(no_model: Path) -> None:
    asked = experiment(no_model)
    renamed = changed(asked, "target_lang", name="Turkish", native_name="Türkçe")
    assert judge_stage(asked).key == judge_stage(renamed).key


def test_specs_are_json_and_say_nothing_of_where_things_run(no_model: Path) -> None:
    def walk(stage: Stage) -> Iterator[Stage]:
        yield stage
        for parent in stage.parents.values():
            yield from walk(parent)

    names = {name for stage in walk(judge_stage(experiment(no_model))) for name in stage.spec}
    assert not names & {"device", "threads", "workers", "root", "tracking", "launcher"}
    for stage in walk(judge_stage(experiment(no_model))):
        assert msgspec.json.decode(msgspec.json.encode(stage.spec)) is not None


def test_the_opponent_of_a_target_is_the_same_whatever_the_source(no_model: Path) -> None:
    cells = cells_from(grid(no_model, ("de", "en", "tr")), controls=True)
    opponents = {(c.axes["target_lang"], c.stage.parents["baseline"].key) for c in cells}
    assert len(opponents) == 3


def test_labels_name_the_languages(no_model: Path) -> None:
    stage = judge_stage(experiment(no_model, "en+de", "tr"))
    assert stage.label == "judge[de+en, tr]"
    assert stage.parents["score"].label == "score[de+en, tr]"
    assert stage.parents["pool"].label == "pool[tr]"
    shuffled = judge_stage(experiment(no_model, rm=SameAsPolicy(permutation=2)))
    assert shuffled.parents["score"].parents["reward"].label == "reward[en] shuffled 2"


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys, xling.planning.dag, xling.models.hub as r; r.recipe_digest(); "
        "print([m for m in ('torch', 'transformers', 'peft', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- refusals -----------------------------------------------------------------------------------------------

FILES = Files(path=str(RECORDED), languages=("en", "tr"))
BENCHMARK = MRewardBench(path="nowhere")
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"task": FILES}, r"recorded\.jsonl is not a file, nor a folder or glob with tables"),
    ({"task": BENCHMARK, "judge": "human", "rm": BagOfWords()}, r"m_rewardbench is for evaluation only.*reward_task="),
    ({"task": BENCHMARK}, r"judge=gold cannot judge recorded responses"),
    ({"reward_task": TASK}, r"reward_task goes with recorded responses"),
    ({"policy": Recorded()}, r"policy=recorded needs recorded responses, and task=micro_summarization has none"),
    ({"rm": SystemIdentity()}, r"rm_backbone=system reads recorded responses .* use rm_backbone=same_as"),
    ({"rm": Untrained("human")}, r"rm_backbone=human reads recorded responses"),
    ({"judge": "human"}, r"judge=human needs recorded ratings .* Use judge=gold or target_rm"),
    (
        {"rm": Untrained("length"), "judge": "target_rm"},
        r"judge=target_rm judges by the target's reward model, and rm_backbone=length has none",
    ),
    ({"n": 5}, r"optimizer\.n=5 is larger than the pool: policy\.n=4\. Raise policy\.n or lower optimizer\.n"),
    (
        {"task": FILES, "policy": Recorded(), "judge": "gold", "rm": BagOfWords()},
        r"judge=gold cannot judge recorded responses\. Use judge=human",
    ),
    (
        {"task": FILES, "policy": Recorded(), "judge": "human"},
        r"rm_backbone=same_as_policy needs a language model and policy=recorded has none\. Use rm_backbone=sentence",
    ),
    (
        {"task": FILES, "policy": Recorded(), "judge": "human", "rm": Untrained("likelihood_sft")},
        r"rm_backbone=likelihood_sft needs a language model",
    ),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_what_does_not_go_together_is_refused(no_model: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        judge_stage(experiment(no_model, **settings))


@pytest.mark.parametrize("value", [1.5, -0.1])
def test_a_share_beyond_its_bounds_is_refused_by_name(no_model: Path, value: float) -> None:
    container = msgspec.to_builtins(experiment(no_model))
    assert experiment_from(container) == experiment(no_model)
    container["task"]["lead_bias"] = value
    with pytest.raises(ConfigError, match=r"task\.lead_bias=.* does not fit"):
        experiment_from(container)


def test_the_whole_pool_may_be_asked_for(no_model: Path) -> None:
    judge_stage(experiment(no_model, n=4))


def test_a_checkpoint_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.checkpoint=.*nowhere is no folder of a model"):
        judge_stage(experiment(tmp_path / "nowhere"))


# --- recorded responses -------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path) -> Files:
    rows = [
        {
            "id": str(d),
            "lang": lang,
            "document": f"{lang} {d}",
            "response": f"{system} says {d}",
            "system": system,
            "rating": d % 3 + (system == "a"),
        }
        for lang in ("en", "tr")
        for d in range(12)
        for system in "ab"
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return Files(path=str(path), languages=("en", "tr"), folds=3)


def people(task: Files, source: str, target: str, rm: Any) -> Experiment:
    axes = {"rm_backbone": "bag_of_words", "source_lang": source, "target_lang": target}
    return experiment(Path("unused"), source, target, rm=rm, task=task, policy=Recorded(), judge="human", axes=axes)


def test_recorded_systems_are_pool_and_opponent_at_once(recorded: Files) -> None:
    cells = cells_from([people(recorded, s, t, BagOfWords()) for s in ("en", "tr") for t in ("en", "tr")])
    assert stages(cells) == {"recorded": 2, "reward": 2, "score": 4, "gold": 2, "judge": 4}
    for cell in cells:
        assert cell.stage.parents["pool"] is cell.stage.parents["baseline"]


def test_controls_of_recorded_systems(recorded: Files) -> None:
    asked = people(recorded, "en", "tr", BagOfWords())
    names = [cell.axes["rm_backbone"] for cell in cells_from([asked], controls=True)]
    assert names == [
        "bag_of_words",
        *(f"shuffled_{k}:bag_of_words" for k in range(1, SHUFFLES + 1)),
        "random",
        "length",
        "human",
    ]


def test_languages_of_the_task_are_in_no_key(recorded: Files) -> None:
    one = judge_stage(people(recorded, "en", "tr", BagOfWords()))
    other = msgspec.structs.replace(recorded, languages=("en", "tr", "vi"))
    assert judge_stage(people(other, "en", "tr", BagOfWords())).key == one.key


def test_the_tasks_sizes_are_those_of_the_tests() -> None:
    assert TASK.languages == LANGUAGES
