"""Which stages a grid has, what a stage's key depends on, and what is refused before anything runs."""

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import families
import msgspec
import pytest
from own_files import jsonl, rated
from small_grid import TASK, by_kind, changed, counted, every, experiment, kinds_that_differ, refused

from xling.config.policies import Recorded
from xling.errors import ConfigError
from xling.experiment import Experiment, experiment_from
from xling.judges.target_rm import Settings as TargetRM
from xling.optimizers.ppo import Settings as PPO
from xling.planning.controls import SHUFFLES, SOURCELESS
from xling.planning.dag import cells_from, judge_stage
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.system import Settings as SystemIdentity
from xling.rewards.untrained import Settings as Untrained
from xling.tasks.files import Settings as Files
from xling.tasks.m_rewardbench import Settings as MRewardBench
from xling.tasks.micro.words import LANGUAGES
from xling.translators.micro_exact import Settings as MicroExact

AXES = {"rm_backbone": "same_as_policy", "source_lang": "en", "target_lang": "tr", "seed": 0}


def grid(folder: Path, sources: tuple[str, ...], targets: tuple[str, ...] = (), **settings: Any) -> list[Experiment]:
    pairs = itertools.product(sources, targets or sources)
    return [experiment(folder, s, t, axes=AXES | {"source_lang": s, "target_lang": t}, **settings) for s, t in pairs]


# --- nothing is done twice ----------------------------------------------------------------------------------

SIX = {"base": 1, "sft": 6, "reward": 6, "pool": 6, "baseline": 6, "score": 36, "gold": 6, "judge": 36}


def test_a_6x6_grid(no_model: Path) -> None:
    assert counted(cells_from(grid(no_model, LANGUAGES))) == SIX


def test_a_frozen_language_model_reads_each_text_once(no_model: Path) -> None:
    """Features are a language's, whatever the sources, and shuffled labels read the same."""
    asked = grid(no_model, LANGUAGES, rm=FrozenLM())
    assert counted(cells_from(asked)) == SIX | {"features": 12}
    with_controls = counted(cells_from(asked, controls=True))
    assert with_controls["features"] == 12 and with_controls["reward"] == 6 * (1 + SHUFFLES)


def test_features_are_of_the_objective_and_of_what_the_model_sees(no_model: Path) -> None:
    asked = experiment(no_model, rm=FrozenLM())
    own, states = by_kind(asked), by_kind(experiment(no_model, rm=FrozenLM("states")))
    pairwise, more = by_kind(changed(asked, "task", feedback="pairwise")), by_kind(changed(asked, "task", ratings=60))
    assert not own["features"] & (states["features"] | pairwise["features"])
    assert own["sft"] == states["sft"] == pairwise["sft"] == more["sft"]


def test_a_pooled_source_is_one_more_sft_and_reward_in_whatever_order(no_model: Path) -> None:
    found = counted(cells_from(grid(no_model, ("de", "en", "de+en"), ("de", "en"))))
    assert found == {"base": 1, "sft": 3, "reward": 3, "pool": 2, "baseline": 2, "score": 6, "gold": 2, "judge": 6}
    assert judge_stage(experiment(no_model, "de+en")).key == judge_stage(experiment(no_model, "en+de")).key


def test_judging_by_the_targets_reward_model_uses_its_scores(no_model: Path) -> None:
    cells = cells_from(grid(no_model, ("de", "en", "tr"), judge="target_rm"))
    assert counted(cells)["score"] == 9 and "gold" not in counted(cells)
    for cell in cells:
        home = judge_stage(experiment(no_model, str(cell.axes["target_lang"]), str(cell.axes["target_lang"])))
        assert cell.stage.parents["verdict"].key == home.parents["score"].key


def test_two_judges_share_all_that_is_below(no_model: Path) -> None:
    gold, target = (by_kind(experiment(no_model, judge=judge)) for judge in ("gold", "target_rm"))
    assert gold["score"] < target["score"] and gold["pool"] == target["pool"] and gold["reward"] < target["reward"]


# --- documents in another language than summaries -------------------------------------------------------------

ENGLISH = msgspec.structs.replace(TASK, document_lang="en")
ALL_ENGLISH = msgspec.structs.replace(ENGLISH, feedback_documents="document_lang")


def test_the_language_of_documents_is_an_axis_of_policies_and_not_of_reward_models(no_model: Path) -> None:
    """Of en and tr by en and tr: a policy more for Turkish summaries of English documents, and no reward model."""
    plain, asked = (grid(no_model, ("en", "tr"), task=task, rm=FrozenLM()) for task in (TASK, ENGLISH))
    cells = [cells_from(each) for each in (plain, asked)]
    differ = [(one.axes["source_lang"], one.axes["target_lang"]) for one in cells[0] if one.stage.key not in
              {other.stage.key for other in cells[1]}]  # fmt: skip
    assert differ == [("en", "tr"), ("tr", "tr")]  # English of English documents is what it always was
    assert kinds_that_differ(plain[1], asked[1]) == {"sft", "pool", "baseline", "features", "score", "gold", "judge"}
    assert by_kind(plain[1])["reward"] == by_kind(asked[1])["reward"]
    assert counted([*cells[0], *cells[1]]) == {"base": 1, "sft": 3, "reward": 2, "pool": 3, "baseline": 3, "score": 6,
                                               "gold": 3, "judge": 6, "features": 2 + 3}  # fmt: skip


def test_reward_models_learn_in_their_own_language_or_of_the_same_documents(no_model: Path) -> None:
    """Tuned whole they start from the policy of their own documents, unless the feedback is of the others as well."""
    tasks = (TASK, ENGLISH, ALL_ENGLISH)
    plain, own, other = (by_kind(experiment(no_model, "tr", "tr", task=task)) for task in tasks)
    assert plain["reward"] == own["reward"] != other["reward"]
    assert plain["sft"] < own["sft"] and other["sft"] < own["sft"] and len(other["sft"]) == 1
    judged = [experiment(no_model, "en", "tr", task=task, judge="target_rm") for task in (TASK, ENGLISH)]
    assert by_kind(judged[0])["reward"] == by_kind(judged[1])["reward"]


# --- controls -----------------------------------------------------------------------------------------------


def test_a_6x6_grid_with_controls(no_model: Path) -> None:
    """Five permutations a source, scored on every target; seven references that have no source."""
    cells = cells_from(grid(no_model, LANGUAGES), controls=True)
    per_pair = 36 * (1 + SHUFFLES) + 6 * len(SOURCELESS)
    assert len(cells) == len({cell.stage.key for cell in cells}) == per_pair == 258
    assert counted(cells) == SIX | {"reward": 6 * (1 + SHUFFLES), "score": per_pair, "judge": per_pair}
    assert len({(c.axes["target_lang"], c.stage.parents["baseline"].key) for c in cells}) == 6  # whatever the source


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


def test_controls_are_judged_by_the_targets_own_true_reward_model(no_model: Path) -> None:
    own = judge_stage(experiment(no_model, "tr", "tr", judge="target_rm")).parents["score"].key
    cells = cells_from(grid(no_model, ("en",), ("tr",), judge="target_rm"), controls=True)
    assert {cell.stage.parents["verdict"].key for cell in cells} == {own}
    names = {cell.axes["rm_backbone"] for cell in cells}
    assert {"random", "shuffled_1:same_as_policy", "likelihood_sft"} <= names


def test_permuted_labels_asked_for_alone_are_judged_by_true_ones(no_model: Path) -> None:
    """The judge was the very model of permuted labels, at home and abroad."""
    permuted, plain = (
        judge_stage(experiment(no_model, judge="target_rm", rm=BagOfWords(permutation=k))).parents for k in (1, 0)
    )
    assert permuted["verdict"].key == plain["verdict"].key and permuted["score"].key != plain["score"].key


def test_references_that_two_judges_would_judge_are_refused(no_model: Path) -> None:
    """They stood once in the matrix, judged by the kind of whichever row was typed first."""
    kinds = {"bag_of_words": BagOfWords(), "same_as_policy": SameAsPolicy()}
    asked = [
        experiment(no_model, judge="target_rm", rm=rm, axes=AXES | {"rm_backbone": name}) for name, rm in kinds.items()
    ]
    with pytest.raises(ConfigError, match=r"random in tr .* judge/rm_backbone=bag_of_words"):
        cells_from(asked, controls=True)
    by_one = [msgspec.structs.replace(one, judge=TargetRM(BagOfWords())) for one in asked]
    assert len({cell.stage.parents["verdict"].key for cell in cells_from(by_one, controls=True)}) == 1


def test_each_encoder_has_its_own_cosine(tmp_path: Path) -> None:
    """One stood for all that are swept: the first one's."""
    task = Files(str(jsonl(tmp_path / "own.jsonl", rated("en", 20) + rated("tr", 20))), ())
    asked = []
    for name in ("one", "two"):
        folder = families.saved_encoder(tmp_path / name, "bert")
        (folder / "note.json").write_text(f'"{name}"')  # which makes it another one
        axes = {"rm_backbone": "sentence_encoder", "rm_backbone.encoder": name}
        asked.append(msgspec.structs.replace(people(task, SentenceEncoder(str(folder))), axes=AXES | axes))
    cells = cells_from(asked, controls=True)
    cosines = [cell for cell in cells if cell.axes["rm_backbone"] == "cosine"]
    assert len({cell.axes["rm_backbone.encoder"] for cell in cosines}) == len({one.stage.key for one in cosines}) == 2
    [random] = [cell for cell in cells if cell.axes["rm_backbone"] == "random"]
    assert "rm_backbone.encoder" not in random.axes


# --- keys ---------------------------------------------------------------------------------------------------

ALL = {"base", "sft", "reward", "pool", "baseline", "score", "gold", "judge"}
AFTER_BASE = ALL - {"base"}
AFTER_POOL = {"pool", "score", "gold", "judge"}
AFTER_SAMPLES = AFTER_POOL | {"baseline"}
AFTER_REWARD = {"reward", "score", "judge"}
CHANGES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("task", {"test_prompts": 13}, AFTER_SAMPLES),
    ("task", {"seed": 1}, AFTER_BASE),
    ("task", {"demonstrations": 41}, AFTER_BASE),
    ("task", {"demonstration_error": 0.5}, AFTER_BASE),
    ("task", {"ratings": 41}, AFTER_REWARD),
    ("task", {"pairs": 60}, set()),
    ("task", {"rating_error": 0.6}, AFTER_REWARD),
    ("task", {"lead_bias": 0.3}, AFTER_BASE),
    ("task", {"label_noise": 0.2}, AFTER_REWARD),
    ("task", {"validation": 17}, AFTER_BASE),
    ("task", {"languages": ("en", "tr")}, set()),
    ("policy", {"n": 5}, AFTER_POOL),
    ("policy", {"baseline_samples": 3}, AFTER_SAMPLES - {"pool"}),
    ("policy", {"temperature": 0.9}, AFTER_SAMPLES),
    ("policy", {"top_p": 0.9}, AFTER_SAMPLES),
    ("policy", {"sampling_chunk": 9}, set()),
    ("policy", {"sampling_memory": 1.0}, set()),
    ("policy", {"max_new_tokens": 9}, AFTER_BASE),
    ("sft", {"steps": 7}, AFTER_BASE),
    ("rm_backbone", {"tuning": "frozen"}, AFTER_REWARD),
    ("rm_backbone", {"pooling": "mean"}, AFTER_REWARD),
    ("rm_backbone", {"permutation": 1}, AFTER_REWARD),
    ("rm_backbone", {"objective": "pairwise"}, AFTER_REWARD),
    ("rm_backbone", {"init": "base"}, AFTER_REWARD),  # there is one SFT less, and the target's is the same
    ("optimizer", {"n": 2}, {"judge"}),
    ("optimizer", {"n": 4}, set()),  # the whole pool, by number
    ("target_lang", {"name": "Turkish", "native_name": "Türkçe"}, set()),
]


@pytest.mark.parametrize(("part", "values", "touched"), CHANGES, ids=[f"{p}.{next(iter(v))}" for p, v, _ in CHANGES])
def test_a_setting_changes_the_stages_that_read_it_and_those_below(
    no_model: Path, part: str, values: dict[str, Any], touched: set[str]
) -> None:
    asked = experiment(no_model)
    assert kinds_that_differ(asked, changed(asked, part, **values)) == touched


def test_a_pairwise_model_does_not_depend_on_the_number_of_ratings(no_model: Path) -> None:
    asked = changed(experiment(no_model), "rm_backbone", objective="pairwise")
    assert kinds_that_differ(asked, changed(asked, "task", ratings=60)) == set()
    assert kinds_that_differ(asked, changed(asked, "task", pairs=60)) == AFTER_REWARD


def test_the_seed_changes_all_but_the_base(no_model: Path) -> None:
    asked = experiment(no_model)
    assert kinds_that_differ(asked, msgspec.structs.replace(asked, seed=1)) == AFTER_BASE


@pytest.mark.parametrize("rm", [SameAsPolicy(), SameAsPolicy(objective="pairwise"), Untrained("length")])
def test_only_stages_that_draw_summaries_know_their_lead_bias(no_model: Path, rm: Any) -> None:
    """The others depend on it through their parents, if at all; their own spec holds the default."""
    read: dict[str, set[float]] = {}
    for stage in every(judge_stage(changed(experiment(no_model, rm=rm), "task", lead_bias=0.3))).values():
        if "task" in stage.spec:
            read.setdefault(stage.kind, set()).add(stage.spec["task"]["lead_bias"])
    drawing = {"sft", "score"} if isinstance(rm, Untrained) else {"sft", "score", "reward"}
    assert read.keys() == drawing | {"pool", "baseline", "gold"}
    assert all(biases == {0.3 if kind in drawing else TASK.lead_bias} for kind, biases in read.items())


def test_specs_are_json_and_say_nothing_of_where_things_run(no_model: Path) -> None:
    specs = [stage.spec for stage in every(judge_stage(experiment(no_model))).values()]
    assert not {name for spec in specs for name in spec} & {"device", "threads", "workers", "root", "tracking"}
    assert all(msgspec.json.decode(msgspec.json.encode(spec)) is not None for spec in specs)


def test_labels_name_the_languages(no_model: Path) -> None:
    labels = {stage.label for stage in every(judge_stage(experiment(no_model, "en+de", "tr"))).values()}
    assert {"judge[de+en, tr]", "score[de+en, tr]", "pool[tr]"} <= labels
    shuffled = every(judge_stage(experiment(no_model, rm=SameAsPolicy(permutation=2))))
    assert "reward[en] shuffled 2" in {stage.label for stage in shuffled.values()}


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys, xling.planning.dag, xling.models.hub as r; r.recipe_digest(); "
        "print([m for m in ('torch', 'transformers', 'peft', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- refusals -----------------------------------------------------------------------------------------------

FILES = Files(path=str(Path(__file__).parent / "recorded.jsonl"), languages=("en", "tr"))
BENCHMARK = MRewardBench(path="nowhere")
OF_PEOPLE: dict[str, Any] = {"task": FILES, "policy": Recorded(), "judge": "human"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"task": FILES}, r"recorded\.jsonl is not a file, nor a folder or glob with tables"),
    ({"task": BENCHMARK, "judge": "human", "rm": BagOfWords()}, r"m_rewardbench is for evaluation only.*reward_task="),
    ({"task": BENCHMARK}, r"judge=gold cannot judge recorded responses"),
    ({"reward_task": TASK}, r"reward_task goes with recorded responses"),
    ({"policy": Recorded()}, r"policy=recorded needs recorded responses, and task=micro_summarization has none"),
    ({"rm": SystemIdentity()}, r"rm_backbone=system reads recorded responses .* use rm_backbone=same_as"),
    ({"rm": Untrained("human")}, r"rm_backbone=human reads recorded responses"),
    ({"rm": Untrained("consensus"), "optimizer": PPO()}, r"rm_backbone=consensus compares .*=ppo learns .*=best_of_n"),
    ({"judge": "human"}, r"judge=human needs recorded ratings .* Use judge=gold or target_rm"),
    ({"rm": Untrained("length"), "judge": "target_rm"}, r"judge=target_rm judges by .* rm_backbone=length has none"),
    (
        {"task": ENGLISH, "sft_data": "translated", "translator": MicroExact()},
        r"sft_data=translated translates documents with their summaries, and with task\.document_lang=en these are in "
        r"two languages\. Type task\.document_lang=null, or sft_data=organic",
    ),
    (
        {"task": ALL_ENGLISH, "reward_data": "translated", "translator": MicroExact()},
        r"reward_data=translated translates .* task\.document_lang=en these are in two languages.* reward_data=organic",
    ),
    ({"n": 5}, r"optimizer\.n=5 is larger than the pool: policy\.n=4\. Raise policy\.n or lower optimizer\.n"),
    (OF_PEOPLE | {"judge": "gold", "rm": BagOfWords()}, r"judge=gold cannot judge recorded .* Use judge=human"),
    (OF_PEOPLE, r"same_as_policy needs a language model and policy=recorded has none\. Use rm_backbone=sentence"),
    (
        OF_PEOPLE | {"rm": Untrained("likelihood_sft")},
        r"rm_backbone=likelihood_sft reads the policy.* rm_backbone=likelihood rm_b",
    ),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_what_does_not_go_together_is_refused(no_model: Path, settings: dict[str, Any], sentence: str) -> None:
    refused(experiment(no_model, **settings), sentence)


@pytest.mark.parametrize(
    ("values", "rm", "sentence"),
    [
        ({"demonstrations": 4}, None, r"task\.demonstrations=4 leaves 4 demonstrations of tr .*: sft\.batch_size=8"),
        ({"ratings": 4}, None, r"task\.ratings=4 leaves 4 .* rm_backbone\.training\.batch_size=8"),
        ({"pairs": 4}, SameAsPolicy(objective="pairwise"), r"task\.pairs=4"),
    ],
)
def test_less_data_than_one_batch_is_refused(no_model: Path, values: dict[str, int], rm: Any, sentence: str) -> None:
    refused(changed(experiment(no_model, **({} if rm is None else {"rm": rm})), "task", **values), sentence)


@pytest.mark.parametrize("value", [1.5, -0.1])
def test_a_share_beyond_its_bounds_is_refused_by_name(no_model: Path, value: float) -> None:
    container = msgspec.to_builtins(experiment(no_model))
    assert experiment_from(container) == experiment(no_model)
    container["task"]["lead_bias"] = value
    with pytest.raises(ConfigError, match=r"task\.lead_bias=.* does not fit"):
        experiment_from(container)


def test_a_checkpoint_that_is_no_model_is_refused(tmp_path: Path) -> None:
    refused(experiment(tmp_path / "nowhere"), r"policy\.checkpoint=.*nowhere is no folder of a model")


# --- recorded responses -------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path) -> Files:
    rows = [
        {"id": str(d), "lang": lang, "document": f"{lang} {d}", "response": f"{system} says {d}", "system": system,
         "rating": d % 3 + (system == "a")}
        for lang in ("en", "tr") for d in range(12) for system in "ab"
    ]  # fmt: skip
    return Files(path=str(jsonl(tmp_path / "rows.jsonl", rows)), languages=("en", "tr"), folds=3)


def people(task: Files, rm: Any, source: str = "en", target: str = "tr") -> Experiment:
    axes = {"rm_backbone": "bag_of_words", "source_lang": source, "target_lang": target}
    return experiment(Path("unused"), source, target, rm=rm, task=task, policy=Recorded(), judge="human", axes=axes)


def test_recorded_systems_are_pool_and_opponent_at_once(recorded: Files) -> None:
    pairs = itertools.product(("en", "tr"), ("en", "tr"))
    cells = cells_from([people(recorded, BagOfWords(), s, t) for s, t in pairs])
    assert counted(cells) == {"recorded": 2, "reward": 2, "score": 4, "gold": 2, "judge": 4}
    assert all(cell.stage.parents["pool"] is cell.stage.parents["baseline"] for cell in cells)


def test_controls_of_recorded_systems(recorded: Files) -> None:
    cells = cells_from([people(recorded, BagOfWords())], controls=True)
    shuffled = [f"shuffled_{k}:bag_of_words" for k in range(1, SHUFFLES + 1)]
    references = ["random", "length", "shorter", "consensus", "human", "system"]
    assert [cell.axes["rm_backbone"] for cell in cells] == ["bag_of_words", *shuffled, *references]
    rivals = cells_from([people(recorded, BagOfWords())], controls="rivals")
    assert [cell.axes["rm_backbone"] for cell in rivals] == ["bag_of_words", *references]


def test_system_identity_learns_from_all_languages_but_the_target(recorded: Files) -> None:
    pairs = [("en", "en"), ("tr", "en"), ("en", "tr"), ("en+tr", "tr")]
    cells = cells_from([people(recorded, BagOfWords(), s, t) for s, t in pairs], controls="rivals")
    found = [cell for cell in cells if cell.axes["rm_backbone"] == "system"]
    learnt = {c.axes["target_lang"]: c.stage.parents["score"].parents["reward"].spec["langs"] for c in found}
    assert learnt == {"en": ("tr",), "tr": ("en",)} and {cell.axes["source_lang"] for cell in found} == {"-"}
    alone = cells_from([people(recorded, BagOfWords(), "en", "en")], controls="rivals")
    assert "system" not in {cell.axes["rm_backbone"] for cell in alone}  # no other language was asked for


def test_languages_of_the_task_are_in_no_key(recorded: Files) -> None:
    other = msgspec.structs.replace(recorded, languages=("en", "tr", "vi"))
    one, more = (judge_stage(people(task, BagOfWords())) for task in (recorded, other))
    assert more.key == one.key
