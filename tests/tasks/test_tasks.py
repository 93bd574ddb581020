"""What tasks have in common: templates and dialogs, data that is not here, and how much of what there is."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from oasst_files import tree, write_hub
from own_files import jsonl, rated
from seahorse_files import plain_rows, write_corpora, write_ratings

from xling.config.common import Language, Template
from xling.errors import ConfigError, DataError
from xling.results.specs import data_spec
from xling.tasks import seahorse
from xling.tasks.files import Settings as Files
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.options import Task, offers, size, task_module
from xling.tasks.records import absent, turns_of
from xling.tasks.render import (
    SPEAKERS,
    check_template,
    conversation,
    dialog,
    language_of,
    read_by,
    rendered,
    with_facts,
)
from xling.tasks.seahorse import Settings as Seahorse
from xling.tasks.seahorse_files import CORPORA

SEAHORSE, OASST = Seahorse("published"), Oasst("published")


# --- data that is not here, and sizes -----------------------------------------------------------------------


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
    assert size(OASST, "en", "prompts", "train") == size(OASST, "en", "demonstrations", "train") == 8898
    langs = SEAHORSE.languages
    assert sum(size(SEAHORSE, lang, "prompts", "test") or 0 for lang in langs) == 70126
    assert sum(size(SEAHORSE, lang, "ratings", "train") or 0 for lang in langs) == 54539
    assert size(SEAHORSE, "de", "demonstrations", "train") == 220748 + 40839


def test_sizes_of_data_that_is_here(tmp_path: Path) -> None:
    micro = MicroSummarization(languages=("de",), test_prompts=7, ratings=9)
    assert size(micro, "de", "prompts", "test") == 7 and size(micro, "de", "ratings", "train") == 9
    own = Files(str(jsonl(tmp_path / "r.jsonl", rated("de", 40))), ("de",))
    parts = [size(own, "de", "ratings", split) for split in ("train", "validation", "test")]
    assert sum(part or 0 for part in parts) == 80 and size(own, "de", "ratings", "train", 3) == 3


# --- templates ----------------------------------------------------------------------------------------------

DE = Language("de", "German", "Deutsch", "Latn")
TR = Language("tr", "Turkish", "Türkçe", "Latn")
NAMED = Template(policy="Summarise in {language} ({native_language}):\n{text}")


def test_the_instruction_names_the_language_and_the_reward_model_reads_the_text_alone() -> None:
    assert rendered(NAMED, "Ein Text.", DE) == ("Summarise in German (Deutsch):\nEin Text.", "Ein Text.")


def test_without_an_instruction_both_read_the_same() -> None:
    assert rendered(Template(), "Ein Text.", DE) == ("Ein Text.", "")


@pytest.mark.parametrize("text", ["{language}", "{", "}}", "{text}{0}{x!r}", "%s \\1 $text"])
def test_a_text_that_looks_like_a_template_is_text(text: str) -> None:
    assert rendered(NAMED, text, DE) == (f"Summarise in German (Deutsch):\n{text}", text)


def test_a_doubled_brace_is_one_of_the_template() -> None:
    assert rendered(Template(policy="{{{text}}}"), "a", DE)[0] == "{a}"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (Template(policy="Summarise."), r"task\.template\.policy='Summarise\.' has no \{text\}"),
        (Template(reward="{language}"), r"task\.template\.reward='\{language\}' has no \{text\}"),
        (Template(policy="{text} {langauge}"), r"unknown placeholder \{langauge\}\. Did you mean 'language'\?"),
        (Template(policy="{text.real}"), r"unknown placeholder \{text\.real\}"),
        (Template(policy="{text!r}"), r"unknown placeholder \{text!r\}"),
        (Template(policy="{text:>9}"), r"unknown placeholder \{text:>9\}"),
        (Template(policy="{} {text}"), r"unknown placeholder \{\}"),
        (Template(policy="{text"), "cannot be read.*a brace of the text itself is doubled"),
    ],
)
def test_a_template_that_is_none_is_refused(template: Template, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_template(template)
    with pytest.raises(ConfigError, match=sentence):
        rendered(template, "a", DE)


def test_a_template_that_names_a_language_without_facts_is_refused() -> None:
    assert rendered(Template(), "a", language_of((DE,), "xx")) == ("a", "")
    with pytest.raises(ConfigError, match=r"no facts of 'xx'\. Write conf/lang/xx\.yaml"):
        rendered(NAMED, "a", language_of((DE, TR), "xx"))


def test_a_use_reads_its_part_of_the_template_and_the_facts_that_it_names() -> None:
    facts = (DE, TR)
    assert read_by("demonstrations", NAMED, facts, ("de",)) == {"template": NAMED, "facts": (DE,)}
    assert read_by("pointwise", NAMED, facts, ("de",)) == {"template": Template(), "facts": ()}
    assert read_by("held_out_pairwise", NAMED, facts, ("tr", "de")) == {"template": NAMED, "facts": facts}
    both = Template(policy="{text}", reward="{language}: {text}")
    assert read_by("prompts", both, facts, ("de",)) == {"template": Template(), "facts": ()}
    assert read_by("pairwise", both, facts, ("tr",)) == {"template": both, "facts": (TR,)}


def test_planning_fills_the_facts_in_by_code_and_leaves_a_task_without_a_template_alone() -> None:
    task = MicroSummarization(languages=("de",))
    assert with_facts(task, (TR, DE)) is task


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small task of each kind that has templates and splits."""
    folder = tmp_path_factory.mktemp("tasks")
    write_ratings(folder / "ratings", plain_rows(("de",), CORPORA))
    write_corpora(folder / "articles", ("de",), CORPORA)
    hub = write_hub(folder / "hub", [tree("es", 0)], [tree("es", 1)])
    return {
        "files": Files(str(jsonl(folder / "r.jsonl", rated("de", 40))), ()),
        "seahorse": Seahorse(str(folder / "ratings"), str(folder / "articles"), ("de",), max_characters=20),
        "oasst": Oasst(str(hub)),
    }


@pytest.mark.parametrize(
    ("name", "lang", "begins"),
    [("files", "de", "de document"), ("seahorse", "de", "Der Zug"), ("oasst", "es", "Human: ")],
)
def test_the_instruction_is_the_policys_alone(small: dict[str, Any], name: str, lang: str, begins: str) -> None:
    facts = (DE, Language("es", "Spanish", "español", "Latn"))
    task = msgspec.structs.replace(small[name], template=NAMED, facts=facts)
    module, language = task_module(task), language_of(facts, lang)
    for prompt in module.prompts(task, lang, "test"):
        assert prompt.text == f"Summarise in {language.name} ({language.native_name}):\n{prompt.reward_text}"
        assert prompt.reward_text.startswith(begins)
    prompts: Any = module.narrowed(task, [lang], "prompts")
    assert prompts.template == NAMED and prompts.facts == (language,)
    trained: Any = module.narrowed(task, [lang], "pairwise")
    assert trained.template == Template() and trained.facts == ()
    with pytest.raises(ConfigError, match=f"no facts of '{lang}'"):
        module.prompts(msgspec.structs.replace(task, facts=()), lang, "test")


def test_nothing_heavy_is_imported_to_look_at_the_data(small: dict[str, Any]) -> None:
    """Nor pyarrow, where no file is of its formats."""
    code = f"""
import sys
from xling.tasks import files, seahorse
files.summary(files.Settings(path={small["files"].path!r}, languages=()))
heavy = {{"torch", "transformers", "scipy", "omegaconf", "datasets", "pandas"}}
assert not {{*heavy, "pyarrow"}} & set(sys.modules)
seahorse.check(seahorse.Settings({small["seahorse"].path!r}, {small["seahorse"].articles!r}, ("de",)), None, ["de"], [])
assert not heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})


# --- dialogs ------------------------------------------------------------------------------------------------


def test_early_turns_make_way_and_the_last_one_never() -> None:
    turns = [("prompter", "a" * 30), ("assistant", "b" * 30), ("prompter", "c" * 30)]
    full = dialog(turns)
    assert full.count("\n") == 3 and dialog(turns, most=len(full)) == full
    assert dialog(turns, most=len(full) - 1) == f"Human: {'c' * 30}\nAssistant:" == dialog(turns, most=1)
    assert dialog([("assistant", "Hi."), ("user", "b" * 9)], most=10) == f"Human: {'b' * 9}\nAssistant:"


def test_a_chat_as_text_knows_its_turns() -> None:
    said = [("system", "Be brief."), ("human", "a\nb"), ("prompter", "c"), ("assistant", "Human: no"), ("user", " d ")]
    text = dialog(said)
    assert text == "Be brief.\nHuman: a\nb\nHuman: c\nAssistant: Human: no\nHuman: d\nAssistant:"
    assert turns_of(text) == (
        ("system", "Be brief."), ("user", "a\nb\n\nc"), ("assistant", "Human: no"), ("user", "d"),
    )  # fmt: skip
    assert turns_of(str(text)) == (("user", str(text)),)
    assert turns_of(dialog(said[1:], most=1)) == (("user", "d"),)
    assert turns_of(pickle.loads(pickle.dumps(text))) == turns_of(text) == turns_of(copy.deepcopy(text))


def test_a_template_stands_around_a_chat_and_not_within_it() -> None:
    chat = dialog([("user", "a {b}"), ("assistant", "c"), ("user", "d")])
    asked, read = rendered(Template(policy="{language}:\n{text}\nReply."), chat, DE)
    assert asked == f"German:\n{chat}\nReply." and read is chat
    assert turns_of(asked) == (("system", "German:"), ("user", "a {b}"), ("assistant", "c"), ("user", "d\nReply."))
    told = dialog([("system", "Be brief."), ("user", "d")])
    assert turns_of(rendered(Template(policy="Q: {text}"), told, DE)[0])[0] == ("system", "Q:\n\nBe brief.")
    twice = rendered(Template(policy="{text}{text}"), chat, DE)[0]
    assert turns_of(twice) == (("user", chat + chat),)


def test_turns_of_a_chat_that_was_text_in_between_are_told_by_names() -> None:
    for said in ([("user", "a")], [("system", "x\ny"), ("user", "a\nb"), ("assistant", "c:"), ("user", "d")]):
        chat = dialog(said, ("Frage", "Antwort"))
        assert turns_of(conversation(str(chat), ("Frage", "Antwort"))) == turns_of(chat) == tuple(said)
    for text in ("a", "Human: a", "Human: a\nAssistant: b", "Assistant:", "a\nAssistant:", "Human: a\n\nAssistant: "):
        assert turns_of(conversation(text, SPEAKERS)) == (("user", text),)


@pytest.mark.parametrize("roles", [(), ("prompter", "assistant"), ("system",), ("tool", "prompter")])
def test_a_conversation_ends_with_the_users_turn(roles: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="the last turn is the user's"):
        dialog([(role, "x") for role in roles])
