"""Judgements of translations in the layouts of their releases, with the columns, quoting and codes of the originals."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from own_files import jsonl

from xling.errors import ConfigError, DataError
from xling.tasks import files
from xling.tasks.files import Settings as Files
from xling.tasks.rows import Columns
from xling.tasks.wmt import weight

# google/wmt-mqm-human-evaluation: up to 2022, and from 2023 on. Quotes are not quoted there.
EARLY = "system\tdoc\tdoc_id\tseg_id\trater\tsource\ttarget\tcategory\tseverity"
LATE = "system\tdoc\tdocSegId\tglobalSegId\trater\tsource\ttarget\tcategory\tseverity\tmetadata"
ERRORS = (
    "A\ttalk.1\t1\t1\trater1\tThe \"sun\" burns.\tDie <v>Sonne</v> brennt.\tAccuracy/Mistranslation\tMajor",
    "A\ttalk.1\t1\t1\trater1\tThe \"sun\" burns.\tDie Sonne brennt<v>.</v>\tFluency/Punctuation\tMinor",
    "A\ttalk.1\t1\t1\trater2\tThe \"sun\" burns.\tDie Sonne brennt.\tNo-error\tNo-error",
    "B\ttalk.1\t1\t1\trater1\t\"The \"\"sun\"\" burns.\"\t\"Die Sonne brennt.\tStyle/Awkward\tMinor",
    "A\ttalk.1\t2\t2\trater1\tIt is hot.\tEs ist heiß.\tNo-error\tNo-error",
    "B\ttalk.1\t2\t2\trater1\tIt is hot.\t<v>Hot hot</v>\tNon-translation!\tMajor",
    "A\ttalk.2\t1\t3\trater1\tIt is hot.\tEs ist heiß.\tFluency/Register\tNeutral",
    "B\ttalk.2\t1\t3\trater1\tIt is hot.\tEs ist warm.\tAccuracy/Mistranslation\tMinor",
    "B\ttalk.2\t1\t3\trater1\tIt is hot.\tEs ist <v>warm</v>.\tFound\tHOTW-test",
)  # fmt: skip


def settings(path: Path, **changed: Any) -> Files:
    return Files(path=str(path), **{"languages": (), **changed})


def found(config: Files, lang: str) -> dict[tuple[str, str], tuple[str, str, float]]:
    """(prompt's id, system) -> source, translation, rating."""
    flat = files.recorded(config, lang).flat()
    return {(prompt.id, system): (prompt.text, response, rating) for prompt, system, response, rating in flat}


# --- MQM ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_mqm_as_it_is_published(tmp_path: Path, late: bool) -> None:
    lines = [LATE, *(f"{line}\t{{}}" for line in ERRORS)] if late else [EARLY, *ERRORS]
    (tmp_path / "mqm_ted_ende.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = settings(tmp_path / "mqm_ted_ende.tsv")
    assert files.languages(config) == ("de",)
    assert found(config, "de") == {
        ("talk.1/1", "A"): ('The "sun" burns.', "Die Sonne brennt.", (-5.1 + 0) / 2),  # the mean of two raters
        ("talk.1/1", "B"): ('The "sun" burns.', '"Die Sonne brennt.', -1),
        ("talk.1/2", "A"): ("It is hot.", "Es ist heiß.", 0),
        ("talk.1/2", "B"): ("It is hot.", "Hot hot", -25),
        ("talk.2/1", "A"): ("It is hot.", "Es ist heiß.", 0),
        ("talk.2/1", "B"): ("It is hot.", "Es ist warm.", -1),
    }
    groups = {prompt.id: prompt.group for prompt in files.recorded(config, "de").prompts}
    assert set(groups.values()) == {"talk.1"}  # the same sentence stands in both documents
    [note] = [note for note in files.summary(config).notes() if "is read as" in note]
    assert "major 5" in note and "Rows of quality control (HOTW-test), left out: 1." in note
    assert [ratings for _, ratings in files.several_raters(config, "de")] == [[-5.1, 0]]


def test_mqm_severities_categories_and_languages(tmp_path: Path) -> None:
    weights = {
        ("Accuracy/Omission", "Major"): 5, ("Accuracy/Omission", "critical"): 5, ("Accuracy/Omission", "minor"): 1,
        ("Fluency/Punctuation", "Minor"): 0.1, ("Fluency/Punctuation", "Major"): 5, ("Non-translation!", "Major"): 25,
        ("Fluency/Grammar", "Neutral"): 0, ("No-error", "no-error"): 0, ("Source issue", "Major"): 0,
        ("Accuracy/Creative Reinterpretation", "Major"): 0, ("Accuracy/Omission", "Huge"): None,
    }  # fmt: skip
    assert {key: weight(*key) for key in weights} == weights
    path = tmp_path / "mqm_data.tsv"
    path.write_text("\n".join([EARLY, *ERRORS[:2], ERRORS[3].replace("Minor", "Huge")]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mqm_data\.tsv does not say the language.*task\.languages=\[de\]"):
        files.summary(settings(path))
    with pytest.raises(DataError, match="line 4: `severity` is 'Huge'; MQM has Major"):
        files.summary(settings(path, languages=("de",)))
    assert files.languages(settings(path, languages=("de",), bad_rows="skip")) == ("de",)
    path = path.rename(tmp_path / "mqm_ende_best.tsv")  # of Belarusian to Sotho, as far as letters go
    assert files.languages(settings(path, languages=("de",), bad_rows="skip")) == ("de",)


def test_names_that_people_type_come_before_a_layout(tmp_path: Path) -> None:
    (tmp_path / "mqm_ende.tsv").write_text("\n".join([EARLY, ERRORS[3], ERRORS[5]]), encoding="utf-8")
    own = Columns(prompt="source", response="target", id=None)
    assert [p.text for p in files.prompts(settings(tmp_path, columns=own, languages=("de",)), "de", "train")]


# --- Appraise and JSON lines --------------------------------------------------------------------------------


def export(*rows: tuple[str, str, int, str, str, int, str, float]) -> str:
    """(annotator, system, segment, type, target language, score, document, end) as Appraise writes them."""
    text = io.StringIO()
    writer = csv.writer(text)
    for annotator, system, segment, kind, lang, score, doc, end in rows:
        spans = json.dumps([{"start_i": 8, "end_i": 11, "severity": "minor"}])
        writer.writerow([annotator, system, segment, kind, "eng", lang, score, doc, False, spans, end, end])
    return text.getvalue()


def systems(folder: Path, pair: str, lines: dict[str, list[str]]) -> None:
    """The folder `txt`: sources, documents, a reference and what systems said; the first line of each is no segment."""
    for name, texts in lines.items():
        path = folder / "txt" / name.format(pair=pair)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["canary", *texts]) + "\n", encoding="utf-8")


def wave(folder: Path) -> Path:
    """As humeval/ and txt/ of wmt-conference/wmt24-news-systems."""
    for pair, lang in (("en-ja", "ja"), ("en-zh", "zh")):
        systems(folder, pair, {
            "sources/{pair}.txt": ["one", "two", "three"],
            "documents/{pair}.docs": ["news\tnews_1", "news\tnews_1", "social\tsocial_2"],
            "system-outputs/{pair}/Aya23.txt": [f"{lang} Aya {n}" for n in (1, 2, 3)],
            "references/{pair}.refA.txt": [f"{lang} ref {n}" for n in (1, 2, 3)],
        })  # fmt: skip
    path = folder / "humeval" / "esa_generalMT2024_wave2.csv"
    path.parent.mkdir()
    path.write_text(export(
        ("engjpn01", "ende-tutorial1", 1000001, "TGT", "jpn", 0, "ende-tutorial1", 1.0),
        ("engjpn01", "Aya23", 1, "TGT", "jpn", 50, "news_1", 2.5),
        ("engjpn01", "Aya23", 1, "TGT", "jpn", 70, "news_1", 3.5),
        ("engjpn02", "Aya23", 1, "TGT", "jpn", 90, "news_1", 9.0),
        ("engjpn01", "refA", 1, "TGT", "jpn", 98, "news_1", 4.5),
        ("engjpn01", "Aya23", 1, "BAD", "jpn", 5, "news_1#bad", 5.5),
        ("engjpn01", "Aya23", 3, "TGT", "jpn", 81, "social_2#incomplete", 6.5),
        ("engzho01", "refA", 3, "TGT", "zho", 60, "social_2", 7.5),
        ("engzho01", "Aya23", 3, "TGT", "zho", 40, "social_2", 8.5),
    ), encoding="utf-8")  # fmt: skip
    return path


def test_an_export_of_appraise_finds_its_texts(tmp_path: Path) -> None:
    config = settings(wave(tmp_path))
    assert files.languages(config) == ("ja", "zh")
    assert found(config, "ja") == {
        ("news_1/1", "Aya23"): ("one", "ja Aya 1", 80),  # the mean of 70, which was 50 before, and 90
        ("news_1/1", "refA"): ("one", "ja ref 1", 98),
    }
    assert found(config, "zh")["social_2/3", "Aya23"] == ("three", "zh Aya 3", 40)
    [note] = [note for note in files.summary(config).notes() if "is read as" in note]
    assert "incomplete documents, left out: 3." in note and "changed later, left out: 1." in note
    before = files.sources(config)
    assert tmp_path / "txt/system-outputs/en-ja/Aya23.txt" in before  # whose texts are in the keys


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"documents/{pair}.docs": ["news\tother", "news\tother", "social\tsocial_2"]},
            "line 3: segment 1 of en-ja is of 'other' in .*not of 'news_1'",
        ),
        ({"system-outputs/{pair}/Aya23.txt": []}, r"line 4: segment '1' of en-ja by 'Aya23' is not in"),
    ],
)
def test_texts_of_an_export_that_do_not_fit_are_bad_rows(
    tmp_path: Path, change: dict[str, list[str]], sentence: str
) -> None:
    path = wave(tmp_path)
    systems(tmp_path, "en-ja", change)
    if change.get("system-outputs/{pair}/Aya23.txt") == []:
        (tmp_path / "txt/system-outputs/en-ja/Aya23.txt").write_text("canary")
    with pytest.raises(DataError, match=sentence):
        files.summary(settings(path))
    for name in ("../../x", "A" * 300):  # which would be read from elsewhere, or be no name of a file
        path.write_text(path.read_text().replace("Aya23", name))
        with pytest.raises(DataError, match="cannot be the name of a system: it would be no file of"):
            files.summary(settings(path))
        path.write_text(path.read_text().replace(name, "Aya23"))
    (tmp_path / "txt" / "sources").rename(tmp_path / "txt" / "elsewhere")
    with pytest.raises(DataError, match=r"scores without texts\. Put the folder `txt`"):
        files.summary(settings(path))


def test_json_lines_of_wmt(tmp_path: Path) -> None:
    given = [("Aya23", "engdeu01", 60), ("Aya23", "engdeu02", 80), ("refA", "engdeu01", 99)]
    esa = [
        {"langs": "en-de", "line_id": 7, "src": "one", "tgt": f"{s} eins", "doc_id": "news_1", "domain": "news",
         "esa_spans": [], "esa_score": str(score), "times": ["1", "2"], "system": s, "annotator": who}
        for s, who, score in given
    ]  # fmt: skip
    config = settings(jsonl(tmp_path / "wmt24_esa.jsonl", esa))
    assert found(config, "de") == {
        ("news_1/7", "Aya23"): ("one", "Aya23 eins", 70),
        ("news_1/7", "refA"): ("one", "refA eins", 99),
    }
    row = {
        "scores": {"GPT-4.1": {"human": 92.0, "errors": []}, "refA": {"human": 88.0, "errors": []}},
        "src_text": "two", "tgt_text": {"GPT-4.1": "dva", "refA": "dvě", "NLLB": "2"},
        "doc_id": "en-cs_CZ_#_news_#_doc7_#_3",
    }  # fmt: skip
    config = settings(jsonl(tmp_path / "wmt25-genmt-humeval.jsonl", [row]))
    assert found(config, "cs") == {
        ("en-cs_CZ_#_news_#_doc7/3", "GPT-4.1"): ("two", "dva", 92),
        ("en-cs_CZ_#_news_#_doc7/3", "refA"): ("two", "dvě", 88),
    }


def test_training_data_of_comet(tmp_path: Path) -> None:
    rows = [
        {"lp": lp, "src": "one", "mt": f"{system} {lp}", "ref": "x", "score": n / 10, "raw": 10 * n, "system": system,
         "annotators": 1, "domain": "news", "year": 2022}
        for lp in ("en-de", "zh-en", "en-zh") for n, system in enumerate("AB")
    ]  # fmt: skip
    path = jsonl(tmp_path / "train.jsonl", rows)
    assert files.languages(settings(path)) == ("de", "en", "zh")
    assert files.recorded(settings(path), "en").ratings == [[0, 0.1]]
    assert files.recorded(settings(path, rating_field="raw"), "en").ratings == [[0, 10]]
    without = settings(path, columns=Columns(system=None))
    assert files.recorded(without, "en").systems == [["1", "2"]]
