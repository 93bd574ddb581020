"""Which language a text reads as."""

import pytest

from xling.languages import detect, in_language

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
