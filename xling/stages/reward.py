"""reward[s]: train a reward model on the source's feedback, by the `fit` of its module (xling/rewards).

And parallel[l, ...]: the documents of several languages that some of them align.
"""

from functools import partial
from typing import Any

import msgspec
import numpy as np

from xling.errors import StageError
from xling.grid.stage import Context
from xling.jsonfiles import read_json, write_json
from xling.models.ridge import Array, half_of
from xling.results.specs import ParallelSpec, RewardSpec
from xling.results.translations import given
from xling.rewards import REWARDS, Feedback, Parallel
from xling.rewards.heads import Fitting, train_heads
from xling.stages.features import all_features
from xling.tasks.options import task_module
from xling.tasks.records import Conversation, HasFolds, Pair, Rating, Split


def run(context: Context) -> None:
    """Writes what the reward model's `fit` writes; or, for recorded systems, cross-fitted heads."""
    spec = msgspec.convert(context.spec, RewardSpec)
    if spec.folds:
        return _heads(context, spec)
    fit = REWARDS.of(spec.rm).fit
    if fit is None:
        raise StageError(f"rm_backbone={spec.rm.name} is not trained.")
    items, features = partial(feedback, context, spec), partial(_features, context, spec)
    side, parallel = spec.truncation_side or "right", partial(_parallel, context, spec)
    return fit(context, spec.rm, Feedback(spec.seed, spec.objective, side, items, features, parallel))


def run_parallel(context: Context) -> None:
    """Writes parallel.json: id -> language -> a document as reward models read it, and the turns of a chat."""
    spec = msgspec.convert(context.spec, ParallelSpec)
    found = dict[str, dict[str, Any]]()
    for lang in spec.langs:
        for row in task_module(spec.task).demonstrations(spec.task, lang, "train"):
            text = row.prompt.reward_text
            found.setdefault(row.prompt.id, {})[lang] = text, text.turns if isinstance(text, Conversation) else ()
    write_json(context.out / "parallel.json", {name: texts for name, texts in found.items() if len(texts) > 1})


# --- feedback ---------------------------------------------------------------------------------------------


def feedback(context: Context, spec: RewardSpec, split: Split, permutation: int) -> list[Any]:
    """The sources' ratings or pairs, pooled; for a control with labels permuted within each language.

    Of one half of the documents where the spec says so. StageError if nothing is left.
    """
    items = all_feedback(context, spec, split, permutation)
    out = [item for item in items if learns_from(spec, item)]
    if not items:
        raise StageError(f"Of the {split} feedback none is left after translation (translate.json says why).")
    if not out:
        raise StageError(
            f"Of the {split} feedback none is about a document of the {spec.half} half: there are too few documents. "
            "Type judge.half=false."
        )
    if spec.half and split == "train" and len({item.label for item in out if isinstance(item, Rating)}) == 1:
        raise StageError(
            f"All ratings of the {spec.half} half are the same: there is nothing to tell apart. Type judge.half=false."
        )
    return out


def learns_from(spec: RewardSpec, item: Pair | Rating) -> bool:
    """The item is about a document of the half that this reward model learns from."""
    return spec.half in (None, half_of(item.prompt.group))


def all_feedback(context: Context, spec: RewardSpec, split: Split, permutation: int) -> list[Any]:
    """`feedback` of both halves."""
    out = list[Any]()
    if spec.objective == "pairwise":
        for pairs in given(context, spec.task, spec.langs, "pairs", split):
            out += shuffled_pairs(pairs, spec.seed, permutation)
    else:
        for ratings in given(context, spec.task, spec.langs, "ratings", split):
            out += shuffled_ratings(ratings, spec.seed, permutation)
    return out


def shuffled_ratings(ratings: list[Rating], seed: int, permutation: int) -> list[Rating]:
    """The same responses with their labels dealt out anew (permutation 0: as they were)."""
    if permutation == 0:
        return ratings
    order = np.random.default_rng([seed, permutation]).permutation(len(ratings))
    return [msgspec.structs.replace(r, label=ratings[i].label) for r, i in zip(ratings, order, strict=True)]


def shuffled_pairs(pairs: list[Pair], seed: int, permutation: int) -> list[Pair]:
    """The same pairs, each turned round by a fair coin (permutation 0: as they were)."""
    if permutation == 0:
        return pairs
    coins = np.random.default_rng([seed, permutation]).random(len(pairs)) < 0.5
    return [Pair(p.prompt, p.rejected, p.chosen) if c else p for p, c in zip(pairs, coins, strict=True)]


def _features(context: Context, spec: RewardSpec) -> list[Array]:
    """The parents' features, language by language as `feedback` gives them, of the half that is learnt from."""
    blocks = all_features(context.parents[f"features_{lang}"] / "feedback" for lang in spec.langs)
    learnt = [learns_from(spec, item) for item in all_feedback(context, spec, "train", 0)]
    return [block[np.repeat(learnt, len(block) // len(learnt))] for block in blocks]  # pairs have two rows each


def _parallel(context: Context, spec: RewardSpec) -> list[Parallel]:
    """Each document of a source with every translation of it and another document of that language; no responses.

    The other is the one before, by id. Nothing where nothing is aligned.
    """
    if "parallel" not in context.parents:
        return []
    kept = read_json(context.parents["parallel"] / "parallel.json").values()
    texts = [{lang: (_chat(*text), "") for lang, text in own.items()} for own in kept]
    found = list[Parallel]()
    for source in spec.langs:
        for lang in sorted({lang for own in texts for lang in own} - {source}):
            both = [(own[source], own[lang]) for own in texts if {source, lang} <= own.keys()]
            found += [(here, there, both[number - 1][1]) for number, (here, there) in enumerate(both)]
    return found


def _chat(text: str, turns: list[list[str]]) -> str:
    """The text, as a chat if it has turns."""
    return Conversation(text, [(role, said) for role, said in turns]) if turns else text


def _heads(context: Context, spec: RewardSpec) -> None:
    task, module = spec.task, task_module(spec.task)
    assert isinstance(task, HasFolds)  # planning has refused others
    sources = [module.recorded(task, lang) for lang in spec.langs]
    folders = {role.partition("_")[2]: folder for role, folder in context.parents.items()}
    fitting = Fitting(spec.folds, (task.seed, spec.seed), spec.objective, spec.documents or None)
    train_heads(sources, spec.rm, folders, fitting, context.out)
