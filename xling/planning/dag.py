"""From an experiment to its stages: what each stage reads decides its key, and what it does not read must not.

base -- sft[l] -- reward[s] ------------ score[s,t] -- judge[s,t]
          |------ pool[t], baseline[t] ------|  |-- gold[t] --|
                                                |-- llm[s,t] -|  (and judge_accuracy[t])

A policy that an optimizer trains answers in the pool's place: align[s,t] from sft[t] and reward[s], then aligned[s,t].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from xling.config.common import CEILINGS, Ensemble, Objective
from xling.config.policies import LanguageModel
from xling.digests import file_digest
from xling.errors import ConfigError, expanded
from xling.experiment import Experiment
from xling.grid.stage import NO_SOURCE, WHERE, Cell, Json, Stage
from xling.models.encoder import encoder_identity
from xling.optimizers import OPTIMIZERS
from xling.planning.controls import control_experiments
from xling.planning.judging import Judged, answering_spec, module_of
from xling.planning.refusals import check, check_half, check_reward_model, cross_fitted, responses_recorded
from xling.planning.specs import (
    codes,
    data_of,
    features,
    held_out,
    label_of,
    make,
    mark,
    reading,
    reading_model,
    recorded,
    recorded_features,
    recorded_role,
    reward,
    samples,
    sft,
    side_of,
    stage_of,
)
from xling.planning.target import TargetStages
from xling.planning.translations import heard, policy_of, regime_of, silver, translates_feedback
from xling.results.specs import EnsembleSpec, JudgeSpec, ScoreSpec
from xling.rewards import REWARDS, EncoderReader, budget_of, has_source, objective_of, reader_of
from xling.rewards.settings import RewardModel
from xling.rewards.untrained import Settings as Untrained
from xling.tasks.records import Half
from xling.tasks.render import with_facts

ADDED = tuple(name for name in get_args(Untrained.__annotations__["score"]) if name not in CEILINGS)  # ensemble.also
RIVALS = "rivals"  # controls=rivals: no permuted labels


def cells_from(experiments: Sequence[Experiment], controls: bool | str = False) -> list[Cell]:
    """One cell an experiment, then the control cells (`RIVALS`: without permuted labels), each once. What is not
    trained has no source: `-`.

    ConfigError where two that differ would stand in one place, as references of two judges would.
    """
    asked = [(experiment, experiment.judging) for experiment in experiments]
    if controls:
        asked += control_experiments(asked, permuted=controls != RIVALS)
    cells: dict[tuple[Any, ...], Cell] = {}
    for experiment, judging in asked:
        axes = {**experiment.axes, **({} if has_source(experiment.rm_backbone) else {"source_lang": NO_SOURCE})}
        place = tuple((key, str(value)) for key, value in axes.items())
        stage = judge_stage(experiment, judging)
        if cells.setdefault(place, Cell(axes, stage)).stage.key != stage.key:
            raise ConfigError(_one_place(experiment))
    return list(cells.values())


def language_rates(experiments: Sequence[Experiment], cells: Sequence[Cell]) -> list[Json]:
    """How often what tells the language of responses errs, for plan.json: no stage depends on it."""
    from xling.planning.detection import planned  # scipy, which a dry run does without

    return planned(experiments, cells)


def _one_place(experiment: Experiment) -> str:
    """Why two cells that differ have the same axes, and what tells them apart."""
    name = f"{experiment.axes['rm_backbone']} in {experiment.axes['target_lang']}"
    if experiment.judge.by_row:
        return (
            f"{name} has no reward model of its own kind, and would be judged by those of several rows. Name one that "
            "judges all rows, as in judge/rm_backbone=bag_of_words, or run these rows apart."
        )
    return (
        f"{name} would be in one place of the matrix twice, with other settings each time. Run the rows that it "
        "stands beside as grids of their own, or type controls=false."
    )


def judge_stage(experiment: Experiment, judging: RewardModel | None = None) -> Stage:
    """The cell's last stage, and with it all that it needs.

    judging: the kind of reward model that a judge decides by which trains one; None: what the experiment says.
    """
    judging = judging or experiment.judging
    check(experiment, judging)
    experiment = _with_facts(experiment)
    task, lang = experiment.task, experiment.target_lang.code
    pools = _samples(experiment, lang)
    sources, regime = _heard(experiment), regime_of(experiment)
    spec = JudgeSpec(
        judge=experiment.judge.name,
        lang=lang,
        **answering_spec(experiment, responses_recorded(experiment)),
        **({**data_of(task, (lang,), "recorded"), "ties": "mean"} if responses_recorded(experiment) else {}),
    )
    if (model := experiment.lid.model) is not None:
        path = expanded(model).absolute()
        spec = replace(spec, lid=file_digest(path), where={**spec.where, "lid": str(path)})
    parents = {"score": rewards(experiment, pools), **pools}
    cell = Judged(experiment, judging, pools, parents["score"], sources)
    verdicts = module_of(experiment.judge).verdicts(experiment.judge, cell)
    if "verdict" not in verdicts.parents:
        raise ConfigError(
            f"judge={experiment.judge.name}: its `verdicts` name no stage `verdict`, which win rates are made from."
        )
    members = [_but_for_seed(stage) for stage in parents["score"].parents.values()]
    if parents["score"].kind == "ensemble" and _but_for_seed(verdicts.parents["verdict"]) in members:
        raise ConfigError(
            f"The reward model that judges {lang} learns from what one that ensemble combines there learns from: it "
            "would judge its own picks. Type judge.half=true, or judge/rm_backbone=NAME for another one."
        )
    label = label_of("judge", sources, (lang,), *((one,) for one in regime))
    spec = replace(spec, where={**verdicts.spec.get(WHERE, {}), **spec.where})
    return make("judge", label, {**verdicts.spec, **msgspec.to_builtins(spec)}, {**parents, **verdicts.parents})


def _but_for_seed(score: Stage) -> object:
    """What tells the reward models of scores apart, but for the seed that they were trained with."""
    reward = score.parents.get("reward")
    return score.key if reward is None else {**reward.spec, "seed": 0}


def _heard(experiment: Experiment) -> tuple[str, ...]:
    """Words of a label on the source: `-` where nothing is learnt, en->tr where its feedback is translated."""
    if not has_source(experiment.rm_backbone):
        return (NO_SOURCE,)
    sources = codes(experiment.source_langs)
    return heard(sources, experiment.target_lang.code) if translates_feedback(experiment) else sources


def _reward(experiment: Experiment, folds: bool = False, judges: bool = False) -> Stage:
    """The reward model of the cell's source, or the judge's; `folds`: heads cross-fitted on recorded responses."""
    half: Half | None = None if not experiment.judge.halves else "second" if judges else "first"
    if half is not None:
        check_half(experiment.feedback_task, codes(experiment.source_langs), experiment.rm_backbone, half)
    if translates_feedback(experiment):
        return silver(experiment, half)
    learned, rm, sources = experiment.feedback_task, experiment.rm_backbone, codes(experiment.source_langs)
    shared = (experiment.policy, experiment.sft, rm, experiment.seed)
    return reward(learned, sources, *shared, folds, half)


def _with_facts(experiment: Experiment) -> Experiment:
    """The experiment with the facts of its languages in its tasks."""
    langs = (*experiment.source_langs, experiment.target_lang, *experiment.judge.langs)
    other = experiment.reward_task
    return replace(
        experiment,
        task=with_facts(experiment.task, langs),
        reward_task=None if other is None else with_facts(other, langs),
    )


def _samples(experiment: Experiment, lang: str) -> dict[str, Stage]:
    if responses_recorded(experiment):
        stage = recorded(experiment.task, lang)
        return {"pool": stage, "baseline": stage}
    assert isinstance(experiment.policy, LanguageModel)
    shared = (experiment.task, lang, experiment.policy)
    # what every cell of a target is compared with: the policy of the language's own demonstrations
    organic = sft(experiment.task, (lang,), experiment.policy, experiment.sft, experiment.seed)
    plan = TargetStages(
        *shared,
        organic if experiment.sft_data == "organic" else policy_of(experiment),
        experiment.seed,
        regime_of(experiment),
        _heard(experiment),
        experiment.rm_backbone,
        lambda: _rewarding(experiment),
    )
    answered = OPTIMIZERS.of(experiment.optimizer).stages(experiment.optimizer, plan)
    return {"pool": answered, "baseline": samples("baseline", *shared, organic, experiment.seed)}


def _rewarding(experiment: Experiment) -> dict[str, Stage]:
    """The stages of the reward model that a policy is trained against, by role."""
    rm, policy = experiment.rm_backbone, experiment.policy
    assert isinstance(policy, LanguageModel)
    task, lang = experiment.task, experiment.target_lang.code
    stages = dict(_scoring(experiment)[0])
    if has_source(rm):
        stages["reward"] = _reward(experiment)
    if (reader := reader_of(rm, policy, side_of(task, rm, (lang,)))) is not None:
        stages |= reading_model(reader)
    return stages


def _scoring(experiment: Experiment) -> tuple[dict[str, Stage], dict[str, Any]]:
    """Parents and parts of the spec that scoring needs besides the trained reward model."""
    rm, policy, task, lang = experiment.rm_backbone, experiment.policy, experiment.task, experiment.target_lang.code
    needs = REWARDS.of(rm).scoring
    if needs is None:
        return {}, {}
    read = reading(task, policy, (lang,)) if isinstance(policy, LanguageModel) else {}
    models, spec = needs(rm, policy, read, side_of(task, rm, (lang,)), experiment.seed)
    shared = (task, (lang,), policy, experiment.sft, experiment.seed)
    return {role: stage_of(model, *shared) for role, model in models.items()}, dict(spec)


def rewards(experiment: Experiment, pools: Mapping[str, Stage]) -> Stage:
    """What a cell picks by: the scores of its reward model, or of an ensemble of them and of references."""
    ensemble, trained = experiment.ensemble, has_source(experiment.rm_backbone)
    _check_ceilings(experiment)
    models = {stage.key: stage for stage in (score(one, pools) for one in _reward_models(experiment))}
    objective = objective_of(experiment.feedback_task, experiment.rm_backbone)
    references = [_reference(experiment, name, pools, objective) for name in sorted(set(ensemble.also))]
    if len(models) == 1 and not references:
        return next(iter(models.values()))
    spec = EnsembleSpec(  # what decides nothing is in no key
        combine=ensemble.combine if len(models) > 1 else "mean",
        models=len(models),
        references=len(references),
        weight=ensemble.weight if references else 1.0,
        scale=UNSET if ensemble.scale == "prompt" else ensemble.scale,
    )
    members = [*models.values(), *references]
    parents = {f"member_{number}": stage for number, stage in enumerate(members)}
    if trained:  # a cell shows one reward model: the first
        parents["reward"] = members[0].parents["reward"]
    learnt = _heard(experiment) if trained else (experiment.rm_backbone.name,)
    label = label_of("ensemble", learnt, (experiment.target_lang.code,)) + mark(experiment.rm_backbone)
    return make("ensemble", label, spec, parents)


def _reward_models(experiment: Experiment) -> list[Experiment]:
    """A cell for each reward model that it picks by: of other seeds, or of each source language alone."""
    ensemble, learnt_from = experiment.ensemble, experiment.source_langs
    apart = has_source(experiment.rm_backbone) and ensemble.sources == "apart"
    seeds = ensemble_seeds(experiment.seed, ensemble.seeds if _seed_decides(experiment) else 1)
    return [
        replace(experiment, seed=seed, source_langs=langs)
        for langs in ([(lang,) for lang in learnt_from] if apart else [learnt_from])
        for seed in seeds
    ]


def _seed_decides(experiment: Experiment) -> bool:
    """Whether another seed would make another reward model: a trained network, or heads of other folds."""
    rm = experiment.rm_backbone
    return has_source(rm) and (budget_of(rm) is not None or cross_fitted(experiment))


def _check_ceilings(experiment: Experiment) -> None:
    also = experiment.ensemble.also
    if ceilings := [name for name in (*also, experiment.rm_backbone.name) if also and name in CEILINGS]:
        beside = "" if ceilings[0] in also else f" with {ceilings[0]}"
        raise ConfigError(
            f"ensemble.also={','.join(also)}{beside} makes a row of the truth that rows are measured by. {ceilings[0]} "
            f"is a ceiling, and stands alone: rm_backbone={ceilings[0]}, or +controls=true. Allowed in ensemble.also: "
            f"{', '.join(ADDED)}."
        )


# Settings of ensemble: where one that is not the default changes a cell's rewards, and why it may not.
IDLE: Mapping[str, tuple[Callable[[Experiment], bool], str]] = {
    "seeds": (
        lambda experiment: _seed_decides(experiment),
        "no seed decides what it scores, so that there is one of it. Leave it out, or type source_lang=de+en "
        "ensemble.sources=apart for several reward models.",
    ),
    "sources": (
        lambda experiment: has_source(experiment.rm_backbone) and len(experiment.source_langs) > 1,
        "it learns from one language at a time, or from none. Type source_lang=de+en or source_lang=others.",
    ),
    "combine": (
        lambda experiment: len(_reward_models(experiment)) > 1,
        "each cell has one. Type ensemble.seeds=3, or source_lang=de+en ensemble.sources=apart, too.",
    ),
    "scale": (
        lambda experiment: len(_reward_models(experiment)) > 1 or bool(experiment.ensemble.also),
        "each cell has one score. Type ensemble.seeds=3 or ensemble.also=[consensus], too.",
    ),
    "weight": (
        lambda experiment: bool(experiment.ensemble.also),
        "ensemble.also names nothing to weigh. Type ensemble.also=[likelihood_sft], too.",
    ),
}


def idle_ensembles(asked: Sequence[Experiment]) -> list[str]:
    """A sentence for each setting of ensemble that changes no cell of some kind of reward model."""
    said, usual = list[str](), Ensemble()
    for name, (decides, why) in IDLE.items():
        set_, kinds = dict[object, None](), dict[str, list[Experiment]]()
        for experiment in asked:
            if (value := getattr(experiment.ensemble, name)) != getattr(usual, name):
                set_[value] = None
                kinds.setdefault(experiment.rm_backbone.name, []).append(experiment)
        idle = [kind for kind, cells in kinds.items() if not any(map(decides, cells))]
        if idle:
            values = ",".join(map(str, set_))
            said.append(f"ensemble.{name}={values} changes nothing for rm_backbone={', '.join(idle)}: {why}")
    return said


def ensemble_seeds(seed: int, count: int) -> range:
    """Those of an ensemble's reward models: no two ensembles of a grid share one, and one of a model has its own.

    ConfigError if they are larger than seeds can be.
    """
    if (seed + 1) * count > 2**32:
        raise ConfigError(
            f"seed={seed} with ensemble.seeds={count} trains reward models of seeds to {(seed + 1) * count - 1}, and "
            f"a seed is below 4294967296. Type seed={2**32 // count - 1} or less."
        )
    return range(seed * count, (seed + 1) * count)


def _reference(experiment: Experiment, name: str, pools: Mapping[str, Stage], objective: Objective) -> Stage:
    """The scores of an untrained reference of ensemble.also."""
    try:
        rm = msgspec.convert({"name": "untrained", "score": name}, Untrained)
    except msgspec.ValidationError:
        raise ConfigError(f"ensemble.also={name} is no untrained reference. Allowed: {', '.join(ADDED)}.") from None
    alone = replace(experiment, rm_backbone=rm)
    check_reward_model(alone, rm)
    return score(alone, pools, objective=objective)


def score(
    experiment: Experiment, pools: Mapping[str, Stage], judges: bool = False, objective: Objective | None = None
) -> Stage:
    """Scores of two sample folders by the cell's reward model; `judges`: by one that learnt from the judge's half.

    objective: whether single ratings or pairs are held out; None: as it learns.
    """
    task, rm, lang = experiment.task, experiment.rm_backbone, experiment.target_lang.code
    sources, people = codes(experiment.source_langs), responses_recorded(experiment)
    parents, objective = dict(pools), objective or objective_of(experiment.feedback_task, rm)
    if has_source(rm):
        parents["reward"] = _reward(experiment, cross_fitted(experiment), judges)
    data = data_of(task, (lang,), "recorded" if people else held_out(objective))
    spec = ScoreSpec(**data, lang=lang, rm=rm, objective=objective)
    if people:
        elsewhere = has_source(rm) and experiment.reward_task is not None
        spec = replace(spec, recorded=True, source_langs=sources if has_source(rm) else (), elsewhere=elsewhere)
        spec = replace(spec, by_text=rm.name == "random")
    if (reader := reader_of(rm, experiment.policy, side_of(task, rm, (lang,)))) is not None:
        if people:
            parents[recorded_role(reader)] = recorded_features(task, lang, reader)
            if isinstance(reader, EncoderReader):
                spec = replace(spec, encoder=encoder_identity(reader.encoder))
        else:
            parents["features"] = features(task, lang, objective, reader, tuple(pools.items()))
    models, of_models = _scoring(experiment)
    label = label_of("score", _heard(experiment) if has_source(rm) else (rm.name,), (lang,))
    return make("score", label + mark(rm), {**msgspec.to_builtins(spec), **of_models}, parents | models)
