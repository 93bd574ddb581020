"""translate[what, s->t]: demonstrations, ratings or pairs of one language in another, labels kept.

Each distinct text, document or response, is translated once; what a translator makes nothing of is dropped with its
record, and so are pairs whose two responses become the same. Both splits that models learn from are translated, train
and validation; a target is tested on its own data. The second stage of a round trip translates the first one's records.
Texts are translated in blocks, which a killed stage keeps (xling/stages/blocks.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Struct

from xling.config.translators import MicroExact, MicroNoisy, Seq2Seq
from xling.errors import StageError
from xling.grid.stage import WHERE, Context
from xling.jsonfiles import decode
from xling.results.samples import write_json
from xling.results.translations import (
    SPLITS,
    Item,
    Record,
    What,
    distinct,
    read_records,
    record_of,
    translated,
    write_records,
)
from xling.stages.blocks import blocks_of, kept_lines
from xling.tasks.options import Task, task_module
from xling.tasks.records import Split
from xling.translators.translator import Spoken, Translate

BLOCK = 256  # texts


class TranslateSpec(Struct, frozen=True):
    """What determines translated data besides the model and the first half of a round trip."""

    task: Task
    digest: str
    what: What
    source: Spoken
    target: Spoken
    speakers: tuple[str, ...]  # how the lines of a chat begin: not to be translated
    translator: dict[str, Any]
    translations: str = ""  # digest of recorded ones
    model: str = ""  # key of the base stage of a model


def run(context: Context) -> None:
    """Writes train.jsonl, validation.jsonl and translate.json: how much was dropped, and why."""
    spec = msgspec.convert(context.spec, TranslateSpec)
    records = {split: list(_records(context, spec, split)) for split in SPLITS}
    texts = distinct(record for split in SPLITS for record in records[split])
    translate = translator_of(context, spec, texts)

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


def _makers() -> dict[str, Any]:
    """What else decides a model's translations: remembered ones of other code, packages or devices are not taken."""
    import torch

    from xling.planning import KINDS

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    packages = {name: version(name) for name in ("sentencex", "tokenizers", "torch", "transformers")}
    return {"stage": KINDS["translate"].version, "device": device, **packages}


def translator_of(context: Context, spec: TranslateSpec, texts: Sequence[str]) -> Translate:
    """What translates this stage's texts; DataError at once if recorded translations lack some of them."""
    kind = spec.translator["name"]
    if kind in ("micro_exact", "micro_noisy"):
        from xling.translators.micro import micro_translator

        micro = msgspec.convert(spec.translator, MicroExact | MicroNoisy)
        return micro_translator(micro, spec.source.code, spec.target.code)
    if kind == "recorded":
        from xling.translators.recorded import recorded_translator

        path = context.spec[WHERE]["translations"]
        return recorded_translator(path, spec.source, spec.target, spec.speakers, spec.translations, texts)
    from xling.translators.memory import Memory
    from xling.translators.seq2seq import seq2seq_translator

    settings = msgspec.convert({"checkpoint": "", **spec.translator}, Seq2Seq)
    what = {"model": spec.model, "settings": spec.translator, "speakers": spec.speakers, "made by": _makers()}
    pair = {name: msgspec.to_builtins(spoken) for name, spoken in (("source", spec.source), ("target", spec.target))}
    memory = Memory((context.cache or context.scratch) / "translations", what | pair)
    return seq2seq_translator(context.parents["lm"], settings, spec.source, spec.target, spec.speakers, memory)
