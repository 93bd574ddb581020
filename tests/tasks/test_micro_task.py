"""task=micro_summarization: sizes, splits, simulated feedback, what length gives away."""

import inspect
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from omegaconf import OmegaConf

from xling.errors import ConfigError
from xling.tasks import micro_summarization as task
from xling.tasks.micro.gold import COST, DIMENSIONS, GOOD, assess
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro.writing import fact_set_of
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.tasks.options import Task, TaskModule
from xling.tasks.records import Demonstration, Rating, Split

SMALL = MicroSummarization(languages=LANGUAGES, demonstrations=60, ratings=50, pairs=40, validation=20, test_prompts=30)
MIDDLE = MicroSummarization(languages=LANGUAGES, ratings=1500, pairs=400)
CLEAN = msgspec.structs.replace(MIDDLE, label_noise=0.0, ratings=600)
UNBIASED = msgspec.structs.replace(MIDDLE, lead_bias=0.0)
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
USES = (task.demonstrations, task.ratings, task.pairs, task.prompts)


def groups(items: list[object]) -> list[str]:
    return [getattr(item, "prompt", item).group for item in items]


def good_share(config: MicroSummarization, error: float) -> float:
    """Share of responses without an error: the first fact is the main one in half of the documents."""
    return (1 - error) * (1 - config.lead_bias / 2)


def of_first_fact(config: MicroSummarization, item: Demonstration | Rating) -> bool:
    """Whether it is a correct statement of the document's first fact."""
    facts = fact_set_of(config.seed, item.prompt.group)
    return assess(facts._replace(main=0), item.prompt.lang, item.response).quality == 1.0


def gold_of(config: MicroSummarization, items: list[Any]) -> list[float]:
    """Gold quality of demonstrations or rated responses."""
    return [row[0] for row in task.quality(config, [one.prompt for one in items], [[one.response] for one in items])]


def test_the_module_has_what_it_offers_in_the_form_of_a_task() -> None:
    assert all(hasattr(task, name) for name in task.OFFERS)
    for name, function in inspect.getmembers(TaskModule, inspect.isfunction):
        if not name.startswith("_") and hasattr(task, name):
            asked = list(inspect.signature(function).parameters)[1:]
            assert list(inspect.signature(getattr(task, name)).parameters) == asked


def test_the_preset_is_the_default() -> None:
    path = Path(__file__).parents[2] / "conf/task/micro_summarization.yaml"
    preset = OmegaConf.to_container(OmegaConf.load(path))
    said = {"document_lang": None, "feedback_documents": "own"}  # as what is not said is meant
    assert msgspec.convert(preset, Task) == MicroSummarization(languages=LANGUAGES, **said)


def test_sizes_are_the_settings() -> None:
    assert [len(use(SMALL, "tr", "train")) for use in USES] == [60, 50, 40, 60]
    for use in USES:
        assert [len(use(SMALL, "tr", split)) for split in SPLITS[1:]] == [20, 30]


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data() -> None:
    other = msgspec.structs.replace(SMALL, seed=1)
    for use in USES:
        assert use(SMALL, "vi", "train") == use(SMALL, "vi", "train")
        assert use(SMALL, "vi", "train") != use(other, "vi", "train")


def test_larger_sizes_begin_with_the_smaller() -> None:
    larger = msgspec.structs.replace(SMALL, demonstrations=80, ratings=70, pairs=60, test_prompts=50)
    for use in USES:
        small = use(SMALL, "de", "train")
        assert use(larger, "de", "train")[: len(small)] == small


def test_prompts_are_parallel_and_nothing_else_has_their_group() -> None:
    asked = {lang: task.prompts(SMALL, lang, "test") for lang in LANGUAGES}
    assert len({tuple(p.id for p in found) for found in asked.values()}) == 1
    assert len({found[0].text for found in asked.values()}) == len(LANGUAGES)
    seen: set[str] = set()
    for use in USES:
        for split in SPLITS:
            found = set(groups(use(SMALL, "es", split)))
            assert not found & seen
            seen |= found


def test_no_text_of_training_is_asked_in_the_test() -> None:
    for lang in LANGUAGES:
        trained = {i.prompt.text for use in USES[:3] for i in use(SMALL, lang, "train")}
        assert not trained & {p.text for split in SPLITS[1:] for p in task.prompts(SMALL, lang, split)}


@pytest.mark.parametrize("config", [MIDDLE, UNBIASED, CLEAN], ids=["biased", "unbiased", "clean"])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_labels_follow_gold_but_for_the_noise(lang: str, config: MicroSummarization) -> None:
    rated = task.ratings(config, lang, "train")
    assert {item.label for item in rated} == {0.0, 1.0}
    assert {item.system for item in rated} == {"simulated"}
    good = [quality >= GOOD for quality in gold_of(config, rated)]
    assert abs(statistics.mean(good) - good_share(config, config.rating_error)) < 0.04
    flipped = statistics.mean(found != bool(item.label) for found, item in zip(good, rated, strict=True))
    assert abs(flipped - config.label_noise) < 0.03 if config.label_noise else flipped == 0
    if config == MIDDLE:
        assert 0.45 < statistics.mean(item.label for item in rated) < 0.55


@pytest.mark.parametrize("lead_bias", [0.0, MIDDLE.lead_bias, 1.0])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_pairs_are_never_equal_and_follow_gold_but_for_the_noise(lang: str, lead_bias: float) -> None:
    config = msgspec.structs.replace(MIDDLE, lead_bias=lead_bias)
    found = task.pairs(config, lang, "train")
    gold = task.quality(config, [p.prompt for p in found], [[p.chosen, p.rejected] for p in found])
    assert all(chosen != rejected for chosen, rejected in gold)
    flipped = statistics.mean(chosen < rejected for chosen, rejected in gold)
    assert abs(flipped - config.label_noise) < 0.05


@pytest.mark.parametrize("lead_bias", [0.0, MIDDLE.lead_bias, 1.0])
def test_demonstrations_carry_errors_at_the_stated_rate(lead_bias: float) -> None:
    config = msgspec.structs.replace(MIDDLE, demonstrations=1500, lead_bias=lead_bias)
    shown = task.demonstrations(config, "es", "train")
    good = statistics.mean(quality >= GOOD for quality in gold_of(config, shown))
    assert abs(good - good_share(config, config.demonstration_error)) < 0.04


def test_without_lead_bias_and_errors_all_demonstrations_are_correct() -> None:
    clean = msgspec.structs.replace(SMALL, demonstration_error=0.0, lead_bias=0.0)
    shown = task.demonstrations(clean, "es", "train")
    assert gold_of(clean, shown) == [1.0] * 60


@pytest.mark.parametrize("lead_bias", [0.0, 0.3, 0.6, 1.0])
def test_the_first_fact_is_told_at_the_stated_rate_and_where_it_is_the_main_one(lead_bias: float) -> None:
    config = msgspec.structs.replace(
        MIDDLE, demonstrations=1500, demonstration_error=0.0, rating_error=0.0, lead_bias=lead_bias
    )
    for use in (task.demonstrations, task.ratings):
        items: list[Demonstration | Rating] = list(use(config, "vi", "train"))
        first = [of_first_fact(config, item) for item in items]
        assert abs(statistics.mean(first) - (lead_bias + (1 - lead_bias) / 2)) < 0.04
        gold = gold_of(config, items)
        assert {round(quality, 9) for quality in gold} <= {1.0, round(1 - COST["main_idea"], 9)}
        assert all(lead or quality == 1.0 for lead, quality in zip(first, gold, strict=True))


def test_lead_bias_changes_no_prompt() -> None:
    for use in USES:
        plain, biased = (
            [getattr(item, "prompt", item) for item in use(config, "de", "train")]
            for config in (SMALL, msgspec.structs.replace(SMALL, lead_bias=0.0))
        )
        assert plain == biased


@pytest.mark.parametrize("value", [1.5, -0.1])
def test_a_share_of_lead_summaries_is_a_share(value: float) -> None:
    settings = msgspec.to_builtins(SMALL) | {"lead_bias": value}
    with pytest.raises(msgspec.ValidationError, match=r"`\$\.lead_bias`"):
        msgspec.convert(settings, Task)


def words_in(text: str) -> int:
    return len(text.split())


def accuracy_of_best_threshold(lengths: list[int], good: list[bool]) -> float:
    """The better side of the best threshold, on the very data it is fitted to."""
    found = []
    for threshold in sorted(set(lengths)):
        right = statistics.mean((length >= threshold) == y for length, y in zip(lengths, good, strict=True))
        found += [right, 1 - right]
    return max(found)


@pytest.mark.parametrize("measure", [words_in, len])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_length_does_not_tell_a_bad_summary(lang: str, measure: Callable[[str], int]) -> None:
    rated = task.ratings(MIDDLE, lang, "train")
    gold = gold_of(MIDDLE, rated)
    good = [item.response for item, quality in zip(rated, gold, strict=True) if quality >= GOOD]
    bad = [item.response for item, quality in zip(rated, gold, strict=True) if quality < GOOD]
    size = min(len(good), len(bad))
    lengths = [measure(text) for text in (*good[:size], *bad[:size])]
    assert accuracy_of_best_threshold(lengths, [True] * size + [False] * size) < 0.65


@pytest.mark.parametrize("measure", [words_in, len])
@pytest.mark.parametrize("lang", LANGUAGES)
def test_length_does_not_tell_the_better_of_a_pair(lang: str, measure: Callable[[str], int]) -> None:
    config = msgspec.structs.replace(MIDDLE, pairs=1000, label_noise=0.0)
    sizes = [(measure(pair.chosen), measure(pair.rejected)) for pair in task.pairs(config, lang, "train")]
    longer = statistics.mean((chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected in sizes)
    assert abs(longer - 0.5) < 0.08


@pytest.mark.parametrize("lang", LANGUAGES)
def test_neither_the_longest_nor_the_shortest_of_eight_wins(lang: str) -> None:
    rated = task.ratings(MIDDLE, lang, "train")
    scored = [(len(item.response), quality) for item, quality in zip(rated, gold_of(MIDDLE, rated), strict=True)]
    for choose in (min, max):
        wins = []
        for start in range(0, len(scored) - 8, 9):
            _, picked = choose(scored[start : start + 8], key=lambda pair: pair[0])
            other = scored[start + 8][1]
            wins.append(0.5 if picked == other else float(picked > other))
        assert statistics.mean(wins) < 0.6


def test_quality_by_dimension_goes_with_quality() -> None:
    asked = task.prompts(SMALL, "de", "test")[:3]
    responses = [["Kurz gesagt: ein Fest.", ""], [asked[1].text.split("\n")[0]], []]
    scores = task.quality_by_dimension(SMALL, asked, responses)
    assert [[s.quality for s in row] for row in scores] == task.quality(SMALL, asked, responses)
    assert scores[0][0]._fields == (*DIMENSIONS, "quality")
    assert [len(row) for row in scores] == [2, 1, 0]


def test_the_digest_is_of_the_world_and_the_seed() -> None:
    assert task.digest(SMALL) == task.digest(MIDDLE)
    assert task.digest(SMALL) != task.digest(msgspec.structs.replace(SMALL, seed=1))
    assert len(task.digest(SMALL)) == 64


def test_a_language_that_the_task_lacks_is_an_error_that_says_what_it_has() -> None:
    with pytest.raises(ConfigError, match="no language 'fr'; it has de, en, es, ru, tr, vi"):
        task.prompts(SMALL, "fr", "test")
    two = msgspec.structs.replace(SMALL, languages=("en", "tr"))
    with pytest.raises(ConfigError, match="no language 'de'; it has en, tr"):
        task.ratings(two, "de", "train")


# --- documents in one language, summaries in another ---------------------------------------------------------

ABOUT_ENGLISH = msgspec.structs.replace(SMALL, document_lang="en")


def test_documents_are_those_of_their_language_and_all_else_is_the_targets() -> None:
    """Asked in German of English documents: English's own texts, German's cue, answers, labels and ids."""
    for use in USES:
        for split in SPLITS:
            asked, german, english = (use(ABOUT_ENGLISH, "de", split), use(SMALL, "de", split), use(SMALL, "en", split))
            texts = [(getattr(a, "prompt", a), getattr(e, "prompt", e)) for a, e in zip(asked, english, strict=True)]
            assert {a.text for a, _ in texts} == {
                f"{task.document_of(e)}\nZusammenfassung auf Deutsch:" for _, e in texts
            }
            own = [getattr(g, "prompt", g) for g in german]
            assert [msgspec.structs.replace(a, text=g.text) for (a, _), g in zip(texts, own, strict=True)] == own
            for field in ("response", "label", "chosen", "rejected"):
                assert [getattr(a, field, None) for a in asked] == [getattr(g, field, None) for g in german]
    assert [use(ABOUT_ENGLISH, "en", "test") for use in USES] == [use(SMALL, "en", "test") for use in USES]


def test_quality_across_languages_by_hand() -> None:
    [asked] = task.prompts(msgspec.structs.replace(ABOUT_ENGLISH, test_prompts=1), "de", "test")
    assert asked.text.startswith("This report is about a flood. Reported: a flood, Albania, February, 210 lamps. The")
    said = {
        "Albanien erlebte im Februar eine \u00dcberschwemmung, zusammen 210 Lampen.": 1.0,
        "Kurz gesagt: eine \u00dcberschwemmung in Albanien, 210 Lampen.": 1.0,
        "Ungarn erlebte im Mai eine Explosion, zusammen 74 B\u00fccher.": 1 - COST["main_idea"],  # another fact of it
        # four of five names are the fact's
        "Albanien erlebte im Februar eine \u00dcberschwemmung, zusammen 210 B\u00fccher.": (4 / 5) ** 3,
        # right, in the document's language: of seven words and names "in" alone is German too
        "Albania had a flood in February with 210 lamps.": 1 - COST["language"] * 6 / 7,
    }
    assert task.quality(ABOUT_ENGLISH, [asked], [list(said)]) == [pytest.approx(list(said.values()))]
    in_english = msgspec.structs.replace(asked, lang="en")
    assert task.quality(ABOUT_ENGLISH, [in_english], [list(said)[-1:]]) == [[1.0]]


def test_a_spec_names_the_language_of_documents_only_where_it_changes_something() -> None:
    plain = msgspec.structs.replace(SMALL, document_lang=None, feedback_documents="own")
    for use in task.READS:
        own = task.narrowed(SMALL, ["en"], use)
        assert task.narrowed(plain, ["en"], use) == task.narrowed(ABOUT_ENGLISH, ["en"], use) == own
        assert not {"document_lang", "feedback_documents"} & set(msgspec.to_builtins(own))
        for langs in (["de"], ["de", "en"]):
            assert task.narrowed(ABOUT_ENGLISH, langs, use).document_lang == "en"


def test_a_document_language_that_the_world_lacks_is_refused_and_one_without_effect_is_said() -> None:
    for lang in ("fr", "deu", "de+en"):
        with pytest.raises(
            ConfigError, match=rf"task\.document_lang={re.escape(lang)}: the embedded world has no .* null: documents"
        ):
            task.languages(msgspec.structs.replace(SMALL, document_lang=lang))
    assert task.languages(msgspec.structs.replace(ABOUT_ENGLISH, languages=("de",))) == ("de",)
    both = msgspec.structs.replace(SMALL, feedback_documents="document_lang")
    [said] = task.ignored(both, True)
    assert "type task.document_lang=en" in said and not task.ignored(SMALL, True)
    assert not task.ignored(msgspec.structs.replace(both, document_lang="en"), True)
