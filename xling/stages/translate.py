"""translate[what, s->t]: demonstrations, ratings or pairs of one language in another, labels kept.

Each distinct text, document or response, is translated once; what a translator makes nothing of is dropped with its
record, and so are pairs whose two responses become the same. Both splits that models learn from are translated, train
and validation; a target is tested on its own data. The second stage of a round trip translates the first one's records.
Texts are translated in blocks, which a killed stage keeps (xling/stages/blocks.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from xling.errors import StageError
from xling.grid.stage import Context
from xling.jsonfiles import decode, write_json
from xling.planning.translations import TranslateSpec
from xling.results.translations import (
    SPLITS,
    Item,
    Record,
    distinct,
    read_records,
    record_of,
    translated,
    write_records,
)
from xling.stages.blocks import blocks_of, kept_lines
from xling.tasks.options import task_module
from xling.tasks.records import Split
from xling.translators import TRANSLATORS

BLOCK = 256  # texts


def run(context: Context) -> None:
    """Writes train.jsonl, validation.jsonl and translate.json: how much was dropped, and why."""
    spec = msgspec.convert(context.spec, TranslateSpec)
    records = {split: list(_records(context, spec, split)) for split in SPLITS}
    texts = distinct(record for split in SPLITS for record in records[split])
    translate = TRANSLATORS[spec.translator["name"]].translate(context, spec, texts)

    def made(items: Sequence[int]) -> list[bytes]:
        return [msgspec.json.encode(text) for text in translate([texts[i] for i in items])]

    lines = kept_lines(context, "texts", list(blocks_of(range(len(texts)), BLOCK)), made)
    found: dict[str, str | None] = dict(zip(texts, map(decode, lines), strict=True))
    counts: dict[str, Any] = {"texts": len(texts), "untranslated": sum(not said for said in found.values())}
    for split in SPLITS:
        kept, dropped = translated(records[split], found, spec.target.code)
        write_records(context.out, split, kept)
        counts[split] = {"records": len(records[split]), "kept": len(kept), "dropped": dict(dropped)}
        if not kept:
            raise StageError(
                f"Nothing is left of {len(records[split])} {split} {spec.what}: {spec.source.code} -> "
                f"{spec.target.code} gave {_reasons(dropped)}."
            )
    write_json(context.out / "translate.json", counts)


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count} times" for reason, count in sorted(dropped.items())) or "no records at all"


def _records(context: Context, spec: TranslateSpec, split: Split) -> Iterator[Record]:
    if (first := context.parents.get("data")) is not None:
        return read_records(first, split)
    items: list[Item] = getattr(task_module(spec.task), spec.what)(spec.task, spec.source.code, split)
    return (record_of(spec.task, item) for item in items)
