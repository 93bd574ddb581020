"""Bad requests: one sentence that names what was wrong, what is allowed and what to type; nothing is run."""

from pathlib import Path
from typing import Any

import pytest

from xling.compose.command_line import explain
from xling.compose.composer import Composer
from xling.compose.grid import compose_grid, grid_name
from xling.errors import ConfigError
from xling.experiment import checked_task, experiment_from

SIX = "de, en, es, ru, tr, vi"


def refusal(loader: Any, arguments: str, params: dict[str, Any] | None = None, hydra: tuple[str, ...] = ()) -> str:
    """The sentence that a command line, split at spaces, is refused with."""

    def task_languages(task: Any) -> list[str]:
        return list(checked_task(task).languages)

    with pytest.raises(Exception) as caught:
        composer = Composer(loader, "config", hydra)
        cells = compose_grid(composer, params or {}, arguments.split(), task_languages, lambda _: None)
        for cell in cells.cells:
            experiment_from(cell)
        grid_name(cells)
    error = explain(caught.value)
    assert isinstance(error, ConfigError), caught.value
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        # languages
        ("source_lang=deu", ["Unknown language 'deu' for source_lang", "am, ar", "Did you mean 'de'?"]),
        ("target_lang=German", ["Unknown language 'German'", "Did you mean 'de'?"]),
        ("source_lang=de,xx+de", ["Unknown language 'xx' for source_lang"]),
        ("source_lang=DE", ["Unknown language 'DE' for source_lang", "Did you mean 'de'? Type de."]),
        ("source_lang=de,zh-CN+de", ["Unknown language 'zh-CN'", "Did you mean 'zh'? Type zh."]),
        ("target_lang=zh-Hans", ["Unknown language 'zh-Hans' for target_lang", "Did you mean 'zh'? Type zh."]),
        ("target_lang=zh_TW", ["Unknown language 'zh_TW'", "Did you mean 'zh-Hant'? Type zh-Hant."]),
        ("source_lang=pt-BR", ["Unknown language 'pt-BR'", "Did you mean 'pt'? Type pt."]),
        ("source_lang=iw target_lang=nb", ["Did you mean 'he'? Type he."]),
        ("source_lang=eng_Latn", ["Did you mean 'en'? Type en."]),
        ("source_lang=Deutsch", ["Did you mean 'de'? Type de."]),
        ("pairs=DE", ["pairs=DE is unknown", "Did you mean 'de'? Type de."]),
        ("source_lang=ja", ["source_lang=ja: the task has no 'ja'", SIX, "source_lang='glob(*)'"]),
        ("target_lang=de,ja", ["target_lang=ja: the task has no 'ja'", SIX]),
        ("source_lang=de+ja", ["source_lang=de+ja: the task has no 'ja'"]),
        ("source_lang=glob(x*)", ["source_lang: nothing is left", SIX]),
        ("source_lang=[de,en]", ["is a list", "source_lang=de+en to pool them", "source_lang=de,en for a cell each"]),
        ("source_lang=[]", ["source_lang=[] names no language. Type source_lang=de, or source_lang='glob(*)'."]),
        ("source_lang=choice([de,en])", ["source_lang=[de,en] is a list", "source_lang=de+en"]),
        ("target_lang=[de,en]", ["is a list", "target_lang=de,en for a cell each"]),
        ("target_lang=de+en", ["one language", "target_lang=de,en"]),
        ("target_lang=others", ["'others' is a source by itself", "source_lang=others"]),
        ("source_lang=others+de", ["'others' is a source by itself", "source_lang=others"]),
        (
            "source_lang=others target_lang=de task.languages=[de]",
            ["no other than de", "Task micro_summarization has de", "source_lang=de"],
        ),
        ("source_lang=false", ["source_lang is False", "source_lang=no"]),
        ("source_lang=null", ["source_lang=null is no language"]),
        ("+source_lang=de", ["source_lang is always there"]),
        ("lang=de", ["'lang' is a folder of conf/ but no setting", "'source_lang' or 'target_lang'"]),
        # keys and options
        ("task.sede=1", ["Unknown key 'task.sede'", "Did you mean 'task.seed'?"]),
        ("task.sede=1,2", ["Unknown key 'task.sede'", "Did you mean 'task.seed'?"]),
        ("+task.sede=1", ["Unknown key 'task.sede'", "Did you mean 'task.seed'?"]),
        ("sorce_lang=de", ["Unknown key 'sorce_lang'", "Did you mean 'source_lang'?"]),
        ("+sorce_lang=de", ["Unknown key 'sorce_lang'", "Did you mean 'source_lang'?"]),
        ("+sweep=embedded", ["Unknown key 'sweep'", "Did you mean 'sweeps'?"]),
        ("experiments=pretrained", ["Unknown key 'experiments'", "Did you mean 'experiment'?"]),
        ("hydra/laucher=slurm", ["Unknown key 'hydra/laucher'. Did you mean 'hydra/launcher'? Known: hydra/launcher,"]),
        ("source_lang=de, tr", ["'source_lang=de,': nothing follows the comma.", "source_lang=VALUE,VALUE"]),
        ("n=0", ["Unknown key 'n'", "Did you mean 'optimizer.n' or 'policy.n'?"]),
        (
            "rm_backbone=length,bag_of_words rm_backbone.checkpoint=/x",
            ["Unknown key 'rm_backbone.checkpoint': rm_backbone=length has none", "name, score"],
        ),
        (
            "judge=target_rm judge/rm_backbone=bag_of_words judge.rm_backbone.init=base",
            ["'judge.rm_backbone.init': judge/rm_backbone=bag_of_words has none"],
        ),
        ("rm_backbone=mdeberta rm_backbone.init=base", ["'rm_backbone.init': rm_backbone=mdeberta has none"]),
        ("judge.half=true", ["Unknown key 'judge.half' of the judge that is chosen: only judge=target_rm has it."]),
        ("task.document_lng=en", ["Unknown key 'task.document_lng'", "Did you mean 'task.document_lang'?"]),
        (
            "task=files task.path=x task.document_lang=en",
            ["Unknown key 'task.document_lang': task=files has none, only task= one of micro_summarization, m"],
        ),
        ("task=oasst task.path=x task.rating_field=a", ["task=oasst has none, only task= one of beyond_n"]),
        ("reward_task=seahorse reward_task.columns.id=a", ["'reward_task.columns': reward_task=seahorse has none"]),
        ("judge=llm judge.half=true", ["'judge.half': judge=llm has none, only judge=target_rm has it. Known below"]),
        (
            "judge=target_rm judge.rm_backbone.features=both",
            ["'judge.rm_backbone.features': judge=target_rm has none, only judge/rm_backbone=frozen_lm has it."],
        ),
        ("sft.lora.r=8", ["Unknown key 'sft.lora'. Did you mean 'policy.lora' or 'rm_backbone.lora'?"]),
        ("rm_backbone.n=8", ["Unknown key 'rm_backbone.n'. Did you mean 'optimizer.n' or 'policy.n'?"]),
        ("task.feedback_documents=same", ["task.feedback_documents=same does not fit: allowed are", "document_lang"]),
        ("task.path=x", ["'task.path' of the task that is chosen: only task= one of beyond_ngrams, files, m_"]),
        ("rm_backbone.steps=9", ["Unknown key 'rm_backbone.steps'", "Did you mean 'rm_backbone.training.steps'?"]),
        ("policy=micr", ["Unknown option 'micr' for policy", "micro, micro_tiny, mt5_base", "Did you mean 'micro'?"]),
        ("judge=gold,golf", ["Unknown option 'golf' for judge", "Did you mean 'gold'?"]),
        ("sweeps=embeded", ["Unknown option 'embeded' for sweeps", "Did you mean 'embedded'?"]),
        ("experiment=recordet", ["Unknown option 'recordet' for experiment", "Did you mean 'recorded'?"]),
        ("judge=false", ["must be a string", "judge=gold"]),
        ("judge=2", ["'judge=2': Config group override must be a string", "judge=gold"]),
        ("sft=off", ["sft=off is unknown. For none type sft.steps=0."]),
        ("translator=off", ["translator=off is unknown. For none type translator=null.", "nllb_600m"]),
        (
            "task=files task.path=/x task.columns.rating=score",
            ["Unknown key 'task.columns.rating'", "Did you mean 'task.rating_field' or 'task.rating_scale'?"],
        ),
        ("lid=x", ["lid=x does not fit: it has settings of its own. Type lid.model=VALUE."]),
        ("root=-inf", ["root=-inf is a number. Type root=\"'-inf'\" if it is meant as a text."]),
        ("optimizer=glob(x*)", ["matches none of best_of_n"]),
        ("seed=glob(*)", ["'seed' is none"]),
        # values
        ("policy.n=0", ["policy.n=0 does not fit: expected int >= 1", "Type policy.n=1"]),
        ("policy.n=4,0", ["policy.n=0 does not fit"]),
        ("optimizer.n=0", ["optimizer.n=0 does not fit"]),
        ("policy.n=many", ["policy.n=many does not fit: expected int", "Type policy.n=1, or another."]),
        ("seed=-1", ["seed=-1 does not fit: expected int >= 0"]),
        ("policy.temperature=0", ["=0 does not fit: expected float > 0.0. Type policy.temperature=1."]),
        ("policy.top_p=true", ["policy.top_p=true does not fit", "Type policy.top_p=0.1, or another."]),
        ("rm_backbone.tuning=ful", ["allowed are frozen, full, lora", "Did you mean 'full'?"]),
        ("rm_backbone.training.steps=-1", ["rm_backbone.training.steps=-1 does not fit"]),
        ("task.test_prompts=0", ["task.test_prompts=0 does not fit"]),
        ("task.languages=de", ["task.languages=de does not fit: expected a list. Type task.languages=[de], with all"]),
        ("task=files", ["task.path must be given", "Type task.path=VALUE"]),
        ("~policy.checkpoint", ["deletes a setting, and every cell needs each", "type policy.checkpoint=VALUE"]),
        ("~seed", ["type seed=VALUE"]),
        ("~judge", ["type judge=VALUE"]),
        # sweeps
        ("optimizer.name=ppo", ["optimizer.name=ppo does not go with optimizer.n,", "Type optimizer=ppo."]),
        ("name=a,b", ["'name' holds for the whole run"]),
        ("dry_run=true,false", ["'dry_run' holds for the whole run"]),
        ("sweeps=demo,embedded", ["'sweeps' holds for the whole run"]),
        ("seed=interval(0,1)", ["no finite list of values", "range()"]),
        ("seed=range(3,3)", ["no values at all"]),
        ("name=../elsewhere", ["cannot name a folder"]),
        # the grammar
        ("seed", ["Cannot read 'seed'", "key=value, without spaces around the '='"]),
        ("seed=[", ["Cannot read 'seed=['"]),
        ("source_lang='de", ["Cannot read 'source_lang='de'"]),
        ("sft.steps=${nothing}", ["nothing"]),
        ("sft.steps=${seed} source_lang=de+en", ["pooled sources cannot be used with"]),
    ],
)  # fmt: skip
def test_refused_with_a_sentence(loader: Any, arguments: str, parts: list[str]) -> None:
    sentence = refusal(loader, arguments)
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize("value", [False, ["de", False], True])
def test_a_bare_no_in_a_sweeps_file(loader: Any, value: Any) -> None:
    sentence = refusal(loader, "", {"source_lang": value})
    assert 'source_lang: "no"' in sentence and "source_lang=no" in sentence


def test_a_yaml_list_in_a_sweeps_file(loader: Any) -> None:
    assert "source_lang=de+en" in refusal(loader, "", {"source_lang": ["de", "en"]})


def test_hydras_own_settings_are_not_axes(loader: Any) -> None:
    assert "under `hydra:`" in refusal(loader, "", {"hydra.launcher.workers": 2})


def test_bad_files_of_ones_own(loader: Any, tmp_path: Path) -> None:
    files = {
        "experiment/no.yaml": "# @package _global_\ndefaults:\n  - override /source_lang: no\n",
        "experiment/unpacked.yaml": "seed: 3\n",
        "experiment/broken.yaml": "# @package _global_\nseed: [\n",
        "experiment/typo.yaml": "# @package _global_\ntask:\n  sede: 3\n",
    }
    (tmp_path / "experiment").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    hydra = (f"hydra.searchpath=[file://{tmp_path}]",)
    assert 'source_lang: "no"' in refusal(loader, "experiment='no'", hydra=hydra)
    assert "# @package _global_" in refusal(loader, "experiment=unpacked", hydra=hydra)
    assert "broken.yaml" in refusal(loader, "experiment=broken", hydra=hydra)
    assert "Unknown key 'task.sede'" in refusal(loader, "experiment=typo", hydra=hydra)


def test_what_is_no_request_is_no_sentence() -> None:
    assert explain(ValueError("a bug")) is None
    assert explain(ZeroDivisionError()) is None
