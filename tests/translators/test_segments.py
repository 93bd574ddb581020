"""Documents cut into segments and put together again."""

import pytest

from xling.translators import halved, joined, readable, segments_of

TEXT = "Dr. Smith had a vote on May 3. It was fine!\n\n  Then he left.  \nHuman: Hello there. Bye.\n"


@pytest.mark.parametrize("how", ["lines", "sentences"])
def test_a_text_is_put_together_as_it_was(how: str) -> None:
    segments = segments_of(TEXT, "en", how, ("Human",), " ")
    assert joined(segments, [one.text for one in segments]) == TEXT
    assert len([one for one in segments if one.text]) == (3 if how == "lines" else 5)


def test_speakers_line_breaks_and_white_space_are_not_translated() -> None:
    segments = segments_of(TEXT, "en", "sentences", ("Human", "Assistant"), " ")
    shouted = joined(segments, [one.text.upper() for one in segments])
    assert shouted == ("DR. SMITH HAD A VOTE ON MAY 3. IT WAS FINE!\n\n  THEN HE LEFT.  \nHuman: HELLO THERE. BYE.\n")
    plain = segments_of(TEXT, "en", "lines", (), " ")
    assert "HUMAN:" in joined(plain, [one.text.upper() for one in plain])


def test_the_cue_of_a_chat_has_nothing_to_translate() -> None:
    [_, cue] = segments_of("Human: Hi\nAssistant:", "en", "sentences", ("Human", "Assistant"), " ")
    assert cue == ("Assistant:", "", "") and not readable(cue.text)


def test_sentences_of_scripts_without_spaces() -> None:
    assert [one.text for one in segments_of("你好。我是人。", "zh", "sentences", (), "")] == ["你好。", "我是人。"]
    chinese = segments_of("Hello. Bye.", "en", "sentences", (), "")
    assert joined(chinese, ["你好。", "再见。"]) == "你好。再见。"


@pytest.mark.parametrize("text", ["", "\n", "  ", "a", "a\r\nb", "\n\nx"])
def test_odd_texts(text: str) -> None:
    segments = segments_of(text, "de", "sentences", (), " ")
    assert joined(segments, [one.text for one in segments]) == text


@pytest.mark.parametrize(
    ("text", "parts"), [("aa bb cc dd", ["aa bb", "cc dd"]), ("aaaabbbb", ["aaaa", "bbbb"]), ("a", ["a"])]
)
def test_long_segments_are_halved_between_words(text: str, parts: list[str]) -> None:
    assert halved(text, lambda one: len(one) <= 5) == parts


def test_what_has_no_letters_is_not_read() -> None:
    assert [readable(text) for text in ("— 42 %", "", "x", "你")] == [False, False, True, True]
