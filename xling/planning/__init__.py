"""The stages in the order in which they run; each module reads top to bottom. `KINDS` is what workers look up.

A version is raised by hand when the meaning of a stage's code changes: results of other versions are not used.
"""

from dataclasses import replace
from pathlib import Path

from xling.grid.stage import Context, Kind
from xling.planning import costs
from xling.results.prompts import on_data


def _base(context: Context) -> None:
    from xling.stages import base

    base.run(context)


def _base_lost(folder: Path) -> str:
    from xling.stages import base

    return base.lost(folder)


def _sft(context: Context) -> None:
    from xling.stages import sft

    sft.run(context)


def _translate(context: Context) -> None:
    from xling.stages import translate

    translate.run(context)


def _embed(context: Context) -> None:
    from xling.stages import score

    score.run_embed(context)


def _features(context: Context) -> None:
    from xling.stages import features

    features.run(context)


def _reward(context: Context) -> None:
    from xling.stages import reward

    reward.run(context)


def _samples(context: Context) -> None:
    from xling.stages import pool

    pool.run(context)


def _align(context: Context) -> None:
    from xling.stages import align

    align.run(context)


def _recorded(context: Context) -> None:
    from xling.stages import pool

    pool.run_recorded(context)


def _score(context: Context) -> None:
    from xling.stages import score

    score.run(context)


def _gold(context: Context) -> None:
    from xling.stages import score

    score.run_gold(context)


def _llm(context: Context) -> None:
    from xling.stages import llm

    llm.run(context)


def _judge_accuracy(context: Context) -> None:
    from xling.stages import llm

    llm.run_accuracy(context)


def _judge(context: Context) -> None:
    from xling.stages import judge

    judge.run(context)


KINDS: dict[str, Kind] = {
    kind.name: replace(kind, run=on_data(kind.run))
    for kind in (
        Kind("base", 2, _base, seconds=1, lost=_base_lost),
        Kind("translate", 1, _translate, seconds=20, work=costs.translate),
        Kind("sft", 3, _sft, seconds=30, work=costs.sft, parallel=True),
        Kind("embed", 3, _embed, seconds=10),
        Kind("features", 3, _features, seconds=10, work=costs.features),
        Kind("reward", 4, _reward, seconds=30, work=costs.reward, parallel=True),
        Kind("pool", 3, _samples, seconds=20, work=costs.samples),
        Kind("baseline", 3, _samples, seconds=6, work=costs.samples),
        Kind("align", 1, _align, seconds=60, work=costs.align),
        Kind("aligned", 1, _samples, seconds=8, work=costs.samples),
        Kind("recorded", 2, _recorded, seconds=1),
        Kind("score", 4, _score, seconds=10, work=costs.score),
        Kind("gold", 1, _gold, seconds=2),
        Kind("llm", 2, _llm, seconds=60, work=costs.asked),
        Kind("judge_accuracy", 2, _judge_accuracy, seconds=60, work=costs.asked),
        Kind("judge", 2, _judge, seconds=0.1),
    )
}
