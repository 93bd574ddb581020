"""Ranked replies of Open Assistant, whatever form an excerpt comes in: pairs, messages, trees, lists in rank order.

A prompt is a conversation up to the user's turn; its replies are its responses, rated minus their rank (0 is best).
Köpf et al. 2023 (oasst1); Apache-2.0.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from xling.errors import DataError, shown
from xling.tasks.judged import Judged, Release, read_rows
from xling.tasks.render import dialog
from xling.tasks.tables import Row

Turns = tuple[tuple[str, str], ...]  # (role, text)
SIDES = ("user", "assistant")
ROLES = {"prompter": "user"}  # Open Assistant's word


class _Turn(Struct):
    role: str
    content: str


class _Message(Struct):
    message_id: str
    text: str
    role: str
    lang: str
    parent_id: str | None = None
    message_tree_id: str | None = None
    rank: int | None = None
    deleted: bool | None = False
    review_result: bool | None = True
    replies: "list[_Message]" = []


class _Tree(Struct):
    prompt: _Message
    message_tree_id: str = ""


class _Pair(Struct):
    lang: str
    tree: str
    prompt: list[_Turn]
    chosen: str
    rejected: str
    rank_chosen: int
    rank_rejected: int


class _List(Struct):
    """One prompt of an `instruction, input, output, history` file, replies in the order of their rank."""

    instruction: str
    output: list[str]
    input: str = ""
    history: list[tuple[str, str]] = []


class Replies:
    """Gathers ranks by conversation and reply; `finish` makes rows of them."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._ranks: dict[tuple[str, str, Turns], dict[str, set[int]]] = {}
        self._messages: dict[str, _Message] = {}

    def read(self, path: Path) -> None:
        """One file: JSONL of pairs, messages or trees; or a JSON list whose name ends with its language."""
        lang = path.stem.rpartition("_")[2] if path.suffix == ".json" else ""
        for place, row in read_rows(path, self._release):
            try:
                if lang:
                    self._list(lang, msgspec.convert(row, _List))
                else:
                    self._line(row)
            except msgspec.ValidationError as error:
                self._release.reject(place, str(error))

    def _line(self, row: Row) -> None:
        """A pair has `chosen`, a tree a message as `prompt`; what has neither is a message."""
        if row.get("chosen") or row.get("rejected"):
            pair = msgspec.convert(row, _Pair)
            turns = tuple((turn.role, turn.content) for turn in pair.prompt)
            self._rank(pair.lang, pair.tree, turns, pair.chosen, pair.rank_chosen)
            self._rank(pair.lang, pair.tree, turns, pair.rejected, pair.rank_rejected)
        elif isinstance(row.get("prompt"), dict):
            tree = msgspec.convert(row, _Tree)
            self._messages |= {one.message_id: one for one in _walk(tree.prompt, None, tree.message_tree_id)}
        else:
            message = msgspec.convert(row, _Message)
            self._messages[message.message_id] = message

    def _list(self, lang: str, one: _List) -> None:
        asked = "\n".join(text for text in (one.instruction, one.input) if text)
        turns = [(role, text) for pair in one.history for role, text in zip(SIDES, pair, strict=True)]
        first = turns[0][1] if turns else asked
        for rank, reply in enumerate(one.output):
            self._rank(lang, _short(first), (*turns, ("user", asked)), reply, rank)

    def _rank(self, lang: str, tree: str, turns: Turns, reply: str, rank: int) -> None:
        self._ranks.setdefault((lang, tree, turns), {}).setdefault(reply, set()).add(rank)

    def finish(self) -> None:
        """Add the rows. A text that was ranked twice, differently, under one prompt is left out."""
        for message in self._messages.values():
            self._message(message)
        for (lang, tree, turns), replies in self._ranks.items():
            for reply, ranks in replies.items():
                if len(ranks) > 1:
                    self._release.notes[lang, "replies that were ranked twice, differently"] += 1
                elif not reply.strip():
                    self._release.notes[lang, "empty replies"] += 1
                else:
                    text, ratings = _text(turns), {"rating": -float(min(ranks))}
                    name, system = f"{tree}/{_short(text)}", f"reply-{_short(reply)}"  # no name tells the rank
                    self._release.add(name, Judged(lang, name, tree, text, system, reply, ratings))

    def _message(self, message: _Message) -> None:
        """A ranked, reviewed reply in the language of its prompt."""
        if message.role != "assistant" or message.rank is None or message.deleted or message.review_result is False:
            return
        turns: list[tuple[str, str]] = []
        above = self._messages.get(message.parent_id or "")
        lang, seen = above.lang if above else "", {message.message_id}
        while above is not None:
            if above.message_id in seen:
                raise DataError(f"The message {shown(above.message_id)} is its own ancestor.")
            seen.add(above.message_id)
            turns.append((ROLES.get(above.role, above.role), above.text))
            above = self._messages.get(above.parent_id or "")
        if not turns or lang != message.lang:
            reason = "replies without their prompt" if not turns else "replies in another language than their prompt's"
            self._release.notes[message.lang, reason] += 1
            return
        self._rank(lang, message.message_tree_id or "", tuple(reversed(turns)), message.text, message.rank)


def _walk(message: _Message, parent: str | None, tree: str) -> Iterator[_Message]:
    yield msgspec.structs.replace(message, parent_id=parent, message_tree_id=tree, replies=[])
    for reply in message.replies:
        yield from _walk(reply, message.message_id, tree)


def _text(turns: Turns) -> str:
    """A single question as it is, else a paragraph a turn."""
    return turns[0][1] if len(turns) == 1 else dialog(turns, SIDES, between="\n\n", cue=False)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
