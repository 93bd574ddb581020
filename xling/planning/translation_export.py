"""`xling translate export`: the texts that a grid has to have translated, for a service or for people.

    xling translate export --out texts.jsonl sweeps=NAME reward_data=translated
    xling translate export --out rest.csv sweeps=NAME sft_data=round_trip translator=recorded translator.path=done.jsonl

Rows of source_lang, target_lang, text, each text once; of chats every line is a text. With translator=recorded those
are left out that are in its file. The way back of a round trip needs the way there: its texts follow once the first
ones are translated.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from xling.config.rewards import objective_of
from xling.config.translators import RecordedTranslations
from xling.errors import ConfigError
from xling.experiment import Experiment
from xling.planning.translations import FEEDBACK, speakers, translates_feedback
from xling.results.translations import SPLITS, What, distinct, record_of
from xling.tasks.options import Task, task_module
from xling.tasks.render import bare
from xling.translators.recorded import put_together, translations, units_of

COLUMNS = ("source_lang", "target_lang", "text")


@dataclass(frozen=True)
class Need:
    """Data of a language to be translated; `back`: and then into that language itself again."""

    task: Task
    what: What
    source: str
    target: str
    back: bool = False


@dataclass
class Exported:
    """Texts by pair of languages, and how many wait for the way there."""

    texts: dict[tuple[str, str], list[str]]
    waiting: int

    def sentences(self, path: Path) -> list[str]:
        """What was written, for people."""
        total = sum(map(len, self.texts.values()))
        characters = sum(len(text) for some in self.texts.values() for text in some)
        found = [f"{a} -> {b}: {len(some):,} texts" for (a, b), some in sorted(self.texts.items()) if some]
        found.append(f"{total:,} texts ({characters:,} characters) written to {path}.")
        if self.waiting:
            found.append(
                f"{self.waiting:,} texts of round trips go back once they have been translated: type the same command "
                "again, with translator=recorded translator.path=FILE."
            )
        return found


def needs(asked: Iterable[Experiment]) -> list[Need]:
    """What the cells have to have translated, each once."""
    found: dict[Need, None] = {}
    for experiment in asked:
        task, target = bare(experiment.task), experiment.target_lang.code
        for source in (lang.code for lang in experiment.source_langs if lang.code != target):
            if translates_feedback(experiment):
                what = FEEDBACK[objective_of(task, experiment.rm_backbone)]
                found.setdefault(Need(task, what, source, target))
            if experiment.sft_data == "translated":
                found.setdefault(Need(task, "demonstrations", source, target))
            if experiment.sft_data == "round_trip":
                found.setdefault(Need(task, "demonstrations", target, source, back=True))
    return list(found)


def to_translate(asked: Sequence[Experiment]) -> Exported:
    """The texts that are still to be translated. ConfigError if nothing of the cells is."""
    wanted = needs(asked)
    if not wanted:
        raise ConfigError(
            "Nothing of this grid is translated. Type reward_data=translated, sft_data=translated or "
            "sft_data=round_trip."
        )
    paths = {e.translator.path for e in asked if isinstance(e.translator, RecordedTranslations)}
    found: dict[tuple[str, str], dict[str, None]] = {}
    waiting = 0
    for need in wanted:
        names, texts = speakers(need.task), _texts(need)
        there = _known(paths, need.source, need.target)
        _add(found, need.source, need.target, (unit for unit in units_of(texts, names) if unit not in there))
        if need.back:
            said = [put_together(text, names, there) for text in texts]
            waiting += said.count(None)
            back = _known(paths, need.target, need.source)
            units = units_of((text for text in said if text), names)
            _add(found, need.target, need.source, (unit for unit in units if unit not in back))
    return Exported({pair: list(texts) for pair, texts in found.items()}, waiting)


def _texts(need: Need) -> list[str]:
    items = (
        item for split in SPLITS for item in getattr(task_module(need.task), need.what)(need.task, need.source, split)
    )
    return distinct(record_of(need.task, item) for item in items)


def _known(paths: Iterable[str], source: str, target: str) -> dict[str, str]:
    return {text: said for path in paths for text, said in translations(path, source, target).items()}


def _add(found: dict[tuple[str, str], dict[str, None]], source: str, target: str, texts: Iterable[str]) -> None:
    found.setdefault((source, target), {}).update(dict.fromkeys(texts))


def write(path: Path, exported: Exported) -> None:
    """A row a text: JSON lines, or CSV by the file's name. ConfigError for a file that is there already."""
    if path.suffix not in (".jsonl", ".csv"):
        raise ConfigError(f"--out {path} is neither .jsonl nor .csv. Type --out texts.jsonl.")
    if path.exists():
        raise ConfigError(f"--out {path} is there already. Name another file.")
    rows = [(*pair, text) for pair, texts in sorted(exported.texts.items()) for text in texts]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        lines = [msgspec.json.encode(dict(zip(COLUMNS, row, strict=True))) + b"\n" for row in rows]
        path.write_bytes(b"".join(lines))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
