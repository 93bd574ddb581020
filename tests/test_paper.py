"""The paper's presets: dry runs count what the paper's experiments are (no data, no models, no network), and run tiny.

Numbers are those of the paper's tables of sizes and of appendix B, multiplied out.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xling.errors import ConfigError
from xling.grid.plan import Plan
from xling.grid.plan_table import print_plan, too_large
from xling.judges.llm import most_requests

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import paper as maker  # noqa: E402

PROMPTS = 70_126  # Table 1: validation documents of all languages
CAPPED = 12_515  # of them at most 1,000 a dataset
DIALOGS = 882  # Table 3
COUNTS: dict[str, dict[str, int]] = {
    "paper_summarization": {"cells": 72, "sft": 6, "reward": 6, "pool": 6, "align": 36, "score": 72, "llm": 72},
    "paper_dialog": {"cells": 18, "sft": 3, "reward": 3, "pool": 3, "align": 9, "score": 18, "llm": 18},
    "paper_translate_train": {"cells": 60, "translate": 30, "sft": 6, "reward": 36, "pool": 6, "score": 60, "llm": 60},
    "paper_bilingual": {"cells": 18, "sft": 7, "reward": 3, "pool": 6, "score": 18, "llm": 18},
    "paper_no_target_sft": {"cells": 60, "translate": 20, "sft": 26, "reward": 6, "pool": 26, "align": 30,
                            "score": 60, "llm": 60},
    "paper_no_target_sft_wikilingua": {"cells": 30, "translate": 20, "sft": 26, "reward": 6, "pool": 26, "score": 30,
                                       "llm": 30},
    "paper_generalisation": {"cells": 72, "sft": 6, "reward": 6, "pool": 6, "align": 6, "score": 72},
    "paper_rm_accuracy": {"cells": 36, "sft": 6, "reward": 6, "pool": 6, "score": 36},
    "paper_rm_accuracy_dialog": {"cells": 9, "sft": 3, "reward": 3, "pool": 3, "score": 9},
    "paper_judges": {"cells": 144, "sft": 6, "reward": 6, "pool": 6, "align": 36, "score": 72, "llm": 144},
    "paper_judges_dialog": {"cells": 36, "sft": 3, "reward": 3, "pool": 3, "align": 9, "score": 18, "llm": 36},
}  # fmt: skip


SMALLER = (
    "task.demonstrations=120", "task.ratings=120", "task.pairs=120", "task.validation=8", "task.test_prompts=12",
    "policy.n=4", "policy.max_new_tokens=12", "sft.steps=4", "sft.eval_every=4", "rm_backbone.training.steps=4",
    "rm_backbone.training.warmup_steps=1", "rm_backbone.training.eval_every=4",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def offline() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    root = tmp_path_factory.mktemp("paper") / "none"
    return {name: maker.planned(name, "dry_run=true", f"root={root}") for name in maker.PRESETS}


def test_every_preset_is_counted_here() -> None:
    assert set(COUNTS) == set(maker.PRESETS)


@pytest.mark.parametrize("preset", COUNTS)
def test_stages_of_a_preset(plans: dict[str, Plan], preset: str) -> None:
    plan = plans[preset]
    found = {kind: number for kind, number in maker.counts(plan).items() if kind in maker.COUNTED and number}
    assert found | {"cells": len(plan.cells)} == COUNTS[preset]


def units(plan: Plan, kind: str) -> dict[str, int]:
    return dict(plan.estimates[kind].units)


def test_samples_scorings_and_calls_of_the_core(plans: dict[str, Plan]) -> None:
    plan = plans["paper_summarization"]
    assert units(plan, "pool") == {"samples": PROMPTS * 64}  # 4.49 million
    aligned = PROMPTS * 6
    assert units(plan, "aligned") == {"samples": aligned}
    assert units(plan, "score")["scorings of answers"] == PROMPTS * 64 * 6 + aligned  # 26.9 million of the pools
    assert units(plan, "llm") == {"judge calls": 2 * PROMPTS * 6 * 2}  # 0.84 million an algorithm
    assert units(plan, "sft") == {"demonstrations read": 6 * 3000 * 32}
    assert units(plan, "align") == {"responses learnt from": 36 * 5000 * 32}
    dialog = plans["paper_dialog"]
    assert units(dialog, "pool") == {"samples": DIALOGS * 64}
    assert units(dialog, "judge_accuracy") == {"judge calls": 2 * 1860}  # Table 4's pairs, in both orders


def test_the_second_judge_is_asked_as_gpt_4_was(plans: dict[str, Plan]) -> None:
    second = [step.stage for step in plans["paper_judges"].steps.values() if step.stage.spec.get("orders") == "random"]
    assert len(second) == 72
    calls = sum(most_requests(stage) for stage in second)
    assert calls == 2 * CAPPED * 6  # 75 thousand an algorithm


def test_accuracy_needs_next_to_no_samples(plans: dict[str, Plan]) -> None:
    assert units(plans["paper_rm_accuracy"], "pool") == {"samples": 14}  # one a corpus
    assert units(plans["paper_rm_accuracy"], "score")["of held-out feedback"] == 6 * 8005


def test_translations_and_wikilingua(plans: dict[str, Plan]) -> None:
    ratings = 54_539 + 8_005
    assert units(plans["paper_translate_train"], "translate") == {"texts at most": 5 * 2 * ratings}
    wikilingua = 3699 + 12021 + 9730 + 3209 + 194 + 679
    pools = units(plans["paper_no_target_sft_wikilingua"], "pool")["samples"]
    assert pools == 64 * (wikilingua + 2 * (5 * 12021 + wikilingua - 12021))


def test_hours_come_from_the_work_and_the_rate(plans: dict[str, Plan], tmp_path: Path) -> None:
    plan = plans["paper_rm_accuracy"]
    slow = maker.planned("paper_rm_accuracy", "dry_run=true", f"root={tmp_path}", "cost.flops_per_second=9.89e13")
    assert slow.estimates["sft"].seconds == pytest.approx(10 * plan.estimates["sft"].seconds)
    assert plan.estimates["sft"].modelled and not plan.estimates["judge"].modelled
    assert [s.key for s in slow.to_run] == [s.key for s in plan.to_run]  # cost is in no key


def test_every_model_of_the_presets_computes_as_the_rate_of_cost_is_stated(plans: dict[str, Plan]) -> None:
    """cost.flops_per_second is bfloat16's: in float32 the hours would be some ten times as many."""
    bases = [step.stage for plan in plans.values() for step in plan.steps.values() if step.stage.kind == "base"]
    assert {stage.spec["dtype"] for stage in bases} == {"bfloat16"}
    assert {stage.spec.get("use", "policy") for stage in bases} == {"policy", "translator"}


@pytest.mark.parametrize("preset", COUNTS)
def test_every_stage_of_a_preset_fits_on_80_gb_or_the_plan_says_how(plans: dict[str, Plan], preset: str) -> None:
    """As the models are published, without a network; docs/scale.md has the table."""
    plan = maker.on_80_gb(plans[preset])
    told = [sentence for sentence, _ in too_large(plan)]
    assert {kind for kind in COUNTS[preset] if kind in maker.LARGE} <= plan.needs.keys()
    assert all("hydra.launcher.gpu_mem_gb=80. " in sentence for sentence in told)
    stuck = {kind for kind, (_, memory) in plan.needs.items() if not memory.fits and not memory.setting}
    assert stuck <= {kind for kind in ("align",) if not plan.kinds[kind].parallel}  # 3.7 billion weights in one process


def test_the_page_says_what_the_presets_take(plans: dict[str, Plan]) -> None:
    """docs/scale.md, disk and the settings that make it fit among it: python benchmarks/paper.py --counts."""
    page = maker.SCALE.read_text("utf-8").partition("<!-- memory:begin -->\n")[2].partition("\n<!-- memory:end -->")[0]
    assert page.splitlines() == maker.memory_lines(plans)


def test_a_dry_run_says_what_is_not_here(plans: dict[str, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    warnings = " ".join(plans["paper_dialog"].warnings)
    assert "The hub cannot be reached: Qwen/Qwen3-1.7B-Base, Qwen/Qwen3-4B-Instruct-2507 planned" in warnings
    assert "How large" not in warnings  # of these a table tells
    [unsized] = maker.planned("paper_dialog", "dry_run=true", "policy.checkpoint=owner/name").warnings[:1]
    assert "How large owner/name is cannot be known either" in unsized
    print_plan(plans["paper_dialog"])
    shown = capsys.readouterr().out
    assert "56,448 samples" in shown and "hours of H100 (9.89e+14 FLOP/s" in shown


def test_without_dry_run_the_data_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"only a dry run can do with it\. Type task.path=PATH"):
        maker.planned("paper_dialog", "task.path=published")
    with pytest.raises(ConfigError, match=r"task\.path must be given\. Type task\.path=VALUE"):
        maker.planned("paper_dialog")
    with pytest.raises(ConfigError, match=r"task\.path must be given: the paper states no sizes of this task"):
        maker.planned("paper_dialog", "dry_run=true", "task=files")
    with pytest.raises(ConfigError, match="Task oasst has en, es, ru"):
        maker.planned("paper_dialog", "dry_run=true", "task.languages=[]", "source_lang=de", "target_lang=en")


@pytest.mark.parametrize("preset", COUNTS)
def test_a_preset_at_tiny_scale_has_its_cells_and_shares_as_it_does(
    plans: dict[str, Plan], preset: str, tmp_path: Path
) -> None:
    tiny, full = maker.planned(preset, "scale=tiny", f"root={tmp_path}").count(), plans[preset].count()
    for kind in ("translate", "sft", "reward", "pool", "baseline", "align", "aligned", "judge"):
        assert tiny.get(kind) == full.get(kind), kind


@pytest.mark.parametrize(
    ("preset", "langs", "cells"),
    [("paper_bilingual", ("de+en", "tr"), 1), ("paper_translate_train", ("en", "es"), 2)],
)
def test_runs_at_tiny_scale(preset: str, langs: tuple[str, str], cells: int, tmp_path: Path) -> None:
    """Of few languages and smaller yet, to be quick; `make paper-tiny` runs all of all presets."""
    source, target = langs
    command = [sys.executable, str(ROOT / "launch.py"), "-m", f"sweeps={preset}", "+scale=tiny", "name=g"]
    options = [f"source_lang={source}", f"target_lang={target}", "tracking.mode=off", "hydra.launcher.workers=1"]
    done = subprocess.run(
        [*command, *options, *SMALLER], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = (tmp_path / "outputs" / "grids" / "g" / "matrix.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + cells and all(row.split(",")[-2] == "done" for row in rows[1:])
