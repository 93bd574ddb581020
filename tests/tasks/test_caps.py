"""Caps on what is read of a task's data: the same names for all tasks whose data is split."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from oasst_files import tree, write_hub
from own_files import rated
from seahorse_files import plain_rows, write_corpora, write_ratings

import xling
from xling.errors import ConfigError
from xling.tasks import defaults, files, oasst, seahorse
from xling.tasks.options import size, task_module
from xling.tasks.records import PUBLISHED, TaskSettings, Use
from xling.tasks.seahorse_files import CORPORA

USES: Sequence[Use] = ("demonstrations", "pointwise", "pairwise", "prompts", "held_out_pointwise", "held_out_pairwise")


def own(folder: Path) -> TaskSettings:
    path = folder / "own.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rated("en", 80)))
    return files.Settings(str(path), ())


def trees(folder: Path) -> TaskSettings:
    write_hub(folder, [tree("en", n) for n in range(9)], [tree("en", n) for n in range(9, 16)])
    return oasst.Settings(str(folder))


def corpora(folder: Path) -> TaskSettings:
    write_ratings(folder / "ratings", plain_rows(("en",), CORPORA))
    write_corpora(folder / "articles", ("en",), CORPORA)
    return seahorse.Settings(str(folder / "ratings"), str(folder / "articles"), ("en",), ("xlsum",))


@pytest.mark.parametrize("task", [own, trees, corpora])
def test_caps_leave_the_first_by_hash_and_stand_in_the_specs_of_what_reads_them(
    task: Callable[[Path], TaskSettings], tmp_path: Path
) -> None:
    whole, module = task(tmp_path), task_module(task(tmp_path))

    def rows(what: Any, split: Any, **caps: int) -> list[Any]:
        found: list[Any] = getattr(module, what)(msgspec.structs.replace(whole, **caps), "en", split)
        return found

    for what in ("demonstrations", "pairs", *(("ratings",) if task is not trees else ())):
        name, every = defaults.CAP_OF[what], rows(what, "train")
        assert len(every) > 3
        two, three = rows(what, "train", **{name: 2}), rows(what, "train", **{name: 3})
        assert len(two) == 2 and len(three) == 3 and set(two) < set(three) < set(every)
        assert [one for one in every if one in three] == three or task is corpora  # corpora go by hash themselves
        assert rows(what, "train", max_validation=1) == every
        assert len(rows(what, "validation", max_validation=1)) == 1 < len(rows(what, "validation"))
        assert len(rows(what, "validation", **{name: 1}, max_validation=2)) == 1
    assert len(rows("prompts", "test", max_prompts=1, max_validation=3)) == 1 < len(rows("prompts", "test"))

    def spec(use: Use, **caps: int) -> dict[str, Any]:
        built: dict[str, Any] = msgspec.to_builtins(
            module.narrowed(msgspec.structs.replace(whole, **caps), ["en"], use)
        )
        return built

    for use in USES if task is not trees else ("demonstrations", "pairwise", "prompts", "held_out_pairwise"):
        plain, read = spec(use), defaults.CAPS_READ[use]
        for name in defaults.CAPS:
            capped = spec(use, **{name: 2})
            assert (capped.get(name) == 2) == (name in read) and (capped == plain) == (name not in read), (use, name)
        assert task is corpora or not set(plain) & set(defaults.CAPS)  # as keys were before there were any
        assert spec(use, **dict.fromkeys(defaults.CAPS)) == plain  # null


def test_a_cap_where_a_size_is_set_otherwise_is_refused_with_that_size() -> None:
    with pytest.raises(ConfigError, match=r"task\.max_prompts.*only task= one of files, oasst, .* and test_prompts"):
        xling.plan("task.max_prompts=8")


def test_caps_that_recorded_responses_do_not_read_are_said(tmp_path: Path) -> None:
    capped = msgspec.structs.replace(own(tmp_path), max_prompts=5)
    assert files.ignored(capped, splits=False)[0].startswith("task.max_prompts=5: not read, since with policy=recorded")
    assert files.ignored(capped, splits=True) == files.ignored(own(tmp_path), splits=False) == []


def test_sizes_that_a_paper_states_are_capped_too() -> None:
    dialog = oasst.Settings(PUBLISHED, max_demonstrations=1000, max_feedback=500, max_validation=50)
    assert [size(dialog, "en", "demonstrations", split) for split in ("train", "validation")] == [1000, 50]
    assert [size(dialog, "en", "pairs", split) for split in ("train", "validation")] == [500, 50]
    assert size(dialog, "en", "prompts", "test") == 472


@pytest.mark.parametrize(
    ("cap", "typed", "said"),
    [
        ("max_demonstrations", (), r"task\.max_demonstrations=4 leaves 4 demonstrations of de .*: sft\.batch_size=8\."),
        (
            "max_feedback",
            (),
            r"max_feedback=4 leaves 4 ratings of en .*rm_backbone\.training\.batch_size=8\. Type .*=4 or less, or r",
        ),
        ("max_feedback", ("rm_backbone.objective=pairwise",), r"task\.max_feedback=4 leaves 4 pairs of en"),
        ("max_feedback", ("source_lang=de+en", "rm_backbone.training.batch_size=9"), r"leaves 8 ratings of de\+en"),
    ],
)
def test_a_cap_below_a_batch_is_refused_while_planning(
    cap: str, typed: Sequence[str], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for lang in ("en", "de") for row in rated(lang, 80)))
    command = ["task=files", f"task.path={path}", "source_lang=en", "target_lang=de", "judge=target_rm",
               "sft.batch_size=8", "rm_backbone.training.batch_size=8", *typed]  # fmt: skip
    with pytest.raises(ConfigError, match=said):
        xling.plan(*command, f"task.{cap}=4")
    if typed:
        return
    xling.plan(*command, f"task.{cap}=8")
