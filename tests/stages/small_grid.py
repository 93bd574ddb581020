"""A grid small enough for tests: real stages, tiny sizes; and a runner that makes each stage once."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from oasst_files import tree, write_hub
from seahorse_files import plain_rows, write_corpora, write_ratings

from xling.config.common import Language, Template, Training
from xling.config.policies import LanguageModel
from xling.errors import ConfigError
from xling.experiment import Experiment
from xling.grid.stage import Cell, Context, Stage
from xling.judges import JUDGES, JudgeSettings
from xling.optimizers.best_of_n import Settings as BestOfN
from xling.planning import KINDS
from xling.planning.dag import judge_stage
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.settings import RewardModel
from xling.tasks.files import Settings as Files
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.seahorse import Settings as Seahorse
from xling.tasks.seahorse_files import CORPORA

BUDGET = Training(steps=6, batch_size=8, learning_rate=1e-2, warmup_steps=1, eval_every=3)
TASK = MicroSummarization(languages=LANGUAGES, demonstrations=40, ratings=40, pairs=40, validation=16, test_prompts=12)
N, M, NEW_TOKENS = 4, 2, 10


def judge_named(name: str, rm_backbone: RewardModel | None = None) -> JudgeSettings:
    """A judge of default settings."""
    settings: JudgeSettings = JUDGES[name].Settings(rm_backbone=rm_backbone)
    return settings


def languages(*codes: str) -> tuple[Language, ...]:
    return tuple(Language(code, code, code, "Latn") for code in codes)


def experiment(checkpoint: Path, source: str = "en", target: str = "tr", **changed: Any) -> Experiment:
    """One cell; `source` may be pooled ("de+en"); `rm`, `n` and a judge's name for short, others by their name."""
    judge, n = changed.pop("judge", "gold"), changed.pop("n", None)
    rm: RewardModel = changed.pop("rm", SameAsPolicy(training=BUDGET))
    asked = Experiment(
        task=TASK,
        source_langs=languages(*source.split("+")),
        target_lang=languages(target)[0],
        policy=LanguageModel(str(checkpoint), n=N, baseline_samples=M, max_new_tokens=NEW_TOKENS, sampling_chunk=8),
        sft=BUDGET,
        rm_backbone=rm,
        optimizer=BestOfN(n),
        judge=judge_named(judge) if isinstance(judge, str) else judge,
    )
    return msgspec.structs.replace(asked, **changed)


def judged_by(checkpoint: Path, judge: JudgeSettings, source: str = "en", **settings: Any) -> Experiment:
    """A cell of a cheap reward model, decided by a judge with settings of its own."""
    return experiment(checkpoint, source, **({"rm": BagOfWords(), "judge": judge} | settings))


def changed(asked: Experiment, part: str, **values: Any) -> Experiment:
    """The experiment with settings of one part replaced."""
    return msgspec.structs.replace(asked, **{part: msgspec.structs.replace(getattr(asked, part), **values)})


@dataclass
class Runner:
    """Runs a stage after its parents, each once; what a stage gets went through JSON, as in a worker."""

    root: Path

    def folder(self, stage: Stage) -> Path:
        out = self.root / stage.kind / stage.key
        if not out.exists():
            parents = {role: self.folder(parent) for role, parent in stage.parents.items()}
            unfinished = out.with_name("unfinished")
            self.run(stage, parents, unfinished)
            unfinished.rename(out)
        return out

    def run(
        self,
        stage: Stage,
        parents: Mapping[str, Path],
        out: Path,
        progress: Callable[[int, int], None] = lambda done, total: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        scratch = self.root / "scratch" / stage.key
        scratch.mkdir(parents=True, exist_ok=True)
        spec = json.loads(json.dumps(stage.spec, allow_nan=False))
        KINDS[stage.kind].run(Context(spec, parents, out, scratch, progress, stopping, self.root / "cache"))

    def cell(self, asked: Experiment) -> tuple[Stage, Path]:
        stage = judge_stage(asked)
        return stage, self.folder(stage)


class Killed(BaseException):
    """Ends a stage in the midst of its work."""


def goes_on(
    runner: Runner, stage: Stage, at: Path, killed: Callable[[int], bool], read: Callable[[Path], Any] | None = None
) -> list[int]:
    """Run a stage in a folder of its own until `killed(done)`, and again: it gives what an undisturbed run gives.

    read: what is compared; None: all bytes. Returns what the second run says that is done.
    """
    parents = {role: runner.folder(parent) for role, parent in stage.parents.items()}
    again, out, seen, read = Runner(at), at / "out", list[int](), read or contents

    def progress(done: int, total: int) -> None:
        if killed(done):
            raise Killed

    with pytest.raises(Killed):
        again.run(stage, parents, out, progress)
    again.run(stage, parents, out, lambda done, total: seen.append(done))
    assert read(out) == read(runner.folder(stage))
    return seen


def every(stage: Stage) -> dict[str, Stage]:
    """The stage and all that it needs, by key."""
    found = {stage.key: stage}
    for parent in stage.parents.values():
        found |= every(parent)
    return found


def labelled(stage: Stage, label: str) -> Stage:
    """The stage of a label among those that a stage needs."""
    return next(one for one in every(stage).values() if one.label == label)


def counted(cells: Sequence[Cell]) -> Counter[str]:
    """Number of different stages of each kind."""
    found: dict[str, Stage] = {}
    for cell in cells:
        found |= every(cell.stage)
    return Counter(stage.kind for stage in found.values())


def by_kind(asked: Experiment) -> dict[str, set[str]]:
    """Keys of a cell's stages."""
    found: dict[str, set[str]] = {}
    for key, stage in every(judge_stage(asked)).items():
        found.setdefault(stage.kind, set()).add(key)
    return found


def kinds_that_differ(before: Experiment, after: Experiment) -> set[str]:
    """Kinds of which the second cell has a stage that the first has not: one that reads fewer makes nothing anew."""
    old, new = by_kind(before), by_kind(after)
    return {kind for kind in old if not new[kind] <= old[kind]}


def refused(asked: Experiment, sentence: str | None = None) -> str:
    """The sentence with which planning refuses a cell; `sentence`: a pattern that it is to match."""
    with pytest.raises(ConfigError, match=sentence) as error:
        judge_stage(asked)
    return str(error.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> Any:
    """JSON by the rules of the house: sorted keys, a newline at the end, no NaN."""
    text = path.read_text(encoding="utf-8")
    value = json.loads(text, parse_constant=lambda name: f"not JSON: {name}")
    assert text.endswith("\n") and "not JSON" not in str(value)
    if isinstance(value, dict):
        assert list(value) == sorted(value)
    return value


def array(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    values: np.ndarray[Any, np.dtype[np.float64]] = np.load(path)
    assert values.dtype == np.float64 and values.ndim == 2
    return values


FACTS = {  # of the languages of the next two
    "de": Language("de", "German", "Deutsch", "Latn"),
    "en": Language("en", "English", "English", "Latn"),
    "es": Language("es", "Spanish", "español", "Latn"),
}
INSTRUCTED = Template(policy="Answer in {language}.\n{text}")


def oasst(folder: Path) -> Oasst:
    roots = [[tree(lang, n) for lang in ("en", "es") for n in numbers] for numbers in (range(6), (6, 7))]
    return Oasst(str(write_hub(folder / "hub", *roots)), ("en", "es"), template=INSTRUCTED)


def seahorse(folder: Path) -> Seahorse:
    write_ratings(folder / "ratings", plain_rows(("de", "en"), CORPORA))
    write_corpora(folder / "articles", ("de", "en"), CORPORA)
    return Seahorse(str(folder / "ratings"), str(folder / "articles"), ("de", "en"), max_prompts=2, template=INSTRUCTED)


def own_files(folder: Path, **settings: Any) -> Files:
    """Two systems' rated responses to forty documents in English and in Turkish, as a user's own data."""
    rows = [
        {"id": f"{lang}{d}", "lang": lang, "document": f"{lang} document {d}", "response": f"{lang} says {d} {k}",
         "system": str(k), "rating": float((d + k) % 2)}
        for lang in ("en", "tr") for d in range(40) for k in range(2)
    ]  # fmt: skip
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return Files(path=str(path), languages=("en", "tr"), validation=0.2, test=0.2, **settings)
