"""base, an sft, reward and pool for each language, a score for each pair: 1 + 3 L + L x L stages."""

from collections.abc import Sequence
from typing import Any

import msgspec

from xling.experiment import Experiment
from xling.grid.stage import Cell, Stage


def cells_from(experiments: Sequence[Experiment], controls: bool) -> list[Cell]:
    """Specs as wide as the real ones; `controls` is not looked at."""
    made: dict[tuple[str, str], Stage] = {}
    base = Stage.make("base", 1, "base", {}, {})

    def once(kind: str, lang: str, spec: Any, parents: dict[str, Stage]) -> Stage:
        if (kind, lang) not in made:
            made[kind, lang] = Stage.make(kind, 1, f"{kind}[{lang}]", {"lang": lang, **spec}, parents)
        return made[kind, lang]

    def score(experiment: Experiment) -> Stage:
        source, target = experiment.source_langs[0].code, experiment.target_lang.code
        training = msgspec.to_builtins(experiment.sft)
        sft = {lang: once("sft", lang, training, {"base": base}) for lang in (source, target)}
        reward = once("reward", source, training, {"sft": sft[source]})
        pool = once("pool", target, {"n": 16}, {"sft": sft[target]})
        spec = {"source": source, "target": target, "chunk": 32}
        return Stage.make("score", 1, f"score[{source}, {target}]", spec, {"reward": reward, "pool": pool})

    return [Cell(experiment.axes, score(experiment)) for experiment in experiments]
