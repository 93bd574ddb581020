"""Which language a text reads as."""

import pytest

from xling.languages import detect, in_language, language_hint, language_of_code, standard

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
    assert detect(text) == "und"
    assert in_language([text], "en") == [False]


def test_lines_are_read_as_one_text() -> None:
    assert detect(SENTENCES["tr"].replace(" ", "\n")) == "tr"


def test_a_long_text_is_told_as_well() -> None:
    assert detect(SENTENCES["vi"] * 40) == "vi"


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
    assert language_hint("pt-BR", ["de"]) == " 'pt-BR' is pt, which is not among them."
