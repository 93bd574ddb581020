"""`xling data check`: what a task's data holds, language by language, before anything is trained on it.

Counts by use and split beside the paper's, lengths, label balance, duplicates, leakage between splits, the share of
responses that read as the stated language, and how far people agree who rated the same responses. Pure functions from
a task's records to tidy rows, which xling/report/datacheck.py shows. No torch.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

import numpy as np
from msgspec import Struct

from xling.analysis.statistics.agreement import Agreement, alpha
from xling.config.common import Language
from xling.errors import ConfigError, expanded
from xling.measures.language import in_language, labels
from xling.planning.detection import SAMPLE, measured
from xling.results.plan import LanguageRates
from xling.tasks.options import Task, offers, task_module
from xling.tasks.records import GOOD, Demonstration, Pair, Prompt, Rating, Split
from xling.tasks.render import with_facts
from xling.tasks.texts import matched

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ONE_SPLIT = (
    "What is evaluated on (test) is the validation split, as in the paper: it chooses checkpoints too "
    "(task.evaluate=validation). What they share is by design and not counted. "
    "Type task.evaluate={} to keep them apart."
)
USES = ("demonstrations", "ratings", "pairs", "prompts")


class Part(Struct, frozen=True):
    """One use of the data in one split. Lengths are in characters: of the responses, or of prompts without any."""

    lang: str
    dataset: str
    use: str  # demonstrations, ratings, pairs, prompts, recorded
    split: str  # empty for recorded responses, which have none
    rows: int
    prompts: int
    groups: int  # documents or trees
    published: int | None  # rows that the paper states
    prompt_median: int
    prompt_p95: int
    response_median: int | None
    response_p95: int | None
    balance: float | None  # percent; see `measure`
    measure: str  # what balance is: labels of one half or more; pairs whose chosen response is longer
    duplicates: int  # rows that say what another row of this part says, in whatever Unicode form, case and spacing


class Whole(Struct, frozen=True):
    """One language: what splits share, and whether its texts are in it."""

    lang: str
    leaked_groups: int  # in more than one split, whatever the use; splits that are one by design are not counted
    leaked_texts: int  # prompts read by reward models that are in more than one split
    in_language: float | None  # percent of the sampled responses' text; None: the detector does not know the language
    sampled: int
    rates: LanguageRates  # how often it errs
    raters: Agreement | None  # of people who rated the same responses; None: no response was rated twice


class Report(Struct, frozen=True):
    """All that was found. `notes`: what the task says of its data, and uses that it cannot serve."""

    task: str
    parts: list[Part]
    languages: list[Whole]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Item:
    """A row of any use: its prompt, its responses, and a label where it has one."""

    prompt: Prompt
    responses: tuple[str, ...]
    label: float | None = None


@dataclass
class _Language:
    """A language while its parts come in."""

    same: frozenset[str]  # splits that are one and the same by design
    groups: dict[str, set[str]] = field(default_factory=dict)  # split -> groups
    texts: dict[str, set[bytes]] = field(default_factory=dict)
    responses: list[str] = field(default_factory=list)


def check_data(name: str, config: Task, facts: Sequence[Language], model: str = "") -> Report:
    """Load everything that a task offers in all its languages. Raises what the task raises on bad data.

    facts: those of conf/lang, for templates that name a language. model: what tells languages (lid.model).
    """
    model = str(expanded(model)) if model else ""
    labels(model)
    module, config = task_module(config), with_facts(config, facts)
    langs = list(module.languages(config))
    notes = list(module.check(config, [one.code for one in facts], [], langs))
    published = module.published(config)
    same = frozenset(("validation", "test")) if getattr(config, "evaluate", "") == "validation" else frozenset()
    if same:
        notes.append(ONE_SPLIT.format(*_other_values(config, "evaluate")))
    parts, wholes = list[Part](), dict[str, _Language]()
    why = dict[str, list[str]]()
    for lang in langs:
        whole = _Language(same)
        for use, split, items in _loaded(config, lang, why):
            _remember(whole, split, items)
            datasets = sorted({item.prompt.dataset for item in items})
            for dataset in datasets:
                own = [item for item in items if item.prompt.dataset == dataset]
                parts.append(_part(lang, dataset, use, split, own, published.get((lang, dataset, use, split))))
            if len(datasets) > 1 and (lang, "", use, split) in published:
                parts.append(_part(lang, "all", use, split, items, published[lang, "", use, split]))
        wholes[lang] = whole
    for reason, uses in why.items():
        for note in notes:  # an error says for itself what a note has said
            reason = reason.replace(note, "").strip()
        notes.append(f"{', '.join(dict.fromkeys(uses))}: {reason}")
    several = getattr(module, "several_raters", lambda config, lang: ())
    found = [
        _whole(lang, whole, measured(config, lang, model), model, alpha(several(config, lang)))
        for lang, whole in wholes.items()
    ]
    return Report(name, parts, found, notes)


def _other_values(config: Task, setting: str) -> list[str]:
    """Other values of a setting that is one of a few words."""
    words = get_args(get_type_hints(type(config))[setting])
    return [word for word in words if word != getattr(config, setting)]


def _loaded(config: Task, lang: str, why: dict[str, list[str]]) -> Iterator[tuple[str, str, list[Item]]]:
    """(use, split, rows) of what the task offers; a use that its settings do not allow is put with the reason."""
    module, there = task_module(config), offers(config)
    loaders: dict[str, Callable[[Split], Iterable[Any]]] = {
        use: lambda split, use=use: getattr(module, use)(config, lang, split)  # type: ignore[misc]
        for use in USES
    }
    for use in USES:
        if use not in there:
            continue
        try:
            found = [(split, [_item(row) for row in loaders[use](split)]) for split in SPLITS]
        except ConfigError as error:
            why.setdefault(str(error), []).append(use)
            continue
        yield from ((use, split, items) for split, items in found if items)
    if "recorded" in there:
        try:
            recorded = module.recorded(config, lang)
        except ConfigError as error:
            why.setdefault(str(error), []).append("recorded")
            return
        yield "recorded", "", [Item(prompt, (text,), rating) for prompt, _, text, rating in recorded.flat()]


def _item(row: Demonstration | Rating | Pair | Prompt) -> Item:
    if isinstance(row, Pair):
        return Item(row.prompt, (row.chosen, row.rejected))
    if isinstance(row, Rating):
        return Item(row.prompt, (row.response,), row.label)
    return Item(row.prompt, (row.response,)) if isinstance(row, Demonstration) else Item(row, ())


# --- one part -----------------------------------------------------------------------------------------------


def _part(lang: str, dataset: str, use: str, split: str, items: Sequence[Item], published: int | None) -> Part:
    asked = {item.prompt.id: item.prompt for item in items}
    lengths = [len(prompt.reward_text) for prompt in asked.values()]
    answered = [len(text) for item in items for text in item.responses]
    said = [tuple(matched(text) for text in (item.prompt.reward_text, *item.responses)) for item in items]
    balance, measure = _balance(use, items)
    return Part(
        lang=lang,
        dataset=dataset,
        use=use,
        split=split,
        rows=len(asked) if use == "recorded" else len(items),
        prompts=len(asked),
        groups=len({prompt.group for prompt in asked.values()}),
        published=published,
        prompt_median=_quantile(lengths, 50),
        prompt_p95=_quantile(lengths, 95),
        response_median=_quantile(answered, 50) if answered else None,
        response_p95=_quantile(answered, 95) if answered else None,
        balance=balance,
        measure=measure,
        duplicates=len(said) - len(set(said)),
    )


def _quantile(values: Sequence[int], percent: int) -> int:
    return round(float(np.percentile(values, percent)))


def _balance(use: str, items: Sequence[Item]) -> tuple[float | None, str]:
    """Percent, and of what: half is balance; far from it a rule without a model is already right."""
    if use == "ratings":
        return 100 * float(np.mean([(item.label or 0.0) >= GOOD for item in items])), "good"
    if use == "pairs":
        return _longer([(len(item.responses[0]), len(item.responses[1])) for item in items]), "chosen is longer"
    if use == "recorded":
        by_prompt = itertools.groupby(items, key=lambda item: item.prompt.id)
        pairs = [
            (len(a.responses[0]), len(b.responses[0]))
            for _, rows in by_prompt
            for a, b in itertools.permutations(rows, 2)
            if (a.label or 0.0) > (b.label or 0.0)
        ]
        return (_longer(pairs) if pairs else None), "better is longer"
    return None, ""


def _longer(pairs: Sequence[tuple[int, int]]) -> float:
    """Percent of pairs whose first is longer, ties half."""
    return 100 * float(np.mean([(np.sign(a - b) + 1) / 2 for a, b in pairs]))


# --- one language -------------------------------------------------------------------------------------------


def _remember(whole: _Language, split: str, items: Sequence[Item]) -> None:
    whole.groups.setdefault(split, set()).update(item.prompt.group for item in items)
    whole.texts.setdefault(split, set()).update(_digest(matched(item.prompt.reward_text)) for item in items)
    whole.responses += [text for item in items for text in item.responses]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


def _sample(lang: str, whole: _Language) -> list[str]:
    texts = sorted({text for text in whole.responses if text.strip()})
    return random.Random(f"data check/{lang}").sample(texts, min(SAMPLE, len(texts)))


def _percent(shares: Iterable[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return 100 * sum(known) / len(known) if known else None


def _whole(lang: str, whole: _Language, rates: LanguageRates, model: str, raters: Agreement | None) -> Whole:
    sample = _sample(lang, whole)
    return Whole(
        lang=lang,
        leaked_groups=_shared(whole.groups, whole.same),
        leaked_texts=_shared(whole.texts, whole.same),
        in_language=_percent(in_language(sample, lang, model)),
        sampled=len(sample),
        rates=rates,
        raters=raters,
    )


def _shared(by_split: dict[str, set[Any]], same: frozenset[str]) -> int:
    """How many are in more than one split, other than those of `same`; recorded responses are no split."""
    pairs = itertools.combinations([split for split in by_split if split], 2)
    return len({one for a, b in pairs if {a, b} != same for one in by_split[a] & by_split[b]})
