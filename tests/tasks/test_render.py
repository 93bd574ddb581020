"""Templates: what they may say, what a use of the data reads of them, and what planning fills in."""

import pytest

from xling.config.common import Language, Template
from xling.errors import ConfigError
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.tasks.render import check_template, language_of, read_by, rendered, with_facts

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
