"""WikiLingua across languages, on files in the fields and folders of both GEM releases (docs/tasks.md)."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from own_files import jsonl, parquet
from seahorse_files import NAMES, gem_id, rated, write_ratings

from xling.config.common import Language, Template
from xling.errors import ConfigError, DataError
from xling.planning.specs import data_of
from xling.tasks import seahorse
from xling.tasks.options import size
from xling.tasks.seahorse import Settings as Seahorse

LANGS = ("de", "en", "tr")
SPLITS = {"train": 6, "validation": 4, "test": 2}
# Which English sections an article of each language is aligned with: of 0 to 5, German lacks 1, Turkish 2.
SECTIONS = {"de": (0, 2, 3, 4, 5), "tr": (0, 1, 3, 4, 5), "en": range(6)}


def text(lang: str, split: str, section: int) -> str:
    return f"{NAMES[lang]} article {section} of {split}. It has a second sentence."


def told(lang: str, split: str, section: int) -> str:
    return f"{NAMES[lang]} summary {section} of {split}."


def old_rows(lang: str, split: str) -> list[dict[str, Any]]:
    """As GEM's older release makes them: ids count the language's own rows, the target is English."""
    sections = [section for section in SECTIONS[lang] if section < SPLITS[split]]
    return [
        {
            "gem_id": gem_id(lang, "wikilingua", split, number),
            "gem_parent_id": gem_id(lang, "wikilingua", split, number),
            "source_aligned": {one: text(one, split, section) for one in {lang, "en"}},
            "target_aligned": {one: told(one, split, section) for one in {lang, "en"}},
            "source": text(lang, split, section),
            "target": told("en", split, section),
            "references": [] if split == "train" else [told("en", split, section)],
        }
        for number, section in enumerate(sections)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for lang in LANGS:
        for split in SPLITS:
            place = tmp_path / "articles" / "wikilingua" / f"wiki_lingua_{NAMES[lang]}_{lang}"
            jsonl(place / f"{split}.jsonl", old_rows(lang, split))
    ratings = {
        split: [rated(lang, "wikilingua", "validation", n, "mt5", n % 2 == 0) for lang in LANGS for n in numbers]
        for split, numbers in {"train": (0,), "validation": (1,), "test": ()}.items()
    }
    write_ratings(tmp_path / "ratings", ratings)
    return tmp_path


def settings(folder: Path, articles: str | None, **changed: Any) -> Seahorse:
    made = Seahorse(str(folder / "ratings"), str(folder / "articles"), LANGS, ("wikilingua",), document_lang=articles)
    return msgspec.structs.replace(made, **changed)


def pairs(config: Seahorse, lang: str, split: Any = "train") -> set[tuple[str, str]]:
    return {(one.prompt.text, one.response) for one in seahorse.demonstrations(config, lang, split)}


def aligned(articles: str, lang: str, sections: tuple[int, ...], split: str = "train") -> set[tuple[str, str]]:
    return {(text(articles, split, section), told(lang, split, section)) for section in sections}


def test_english_and_another_stand_in_the_others_rows(folder: Path) -> None:
    assert pairs(settings(folder, "en"), "tr") == aligned("en", "tr", (0, 1, 3, 4, 5))
    assert pairs(settings(folder, "tr"), "en") == aligned("tr", "en", (0, 1, 3, 4, 5))
    assert (
        pairs(settings(folder, "tr"), "tr")
        == pairs(settings(folder, None), "tr")
        == aligned("tr", "tr", (0, 1, 3, 4, 5))
    )


def test_two_others_are_joined_by_their_english_articles(folder: Path) -> None:
    shared = (0, 3, 4, 5)  # 1 has no German, 2 no Turkish
    assert pairs(settings(folder, "de"), "tr") == aligned("de", "tr", shared)
    assert pairs(settings(folder, "tr"), "de") == aligned("tr", "de", shared)
    ids = {one.prompt.id for one in seahorse.demonstrations(settings(folder, "de"), "tr", "train")}
    assert ids == {gem_id("tr", "wikilingua", "train", number) for number in (0, 2, 3, 4)}  # the summaries' own


def test_tables_of_tensorflow_datasets_read_the_same(folder: Path) -> None:
    before = [pairs(settings(folder, articles), lang) for articles, lang in (("en", "tr"), ("tr", "de"))]
    for lang in ("tr", "de"):
        flat = [
            {key: value.encode() for key, value in row.items() if isinstance(value, str)}
            | {f"{name}/{one}": row[name][one].encode() for name in ("source_aligned", "target_aligned") for one in
               (lang, "en")}
            for row in old_rows(lang, "train")
        ]  # fmt: skip
        place = folder / "articles" / "wikilingua" / f"wiki_lingua_{NAMES[lang]}_{lang}"
        (place / "train.jsonl").unlink()
        parquet(place / "train.parquet", flat)
    assert [pairs(settings(folder, articles), lang) for articles, lang in (("en", "tr"), ("tr", "de"))] == before


@pytest.mark.parametrize("said", [True, False], ids=["newer", "v0"])
def test_files_of_the_pair_itself_come_first(folder: Path, said: bool) -> None:
    """The newer release says the languages in each row, the older one in the folder's name."""
    name = "tr_en" if said else "wiki_lingua_tr_en_v0"
    rows = [{"gem_id": f"x-{n}", "source": f"Makale {n}", "target": f"Summary {n}", "references": []} for n in (0, 1)]
    if said:
        rows = [row | {"source_language": "tr", "target_language": "en"} for row in rows]
        other = {"source_language": "en", "target_language": "tr", "source": "Article", "target": "\u00d6zet"}
        rows += [{"gem_id": "x-2", "references": [], **other}]
    for split in SPLITS:
        parquet(folder / "articles" / "wikilingua" / name / f"{split}.parquet", rows)
    assert pairs(settings(folder, "tr"), "en") == {("Makale 0", "Summary 0"), ("Makale 1", "Summary 1")}
    assert pairs(settings(folder, "en"), "tr") == aligned("en", "tr", (0, 1, 3, 4, 5))
    assert len(seahorse.sources(settings(folder, "tr", languages=("en",)))) == 3 + 3 + 3  # ratings, en's, the pair's


def test_prompts_name_the_summarys_language_and_leave_out_what_is_trained_on(folder: Path) -> None:
    template = Template("{language}: {text}", "{text}")
    config = settings(folder, "en", template=template, facts=(Language("tr", "Turkish", "T\u00fcrk\u00e7e", "Latn"),))
    found = seahorse.prompts(config, "tr", "test")
    assert {one.id for one in found} == {gem_id("tr", "wikilingua", "validation", number) for number in (1, 2)}
    for one in found:
        assert one.lang == "tr" and one.text == f"Turkish: {one.content}"
        assert one.content.startswith("english article ") and one.dataset == "wikilingua"


def test_reward_models_have_their_own_languages_ratings_and_keys(folder: Path) -> None:
    plain, english = settings(folder, None), settings(folder, "en")
    for split in ("train", "validation"):
        assert seahorse.ratings(english, "tr", split) == seahorse.ratings(plain, "tr", split)
        assert seahorse.ratings(english, "tr", split)[0].prompt.text.startswith("turkish article ")
    assert data_of(english.feedback_task, ("tr",), "pointwise") == data_of(plain, ("tr",), "pointwise")
    unset = msgspec.structs.replace(plain, document_lang=msgspec.UNSET)
    for use in seahorse.READS:
        assert data_of(english, ("en",), use) == data_of(plain, ("en",), use) == data_of(unset, ("en",), use)
        assert "document_lang" not in msgspec.to_builtins(data_of(plain, ("tr",), use)["task"])
        changes = use not in ("pointwise", "pairwise")
        assert (data_of(english, ("tr",), use) != data_of(plain, ("tr",), use)) == changes
    assert size(english, "tr", "demonstrations", "train") == 5
    published = msgspec.structs.replace(english, path="published")
    assert size(published, "tr", "demonstrations", "train") is None  # the paper has no such pairs
    assert size(published, "en", "demonstrations", "train") == 99020


def test_what_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"document_lang=en asks for .* WikiLingua alone .*task=seahorse_wikilingua"):
        seahorse.languages(settings(folder, "en", datasets=("xlsum", "wikilingua")))
    with pytest.raises(ConfigError, match=r"seahorse has no language 'fr'; it has de, en, es, ru, tr, vi"):
        seahorse.languages(settings(folder, "fr"))
    with pytest.raises(ConfigError, match=r"has no files of wikilingua in 'ru'"):
        seahorse.narrowed(settings(folder, "ru"), ["tr"], "demonstrations")
    german = folder / "articles/wikilingua/wiki_lingua_german_de"
    jsonl(german / "train.jsonl", [row | {"source_aligned": {"de": "x"}} for row in old_rows("de", "train")])
    with pytest.raises(DataError, match=r"wikilingua has no train documents in 'de' with summaries in 'tr' below"):
        seahorse.demonstrations(settings(folder, "de"), "tr", "train")
    jsonl(german / "train.jsonl", [{"gem_id": "x", "source": "y", "target": "z"}])
    with pytest.raises(DataError, match=r"has no columns 'source_aligned' and 'target_aligned'.*wikilingua/en_tr"):
        seahorse.demonstrations(settings(folder, "de"), "en", "train")
    (german / "validation.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"no validation files .* articles in 'de' with summaries in 'tr', only of "):
        seahorse.narrowed(settings(folder, "de"), ["tr"], "prompts")
