"""What to use for a target without its labels, on made-up matrices in which it is known which rule is right."""

import json
from dataclasses import replace

import numpy as np
import pytest
from matrices import LANGS, entries_of, row
from synthetic import AXES, SyntheticGrid, realistic

from xling.analysis.findings.choosing import choice, recommendation
from xling.analysis.findings.in_short import use_of
from xling.analysis.tidy.entries import Entries
from xling.analysis.tidy.finding import place_of
from xling.analysis.tidy.unlabelled import NOTHING, Unlabelled, unlabelled
from xling.cli import main
from xling.grid.stage import Cell, Stage

SE = 1.0
SIZE = len(LANGS)


def matrix(value, rivals, unlabelled=NOTHING, seed=0, **more) -> Entries:
    """A grid of (S, T) true win rates and (R, T) of what learns nothing, measured with errors of SE."""
    noise = np.random.default_rng(seed + 1).normal(0, SE, (len(value) + len(rivals), value.shape[1]))
    targets = LANGS[: value.shape[1]]
    learnt = entries_of(value + noise[: len(value)], SE, targets=targets, seed=seed, draws=300, **more)
    names = [f"rival{r}" for r in range(len(rivals))]
    beside = entries_of(rivals + noise[len(value) :], SE, sources=names, targets=targets, seed=seed + 1, draws=300)
    axes = ("task", "rm_backbone", "optimizer", "judge")
    untrained = beside.table.assign(rm_backbone=beside.table.source_lang, source_lang="-")
    return replace(
        learnt, table=learnt.table.assign(rm_backbone="rm"), axes=axes, unlabelled=unlabelled,
        untrained=replace(beside, table=untrained, axes=axes),
    )  # fmt: skip


def world(kind: str, seed: int) -> Entries:
    """Targets differ in level by 2 points (sd); what makes a source good is what `kind` says, against rivals at 60."""
    random = np.random.default_rng([seed, 7])
    value = 64 + random.normal(0, 2, SIZE) + random.normal(0, 1, (SIZE, SIZE))
    rivals = 60 + random.normal(0, 1, (2, SIZE))
    if kind == "nothing":  # sources are what the rivals are
        return matrix(value - 4, rivals, seed=seed)
    if kind == "none":  # one rival is far better than all of them
        return matrix(value, rivals + np.array([[0], [15]]), seed=seed)
    if kind == "elsewhere":  # vi is good everywhere, en bad, and what is near says nothing
        return matrix(value + np.array([0, -6, 0, 0, 0, 6])[:, None], rivals, near(random)[0], seed=seed)
    if kind == "english":
        return matrix(value + np.array([0, 6, 0, 0, 0, -6])[:, None], rivals, seed=seed)
    if kind == "source":  # the one that is accurate at home is good abroad; two thirds of the cells are lost
        skill = random.permutation([6.0, 2.0, 0.0, 0.0, -2.0, -4.0])
        accuracy = 60 + skill[:, None] + np.zeros((SIZE, SIZE))
        return matrix(value + skill[:, None] + random.normal(0, 5, (SIZE, SIZE)), rivals, seed=seed, accuracy=accuracy)
    if kind == "states":
        known, apart = near(random)
        return matrix(value + 24 - 8 * apart.T, rivals, known, seed=seed)
    assert kind == "learned"  # what its scores of the target's responses look like goes with how good it is there
    told = random.normal(0, 1, (SIZE, SIZE, 2))
    return matrix(value + 5 * told[..., 0], rivals, Unlabelled(behaviour=_placed(told), named=("a", "b")), seed=seed)


def near(random):
    apart = np.linalg.norm(random.normal(0, 1, (SIZE, 1, 2)) - random.normal(0, 1, (SIZE, 2)), axis=2)
    apart = (apart + apart.T) / 2
    pairs = {(t, s): -apart[i, j] for i, t in enumerate(LANGS) for j, s in enumerate(LANGS) if s != t}
    return Unlabelled({"states": pairs}), apart


def _placed(told):
    axes = {"task": "toy", "rm_backbone": "rm", "optimizer": "ppo", "judge": "gold"}
    return {
        place_of({**axes, "source_lang": s, "target_lang": t}): told[i, j]
        for i, s in enumerate(LANGS)
        for j, t in enumerate(LANGS)
    }


def costs(kind, times=3):
    """Mean regret of each rule over some worlds."""
    tables = [recommendation(world(kind, seed)).table for seed in range(times)]
    every = [table[table.target_lang == "all"].set_index("rule")["regret"] for table in tables]
    return sum(every) / times


@pytest.mark.parametrize(
    ("kind", "loses"),
    [("elsewhere", "english"), ("english", "none"), ("source", "random"), ("states", "elsewhere"),
     ("learned", "elsewhere"), ("none", "random")],
)  # fmt: skip
def test_each_rule_can_win_and_lose(kind, loses):
    regret = costs(kind)
    if kind == "source":  # it sees what the noise of few columns hides
        assert regret["source"] < regret["random"] - 1
        return
    others = regret.drop(["choose", "home", *(["elsewhere"] if kind in ("none", "english") else [])])
    assert others.idxmin() == kind and regret[loses] > regret[kind] + 1.5
    assert regret["choose"] < regret["random"]


@pytest.mark.parametrize("kind", ["elsewhere", "states", "learned"])
def test_the_right_rule_is_recommended(kind):
    rules = np.concatenate([choice(world(kind, seed)).table["rule"] for seed in range(6)])
    assert np.mean(rules == kind) > 0.6


def test_none_of_the_sources_where_they_are_no_better():
    """At 95 % a few of the targets are promised something; the others are not, and where all is worse none are."""
    used = np.concatenate([choice(world("nothing", seed)).table["use"] == "source" for seed in range(40)])
    assert used.mean() < 0.08
    worse = choice(world("none", 0)).table
    assert set(worse["use"]) == {"none"} and set(worse["pick"]) == {"rival1"}
    assert use_of(worse).startswith("For a language without labels use none of the sources")
    good = np.concatenate([choice(world("elsewhere", seed)).table["use"] == "source" for seed in range(10)])
    assert good.mean() > 0.9


@pytest.mark.parametrize("kind", ["elsewhere", "source", "states", "learned"])
def test_a_target_s_own_labels_are_never_seen(kind):
    entries = world(kind, 1)
    table = entries.table.copy()
    own, of = table.target_lang == "es", table.source_lang == "es"  # its column, and what was trained on its labels
    random, known = np.random.default_rng(0), entries.unlabelled
    table.loc[own | of, "win_rate"] = random.permutation(table.loc[own | of, "win_rate"]) + 9
    table.loc[of, "accuracy"] += 9
    if kind == "learned":  # as do scores of what was trained on its labels, and agreement with them
        alike = {place: {s: random.normal() for s in LANGS if s != dict(place)["source_lang"]}
                 for place in entries.unlabelled.behaviour}  # fmt: skip
        entries = replace(entries, unlabelled=replace(entries.unlabelled, agreement=alike))
        behaviour = {place: told + 3 * (dict(place)["source_lang"] == "es")
                     for place, told in entries.unlabelled.behaviour.items()}  # fmt: skip
        other = {place: {s: one + 3 * (s == "es") for s, one in found.items()} for place, found in alike.items()}
        assert not choice(entries).table.equals(choice(world(kind, 1)).table)  # agreement counts
        known = replace(entries.unlabelled, behaviour=behaviour, agreement=other)
    changed = choice(replace(entries, table=table, unlabelled=known))
    assert row(choice(entries), target_lang="es").equals(row(changed, target_lang="es"))
    assert not choice(entries).table.equals(changed.table)


def test_what_learns_from_all_but_the_target_is_no_candidate():
    """At the other targets it has seen the labels of the one that is left out, and would be best by far here."""
    value, rivals = np.full((SIZE + 1, SIZE), 64.0), np.full((2, SIZE), 60.0)
    value[-1], rivals[1] = 95, 94
    entries = matrix(value, rivals, sources=[*LANGS, "others"])
    named = entries.untrained.table.replace({"rm_backbone": {"rival1": "system"}})
    entries = replace(entries, untrained=replace(entries.untrained, table=named))
    without = entries.where((entries.table["source_lang"] != "others").to_numpy())
    rest = entries.untrained.where((named["rm_backbone"] != "system").to_numpy())
    without = replace(without, untrained=rest)
    found = choice(entries)
    assert found.table.equals(choice(without).table) and len(found.table) == SIZE + 1
    assert "others and system are no candidates" in found.left_out[0] and not choice(without).left_out
    alone = replace(without, untrained=entries.untrained.where((named["rm_backbone"] == "system").to_numpy()))
    assert set(choice(alone).table["none"]) == {"as it is"}


@pytest.mark.parametrize(("targets", "said"), [(2, "of 2 targets nothing"), (3, "of 3 targets nothing"), (4, "")])
def test_of_few_targets_nothing_is_learnt(targets, said):
    value = np.full((SIZE, targets), 90.0)
    found = choice(matrix(value, np.full((1, targets), 50.0)))
    assert bool(len(found.table)) == (not said) and said in " ".join(found.left_out)
    rules = set(recommendation(matrix(value, np.full((1, targets), 50.0))).table["rule"])
    assert ("choose" in rules) == (not said) and "elsewhere" in rules


def test_without_an_untrained_row_the_responses_as_they_are_stand_for_it():
    entries = entries_of(np.full((4, 4), 45.0), SE, sources=LANGS, targets=LANGS)
    found = choice(entries)
    assert set(found.table["use"]) == {"none"} and set(found.table["pick"]) == {"as it is"}
    assert "stand for that" in recommendation(entries).left_out[0]


def test_a_choice_is_over_reward_models_and_settings(tmp_path):
    """de learnt by one kind of reward model and n is good; a ceiling is none of the candidates."""
    grid = realistic(tmp_path, controls=False, prompts=60)
    random = np.random.default_rng(0)
    for target in LANGS:
        named = {"prompts": [f"{target}-{i}" for i in range(60)], "groups": [f"fact{i}" for i in range(60)]}
        for n, lift in ((4, 0.0), (16, 0.3)):
            grid.cell("de", target, np.clip(random.normal(0.6 + lift, 0.2, 60), 0, 1), rm_backbone="other",
                      **named, **{"optimizer.n": n})  # fmt: skip
            grid.untrained(
                "-", target, random.normal(0.5, 0.1, 60), rm_backbone="length", **named, **{"optimizer.n": n}
            )
            grid.untrained("-", target, np.ones(60), rm_backbone="gold", **named, **{"optimizer.n": n})
    found = choice(grid.entries())
    assert len(found.table) == SIZE + 1 and "rm_backbone" not in found.table
    assert row(found, target_lang="vi")["pick"] == "de, other, n=16"
    assert set(found.table["none"]) <= {"length, n=4", "length, n=16"}
    assert row(found, target_lang="de")["source_lang"] != "de"


def test_behaviour_is_read_from_scores(tmp_path):
    """Within a prompt: two that score alike agree whatever their scale, and length is what it is."""
    grid = realistic(tmp_path, languages=("de", "en", "es", "tr"), prompts=8, controls=False)
    random = np.random.default_rng(0)
    longer = random.normal(0, 1, (8, 4))
    named = {"prompts": [f"es-{i}" for i in range(8)], "groups": [f"fact{i}" for i in range(8)]}
    scores_of = {"de": 3 * longer + 5, "en": longer - np.arange(8)[:, None], "tr": -longer, "others": longer}
    for source, scores in scores_of.items():  # others has learnt from all of them: it tells of none
        scored = {"pool": scores, "baseline": scores[:, :2]}
        grid.cell(source, "es", random.random(8), rm_backbone="other", scores=scored, **named)
    scored = {"pool": longer, "baseline": longer[:, :2]}
    grid.untrained("-", "es", random.random(8), rm_backbone="length", scores=scored, **named)
    waits = Stage.make("features", 1, "features[tr]", {"lang": "tr"}, {})
    score = Stage.make("score", 1, "score[de, tr]", {}, {"features": waits})
    axes = {**AXES, "source_lang": "de", "target_lang": "tr", "rm_backbone": "third", "seed": 0}
    grid.cells.append(Cell(axes, Stage.make("judge", 1, "judge[de, tr]", {}, {"score": score})))
    known = unlabelled(grid.write().store, "toy")
    assert known.waiting == ("features[tr]",) and grid.store.damage() == []  # not run is no damage
    assert "features[tr] has not run" in " ".join(choice(replace(grid.entries(), unlabelled=known)).left_out)
    assert known.named == ("between", "length") and not known.likeness
    own = [(dict(place), told) for place, told in known.behaviour.items()]
    of = {place["source_lang"]: told for place, told in own if place["rm_backbone"] == "other"}
    assert of["de"][1] == pytest.approx(1) and of["en"][1] == pytest.approx(1) and of["tr"][1] == pytest.approx(-1)
    assert of["en"][0] > of["de"][0]
    agreement = [(dict(place), told) for place, told in known.agreement.items()]
    with_ = {place["source_lang"]: told for place, told in agreement if place["rm_backbone"] == "other"}
    # of each source two reward models, one of which scores all responses alike
    assert with_["de"] == pytest.approx({"en": 0.5, "tr": -0.5}) and with_["tr"] == pytest.approx(
        {"de": -0.5, "en": -0.5}
    )


def test_the_command(tmp_path, capsys):
    realistic(tmp_path, prompts=30, languages=LANGS[:4], controls=False).write()
    where = ["--root", str(tmp_path)]
    assert main(["choose", "toy", *where]) == 0
    told = capsys.readouterr().out
    assert "What to use for a target without its labels" in told and "over none" in told
    assert "For a language without labels use " in told.replace("\n", " ")
    assert main(["choose", "toy", "fr", "--json", *where]) == 0
    said = {one["name"]: one["rows"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert [one["target_lang"] for one in said["choice"]] == ["fr"] and said["choice"][0]["targets"] == 4
    assert main(["choose", "toy", "EN", "--json", *where]) == 0  # en, and no language that the grid has not
    [one] = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["name"] == "choice"]
    assert [(row["target_lang"], row["targets"]) for row in one["rows"]] == [("en", 3)]
    assert one["rows"][0]["source_lang"] != "en"
    assert main(["choose", "toy", "nolanguage", *where]) == 2
    assert "'nolanguage' is no code of a language" in capsys.readouterr().err
    bare = SyntheticGrid(tmp_path / "bare")
    bare.untrained("-", "de", [1.0, 0.0], rm_backbone="length")
    bare.write()
    assert main(["choose", "--root", str(tmp_path / "bare")]) == 2
    assert "there is none to choose" in capsys.readouterr().err
