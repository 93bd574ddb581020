"""task=oasst: open-ended dialog as in the paper. People ranked assistants' replies in OpenAssistant's message trees.

    python launch.py task=oasst task.path=PATH ...

Feedback is pairwise: all pairs of replies to the same message, the higher-ranked one chosen (Table 4 of the paper has
2.5 pairs a prompt, more than best against worst gives). Demonstrations are the top-ranked replies (Table 3), and the
same messages are the prompts. What is evaluated on is the validation split, oasst's own where the files have one, else
drawn by tree; or, with task.evaluate=halves, one half of its trees, and the other chooses checkpoints. How to get the
files: docs/tasks.md.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET

from xling.config.common import Fraction, Language, Positive, Seed, Template
from xling.errors import ConfigError, DataError, expanded, shown
from xling.measures.language import ONE_LABEL
from xling.tasks import defaults
from xling.tasks.paths import Identity, files_in, identity, is_table, split_of
from xling.tasks.records import Cap, Demonstration, Offer, Pair, Prompt, Split, TaskSettings, Use
from xling.tasks.render import dialog, language_of, read_by, rendered
from xling.tasks.tables import Row, open_table, text_of

# --- settings and hooks -------------------------------------------------------------------------------------


class Settings(TaskSettings, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="oasst"):
    """Open-ended dialog as in the paper: OpenAssistant's message trees with people's rankings."""

    path: str
    languages: tuple[str, ...] = ()
    seed: Seed = 0
    validation: Fraction = 0.05  # share of the trees, where the files have no split
    evaluate: Literal["validation", "halves"] = "validation"
    states: tuple[str, ...] = ("ready_for_export",)
    unreviewed: Literal["drop", "keep"] = "drop"
    synthetic: Literal["keep", "drop"] = "keep"
    max_spam: Fraction = 0.5
    max_lang_mismatch: Fraction = 0.5
    single_replies: Literal["keep", "drop"] = "keep"
    max_characters: Positive | None = None
    roles: tuple[str, str] = ("Human", "Assistant")
    feedback: Literal["pairwise"] = "pairwise"
    max_demonstrations: Cap = UNSET  # a language and split
    max_prompts: Cap = UNSET
    max_feedback: Cap = UNSET  # ratings or pairs
    max_validation: Cap = UNSET  # of demonstrations and feedback that choose checkpoints
    template: Template = Template()
    facts: tuple[Language, ...] = ()  # of the languages that the template names; planning fills them in


OFFERS: frozenset[Offer] = frozenset({"demonstrations", "pairs", "prompts"})

# Hooks that need nothing special here.
counted = defaults.counted
digest = defaults.digest
document_of = defaults.document_of
ignored = defaults.ignored
missing = defaults.missing
prompt_around = defaults.prompt_around
require = defaults.require

DATASET = "oasst"

# Tables 3 and 4: prompts with their best reply, and pairs; train and validation.
TABLE_3 = {"en": (8898, 472), "es": (5681, 311), "ru": (1884, 99)}
TABLE_4 = {"en": (22076, 1026), "es": (13714, 699), "ru": (2627, 135)}


# --- the surface of a task module ---------------------------------------------------------------------------


def languages(config: Settings) -> Sequence[str]:
    """Those of `task.languages`, or all that have pairs in both splits."""
    return config.languages or tuple(lang for lang in sorted(read(config).asked) if not _lack(config, lang))


def check(config: Settings, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """ConfigError for a language without pairs or prompts in a split; what was left out is said, by language."""
    notes, found = list[str](), read(config)
    for lang in sorted({*sources, *targets}):
        _language(config, lang)
        if lack := _lack(config, lang, pairs=lang in sources):
            raise ConfigError(
                f"{config.path} has no {lack} in {lang!r}, and at least one is needed. Leave {lang} out of "
                f"{'source_lang' if lang in sources else 'target_lang'}."
            )
        left_out = Counter({reason: n for (of, reason), n in found.left_out.items() if of == lang})
        left_out["several replies without ranks, of which none is the best"] = sum(
            len(one.replies) > 1 and one.replies[0][1] is None for one in found.asked[lang]
        )
        notes += defaults.left_out(lang, f"messages of {config.path}", left_out)
    return notes


def narrowed(config: Settings, langs: Sequence[str], use: Use) -> Settings:
    """Which languages are used decides nothing but what the template names."""
    read = read_by(use, config.template, config.facts, langs)
    single = "keep" if use in ("pairwise", "pointwise") else config.single_replies
    caps = dict.fromkeys(defaults.CAPS, UNSET) | defaults.caps(config, use)
    return msgspec.structs.replace(config, languages=(), feedback="pairwise", single_replies=single, **caps, **read)


def demonstrations(config: Settings, lang: str, split: Split) -> list[Demonstration]:
    """The best reply to each message; where several have no ranks there is none."""
    found = [Demonstration(_prompt(config, one), one.replies[0][0]) for one in _best(config, lang, split)]
    return defaults.capped(config, found, "demonstrations", split)


def prompts(config: Settings, lang: str, split: Split) -> list[Prompt]:
    """The messages of the demonstrations, with the conversation up to them."""
    return defaults.capped(config, [_prompt(config, one) for one in _best(config, lang, split)], "prompts", split)


def pairs(config: Settings, lang: str, split: Split) -> list[Pair]:
    """All k-choose-2 of a message's ranked replies, the lower rank chosen; equal ranks and equal texts make none."""
    found: list[Pair] = []
    for one in _asked(config, lang, split):
        prompt = _prompt(config, one)
        found += [Pair(prompt, chosen, rejected) for chosen, rejected in _pairs(one)]
    return defaults.capped(config, found, "pairs", split)


def truncation_side(config: Settings, langs: Collection[str] = ()) -> str:
    """left: of a conversation that is too long for a model the oldest turns go."""
    return "left"


def published(config: Settings) -> dict[tuple[str, str, str, str], int]:
    """Sizes of the paper's Tables 3 and 4: (language, DATASET, what, split) -> count.

    "test" is "validation", as in the paper; of halves it gives none.
    """
    whole = (("validation", 1), ("test", 1)) if config.evaluate == "validation" else ()
    return {
        (lang, DATASET, what, split): counts[column]
        for what, table in (("prompts", TABLE_3), ("demonstrations", TABLE_3), ("pairs", TABLE_4))
        for lang, counts in table.items()
        for split, column in (("train", 0), *whole)
    }


# --- the files: message trees, and what is left out ---------------------------------------------------------

# Messages come flat (`*.messages.jsonl.gz`, or the hub's data/train-*.parquet and data/validation-*.parquet) or
# nested (`*.trees.jsonl.gz`: message_tree_id, tree_state, prompt with replies in replies), told apart by their
# fields. A message has message_id, parent_id, text, role (prompter, assistant), lang, rank (0 is best; among
# siblings), deleted, review_result (false: spam), synthetic, tree_state and labels: spam and lang_mismatch as people
# voted, 0 to 1. A message that is left out takes the conversation below it along.


COLUMNS = (
    *("message_id", "parent_id", "message_tree_id", "text", "role", "lang", "rank", "deleted", "review_result"),
    *("synthetic", "tree_state", "labels"),
)
NEEDED = ("message_id", "parent_id", "text", "role", "lang")
TREE = ("message_tree_id", "prompt")
# The settings that decide what is read: with others the files are not read again.
_READING = ("path", "seed", "validation", "states", "unreviewed", "synthetic", "max_spam", "max_lang_mismatch")


class Asked(NamedTuple):
    """A conversation that ends with a user's turn, and what was answered: the best first, each with its rank."""

    message_id: str
    tree: str
    lang: str
    split: str
    turns: tuple[tuple[str, str], ...]  # (role, text), the user's last
    replies: tuple[tuple[str, int | None], ...]


class Trees(NamedTuple):
    """A release's conversations by language, and counts of messages left out by (language, reason)."""

    asked: dict[str, list[Asked]]
    left_out: Counter[tuple[str, str]]


class _Message(NamedTuple):
    message_id: str
    parent: str
    tree: str
    text: str
    role: str
    lang: str
    rank: int | None
    split: str
    reason: str  # why it is left out; empty: it is not


def read(config: Settings) -> Trees:
    """All languages, read once for the files' size and time. DataError for what is not as published."""
    return _read(identity(sources(config)), Settings(**{name: getattr(config, name) for name in _READING}))


def sources(config: Settings) -> list[Path]:
    """One file, or the train and validation files of a folder, which have all languages; ConfigError without any."""
    hint = (
        "Type task.path=PATH: a .messages.jsonl.gz or .trees.jsonl.gz, or the folder of the hub dataset "
        "OpenAssistant/oasst1 (docs/tasks.md)."
    )
    if config.path in ("", "???"):
        raise ConfigError(f"task=oasst needs the message trees. {hint}")
    path = expanded(config.path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"task.path={config.path} is not there. {hint}")
    tables = [one for one in sorted(path.rglob("*")) if one.is_file() and is_table(one)]
    found = [one for one in tables if _split_of(one) in ("train", "validation")]
    missing = {"train", "validation"} - {_split_of(one) for one in found}
    if missing:
        raise ConfigError(
            f"task.path={config.path} has no {' and no '.join(sorted(missing))} files; it has {files_in(path)}. {hint}"
        )
    return found


def language(code: str) -> str:
    """The language in conf/lang of a message's `lang`: pt-BR is pt, nb-NO is no."""
    base = code.replace("_", "-").split("-")[0].lower()
    return ONE_LABEL.get(base, base)


# --- reading ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _read(found: Identity, config: Settings) -> Trees:
    left_out: Counter[tuple[str, str]] = Counter()
    messages: dict[str, _Message] = {}
    splits: dict[str, str] = {}
    for name, _, _ in found:
        split = _split_of(Path(name)) if len(found) > 1 else ""
        for message in _messages(Path(name), split, config):
            if splits.setdefault(message.tree, message.split) != message.split:
                raise DataError(
                    f"{name} has the tree {message.tree}, which is in the {splits[message.tree]} files too."
                )
            if message.message_id in messages:
                left_out[message.lang, "the same message again"] += 1
            else:
                messages[message.message_id] = message
    reasons = _reasons(messages)
    for message_id, reason in reasons.items():
        if reason:
            left_out[messages[message_id].lang, reason] += 1
    return Trees(_conversations(messages, reasons), left_out)


def _messages(path: Path, split: str, config: Settings) -> Iterator[_Message]:
    """A file's messages, parents before their replies or not; DataError names a missing column."""
    table = open_table(path)
    if all(name in table.columns for name in TREE):
        for number, row in table.good_rows():
            yield from _nested(table.where(number), row, split, config)
        return
    table.require(NEEDED)
    for number, row in table.good_rows(COLUMNS):
        yield _message(table.where(number), row, row, split, config)


def _nested(where: str, tree: Row, split: str, config: Settings) -> Iterator[_Message]:
    waiting: list[tuple[str, Any]] = [("", tree.get("prompt"))]
    while waiting:
        parent, row = waiting.pop()
        if not isinstance(row, Mapping) or not {"message_id", "text", "role"} <= row.keys():
            raise DataError(f"{where}: a message of the tree has no message_id, text or role.")
        yield _message(where, {**row, "parent_id": row.get("parent_id") or parent}, tree, split, config)
        replies = row.get("replies") or []
        if not isinstance(replies, list):
            raise DataError(f"{where}: replies are {shown(replies)}, no list.")
        waiting += [(text_of(row["message_id"]), reply) for reply in reversed(replies)]


def _message(where: str, row: Row, tree: Row, split: str, config: Settings) -> _Message:
    message_id, role = text_of(row.get("message_id")), text_of(row.get("role"))
    if not message_id or role not in ("prompter", "assistant"):
        raise DataError(
            f"{where}: message_id {shown(message_id)} with role {shown(role)}; roles are prompter, assistant."
        )
    tree_id = text_of(tree.get("message_tree_id")) or message_id
    text = text_of(row.get("text")).strip()
    return _Message(
        message_id,
        text_of(row.get("parent_id")),
        tree_id,
        text,
        role,
        language(text_of(row.get("lang"))),
        _rank(where, row.get("rank")),
        # a whole tree is drawn where the release has no splits
        split or ("validation" if defaults.share(config.seed, tree_id) < config.validation else "train"),
        _flaw(where, config, row, text_of(tree.get("tree_state"))) or ("" if text else "empty"),
    )


def _split_of(path: Path) -> str:
    return split_of(f"{path.parent.name}/{path.name}")


def _rank(where: str, rank: Any) -> int | None:
    """Of a reply among its siblings, 0 is best; pandas makes floats of ranks where one is missing."""
    if rank is None or rank != rank:
        return None
    try:
        if float(rank) != int(rank):
            raise ValueError
        return int(rank)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: rank is {shown(rank)}, no whole number.") from None


def _flaw(where: str, config: Settings, row: Row, state: str) -> str:
    """Why a message is left out by what is said of itself; empty: it is kept."""
    if state and config.states and state not in config.states:
        return f"in a tree in state {state}"
    if row.get("deleted"):
        return "deleted"
    if not row.get("lang"):
        return "without a language"
    if row.get("review_result") is False:
        return "rejected by its reviewers"
    if row.get("review_result") is None and config.unreviewed == "drop":
        return "not reviewed"
    if row.get("synthetic") and config.synthetic == "drop":
        return "synthetic"
    try:
        labels = _labels(row.get("labels"))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{where}: labels are {shown(row.get('labels'))}, in none of the releases' layouts.") from None
    if labels.get("spam", 0.0) > config.max_spam:
        return "labelled as spam"
    if labels.get("lang_mismatch", 0.0) > config.max_lang_mismatch:
        return "labelled as in another language"
    return ""


def _labels(found: Any) -> dict[str, float]:
    """name -> mean vote, of the three layouts: {name: {value}}, {name: [...], value: [...]}, [{name, value}]."""
    if not found:
        return {}
    if isinstance(found, list):
        pairs = [(one["name"], one["value"]) for one in found]
    elif isinstance(found.get("name"), list):
        pairs = list(zip(found["name"], found["value"], strict=True))
    else:
        pairs = [(name, one.get("value")) for name, one in found.items() if isinstance(one, Mapping)]
    return {str(name): float(value) for name, value in pairs if value is not None}


# --- trees --------------------------------------------------------------------------------------------------


def _reasons(messages: Mapping[str, _Message]) -> dict[str, str]:
    """Why each message is left out (empty: it is not), its parents' reasons considered."""
    reasons: dict[str, str] = {}
    for message_id in messages:
        path = [message_id]
        while (parent := messages[path[-1]].parent) and parent in messages and parent not in reasons:
            if parent in path:
                raise DataError(f"The message {shown(parent)} is its own ancestor.")
            path.append(parent)
        for one in reversed(path):
            if one not in reasons:
                reasons[one] = _reason(messages, reasons, messages[one])
    return reasons


def _reason(messages: Mapping[str, _Message], reasons: Mapping[str, str], message: _Message) -> str:
    if message.reason or not message.parent:
        return message.reason or ("" if message.role == "prompter" else "a reply to nothing")
    parent = messages.get(message.parent)
    if parent is None:
        return "a reply to a message that is not there"
    if reasons[parent.message_id]:
        return "below a message that is left out"
    if parent.role == message.role:
        return "a reply to its own side"
    return "" if parent.lang == message.lang else "in another language than what it answers"


def _conversations(messages: Mapping[str, _Message], reasons: Mapping[str, str]) -> dict[str, list[Asked]]:
    """language -> conversations with at least one reply, by message id."""
    replies: dict[str, list[_Message]] = {}
    for message in messages.values():
        if message.role == "assistant" and not reasons[message.message_id]:
            replies.setdefault(message.parent, []).append(message)
    asked: dict[str, list[Asked]] = {}
    for message_id in sorted(replies):
        prompt = messages[message_id]
        found = sorted(replies[message_id], key=lambda one: (one.rank is None, one.rank or 0, one.message_id))
        ranked = tuple((one.text, one.rank) for one in found)
        turns = _turns(messages, prompt)
        asked.setdefault(prompt.lang, []).append(
            Asked(message_id, prompt.tree, prompt.lang, prompt.split, turns, ranked)
        )
    return asked


def _turns(messages: Mapping[str, _Message], last: _Message) -> tuple[tuple[str, str], ...]:
    found = [last]
    while found[-1].parent:
        found.append(messages[found[-1].parent])
    return tuple((one.role, one.text) for one in reversed(found))


# --- demonstrations, prompts and pairs of a split ------------------------------------------------------------


def _language(config: Settings, lang: str) -> list[Asked]:
    """The conversations of a language; ConfigError if there is none."""
    found = read(config).asked
    defaults.check_language(config, lang, found.keys() & set(config.languages or found))
    return found[lang]


def _asked(config: Settings, lang: str, split: Split) -> list[Asked]:
    wanted = "train" if split == "train" else "validation"
    found = [one for one in _language(config, lang) if one.split == wanted]
    if split == "train" or config.evaluate == "validation":
        return found
    half = _first_half(config.seed, {one.tree for one in found})
    return [one for one in found if (one.tree in half) == (split == "validation")]


def _first_half(seed: int, trees: Collection[str]) -> set[str]:
    """By a fair coin for each tree, so that one that is added moves no other; of two or more, neither has all."""
    coins = sorted((defaults.hashed(f"halves\0{seed}", tree), tree) for tree in trees)
    heads = sum(coin[0] < 128 for coin, _ in coins)
    return {tree for _, tree in coins[: min(max(heads, 1), len(coins) - 1)]}


def _best(config: Settings, lang: str, split: Split) -> list[Asked]:
    """Those whose first reply is the best there is."""
    alone = config.single_replies == "keep"
    return [
        one
        for one in _asked(config, lang, split)
        if (len(one.replies) == 1 and alone) or (len(one.replies) > 1 and one.replies[0][1] is not None)
    ]


def _pairs(one: Asked) -> list[tuple[str, str]]:
    ranked = [(text, rank) for text, rank in one.replies if rank is not None]
    return [(a, b) for (a, i), (b, j) in itertools.combinations(ranked, 2) if i < j and a != b]


def _lack(config: Settings, lang: str, pairs: bool = True) -> str:
    """The data that a language lacks, in words."""
    splits: dict[Split, str] = {"train": "train split", "validation": "validation split"}
    if config.evaluate == "halves":
        splits |= {"validation": "half of the validation split that chooses checkpoints", "test": "other half"}
    for split, name in splits.items():
        if not _best(config, lang, split):
            return f"prompt with a best reply in the {name}"
        if pairs and not any(map(_pairs, _asked(config, lang, split))):
            return f"pair of ranked replies in the {name}"
    return ""


def _prompt(config: Settings, one: Asked) -> Prompt:
    text = dialog(one.turns, config.roles, config.max_characters)
    shown, content = rendered(config.template, text, language_of(config.facts, one.lang))
    return Prompt(id=one.message_id, lang=one.lang, group=one.tree, text=shown, dataset=DATASET, content=content)
