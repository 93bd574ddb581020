"""The program's graph over the toy stages."""

from collections.abc import Sequence

import msgspec

from xling.config.common import pooled
from xling.experiment import Experiment
from xling.grid.stage import Cell, Stage


def cells_from(experiments: Sequence[Experiment], controls: bool) -> list[Cell]:
    cells = [Cell(experiment.axes, _judge(experiment)) for experiment in experiments]
    return cells + _controls(experiments) if controls else cells


def _judge(experiment: Experiment) -> Stage:
    source = pooled(language.code for language in experiment.source_langs)
    target, seed = experiment.target_lang.code, experiment.seed
    base = Stage.make("base", 1, "base", {}, {})

    def sft(lang: str) -> Stage:
        training = {"steps": experiment.sft.steps, "batch_size": experiment.sft.batch_size}
        spec = {"lang": lang, "training": training, "seed": seed}
        return Stage.make("sft", 1, f"sft[{lang}]", spec, {"base": base})

    backbone = msgspec.to_builtins(experiment.rm_backbone)
    spec = {"lang": source, "seed": seed, "permutation": backbone.get("permutation"), "rm": backbone}
    reward = Stage.make("reward", 1, f"reward[{source}]", spec, {"sft": sft(source)})
    pool = Stage.make("pool", 1, f"pool[{target}]", {"lang": target}, {"sft": sft(target)})
    baseline = Stage.make("baseline", 1, f"baseline[{target}]", {"lang": target}, {"sft": sft(target)})
    made = {"pool": pool, "baseline": baseline}
    verdict = Stage.make("gold", 1, f"gold[{target}]", {"lang": target}, made)
    pair = {"source": source, "target": target}
    score = Stage.make("score", 1, f"score[{source}, {target}]", pair, {"reward": reward, **made})
    judged = {"score": score, "verdict": verdict, **made}
    return Stage.make("judge", 1, f"judge[{source}, {target}]", pair, judged)


def _controls(experiments: Sequence[Experiment]) -> list[Cell]:
    targets = {experiment.target_lang.code: experiment for experiment in experiments}
    return [Cell({**one.axes, "rm_backbone": "random", "source_lang": "-"}, _judge(one)) for one in targets.values()]
