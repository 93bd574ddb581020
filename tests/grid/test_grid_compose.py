"""Overrides to cells: what is expanded, in which order, and that merging gives what Hydra composes."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from xling.compose.composer import Composer
from xling.compose.grid import Cells, compose_grid, grid_name
from xling.compose.overrides import protected, typed
from xling.errors import ConfigError
from xling.experiment import experiment_from
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.sentence_encoder import Settings as SentenceEncoder

SIX = ["de", "en", "es", "ru", "tr", "vi"]


class Front:
    """Composes command lines; remembers the last composer and what was warned of."""

    def __init__(self, loader: Any, *hydra_overrides: str) -> None:
        self.composer = Composer(loader, "config", hydra_overrides)
        self.warned: list[str] = []

    def __call__(self, *arguments: str, params: dict[str, Any] | None = None) -> Cells:
        return compose_grid(self.composer, params or {}, arguments, self._languages, self.warned.append)

    @staticmethod
    def _languages(task: dict[str, Any], group: str = "task") -> list[str]:
        found: list[str] = task["languages"]
        return found


@pytest.fixture
def front(loader: Any) -> Front:
    return Front(loader)


def column(cells: Cells, axis: str) -> list[Any]:
    """An axis' values in order, each once."""
    return list(dict.fromkeys(cell["axes"][axis] for cell in cells.cells))


def full(front: Front, cells: Cells, cell: dict[str, Any]) -> dict[str, Any]:
    """The cell as Hydra composes it, from its coordinates."""
    axes = cell["axes"]
    values = [axis.overrides[axis.values.index(axes[axis.key])] for axis in cells.request.axes]
    languages = [f"{key}={axes[key]}" for key in ("source_lang", "target_lang")]
    composed = front.composer.compose([*cells.request.fixed, *values, *languages]).container
    keys = ("task", "policy", "sft", "rm_backbone", "optimizer", "judge", "seed", "target_lang", "reward_task")
    keys += ("translator", "reward_data", "sft_data", "ensemble", "lid")
    return {key: composed[key] for key in keys} | {"source_langs": [composed["source_lang"]], "axes": axes}


# --- expansion --------------------------------------------------------------------------------------------


def test_no_override_is_one_cell(front: Front) -> None:
    cells = front()
    axes = cells.cells[0]["axes"]
    assert len(cells.cells) == 1 and list(axes) == [
        "task", "policy", "rm_backbone", "source_lang", "target_lang", "optimizer", "judge", "seed",
    ]  # fmt: skip
    assert axes["source_lang"] == axes["target_lang"] == "en" and axes["seed"] == 0
    assert cells.left_out == [] and front.warned == []


def test_axes_in_order_named_other_seeds(front: Front) -> None:
    cells = front("task.seed=3,4", "seed=0,1", "rm_backbone.tuning=full,frozen", "sft.steps=10,20")
    axes = cells.cells[0]["axes"]
    assert list(axes)[7:] == ["rm_backbone.tuning", "sft.steps", "seed", "task.seed"]
    assert len(cells.cells) == 16
    assert axes["rm_backbone.tuning"] == "full" and axes["task.seed"] == 3


def test_the_grammar_of_hydra(front: Front) -> None:
    assert column(front("seed=range(3)"), "seed") == [0, 1, 2]
    assert column(front("seed=range(1,6,2)"), "seed") == [1, 3, 5]
    assert column(front("seed=choice(4,2)"), "seed") == [4, 2]
    assert column(front("seed=sort(4,2)"), "seed") == [2, 4]
    assert column(front("policy.temperature=range(0.5,1.1,0.25)"), "policy.temperature") == [0.5, 0.75, 1.0]
    likelihoods = column(front("rm_backbone=glob(likelihood_*,exclude=*_sft)"), "rm_backbone")
    assert likelihoods == ["likelihood_base", "likelihood_gain_base"]


def test_the_last_of_two_overrides_wins(front: Front) -> None:
    assert column(front("seed=0,1", "seed=5"), "seed") == [5]


def test_duplicate_values_are_one_cell(front: Front) -> None:
    assert len(front("source_lang=en,en", "seed=0,0").cells) == 1
    assert len(front("rm_backbone=length,length", "target_lang='de',de").cells) == 1


# --- languages --------------------------------------------------------------------------------------------


def test_glob_means_the_languages_of_the_task(front: Front) -> None:
    cells = front("source_lang=glob(*)", "target_lang=glob([d*,e*],exclude=es)")
    assert column(cells, "source_lang") == SIX
    assert column(cells, "target_lang") == ["de", "en"]
    left_out = {tuple(row["axes"]): row for row in cells.left_out}
    assert set(left_out) == {("task", "source_lang"), ("task", "target_lang")}
    assert "ja, ko" in left_out["task", "source_lang"]["axes"]["source_lang"]
    assert left_out["task", "target_lang"]["axes"]["target_lang"] == "da, el, eo, eu"
    assert left_out["task", "target_lang"]["reason"] == "task micro_summarization has no data in them"


def test_glob_leaves_out_a_language_without_facts(front: Front) -> None:
    cells = front("task.languages=[de,xx]", "source_lang=glob(*)", "target_lang=de")
    assert column(cells, "source_lang") == ["de"]
    assert [r["axes"]["source_lang"] for r in cells.left_out if "no file" in r["reason"]] == ["xx"]


def test_glob_beside_named_languages(front: Front) -> None:
    assert column(front("source_lang=glob(*),de+en"), "source_lang") == [*SIX, "de+en"]


def test_pooled_sources_in_either_order_are_one_cell(front: Front) -> None:
    cells = front("source_lang=en+de,de,de+en", "target_lang=tr")
    assert column(cells, "source_lang") == ["de+en", "de"]
    pooled, single = cells.cells
    assert [facts["code"] for facts in pooled["source_langs"]] == ["de", "en"]
    assert [facts["code"] for facts in single["source_langs"]] == ["de"]
    assert column(front("source_lang=de+de"), "source_lang") == ["de"]


def test_others_are_all_languages_of_the_task_but_the_target(front: Front) -> None:
    cells = front("source_lang=others,de", "target_lang=de,tr", "task.languages=[de,en,tr,xx]")
    assert column(cells, "source_lang") == ["others", "de"]
    pooled = {
        cell["axes"]["target_lang"]: [facts["code"] for facts in cell["source_langs"]]
        for cell in cells.cells
        if cell["axes"]["source_lang"] == "others"
    }
    assert pooled == {"de": ["en", "tr"], "tr": ["de", "en"]}  # xx has no facts in conf/lang
    two = front("source_lang=others", "target_lang=glob(*)", "task.languages=[de,tr]").cells
    assert [container["source_langs"][0]["code"] for container in two] == ["tr", "de"]
    assert protected("source_lang=others") == "source_lang=choice(others)"


def test_others_under_references_between_settings(front: Front) -> None:
    with pytest.raises(ConfigError, match="source_lang=en\\+tr: pooled sources cannot be used"):
        front("source_lang=others", "target_lang=de", "task.languages=[de,en,tr]", "policy.max_new_tokens=${policy.n}")


def test_norwegian_stays_norwegian(front: Front) -> None:
    for arguments, params in ((["source_lang=no"], {}), ([], {"source_lang": "no"}), ([], {"source_lang": "no,de"})):
        cells = front("task.languages=[no,de]", "target_lang=no", *arguments, params=params)
        assert column(cells, "source_lang")[0] == "no"
        assert cells.cells[0]["target_lang"]["name"] == "Norwegian"


def test_a_single_language_is_kept_from_hydra_and_given_back_as_typed() -> None:
    assert protected("source_lang=de+en") == "source_lang=choice(de+en)"
    assert protected("target_lang=no") == "target_lang=choice(no)"
    for argument in ("source_lang=de,en", "source_lang=glob(*)", "source_lang=glob(*),de+en", "seed=1", "source_lang="):
        assert protected(argument) == argument
    for argument in ("source_lang=de+en", "source_lang=[de,en]", "seed=choice(1)", "source_lang=glob(*)"):
        assert typed(protected(argument)) == argument


def test_one_value_of_a_groups_setting_is_kept_from_hydra_and_given_back_as_typed(front: Front) -> None:
    """Hydra would look for it in the default option of a group that is swept."""
    assert protected("rm_backbone.checkpoint=/x") == "rm_backbone.checkpoint=/x,/x"
    for value in ("/x", "null", "'a=b, c'", "'<|x|>'", "1e-5", "[de,no]", "a\\,b", "${seed}", "'{text}'"):
        for group in ("task", "policy", "rm_backbone", "sft", "reward_task", "translator"):
            argument = f"{group}.key={value}"
            assert protected(argument) != argument and typed(protected(argument)) == argument
    for argument in ("policy.n=4,8", "policy.n=range(3)", "policy.n=", "policy.n=[", "++policy.n=3", "judge=gold"):
        assert protected(argument) == argument
    arguments = ("policy.n=4", "rm_backbone.revision=null", "policy.pad_token='<|x|>'", "sft.learning_rate=1e-5")
    plain, kept = front(*arguments), front(*map(protected, arguments))
    assert kept.cells == plain.cells and kept.request.command == arguments and grid_name(kept) == grid_name(plain)


def test_a_setting_that_the_default_option_lacks_goes_with_options_that_have_it(front: Front) -> None:
    cells = front("rm_backbone=xlm_roberta,mdeberta", protected("rm_backbone.checkpoint=/x"))
    assert [cell["rm_backbone"]["checkpoint"] for cell in cells.cells] == ["/x", "/x"]
    assert column(cells, "rm_backbone") == ["xlm_roberta(x)", "mdeberta(x)"]


# --- params of a sweeps file ------------------------------------------------------------------------------


def test_params_are_overrides_and_the_command_line_wins(front: Front) -> None:
    params = {"source_lang": "de,en", "seed": 3, "policy.n": "4,8"}
    cells = front("policy.n=2", params=params)
    assert column(cells, "source_lang") == ["de", "en"] and column(cells, "seed") == [3]
    assert {container["policy"]["n"] for container in cells.cells} == {2}


# --- merging is what Hydra composes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "composes"),
    [
        (["source_lang=glob(*)", "target_lang=glob(*)"], 1),
        (["source_lang=de,en", "seed=0,1,2", "task.seed=0,1", "policy.n=4,8"], 1),
        (["rm_backbone=same_as_policy,bag_of_words,length", "judge=gold,target_rm", "seed=0,1"], 4),
        (["rm_backbone=same_as_policy,bag_of_words", "rm_backbone.permutation=0,1"], 4),
        (["rm_backbone.training={steps:5},{steps:6}", "target_lang=de,en"], 2),
        (["policy=micro,recorded", "source_lang=de,en"], 2),
    ],
)
def test_merged_cells_are_composed_cells(front: Front, arguments: list[str], composes: int) -> None:
    cells = front(*arguments)
    checks = min(3, len(cells.cells))
    assert front.composer.composes == composes + checks and front.warned == []
    for cell in cells.cells[:: max(1, len(cells.cells) // 6)]:
        assert cell == full(front, cells, cell)


# --- a group inside a group: the reward model that judges --------------------------------------------------


@pytest.mark.parametrize(
    ("typed_in", "expected"),
    [
        (["judge/rm_backbone=bag_of_words"], BagOfWords()),
        (["judge/rm_backbone=bag_of_words", "judge.rm_backbone.permutation=2"], BagOfWords(2)),
        (["judge.rm_backbone={name:bag_of_words}"], BagOfWords()),
        (["judge/rm_backbone=sentence_encoder", "judge.rm_backbone.encoder=x"], SentenceEncoder("x")),
        ([], None),
    ],
)
def test_the_judging_reward_model_is_chosen_by_name(front: Front, typed_in: list[str], expected: Any) -> None:
    cells = front("judge=target_rm", "rm_backbone=length,same_as_policy", "source_lang=de,en", *typed_in)
    found = [experiment_from(cell) for cell in cells.cells]
    assert len(found) == 4 and {one.judge.rm_backbone for one in found} == {expected}
    kinds = {BagOfWords: "(bag_of_words)", SentenceEncoder: "(sentence_encoder(x))"}
    label = f"target_rm{kinds.get(type(expected), '')}"  # which reward model judges decides every number
    assert {one.axes["judge"] for one in found} == {label} and front.warned == []
    assert not any("/" in key for one in found for key in one.axes)  # no column for what all rows share


def test_judging_reward_models_side_by_side_are_a_column(front: Front) -> None:
    cells = front(
        "judge=target_rm", "judge/rm_backbone=bag_of_words,frozen_lm", "rm_backbone=length,random", "seed=0,1"
    )
    asked = [experiment_from(cell) for cell in cells.cells]
    found = [(one.axes["judge"], one.axes["judge/rm_backbone"], one.judging.name) for one in asked]
    assert sorted(found) == [("target_rm", name, name) for name in ("bag_of_words", "frozen_lm") for _ in range(4)]
    for cell in cells.cells:
        assert cell == full(front, cells, cell)


def test_a_bare_name_for_the_judging_reward_model_is_told_how(front: Front) -> None:
    with pytest.raises(ConfigError, match=r"Type judge/rm_backbone=bag_of_words\."):
        experiment_from(front("judge=target_rm", "judge.rm_backbone=bag_of_words").cells[0])


def test_the_judging_language_is_a_column_of_codes_and_comes_with_its_facts(front: Front) -> None:
    cells = front("judge=target_rm", "judge.lang=de,null", "source_lang=en", "target_lang=en,tr")
    found = [experiment_from(cell) for cell in cells.cells]
    assert [one.axes["judge.lang"] for one in found] == ["de", "de", None, None] and front.warned == []
    assert {one.judge.lang.name if one.judge.lang else None for one in found} == {"German", None}


@pytest.mark.parametrize(
    ("typed_in", "said"),
    [("judge.lang=german", r"Unknown language 'german' .*Did you mean 'de'"), ("judge.lang=[de]", "no language code")],
)
def test_what_is_no_judging_language_is_refused(front: Front, typed_in: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        front("judge=target_rm", typed_in)


def overlay(folder: Path, **files: str) -> str:
    """A configuration folder beside conf/; keys are paths with __ for /."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return f"hydra.searchpath=[file://{folder}]"


def test_settings_that_refer_to_each_other_are_composed_in_full(front: Front) -> None:
    cells = front("sft.eval_every=${seed}", "seed=1,2", "source_lang=de,en")
    assert [container["sft"]["eval_every"] for container in cells.cells] == [1, 1, 2, 2]
    assert front.warned == [
        "Hydra composes each of the 4 cells, about 0.1 s each: settings refer to each other with ${}."
    ]


def test_an_experiment_that_changes_other_groups(loader: Any, tmp_path: Path) -> None:
    text = "# @package _global_\ndefaults:\n  - override /judge: target_rm\nsft:\n  steps: 7\n"
    front = Front(loader, overlay(tmp_path, experiment__a=text, experiment__b="# @package _global_\nseed: 5\n"))
    cells = front("experiment=a,b", "source_lang=de,en")
    axes = ("experiment", "judge", "seed")
    found = [(*(cell["axes"][axis] for axis in axes), cell["sft"]["steps"]) for cell in cells.cells]
    assert found == [("a", "target_rm", 0, 7)] * 2 + [("b", "gold", 5, 100)] * 2


def test_a_setting_that_some_of_the_swept_options_have(front: Front) -> None:
    """Each option with the settings that it has: the others once, and that is said."""
    cells = front("optimizer=best_of_n,soft_best_of_n", "optimizer.tau=0.5,1", "optimizer.n=4,8", "source_lang=de,tr")
    names = ("optimizer", "optimizer.tau", "optimizer.n", "source_lang")
    found = [tuple(cell["axes"].get(name) for name in names) for cell in cells.cells]
    soft = [("soft_best_of_n", tau, n) for tau in (0.5, 1) for n in (4, 8)]
    assert found == [(*one, s) for one in [("best_of_n", None, 4), ("best_of_n", None, 8), *soft] for s in ("de", "tr")]
    settings = [(cell["optimizer"]["n"], cell["optimizer"].get("tau")) for cell in cells.cells[::2]]
    assert settings == [(4, None), (8, None), (4, 0.5), (8, 0.5), (4, 1), (8, 1)]
    assert front.warned == ["optimizer=best_of_n has no optimizer.tau, and is there once, without."]
    kinds = front("rm_backbone=frozen_lm,bag_of_words", "rm_backbone.checkpoint=/x,/x").cells  # of one value too
    assert [cell["rm_backbone"].get("checkpoint") for cell in kinds] == ["/x", None]


def test_an_option_that_reaches_into_another_group(loader: Any, tmp_path: Path) -> None:
    greedy = "# @package _global_\noptimizer:\n  name: best_of_n\n  n: 2\npolicy:\n  n: 2\n"
    front = Front(loader, overlay(tmp_path, optimizer__greedy=greedy))
    cells = front("optimizer=best_of_n,greedy", "rm_backbone=length,random")
    assert [container["policy"]["n"] for container in cells.cells] == [16, 16, 2, 2]


def test_a_mismatch_is_found_and_composed_in_full(loader: Any) -> None:
    front = Front(loader)
    cells = front("target_lang.native_name=Umbenannt", "target_lang=de,en", "source_lang=tr")
    assert [container["target_lang"]["native_name"] for container in cells.cells] == ["Umbenannt"] * 2
    assert [container["target_lang"]["code"] for container in cells.cells] == ["de", "en"]
    assert "merging gives another cell" in front.warned[0]


def test_a_language_of_ones_own(loader: Any, tmp_path: Path) -> None:
    facts = "code: tlh\nname: Klingon\nnative_name: tlhIngan Hol\nscript: Latn\ndirection: ltr\n"
    front = Front(loader, overlay(tmp_path, source_lang__tlh=facts, target_lang__tlh=facts))
    cells = front("task.languages=[de,tlh]", "source_lang=glob(*)", "target_lang=tlh")
    assert column(cells, "source_lang") == ["de", "tlh"]
    assert experiment_from(cells.cells[0]).target_lang.native_name == "tlhIngan Hol"


def test_language_files_hold_plain_facts(loader: Any, tmp_path: Path) -> None:
    facts = "name: X\nnative_name: X\nscript: Latn\ndirection: ltr\n"
    front = Front(
        loader,
        overlay(
            tmp_path,
            source_lang__q1=f"code: q1\n{facts}seed: ${{seed}}\n",
            source_lang__q2=f"code: no\n{facts}",
            source_lang__q3=f"# @package _global_\ncode: q3\n{facts}",
        ),
    )
    for code, part in (("q1", "plain facts only"), ("q2", "quote it"), ("q3", "plain facts only")):
        with pytest.raises(ConfigError, match=part):
            front("task.languages=[q1,q2,q3,en]", f"source_lang={code}")


# --- the grid's name --------------------------------------------------------------------------------------


def test_names(front: Front) -> None:
    assert grid_name(front("sweeps=embedded")) == "embedded"
    assert (
        grid_name(front("sweeps=embedded", "root=/x", "dry_run=true", "mode=force", "tracking.mode=off")) == "embedded"
    )
    assert grid_name(front("name=mine", "seed=0,1")) == "mine"
    changed = grid_name(front("sweeps=embedded", "policy.n=8"))
    assert changed.startswith("embedded-") and len(changed) == len("embedded-") + 6
    assert changed != grid_name(front("sweeps=embedded", "policy.n=9"))
    assert grid_name(front("sweeps=embedded", "+controls=true")) != "embedded"


def test_a_name_does_not_depend_on_the_order_of_overrides(front: Front) -> None:
    one = grid_name(front("source_lang=de,en", "seed=0,1"))
    assert one == grid_name(front("seed=0,1", "source_lang=de,en"))
    assert one.startswith("micro_summarization-de_en-en-")
    assert grid_name(front(protected("source_lang=de"))) == grid_name(front("source_lang=de"))


def test_what_was_typed_is_kept(front: Front) -> None:
    assert front(protected("source_lang=de+en"), "seed=0,1").request.command == ("source_lang=de+en", "seed=0,1")


def test_translated_data_and_translators_are_columns_if_they_are_swept(front: Front) -> None:
    regimes = ("translator=micro_exact,micro_noisy", "reward_data=organic,translated", "sft_data=round_trip")
    cells = front(*regimes, "source_lang=en", "target_lang=tr")
    asked = [experiment_from(cell) for cell in cells.cells]
    found = [(one.axes["translator"], one.axes["reward_data"]) for one in asked]
    assert found == list(itertools.product(("micro_exact", "micro_noisy"), ("organic", "translated")))
    assert all("sft_data" not in one.axes for one in asked)
    assert [(one.translator.name, one.reward_data, one.sft_data) for one in asked] == [
        (name, data, "round_trip") for name, data in found
    ]
    for cell in cells.cells:
        assert cell == full(front, cells, cell)


def test_sources_are_languages_of_the_reward_task(front: Front) -> None:
    learned = ["reward_task=micro_summarization", "reward_task.languages=[de,en]", "source_lang=glob(*)"]
    cells = front("task.languages=[en,tr]", *learned, "target_lang=glob(*)")
    pairs = {(cell["axes"]["source_lang"], cell["axes"]["target_lang"]) for cell in cells.cells}
    assert pairs == {(source, target) for source in ("de", "en") for target in ("en", "tr")}
    assert set(column(cells, "reward_task")) == {"micro_summarization"}
    assert cells.cells[0]["reward_task"]["languages"] == ["de", "en"]
    with pytest.raises(ConfigError, match=r"source_lang=tr: the task has no 'tr'\. .* has de, en"):
        front("task.languages=[en,tr]", *learned[:2], "source_lang=tr", "target_lang=en")


# --- labels: what tables call an option -----------------------------------------------------------------------

LABELS = [
    (["policy.checkpoint=/data/mymodel"], {"policy": "mymodel"}),
    (["policy.checkpoint=models/mymodel/"], {"policy": "mymodel"}),
    (["policy=mt5_small"], {"policy": "mt5_small"}),
    (["policy=mt5_small", "policy.checkpoint=Qwen/Qwen3-0.6B-Base"], {"policy": "Qwen3-0.6B-Base"}),
    (["policy.n=64", "policy.checkpoint=packaged"], {"policy": "micro"}),
    (["policy.checkpoint=a/one,b/two"], {"policy": ["one", "two"]}),
    (["rm_backbone=classifier", "rm_backbone.checkpoint=/data/rm"], {"rm_backbone": "classifier(rm)"}),
    (["rm_backbone=xlm_roberta", "rm_backbone.checkpoint=/data/enc"], {"rm_backbone": "encoder(enc)"}),
    (["rm_backbone=xlm_roberta"], {"rm_backbone": "xlm_roberta"}),
    (["rm_backbone=sentence_encoder", "rm_backbone.encoder=/data/labse"], {"rm_backbone": "sentence_encoder(labse)"}),
    (["rm_backbone.init=/data/start"], {"rm_backbone": "same_as_policy(start)"}),
    (["rm_backbone.init=base"], {"rm_backbone": "same_as_policy"}),
    (
        ["rm_backbone=log_ratio", "rm_backbone.policy=/a/dpo", "rm_backbone.reference=/a/sft"],
        {"rm_backbone": "log_ratio(dpo, sft)"},
    ),
    (["judge=llm", "judge.checkpoint=/data/big"], {"judge": "llm(big)"}),
    (["judge=llm", "judge.base_url=http://localhost:1/v1", "judge.model=gpt-4o"], {"judge": "llm(gpt-4o)"}),
    (["judge=llm_paper"], {"judge": "llm_paper"}),
    (["judge=llm_paper", "judge.checkpoint=/data/big"], {"judge": "llm_paper(big)"}),
    (["judge=target_rm"], {"judge": "target_rm"}),
    (["judge=target_rm", "judge/rm_backbone=bag_of_words"], {"judge": "target_rm(bag_of_words)"}),
    (["judge=target_rm", "judge.lang=de", "judge.half=true"], {"judge": "target_rm(lang=de, half)"}),
    (["judge=target_rm", "judge.lang=de,en"], {"judge": "target_rm"}),  # which is an axis of its own
    (["judge=target_rm", "judge.seed=7"], {"judge": "target_rm(seed=7)"}),
    ([], {"task": "micro_summarization", "policy": "micro", "rm_backbone": "same_as_policy", "judge": "gold"}),
]


@pytest.mark.parametrize(("arguments", "labels"), LABELS, ids=lambda value: " ".join(map(str, value)))
def test_labels_name_what_decides_the_numbers(front: Front, arguments: list[str], labels: dict[str, Any]) -> None:
    cells = front(*arguments)
    for axis, expected in labels.items():
        assert column(cells, axis) == (expected if isinstance(expected, list) else [expected])


def test_own_data_is_named_and_the_folder_of_a_grid_is_as_before(front: Front) -> None:
    def languages(*_: Any) -> list[str]:
        return ["en", "de"]

    arguments = ["task=files", "task.path=/data/ours.jsonl", "reward_task=files", "reward_task.path=/data/more/"]
    cells = compose_grid(front.composer, {}, arguments, languages, print)
    assert (column(cells, "task"), column(cells, "reward_task")) == (["files(ours)"], ["files(more)"])
    assert grid_name(cells).startswith("files-en-en-")


def test_a_judges_requests_may_hold_more(front: Front) -> None:
    asked = ("judge=llm", "judge.base_url=http://a/v1", "judge.model=m")
    more = "judge.extra_body={reasoning_effort:low,provider:{order:[a]}}"
    one = experiment_from(front(*asked, more).cells[0])
    assert one.judge.extra_body == {"reasoning_effort": "low", "provider": {"order": ["a"]}}
    plain = experiment_from(front(*asked, "judge.temperature=null", "lid.model=model.bin").cells[0])
    assert (plain.judge.extra_body, plain.judge.temperature, plain.lid.model) == (None, None, "model.bin")
