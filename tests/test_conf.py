"""The configuration files: every option composes and converts, and the facts of languages are CLDR's."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from babel import Locale
from babel.core import get_global

from xling.compose.composer import Composer
from xling.compose.grid import compose_grid
from xling.config.common import Language
from xling.config.policies import Recorded
from xling.experiment import experiment_from
from xling.planning.pretrained import IMPLICIT_RATE, RATE, RATES, SAMPLING, VALUE_RATE
from xling.tasks.files import Settings as Files
from xling.tasks.micro_summarization import Settings as MicroSummarization

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
GROUPS = ("task", "policy", "sft", "rm_backbone", "optimizer", "judge", "translator")
OPTIONS = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
MUST_BE_GIVEN = {
    "task=files": ["task.path=x.jsonl"],
    "rm_backbone=classifier": ["rm_backbone.checkpoint=x"],
    "rm_backbone=likelihood": ["rm_backbone.checkpoint=x"],
    "rm_backbone=log_ratio": ["rm_backbone.policy=x", "rm_backbone.reference=y"],
    "policy=pretrained": ["policy.checkpoint=x"],
    "translator=recorded": ["translator.path=x.jsonl"],
    "translator=seq2seq": ["translator.checkpoint=x"],
}
LANGUAGES = sorted(path.stem for path in (CONF / "lang").glob("*.yaml"))
NEEDED = {"de", "en", "es", "ru", "tr", "vi", "fr", "id", "zh", "ar", "he", "ja", "uk", "yo", "no"}
NEEDED |= {"sv", "bn", "da", "it", "fa", "sk", "el", "nl", "hu", "eu", "eo", "ca", "cs", "bg", "fi", "pt", "ro", "gl"}
NEEDED |= {"ko", "pl", "th"}  # with these, all that oasst1 has


def experiment(container: dict[str, Any]) -> Any:
    keys = (*GROUPS, "seed", "target_lang")
    return experiment_from({key: container[key] for key in keys} | {"source_langs": [container["source_lang"]]})


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_fits_its_struct(composer: Composer, option: str) -> None:
    in_files = option.startswith("task=") and not option.startswith("task=micro")
    overrides = [option, *(["task.path=x.jsonl"] if in_files else MUST_BE_GIVEN.get(option, ()))]
    group, name = option.split("=")
    composed = composer.compose(overrides)
    value = getattr(experiment(composed.container), group)
    assert composed.choices[group] == name
    shown, filled_by_planning = set(composed.container[group]) - {"name"}, {"facts"}
    assert shown == set(value.__struct_fields__) - {"name"} - filled_by_planning


def test_an_experiment_file_chooses_groups(composer: Composer) -> None:
    built = experiment(composer.compose(["experiment=recorded", "task.path=x.jsonl"]).container)
    assert isinstance(built.task, Files) and isinstance(built.policy, Recorded) and built.judge.name == "human"


@pytest.mark.parametrize(("name", "steps", "rate"), [("summarization", 3000, 1e-3), ("dialog", 2500, 1e-5)])
def test_the_papers_settings(composer: Composer, name: str, steps: int, rate: float) -> None:
    """Appendix B, and the same for best-of-64 by one more word."""
    chosen = [f"experiment=paper_{name}", "task.path=x"]
    built = experiment(composer.compose(chosen).container)
    ppo, training = built.optimizer, built.rm_backbone.training
    assert (ppo.steps, ppo.beta, ppo.batch_size, ppo.learning_rate, ppo.optimizer) == (
        steps,
        0.1,
        32,
        1e-4,
        "adafactor",
    )
    assert (ppo.value_only_steps, ppo.value_warmup_steps, ppo.schedule) == (2000, 1000, "constant")
    assert (built.sft.learning_rate, built.sft.dropout, built.sft.optimizer) == (rate, 0.1, "adafactor")
    assert (training.learning_rate, training.warmup_steps, training.batch_size) == (1e-4, 1000, 32)
    best = experiment(composer.compose([*chosen, "optimizer=best_of_n", "policy.n=64"]).container)
    assert best.policy.n == 64 and best.optimizer.n is None


def test_options_for_pretrained_models_have_the_values_that_plans_name(composer: Composer) -> None:
    def values(*overrides: str) -> Any:
        return composer.compose(["policy.checkpoint=x", *overrides]).container

    for index, chosen in ((0, []), (1, ["experiment=pretrained"])):
        found = values(*chosen)
        assert found["sft"]["learning_rate"] == found["rm_backbone"]["training"]["learning_rate"] == RATE[index]
        assert {name: found["policy"][name] for name in SAMPLING} == {name: of[index] for name, of in SAMPLING.items()}
        for name, rate in RATES.items():
            optimizer = values(f"optimizer={name}{'_pretrained' if chosen else ''}")["optimizer"]
            assert optimizer["learning_rate"] == rate[index] and optimizer["optimizer"] == "adamw"
            assert optimizer.get("value_learning_rate", VALUE_RATE[index]) == VALUE_RATE[index]
        implicit = values(f"rm_backbone=implicit{'_pretrained' if chosen else ''}")["rm_backbone"]
        assert implicit["training"]["learning_rate"] == IMPLICIT_RATE[index]


SWEEPS = [path for path in sorted((ROOT / "sweeps").glob("*.yaml")) if not path.stem.startswith("paper_")]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)  # those of the paper: test_paper.py
def test_every_sweep_has_cells(composer: Composer, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n")
    params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    arguments = [f"sweeps={path.stem}"]
    if "override /task: files" in text:
        arguments += ["task.path=x.jsonl", "task.languages=[de,tr]"]
    cells = compose_grid(composer, params, arguments, lambda task: task["languages"], pytest.fail)
    for container in cells.cells:
        experiment_from(container)
    assert cells.sweep == path.stem
    expected = {"embedded": 36, "implicit": 42, "demo": 4}
    assert len(cells.cells) == expected.get(path.stem, len(cells.cells)) > 1


def test_an_ensemble_is_a_setting_of_the_reward_model(composer: Composer) -> None:
    """Its cells stand in a panel beside the plain ones, on the same prompts."""
    arguments = ["source_lang=de", "target_lang=tr", "ensemble.seeds=1,3", "ensemble.also=[],[consensus]"]
    cells = compose_grid(composer, {}, arguments, lambda task: task["languages"], pytest.fail).cells
    names = ("rm_backbone.ensemble.seeds", "rm_backbone.ensemble.also")
    axes = [tuple(str(cell["axes"][name]) for name in names) for cell in cells]
    assert axes == [("1", "[]"), ("1", "[consensus]"), ("3", "[]"), ("3", "[consensus]")]
    last = experiment_from(cells[-1]).ensemble
    assert (last.seeds, last.also, last.combine) == (3, ("consensus",), "mean")


def test_the_embedded_sweep_is_the_six_languages(composer: Composer) -> None:
    params = yaml.safe_load((ROOT / "sweeps" / "embedded.yaml").read_text())["hydra"]["sweeper"]["params"]
    cells = compose_grid(composer, params, ["sweeps=embedded"], lambda task: task["languages"], pytest.fail)
    pairs = {(cell["axes"]["source_lang"], cell["axes"]["target_lang"]) for cell in cells.cells}
    six = {"de", "en", "es", "ru", "tr", "vi"}
    assert pairs == {(source, target) for source in six for target in six}
    assert isinstance(experiment_from(cells.cells[0]).task, MicroSummarization)


def test_language_groups_are_the_one_folder() -> None:
    for group in ("source_lang", "target_lang"):
        assert (CONF / group).resolve() == CONF / "lang"
    assert (CONF / "sweeps").resolve() == ROOT / "sweeps"
    assert set(LANGUAGES) >= NEEDED


@pytest.mark.parametrize("code", LANGUAGES)
def test_language_facts_are_those_of_cldr(composer: Composer, code: str) -> None:
    cldr = code.replace("-", "_")
    locale = Locale.parse(cldr)
    facts = Language(**composer.facts("source_lang", code))
    assert facts == Language(
        code=code,
        name=Locale("en").languages[cldr],
        native_name=locale.languages[cldr],
        script=get_global("likely_subtags")[cldr].split("_")[1],
        direction=locale.text_direction,
    )


def test_every_setting_says_what_it_is() -> None:
    """A comment beside each key of the groups, but for tags and what the comment above the file says."""
    for group in (*GROUPS, "hydra/launcher", "hydra/sweeper"):
        for path in (CONF / group).glob("*.yaml"):
            lines = path.read_text(encoding="utf-8").splitlines()
            assert lines[0].startswith("# "), path
            bare = [line for line in lines[1:] if "#" not in line and line.split(":")[0] not in ("name", "_target_")]
            assert bare == [], path
