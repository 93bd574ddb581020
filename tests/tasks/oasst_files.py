"""Small message trees, written in each of OpenAssistant's layouts: flat, nested, and the hub's Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from own_files import jsonl, parquet

Node = dict[str, Any]
QUESTIONS = {
    "en": "What is the capital of country number",
    "es": "Cuál es la capital del país número",
    "ru": "Какая столица у страны номер",
    "pt-BR": "Qual é a capital do país número",
}
ANSWERS = {
    "en": "The capital is city",
    "es": "La capital es la ciudad",
    "ru": "Столица это город",
    "pt-BR": "A capital é",
}


def message(name: str, text: str, role: str, lang: str, rank: int | None = None, **changed: Any) -> Node:
    labels = {"spam": changed.pop("spam", 0.0), "lang_mismatch": changed.pop("lang_mismatch", 0.0), "quality": 0.7}
    return {
        "message_id": name,
        "user_id": "u",
        "created_date": "2023-02-05T14:23:50.983374+00:00",
        "text": text,
        "role": role,
        "lang": lang,
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "detoxify": None,
        "emojis": {"+1": 2, "_skip_reply": 1},
        "labels": labels,
        "replies": [],
        **changed,
    }


def ask(name: str, text: str, lang: str, *replies: Node, **changed: Any) -> Node:
    return message(name, text, "prompter", lang, replies=list(replies), **changed)


def reply(name: str, text: str, lang: str, rank: int | None = None, *replies: Node, **changed: Any) -> Node:
    return message(name, text, "assistant", lang, rank, replies=list(replies), **changed)


def tree(lang: str, number: int, ranked: int = 3) -> Node:
    """A question with ranked replies, the best of which is followed up and answered once."""
    top = f"{lang}-{number}"
    follow = ask(
        f"{top}-f", f"{QUESTIONS[lang]} {number + 1}?", lang, reply(f"{top}-fr", f"{ANSWERS[lang]} {number}.", lang)
    )
    replies = [
        reply(f"{top}-r{rank}", f"{ANSWERS[lang]} {number}" + " !" * rank, lang, rank, *([follow] if rank == 0 else []))
        for rank in reversed(range(ranked))
    ]
    return ask(top, f"{QUESTIONS[lang]} {number}?", lang, *replies)


def flat(
    root: Node, parent: str | None = None, top: str | None = None, state: str = "ready_for_export"
) -> Iterator[Node]:
    top = top or root["message_id"]
    own = {key: value for key, value in root.items() if key != "replies"}
    yield {"parent_id": parent, **own, "message_tree_id": top, "tree_state": state}
    for child in root["replies"]:
        yield from flat(child, root["message_id"], top, state)


def write_flat(path: Path, roots: list[Node], state: str = "ready_for_export") -> Path:
    return _write(path, [row for root in roots for row in flat(root, state=state)])


def write_nested(path: Path, roots: list[Node], state: str = "ready_for_export") -> Path:
    return _write(path, [{"message_tree_id": r["message_id"], "tree_state": state, "prompt": r} for r in roots])


def write_hub(folder: Path, train: list[Node], validation: list[Node]) -> Path:
    """data/SPLIT-*.parquet; labels and emojis are a struct of lists."""
    for split, roots in (("train", train), ("validation", validation)):
        rows = [row for root in roots for row in flat(root)]
        for row in rows:
            row["labels"] = {
                "name": list(row["labels"]),
                "value": list(row["labels"].values()),
                "count": [3] * len(row["labels"]),
            }
            row["emojis"] = {"name": list(row["emojis"]), "count": list(row["emojis"].values())}
        parquet(folder / "data" / f"{split}-00000-of-00001-b42a775f407cee45.parquet", rows)
    return folder


def _write(path: Path, rows: list[Node]) -> Path:
    for row in rows:  # in JSON a label has its count beside it
        for node in _nodes(row):
            node["labels"] = {
                k: v if isinstance(v, dict) else {"value": v, "count": 3} for k, v in node["labels"].items()
            }
    return jsonl(path, rows)


def _nodes(row: Node) -> Iterator[Node]:
    waiting = [row.get("prompt", row)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.get("replies", [])
