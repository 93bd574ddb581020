"""A judge of your own, as a package of your own: judge=shortest prefers the response with fewer words.

    pip install --no-deps examples/own_judge
    xling run sweeps=demo judge=shortest 'hydra.searchpath=[file://examples/own_judge/conf]'

pyproject.toml names this module as an option of xling's kind `judge`; conf/judge/shortest.yaml holds its settings.
The hooks are those of the Protocol `Judge` in xling/planning/judging.py: one that is missing is refused while planning.
"""

from typing import Any

from xling.grid.plan import Plan
from xling.grid.stage import Context, Kind
from xling.judges import JudgeSettings, by_scores
from xling.planning.judging import Judged, Verdicts
from xling.planning.specs import make
from xling.results.samples import ragged, read_samples

RESPONSES = "sampled"  # it judges a policy's samples, not recorded responses


class Settings(JudgeSettings, frozen=True, tag="shortest"):
    """The shorter the better, up to `enough` words: fewer are no better."""

    enough: int = 5


def check(judge: Settings, experiment: Any, judging: Any) -> None:
    """It can judge anything. Else: raise ConfigError with a sentence that says what to type instead."""


def verdicts(judge: Settings, cell: Judged) -> Verdicts:
    """One stage a target, which all sources share: its key is made of what stands in its spec and of its parents."""
    lang = cell.experiment.target_lang.code
    return Verdicts({"verdict": make("brevity", f"brevity {lang}", {"enough": judge.enough}, cell.pools)})


def run(context: Context) -> None:
    """The stage: a score for each of the pool's responses and for their opponents (prompts, responses)."""
    import numpy as np  # what computes is imported where it computes: planning stays light

    for role in ("pool", "baseline"):
        samples = read_samples(context.parents[role])
        scores = [[-max(len(text.split()), context.spec["enough"]) for text in row.responses] for row in samples]
        np.save(context.out / f"{role}.npy", ragged(scores))


# the version is part of the key: raise it when `run` gives other numbers
KINDS = (Kind("brevity", 1, run, gpu=lambda stage: False),)
fold = by_scores  # 1 where the response has the higher score, 0.5 for a tie, mean over the opponents


def notes(plan: Plan) -> list[str]:
    """Sentences to show with a plan; none."""
    return []
