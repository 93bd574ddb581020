"""Which language a text reads as."""

from pathlib import Path

import pytest
from lid_files import relabelled

from xling.errors import ConfigError
from xling.measures.language import (
    accepted,
    in_language,
    labels,
    language_hint,
    language_of_code,
    standard,
)

SENTENCES = {
    "de": "Im März gab es in Chile eine Überschwemmung, bei der viele Häuser zerstört wurden.",
    "en": "There was a flood in Chile in March, and many houses were destroyed.",
    "es": "En marzo hubo una inundación en Chile y muchas casas quedaron destruidas.",
    "fr": "En mars, une inondation au Chili a détruit de nombreuses maisons.",
    "ru": "В марте в Чили произошло наводнение, и многие дома были разрушены.",
    "tr": "Mart ayında Şili'de sel oldu ve birçok ev yıkıldı.",
    "vi": "Vào tháng 3 ở Chile có lũ lụt và nhiều ngôi nhà bị phá hủy.",
    "zh": "三月份智利发生了洪水，许多房屋被毁。",
}


@pytest.mark.parametrize("lang", SENTENCES)
def test_each_sentence_is_in_its_language_and_in_no_other(lang: str) -> None:
    assert in_language(SENTENCES.values(), lang) == [other == lang for other in SENTENCES]


def test_region_and_script_do_not_matter() -> None:
    assert in_language([SENTENCES["es"]], "es-MX") == [True]
    assert in_language([SENTENCES["zh"]], "zh-Hans") == [True]


@pytest.mark.parametrize("text", ["", "   ", "123, 45.", "🙂🙂", "\n"])
def test_texts_without_letters_are_in_no_language(text: str) -> None:
    assert in_language([text], "en") == [False]


def test_lines_are_read_as_one_text() -> None:
    assert in_language([SENTENCES["tr"].replace(" ", "\n")], "tr") == [1.0]


def test_a_long_text_is_told_as_well() -> None:
    assert in_language([SENTENCES["vi"] * 40], "vi") == [1.0]


def test_all_of_a_text_is_read() -> None:
    """Sentence by sentence, by their letters; a text used to be read for 80 characters."""
    english, german = (" ".join([SENTENCES[lang]] * 3) for lang in ("en", "de"))
    letters = [sum(map(str.isalpha, text)) for text in (english, german)]
    for text in (f"{english} {german}", f"{german}\n\n{english}", f"{english}\n{german}"):
        assert in_language([text], "de") == [pytest.approx(letters[1] / sum(letters))]
        assert in_language([text], "en") == [pytest.approx(letters[0] / sum(letters))]
        assert in_language([text], "fr") == [0.0]


def test_short_sentences_are_read_together() -> None:
    text = "Ja. Nein. Gut. Das ist so. Heute ist es warm. Morgen regnet es. Wir gehen nach Hause. Dort ist es schön."
    assert in_language([text], "de") == [1.0]


@pytest.mark.parametrize("lang", ["ha", "zu", "sr-Latn", "xx", "x"])
def test_a_language_that_the_model_has_no_label_for_is_blank(lang: str) -> None:
    assert in_language(["Ina kwana, yaya gida da iyali?", ""], lang) == [None, None]


SERBIAN = {
    "sr": "Влада каже да ће следеће године изградити нове школе за децу у градовима и селима.",
    "sr-Latn": "Vlada kaže da će sledeće godine izgraditi nove škole za decu u gradovima i selima.",
}
CHINESE = {
    "zh": "政府表示明年将在城市和乡村为孩子们建造新的学校，并且希望每个孩子都能学习。",
    "zh-Hant": "政府表示明年將在城市和鄉村為孩子們建造新的學校，並且希望每個孩子都能學習。",
}
NORWEGIAN = {
    "nb": "Regjeringen sier at de skal bygge nye skoler for barna i byene og bygdene neste år.",
    "nn": "Regjeringa seier at dei skal byggje nye skular for borna i byane og bygdene neste år, og at kvar elev får "
    "eit eige rom.",
}


def test_scripts_are_told_apart() -> None:
    assert in_language(SERBIAN.values(), "sr") == [1.0, 0.0]
    assert in_language(CHINESE.values(), "zh") == in_language(CHINESE.values(), "zh-Hans") == [1.0, 0.0]
    assert in_language(CHINESE.values(), "zh-Hant") == in_language(CHINESE.values(), "zh-TW") == [0.0, 1.0]
    assert in_language(NORWEGIAN.values(), "no") == [1.0, 1.0]
    assert in_language(NORWEGIAN.values(), "nn") == [0.0, 1.0]


# --- another model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openlid(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As if it were OpenLID: what was Indonesian says Hausa, and scripts stand in the labels."""
    named = {
        "de": "deu_Latn", "en": "eng_Latn", "id": "hau_Latn", "zh": "zho_Hans", "yue": "zho_Hant", "sr": "srp_Cyrl",
        "hr": "srp_Latn", "no": "nob_Latn", "nn": "nno_Latn", "ar": "arb_Arab", "arz": "ary_Arab", "sw": "swh_Latn",
        "ko": "kor_Hang", "ja": "jpn_Jpan", "fa": "pes_Arab", "ms": "zsm_Latn",
    }  # fmt: skip
    path = tmp_path_factory.mktemp("lid") / "model.bin"
    return relabelled(path, {f"__label__{old}": f"__label__{new}" for old, new in named.items()})


def test_a_model_of_other_labels_is_read(openlid: str) -> None:
    assert len(labels(openlid)) == 176 and "hau_Latn" in labels(openlid)
    indonesian = "Pemerintah mengatakan akan membangun sekolah baru untuk anak-anak di kota dan desa tahun depan."
    assert in_language([indonesian, SENTENCES["de"], ""], "ha", openlid) == [1.0, 0.0, 0.0]
    assert in_language([indonesian], "id", openlid) == [None]
    assert in_language(SENTENCES.values(), "de", openlid) == [lang == "de" for lang in SENTENCES]


@pytest.mark.parametrize(
    ("lang", "meant"),
    [
        ("sr", {"srp_Cyrl"}), ("sr-Latn", {"srp_Latn"}), ("zh", {"zho_Hans"}), ("zh-Hant", {"zho_Hant"}),
        ("no", {"nob_Latn", "nno_Latn"}), ("nn", {"nno_Latn"}), ("ar", {"arb_Arab", "ary_Arab"}), ("sw", {"swh_Latn"}),
        ("ko", {"kor_Hang"}), ("ja", {"jpn_Jpan"}), ("fa", {"pes_Arab"}), ("ms", {"zsm_Latn"}), ("hr", set()),
        ("ar-Latn", set()), ("de-CH", {"deu_Latn"}), ("hau", {"hau_Latn"}),
    ],
)  # fmt: skip
def test_labels_mean_codes(openlid: str, lang: str, meant: set[str]) -> None:
    assert set(accepted(lang, openlid)) == meant


def test_what_is_no_model_is_said(tmp_path: Path, openlid: str) -> None:
    whole, path = Path(openlid).read_bytes(), tmp_path / "x.bin"
    assert labels(str(path.with_name("copy.bin").write_bytes(whole) and path.with_name("copy.bin"))) == labels(openlid)
    wrong = {
        "it begins with other bytes": b"version https://git-lfs.github.com/spec/v1",
        "its vocabulary breaks off": whole[:5000],
        "bytes of": whole[:-5],
        "not all of one": whole[:100],
        "it has": whole + b"x",
    }
    for sentence, content in wrong.items():
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"lid\.model=.*x\.bin is no model of fastText.*{sentence}"):
            in_language(["Das Haus"], "de", str(path))
    for none, sentence in ((tmp_path, "Is a directory"), (tmp_path / "y", "No such file")):
        with pytest.raises(ConfigError, match=rf"cannot be read \({sentence}"):
            labels(str(none))


# --- codes --------------------------------------------------------------------------------------------------

MEANT = {
    "de": ["de", "DE", "deu", "ger", "de-DE", "de_AT", "deu_Latn", "de_DE.UTF-8", " de "],
    "en": ["eng_Latn", "en-GB", "en_us"],
    "zh": ["zh", "zh-CN", "zh-Hans", "zh_Hans_CN", "zh-SG", "cmn", "zho_Hans"],
    "zh-Hant": ["zh-Hant", "zh-TW", "zh_HK", "zho_Hant", "zh-hant-tw"],
    "pt": ["pt-BR", "pt_PT", "por"],
    "he": ["iw", "heb_Hebr"],
    "no": ["nb", "nn-NO", "no", "nob_Latn"],
    "ar": ["arb_Arab", "ar-EG"],
    "sr": ["sr-Cyrl", "srp"],
    "sr-Latn": ["sr-Latn", "sr_Latn_RS"],
    "id": ["in", "ind"],
}


@pytest.mark.parametrize(("meant", "code"), [(meant, code) for meant, codes in MEANT.items() for code in codes])
def test_a_code_means_a_language_of_ours(meant: str, code: str) -> None:
    assert language_of_code(code) == meant
    hint = language_hint(code, [*MEANT, "zu"])
    assert code == meant or hint == f" Did you mean '{meant}'? Type {meant}."


@pytest.mark.parametrize("code", ["german", "xx", "x-klingon", "de-easy", "", "d" * 300_000, "\ud800", "1", "a_b"])
def test_what_is_no_code_stays_as_it_is(code: str) -> None:
    assert language_of_code(code) == standard(code) == code
    assert len(language_hint(code, ["de"])) < 300


def test_a_language_by_its_name_and_one_that_is_not_there() -> None:
    assert language_hint("Deutsch", ["de"], {"deutsch": "de"}) == " Did you mean 'de'? Type de."
    assert language_hint("cn", ["de", "zh"]) == " Did you mean 'zh'? Type zh."
    assert language_hint("fil", ["de", "fi"]) == " Did you mean 'fi'? 'fil' is the code of another language."
    assert language_hint("pt-BR", ["de"]) == " 'pt-BR' is pt, which is not among them."


@pytest.mark.parametrize(
    ("name", "code"),
    [("German", "de"), ("deutsch", "de"), (" English ", "en"), ("Norwegian Bokmål", "no"), ("中文", "zh"),
     ("Simplified Chinese", "zh"), ("Chinese (Traditional)", "zh-Hant")],
)  # fmt: skip
def test_a_name_is_answered_with_its_code(name: str, code: str) -> None:
    hint = language_hint(name, ["de", "en", "no", "pt", "zh", "zh-Hant"])
    assert hint == f" Languages have codes, and {name!r} is {code}. Type {code}."


def test_a_name_of_a_language_that_is_not_there_and_one_of_none() -> None:
    assert language_hint("French", ["de"]) == " Languages have codes, and 'French' is fr, which is not among them."
    assert language_hint("Elvish", ["de"]) == ""
    assert language_hint("ga", ["de", "en"]) == ""  # the code of Irish, and what Ga (gaa) is called
