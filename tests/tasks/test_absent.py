"""A task whose data is not here, and how much of what a task has."""

from pathlib import Path

import pytest
from own_files import jsonl, rated

from xling.config.tasks import absent
from xling.errors import ConfigError
from xling.results.prompts import data_spec
from xling.tasks import seahorse
from xling.tasks.files import Settings as Files
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.options import Task, offers, size, task_module
from xling.tasks.seahorse import Settings as Seahorse

SEAHORSE, OASST = Seahorse("published"), Oasst("published")


def test_what_is_known_without_the_data() -> None:
    module = task_module(SEAHORSE)
    assert list(module.languages(SEAHORSE)) == ["de", "en", "es", "ru", "tr", "vi"]
    assert list(task_module(OASST).languages(OASST)) == ["en", "es", "ru"]
    assert list(module.languages(Seahorse("published", languages=("tr", "en")))) == ["tr", "en"]
    assert module.check(SEAHORSE, None, ["de"], ["tr"]) == [
        "The data is not here: sizes are those that the paper states (task.path=published)."
    ]
    assert offers(SEAHORSE) == seahorse.OFFERS and task_module(OASST).truncation_side(OASST) == "left"


@pytest.mark.parametrize("task", [SEAHORSE, OASST], ids=["seahorse", "oasst"])
def test_identities_without_a_file(task: Task) -> None:
    module = task_module(task)
    spec = data_spec(module.narrowed(task, ["en"], "demonstrations"), ["en"], "demonstrations")
    assert spec["digest"] == "published" and spec["where"] == {"path": "published"}
    for use in ("demonstrations", "pairs", "prompts"):
        with pytest.raises(ConfigError, match="stands for data that is not here"):
            getattr(module, use)(task, "en", "train")


def test_data_that_is_here_is_itself(tmp_path: Path) -> None:
    assert not absent(Seahorse(str(tmp_path))) and task_module(Seahorse(str(tmp_path))) is not task_module(SEAHORSE)
    with pytest.raises(ConfigError, match="the paper states no sizes of this task"):
        task_module(Files("published", ()))


def test_published_sizes_by_corpus_cap_and_question() -> None:
    assert size(SEAHORSE, "en", "prompts", "test") == 642 + 9690 + 12021
    assert size(Seahorse("published", datasets=("wikilingua",)), "en", "prompts", "test") == 12021
    assert size(Seahorse("published", max_prompts=1000), "en", "prompts", "test") == 2642
    assert size(SEAHORSE, "en", "prompts", "test", 100) == 300
    assert size(SEAHORSE, "de", "ratings", "train") == 8389 and size(SEAHORSE, "de", "pairs", "test") == 306
    assert size(Seahorse("published", question=1), "de", "ratings", "train") is None
    assert size(OASST, "ru", "pairs", "validation") == 135 and size(OASST, "de", "pairs", "train") is None


def test_sizes_of_data_that_is_here(tmp_path: Path) -> None:
    micro = MicroSummarization(languages=("de",), test_prompts=7, ratings=9)
    assert size(micro, "de", "prompts", "test") == 7 and size(micro, "de", "ratings", "train") == 9
    own = Files(str(jsonl(tmp_path / "r.jsonl", rated("de", 40))), ("de",))
    parts = [size(own, "de", "ratings", split) for split in ("train", "validation", "test")]
    assert sum(part or 0 for part in parts) == 80 and size(own, "de", "ratings", "train", 3) == 3
