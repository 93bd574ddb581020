"""task=seahorse on files written as the originals are, with the originals' traps."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from own_files import separated
from seahorse_files import (
    COLUMNS,
    SIZES,
    article,
    documents,
    gem_id,
    plain_rows,
    rated,
    summary,
    write_corpora,
    write_mirror,
    write_ratings,
    write_table,
)

from xling.config.common import Language, Template
from xling.errors import ConfigError, DataError
from xling.tasks import seahorse
from xling.tasks.seahorse import Settings as Seahorse
from xling.tasks.seahorse_files import CORPORA

LANGS = ("de", "en", "tr")
FACTS = (Language("de", "German", "Deutsch", "Latn"), Language("en", "English", "English", "Latn"))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seahorse")
    write_ratings(folder / "ratings", plain_rows(LANGS, CORPORA))
    write_corpora(folder / "articles", LANGS, CORPORA)
    return folder


def config(release: Path, **changed: Any) -> Seahorse:
    settings = Seahorse(str(release / "ratings"), str(release / "articles"), LANGS)
    return msgspec.structs.replace(settings, **changed)


def with_rows(release: Path, tmp_path: Path, train: list[list[str]], **changed: Any) -> Seahorse:
    """The release with other training rows."""
    write_ratings(tmp_path / "r", plain_rows(LANGS, CORPORA) | {"train": train})
    return config(release, path=str(tmp_path / "r"), **changed)


# --- ratings ------------------------------------------------------------------------------------------------


def test_ratings_are_joined_with_their_articles_in_every_layout(release: Path) -> None:
    found = seahorse.ratings(config(release), "en", "train")
    assert Counter(r.prompt.dataset for r in found) == {"xsum": 8, "xlsum": 8, "wikilingua": 8}
    for rating in found:
        number = int(rating.prompt.id.rsplit("-", 1)[1])
        assert (
            rating.prompt.text
            == rating.prompt.reward_text
            == article("en", rating.prompt.dataset, "validation", number)
        )
        assert rating.prompt.group == rating.prompt.id and rating.prompt.lang == "en"
        assert rating.response == summary("en", number, rating.system)
        assert rating.label == float((number % 2 == 0) == (rating.system == "mt5_xl"))
    assert len(seahorse.ratings(config(release), "de", "validation")) == 8
    assert seahorse.check(config(release), set(LANGS), LANGS, LANGS) == []


def test_worker_languages_are_mapped_and_the_region_dropped(release: Path) -> None:
    assert {r.prompt.lang for r in seahorse.ratings(config(release), "en", "train")} == {"en"}
    with pytest.raises(ConfigError, match="no language 'es'; it has de, en, tr"):
        seahorse.ratings(config(release), "es", "train")
    with pytest.raises(ConfigError, match="no language 'fr'; it has de, en, es, ru, tr, vi"):
        seahorse.languages(config(release, languages=("fr",)))


def test_the_question_is_a_choice(release: Path, tmp_path: Path) -> None:
    cells = rated("de", "mlsum", "validation", 0, "mt5_xl", True)
    cells[4 + 3 - 1] = "No"
    settings = with_rows(release, tmp_path, [cells])
    labels = {
        k: [r.label for r in seahorse.ratings(msgspec.structs.replace(settings, question=k), "de", "train")]
        for k in range(1, 7)
    }
    assert labels == {1: [1], 2: [1], 3: [0], 4: [1], 5: [1], 6: [1]}


def traps() -> list[list[str]]:
    """One row that is fine, and one of each that is not."""
    incomprehensible = rated("de", "mlsum", "validation", 1, "t5_base", True)
    incomprehensible[4:] = ["No", "", "", "", "", ""]
    no_id = ["", *rated("de", "mlsum", "validation", 1, "x", True)[1:]]
    nan_id = ["nan", *no_id[1:]]
    old = rated("de", "wikilingua", "validation", 999, "x", True)
    fine = rated("de", "mlsum", "validation", 0, "mt5_xl", True)
    silent = rated("de", "mlsum", "validation", 2, "x", True)
    silent[2] = " "
    return [fine, incomprehensible, no_id, nan_id, old, fine, silent]


def test_rows_that_say_nothing_are_left_out_and_counted(release: Path, tmp_path: Path) -> None:
    settings = with_rows(release, tmp_path, traps())
    assert [r.prompt.id for r in seahorse.ratings(settings, "de", "train")] == [gem_id("de", "mlsum", "validation", 0)]
    [note] = seahorse.check(settings, None, ["de"], ["de"])
    for part in (
        "no gem_id 2",
        "no answer to question 6 1",
        "the same row again 1",
        "an empty summary 1",
        "release) 1",
    ):
        assert part in note


def test_rows_without_an_answer_may_count_as_bad(release: Path, tmp_path: Path) -> None:
    settings = with_rows(release, tmp_path, traps(), missing="bad")
    assert [r.label for r in seahorse.ratings(settings, "de", "train")] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("Der Zug", "Der \udcff", r"train\.tsv, line 2: not UTF-8 \(byte \d+: 0xff\)"),
        ("question6", "question7", r"no column 'question6'; it has gem_id, worker_lang, summary.*question7"),
        ("Yes\tYes", "Yes", "line 2: 9 cells, and the first row names 10"),
        ("\tYes\n", "\tMaybe\n", "line 2: question6 is 'Maybe'; Seahorse answers Yes or No"),
        ("\tde\t", "\txx\t", "worker_lang is 'xx'; Seahorse has de, en-US"),
    ],
)
def test_a_file_that_is_not_as_published_is_refused(
    release: Path, tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    settings = with_rows(release, tmp_path, [rated("de", "mlsum", "validation", 0, "x", True)] * 1)
    path = tmp_path / "r" / "train.tsv"
    changed = path.read_text(encoding="utf-8").replace(old, new, 1)
    path.write_bytes(changed.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(DataError, match=sentence):
        seahorse.check(settings, None, ["de"], ["de"])


def test_an_open_quote_does_not_swallow_rows_unseen(release: Path, tmp_path: Path) -> None:
    settings = with_rows(release, tmp_path, [rated("de", "mlsum", "validation", n, "x", True) for n in range(4)])
    path = tmp_path / "r" / "train.tsv"
    text = path.read_text().replace("Der Zug nach Bonn war 0", '"Der Zug', 1).replace("Bonn war 3", 'Bonn war 3"', 1)
    path.write_text(text)
    with pytest.raises(DataError, match=r"cells, and the first row names 10|quotes are not balanced"):
        seahorse.check(settings, None, ["de"], ["de"])


def test_duplicates_are_never_read_and_the_test_split_never_trains(release: Path, tmp_path: Path) -> None:
    settings = with_rows(release, tmp_path, plain_rows(LANGS, CORPORA)["train"])
    write_ratings(tmp_path / "r" / "duplicates", {"train": [["x"] * len(COLUMNS)], "test": []})
    trained = [r.prompt.id for split in ("train", "validation") for r in seahorse.ratings(settings, "de", split)]  # type: ignore[arg-type]
    assert trained and not any("-test-" in name for name in trained)
    apart = msgspec.structs.replace(settings, evaluate="test")
    assert {r.prompt.id.split("-")[1] for r in seahorse.ratings(apart, "de", "test")} == {"test"}
    assert seahorse.ratings(settings, "de", "test") == seahorse.ratings(settings, "de", "validation")


def test_pairs_are_a_good_and_a_bad_summary_of_one_article(release: Path) -> None:
    pairs = seahorse.pairs(config(release), "tr", "train")
    assert len(pairs) == 8
    for pair in pairs:
        number = int(pair.prompt.id.rsplit("-", 1)[1])
        systems = ("mt5_xl", "reference") if number % 2 == 0 else ("reference", "mt5_xl")
        assert (pair.chosen, pair.rejected) == tuple(summary("tr", number, system) for system in systems)


# --- the mirror ---------------------------------------------------------------------------------------------


def test_the_mirror_has_the_articles_and_gives_the_same_ratings(release: Path, tmp_path: Path) -> None:
    rows = plain_rows(LANGS, CORPORA)
    incomprehensible = rated("de", "mlsum", "validation", 1, "t5_base", True)
    incomprehensible[4:] = ["No", "", "", "", "", ""]
    rows["train"].append(incomprehensible)
    write_mirror(tmp_path, LANGS, rows)
    settings = Seahorse(str(tmp_path), languages=LANGS)
    mirrored, joined = (seahorse.ratings(one, "de", "train") for one in (settings, config(release)))
    key = lambda r: (r.prompt.id, r.system, r.response, r.label)  # noqa: E731
    assert sorted(map(key, mirrored)) == sorted(map(key, joined))
    assert {r.prompt.text for r in mirrored if r.prompt.id == "mlsum_de-validation-0"} == {"Article 0 of mlsum_de"}
    [note] = seahorse.check(settings, None, ["de"], ["de"])
    assert "no answer to question 6 1" in note
    assert len(seahorse.ratings(msgspec.structs.replace(settings, missing="bad"), "de", "train")) == len(joined) + 1
    assert seahorse.sources(seahorse.narrowed(settings, ("de",), "pointwise"))


def test_without_articles_there_is_nothing_for_a_policy(tmp_path: Path) -> None:
    write_mirror(tmp_path, LANGS, plain_rows(LANGS, CORPORA))
    for use in ("demonstrations", "prompts"):
        with pytest.raises(ConfigError, match=r"type task\.articles=PATH"):
            seahorse.narrowed(Seahorse(str(tmp_path), languages=LANGS), ("de",), use)  # type: ignore[arg-type]


# --- demonstrations and prompts -----------------------------------------------------------------------------


def test_demonstrations_are_in_the_language_and_the_corpora_take_turns(release: Path) -> None:
    """The old WikiLingua's `target` is English; its own summary stands in target_aligned."""
    found = seahorse.demonstrations(config(release), "de", "train")
    assert [d.prompt.dataset for d in found] == ["mlsum", "wikilingua"] * SIZES["train"]
    for demonstration in found:
        number = int(demonstration.prompt.id.rpartition("-")[2])
        assert demonstration.response == summary("de", number, "reference")
        assert demonstration.prompt.text == article("de", demonstration.prompt.dataset, "train", number)
    assert len({d.prompt.id for d in found}) == len(found)


def test_articles_that_seahorse_trains_on_are_removed_from_validation(release: Path) -> None:
    left = SIZES["validation"] - 4
    for found in (
        seahorse.prompts(config(release), "en", "test"),
        seahorse.prompts(config(release), "en", "validation"),
        [d.prompt for d in seahorse.demonstrations(config(release), "en", "validation")],
    ):
        assert Counter(p.dataset for p in found) == {"xsum": left, "xlsum": left, "wikilingua": left}
        trained = {r.prompt.id for r in seahorse.ratings(config(release), "en", "train")}
        assert not trained & {p.id for p in found} and len({p.id for p in found}) == len(found)


def test_the_removal_knows_every_training_row_even_without_an_answer(release: Path, tmp_path: Path) -> None:
    cells = rated("de", "mlsum", "validation", 7, "x", True)
    cells[4:] = ["No", "", "", "", "", ""]
    settings = with_rows(release, tmp_path, [cells])
    assert cells[0] not in {p.id for p in seahorse.prompts(settings, "de", "test")}
    assert len(seahorse.prompts(settings, "de", "test")) == 2 * SIZES["validation"] - 1


def test_the_test_split_may_be_evaluated_on(release: Path) -> None:
    found = seahorse.prompts(config(release, evaluate="test"), "tr", "test")
    assert len(found) == 2 * SIZES["test"] and all("-test-" in p.id for p in found)


def test_equal_mixing_repeats_the_smaller_corpora(release: Path, tmp_path: Path) -> None:
    write_corpora(tmp_path / "articles", ("de",), CORPORA)
    short = documents("de", "mlsum", "train")[:3]
    write_table(tmp_path / "articles" / "mlsum" / "de" / "mlsum-train.jsonl", short)
    settings = config(release, articles=str(tmp_path / "articles"), languages=("de",))
    plain = seahorse.demonstrations(settings, "de", "train")
    assert Counter(d.prompt.dataset for d in plain) == {"mlsum": 3, "wikilingua": SIZES["train"]}
    equal = seahorse.demonstrations(msgspec.structs.replace(settings, mixing="equal"), "de", "train")
    assert Counter(d.prompt.dataset for d in equal) == {"mlsum": SIZES["train"], "wikilingua": SIZES["train"]}


def test_a_cap_takes_the_same_ones_whatever_the_order_of_rows(release: Path, tmp_path: Path) -> None:
    write_corpora(tmp_path / "articles", ("de",), CORPORA)
    place = tmp_path / "articles" / "mlsum" / "de"
    place.joinpath("mlsum-train.jsonl").unlink()
    rows = documents("de", "mlsum", "train")[::-1]
    write_table(place / "train-00000-of-00002.jsonl", rows[:5])
    write_table(place / "train-00001-of-00002.jsonl", [*rows[5:], rows[0]])  # and one of them twice
    ids = []
    for folder in (release / "articles", tmp_path / "articles"):
        settings = config(release, articles=str(folder), languages=("de",), max_demonstrations=4, max_prompts=2)
        found = seahorse.demonstrations(settings, "de", "train")
        ids.append([d.prompt.id for d in found])
        assert len(found) == 8 and len(seahorse.prompts(settings, "de", "test")) == 4
    assert ids[0] == ids[1]
    other = msgspec.structs.replace(config(release), max_demonstrations=4, seed=1)
    assert [d.prompt.id for d in seahorse.demonstrations(other, "de", "train")] != ids[0]


def test_long_articles_lose_their_end(release: Path) -> None:
    [first, *_] = seahorse.prompts(config(release, max_characters=20), "de", "test")
    assert first.text == first.reward_text == article("de", "mlsum", "validation", 4)[:20]


# --- files that are missing or otherwise --------------------------------------------------------------------


def test_some_of_the_corpora(release: Path) -> None:
    settings = config(release, datasets=("wikilingua",))
    for load in (seahorse.ratings, seahorse.demonstrations):
        assert {one.prompt.dataset for one in load(settings, "en", "train")} == {"wikilingua"}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"datasets": ("xsum",)}, r"task.datasets=\[xsum\] has none of the corpora of 'de': mlsum, wikilingua"),
        ({"path": "???"}, r"needs the folder of Seahorse's ratings.*task\.path=PATH"),
        ({"path": "nowhere"}, r"task\.path=nowhere is no folder.*task\.path=PATH"),
        ({"path": "."}, r"task\.path=\. has no train\.tsv; it has "),
        ({"articles": "nowhere"}, r"task\.articles=nowhere is no folder.*task\.articles=PATH"),
        ({"articles": "."}, r"no files of mlsum in 'de'; looked in mlsum/de, mlsum/german"),
    ],
)
def test_a_file_that_is_not_there_is_said_at_planning(release: Path, changed: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        settings = seahorse.narrowed(config(release, **changed), ("de",), "prompts")
        seahorse.sources(settings)


def test_a_missing_split_is_said_at_planning(release: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "mlsum" / "de" / "validation.jsonl", documents("de", "mlsum", "validation"))
    settings = config(release, articles=str(tmp_path), datasets=("mlsum",))
    seahorse.narrowed(settings, ("de",), "prompts")
    with pytest.raises(ConfigError, match="no train files of mlsum in 'de', only of validation"):
        seahorse.narrowed(settings, ("de",), "demonstrations")
    write_table(tmp_path / "mlsum" / "de" / "validation.parquet", documents("de", "mlsum", "validation"))
    with pytest.raises(ConfigError, match="has its validation files twice, as jsonl and parquet"):
        seahorse.narrowed(settings, ("de",), "prompts")


def test_a_corpus_without_its_columns_is_refused_with_those_found(release: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlsum" / "de" / "validation.jsonl"
    settings = config(release, articles=str(tmp_path), datasets=("mlsum",))
    write_table(path, [{"id": "1", "text": "a", "target": "b"}])
    with pytest.raises(DataError, match="no column 'gem_id'; it has id, text, target"):
        seahorse.prompts(settings, "de", "validation")
    write_table(path, [{"gem_id": "1", "body": "a", "target": "b"}])
    with pytest.raises(DataError, match=r"no column 'document' \(or text, source, article\); it has gem_id, body"):
        seahorse.prompts(settings, "de", "validation")
    write_table(path, [])
    with pytest.raises(DataError, match="mlsum has no validation documents in 'de'"):
        seahorse.prompts(settings, "de", "validation")
    write_table(path, documents("de", "mlsum", "train"))
    with pytest.raises(DataError, match=r"None of the \d+ rated summaries in 'de' has its article"):
        seahorse.ratings(settings, "de", "train")


def as_csv(articles: Path) -> None:
    (articles / "mlsum" / "de" / "mlsum-train.jsonl").unlink()
    separated(articles / "mlsum" / "de" / "mlsum-train.csv", documents("de", "mlsum", "train"))


def as_tfds_exports(articles: Path) -> None:
    """Bytes, and flattened fields."""
    folder = articles / "wikilingua" / "wiki_lingua_german_de"
    (folder / "train.jsonl.gz").unlink()
    rows = [
        {
            "gem_id": row["gem_id"].encode(),
            "source": b"x",
            "target": b"English",
            "source_aligned/de": row["source"].encode(),
            "target_aligned/de": row["target_aligned"]["de"].encode(),
        }
        for row in documents("de", "wikilingua", "train")
    ]
    write_table(folder / "train.parquet", rows)


def beside_challenges_and_samples(articles: Path) -> None:
    for name in ("challenge_train_sample", "sampled_validation", "partial-train"):
        write_table(articles / "mlsum" / "de" / f"mlsum-{name}.parquet", documents("de", "mlsum", "train"))


@pytest.mark.parametrize("change", [as_csv, as_tfds_exports, beside_challenges_and_samples])
def test_corpora_in_other_forms_read_the_same(release: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_corpora(tmp_path, ("de",), CORPORA)
    change(tmp_path)
    settings = config(release, articles=str(tmp_path), languages=("de",))
    assert seahorse.demonstrations(settings, "de", "train") == seahorse.demonstrations(config(release), "de", "train")


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_use_keeps_the_settings_that_it_reads(release: Path) -> None:
    settings = config(
        release, question=4, max_prompts=3, mixing="equal", seed=5, template=Template("{language} {text}")
    )
    kept = {use: seahorse.narrowed(settings, ("de",), use) for use in seahorse.READS}
    assert kept["pointwise"].question == 4 and kept["pointwise"].max_prompts is None  # type: ignore[union-attr]
    assert kept["pointwise"].template == Template() and kept["prompts"].template == settings.template  # type: ignore[union-attr]
    assert kept["demonstrations"].question == 6 and kept["demonstrations"].mixing == "equal"  # type: ignore[union-attr]
    assert kept["held_out_pairwise"].max_prompts == 3 and kept["held_out_pairwise"].question == 4  # type: ignore[union-attr]
    assert all(one.languages == ("de",) for one in kept.values())  # type: ignore[union-attr]


def test_articles_are_read_of_the_languages_that_are_used(release: Path, tmp_path: Path) -> None:
    write_corpora(tmp_path, LANGS, CORPORA)
    settings = config(release, articles=str(tmp_path))
    found = {lang: set(seahorse.sources(seahorse.narrowed(settings, (lang,), "prompts"))) for lang in LANGS}
    articles = {lang: {path for path in paths if tmp_path in path.parents} for lang, paths in found.items()}
    assert all(articles.values()) and not set.intersection(*articles.values())
