"""Prompts from templates and language facts: the one rendering of a task's text, for training, sampling and scoring.

A task with a template has two settings: `template` and `facts`, the languages' own facts, which planning fills in
(xling/planning/dag.py). In `narrowed` it keeps of both what a use reads (`read_by`), so that a reward model's key knows
nothing of the policy's instruction, and no key of a language that its template does not name.
"""

import itertools
from collections.abc import Collection, Sequence
from functools import lru_cache
from string import Formatter
from typing import TypedDict

import msgspec

from xling.config.common import Language, Template
from xling.errors import ConfigError, DataError, did_you_mean
from xling.tasks.records import Conversation, HasTemplate, Prompt, TaskSettings, Turns, Use

PLACEHOLDERS = ("text", "language", "native_language")

SPEAKERS = ("Human", "Assistant")  # the names of a chat's sides where the task has no setting for them

SIDES = ("user", "assistant")  # as chat templates call them
USER = {"user": 0, "prompter": 0, "human": 0, "assistant": 1}  # the side of a role

# Which parts of a template a use of the data reads. Held-out feedback comes with the test prompts, which both read.
PARTS: dict[Use, tuple[str, ...]] = {
    "demonstrations": ("policy",),
    "prompts": ("policy",),
    "pointwise": ("reward",),
    "pairwise": ("reward",),
    "recorded": ("reward",),
    "crossfitted": ("reward",),
    "texts": ("reward",),
    "held_out_pointwise": ("policy", "reward"),
    "held_out_pairwise": ("policy", "reward"),
}


def rendered(template: Template, text: str, language: Language) -> tuple[str, str]:
    """(`Prompt.text`, `Prompt.content`) of a document or chat; the content is empty where both read the same.

    Braces in `text` are left as they are. Around a chat the system says what stands before it, and what follows is the
    end of the user's last turn. ConfigError for a template that is none (`check_template`), or that names
    a language whose facts are not given.
    """
    policy, reward = (_filled(part, getattr(template, part), text, language) for part in ("policy", "reward"))
    return policy, "" if reward == policy else reward


def has_cue(task: TaskSettings) -> bool:
    """Whether something of a prompt is left without its document: an instruction or a cue."""
    return not isinstance(task, HasTemplate) or bool(task.template.policy.replace("{text}", "").strip())


def cue_of(task: TaskSettings, prompt: Prompt) -> str:
    """The policy's text for a prompt whose document is empty: the template alone.

    Of a task without templates (micro_summarization) it is the last line. `task` with facts, if its template names the
    language.
    """
    if not isinstance(task, HasTemplate):
        return prompt.text.rsplit("\n", 1)[-1]
    return rendered(task.template, "", language_of(task.facts, prompt.lang))[0]


def bare(task: TaskSettings) -> TaskSettings:
    """The task whose prompts are nothing but their documents or chats; as it is, if it has no template."""
    if not isinstance(task, HasTemplate):
        return task
    return msgspec.structs.replace(task, template=Template(), facts=())


def language_of(facts: Sequence[Language], code: str) -> Language:
    """The facts of a language; without names if they are not given, which is enough where no template asks for them."""
    return next((language for language in facts if language.code == code), Language(code, "", "", ""))


def dialog(
    messages: Sequence[tuple[str, str]],
    names: Sequence[str] = SPEAKERS,
    most: int | None = None,
    between: str = "\n",
    cue: bool = True,
) -> Conversation:
    """A chat of (role, text) as text: what the system says, then each turn after its side's name, then who answers.

    names: of the user's and the assistant's side; `most`: characters, for which the earliest turns are left out, the
    last one never; `cue`: whether the name of the one to answer stands at the end. Its turns are the same ones, what a
    side says several times in a row in one. DataError for a role that is none, or if the last turn is not the user's.
    """
    system = [text.strip() for role, text in messages if role == "system"]
    turns = [(USER.get(role), text.strip()) for role, text in messages if role != "system"]
    if not turns or turns[-1][0] != 0 or None in dict(turns):
        raise DataError(
            f"A conversation has the roles {', '.join(role for role, _ in messages) or 'of nobody'}; allowed are "
            f"system, {', '.join(USER)}, and the last turn is the user's."
        )
    lines = [f"{names[side or 0]}: {text}" for side, text in turns]
    end = [f"{names[1]}:"] if cue else []
    while most is not None and len(lines) > 1 and len(between.join([*system, *lines, *end])) > most:
        lines = lines[2 - (len(lines) % 2 == 0) :]  # a question with its answer: a user begins
    said = [("system", text) for text in system]
    said += [(SIDES[side or 0], text) for side, text in turns[len(turns) - len(lines) :]]
    runs = itertools.groupby(said, key=lambda turn: turn[0])
    whole = [(role, "\n\n".join(text for _, text in run)) for role, run in runs]
    return Conversation(between.join([*system, *lines, *end]), whole)


def conversation(text: str, names: Sequence[str]) -> str:
    """A chat that `dialog` has written, told by its sides' names at beginnings of lines; other texts as they are.

    What stands before the first of them is the system's.
    """
    turns, lines = list[tuple[str, list[str]]](), text.split("\n")
    for line in lines:
        side = next((i for i, name in enumerate(names) if line == f"{name}:" or line.startswith(f"{name}: ")), None)
        if side is not None:
            turns.append((SIDES[side], [line[len(names[side]) + 2 :]]))
        elif turns:
            turns[-1][1].append(line)
        else:
            turns.append(("system", [line]))
    told = [(role, "\n".join(said)) for role, said in turns]
    if len(told) < 2 or told.pop() != (SIDES[1], "") or told[-1][0] != SIDES[0]:
        return text
    found = dialog(told, names)
    return found if found == text else text


def check_template(template: Template) -> None:
    """ConfigError unless both parts have `{text}` and no placeholder that is unknown."""
    for part in ("policy", "reward"):
        _placeholders(part, getattr(template, part))


def with_facts(task: TaskSettings, languages: Collection[Language]) -> TaskSettings:
    """The task with the facts that its template may name; as it is, if it has no template. ConfigError as above."""
    if not isinstance(task, HasTemplate):
        return task
    check_template(task.template)
    facts = tuple(sorted(set(languages), key=lambda language: language.code))
    return msgspec.structs.replace(task, facts=facts)


class Read(TypedDict):
    """The two settings of rendering, as a use of the data reads them."""

    template: Template
    facts: tuple[Language, ...]


def read_by(use: Use, template: Template, facts: Sequence[Language], langs: Collection[str]) -> Read:
    """Template and facts as far as a use of these languages' data reads them; the rest at its default."""
    parts = {part: getattr(template, part) for part in PARTS[use]}
    named = any(_placeholders(part, text) - {"text"} for part, text in parts.items())
    kept = tuple(language for language in facts if language.code in langs) if named else ()
    return {"template": Template(**parts), "facts": kept}


def _filled(part: str, template: str, text: str, language: Language) -> str:
    if template == "{text}":
        return text  # not a copy: there may be a hundred thousand
    if _placeholders(part, template) - {"text"} and not language.name:
        raise ConfigError(
            f"task.template.{part} names the language, and there are no facts of {language.code!r}. "
            f"Write conf/lang/{language.code}.yaml, or type task.template.{part}='{{text}}'."
        )
    names = {"language": language.name, "native_language": language.native_name}
    whole = template.format(text=text, **names)
    if not isinstance(text, Conversation):
        return whole
    before, *after = template.format(text=_TEXT, **names).split(_TEXT)
    return Conversation(whole, _framed(text.turns, before, after[0])) if len(after) == 1 else whole


_TEXT = "\0"  # which no text of a task has


def _framed(turns: Turns, before: str, after: str) -> Turns:
    *said, (role, last) = turns
    if before.strip():
        told = [text for one, text in said if one == "system"]
        said = [("system", "\n\n".join([before.strip(), *told])), *(turn for turn in said if turn[0] != "system")]
    return [*said, (role, last + after.rstrip())]


@lru_cache(maxsize=64)
def _placeholders(part: str, template: str) -> frozenset[str]:
    """Those of a template; ConfigError if it has others than there are, or no `{text}`."""
    key, allowed = f"task.template.{part}", ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    try:
        pieces = [piece[1:] for piece in Formatter().parse(template) if piece[1] is not None]
    except ValueError as error:
        raise ConfigError(
            f"{key}={template!r} cannot be read: {error}. Allowed are {allowed}; a brace of the text itself is doubled."
        ) from error
    for name, form, conversion in pieces:
        if name not in PLACEHOLDERS or form or conversion:
            shown = f"{{{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}"
            raise ConfigError(
                f"{key} has the unknown placeholder {shown}.{did_you_mean(str(name), PLACEHOLDERS)} "
                f"Allowed are {allowed}; a brace of the text itself is doubled."
            )
    found = frozenset(str(name) for name, _, _ in pieces)
    if "text" not in found:
        raise ConfigError(
            f"{key}={template!r} has no {{text}}, so that no document would be read. Type {key}='{{text}}'."
        )
    return found
