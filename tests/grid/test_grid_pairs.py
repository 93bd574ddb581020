"""Which pairs of languages are cells, and a grid at another scale: options that stand for others."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from xling.compose.composer import Composer, at_scale
from xling.compose.grid import Cells, compose_grid, grid_name, left_out_pairs, wanted_pairs
from xling.errors import ConfigError

LANGS = ("source_lang=de,en,tr", "target_lang=de,en,tr")


def composed(composer: Composer, *arguments: str) -> Cells:
    return compose_grid(composer, {}, arguments, lambda task, group="task": task["languages"], pytest.fail)


def pairs(cells: Cells) -> list[str]:
    return ["{source_lang}>{target_lang}".format(**cell["axes"]) for cell in cells.cells]


# --- pairs --------------------------------------------------------------------------------------------------


def test_cross_home_and_one_language(composer: Composer) -> None:
    assert pairs(composed(composer, *LANGS, "pairs=cross")) == ["de>en", "de>tr", "en>de", "en>tr", "tr>de", "tr>en"]
    assert pairs(composed(composer, *LANGS, "pairs=home")) == ["de>de", "en>en", "tr>tr"]
    assert pairs(composed(composer, *LANGS, "pairs=en")) == ["de>en", "en>de", "en>tr", "tr>en"]
    assert len(pairs(composed(composer, *LANGS))) == len(pairs(composed(composer, *LANGS, "pairs=all"))) == 9


def test_ten_pairs_of_six_languages_with_english(composer: Composer) -> None:
    assert len(pairs(composed(composer, "source_lang=glob(*)", "target_lang=glob(*)", "pairs=en"))) == 10


def test_a_pooled_source_is_each_of_its_languages(composer: Composer) -> None:
    asked = ("source_lang=de,de+en,others", "target_lang=de,tr")
    assert pairs(composed(composer, *asked, "pairs=cross")) == ["de>tr", "de+en>tr", "others>de", "others>tr"]
    assert pairs(composed(composer, *asked, "pairs=home")) == ["de>de"]
    assert pairs(composed(composer, *asked, "pairs=de")) == ["de>tr", "de+en>tr", "others>de", "others>tr"]


def test_what_is_left_out_is_one_line_and_another_grid(composer: Composer) -> None:
    cells = composed(composer, *LANGS, "pairs=cross", "seed=0,1")
    assert cells.left_out == [
        {"axes": {"pairs": "cross"}, "reason": "leaves out 3 of 9 pairs: de to de, en to en, tr to tr"}
    ]
    assert grid_name(cells) != grid_name(composed(composer, *LANGS, "seed=0,1"))
    many = left_out_pairs("home", [1], [("de", str(n)) for n in range(30)])
    assert many[0]["reason"].endswith("de to 7 and 22 more")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("cros", "pairs=cros is unknown. Allowed: all, cross, home, or the code of a language .* Did you mean 'cross'"),
        (None, "pairs=null is unknown"),
        (False, 'pairs is false, which is no language.*Quote it in the file, pairs: "no"'),
    ],
)
def test_unknown_values(value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        wanted_pairs(value, ["de", "en", "no"])


def test_nothing_left_and_no_sweep(composer: Composer) -> None:
    with pytest.raises(ConfigError, match="pairs=cross leaves no cell: of the asked languages there is en to en"):
        composed(composer, "pairs=cross")
    with pytest.raises(ConfigError, match="'pairs' holds for the whole run and cannot be swept"):
        composed(composer, "pairs=cross,home")


# --- scale --------------------------------------------------------------------------------------------------


def test_options_are_replaced_wherever_they_come_from(composer: Composer) -> None:
    typed = composed(composer, "scale=tiny", "optimizer=best_of_n,ppo_paper", "policy=mt5_xl")
    assert [cell["axes"]["optimizer"] for cell in typed.cells] == ["best_of_n", "ppo_tiny"]
    assert {cell["axes"]["policy"] for cell in typed.cells} == {"micro_tiny"}
    preset = composed(composer, "scale=tiny", "experiment=paper_dialog")
    assert preset.cells[0]["axes"]["task"] == "micro_tiny_dialog"  # chosen by the experiment's own defaults
    assert preset.cells[0]["task"]["feedback"] == "pairwise"


def test_an_option_that_stands_for_nothing_is_left(composer: Composer) -> None:
    axes = composed(composer, "scale=tiny", "judge=target_rm", "optimizer=dpo").cells[0]["axes"]
    assert (axes["judge"], axes["optimizer"]) == ("target_rm", "dpo")


def test_values_that_become_one_are_one_cell(composer: Composer) -> None:
    assert len(composed(composer, "scale=tiny", "policy=mt5_xl,mt5_small").cells) == 1


def test_settings_are_those_of_what_stands_there(composer: Composer) -> None:
    """A setting that only the option has that replaces another one, fixed or as an axis."""
    preset = composed(composer, "scale=tiny", "experiment=paper_summarization", "task.test_prompts=4,8", "policy.n=4")
    assert [cell["task"]["test_prompts"] for cell in preset.cells] == [4, 8]
    assert {cell["policy"]["n"] for cell in preset.cells} == {4}


def test_a_file_that_is_no_scale(composer: Composer, tmp_path: Path) -> None:
    for content, sentence in (
        ({"optimiser": {}}, "names 'optimiser', which is no group"),
        ({"judge": {"llm": "oracle"}}, "judge has no option oracle. Known: gold"),
        ({"judge": "gold"}, "the file must hold group:"),
    ):
        (tmp_path / "scale").mkdir(exist_ok=True)
        (tmp_path / "scale" / "own.yaml").write_text(yaml.safe_dump(content))
        own = Composer(composer._loader, "config", [f"hydra.searchpath=[{tmp_path}]"])
        with pytest.raises(ConfigError, match=sentence):
            composed(own, "scale=own")


def test_without_a_scale_nothing_is_composed_for_it(composer: Composer) -> None:
    from xling.compose.overrides import parse

    request, before = parse({}, ["seed=0,1", "scale=null"], composer.options), composer.composes
    assert at_scale(composer, request) is request and composer.composes == before
