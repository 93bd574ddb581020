"""Text to token ids and back: nothing is lost, the cue and eos survive truncation, prompt and response meet once."""

import json
from pathlib import Path
from typing import Any

import families
import pytest
from architectures import checkpoint
from transformers import AutoTokenizer

from xling.errors import DataError
from xling.models.hub import BASE_FOLDER
from xling.models.load import check_base
from xling.models.text import (
    Limits,
    decode_response,
    pad_right,
    padded_length,
    pair_rows,
    policy_ids,
    prompt_ids,
    puts_bos,
    response_ids,
    row_width,
    separators,
    widest,
)
from xling.models.weights import names_idle_bos
from xling.tasks import micro_summarization
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.tasks.records import Prompt

WORLD = MicroSummarization(languages=LANGUAGES, demonstrations=12)
STRANGE = [
    "",
    "naïve 🙂👩‍👩‍👧 flags 🇻🇳",
    "في الشتاء: ١٢٣ كتابًا، وكِتَابٌ.",
    "冬天很冷。三百二十一本书！",
    "हिन्दी में की और का",
    "e\u0301 is not é",
    "tabs\tand\nlines  and   gaps",
    "don't 'quote' “curly” — dash…",
    "1234567890 3.14 12,5 ½",
    "x" * 300,
]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_texts_of_the_world_come_back_as_they_were(tiny: tuple[Any, Any], lang: str) -> None:
    _, tokenizer = tiny
    shown = micro_summarization.demonstrations(WORLD, lang, "train")
    texts = [d.response for d in shown] + [d.prompt.text for d in shown]
    assert [decode_response(tokenizer, ids) for ids in response_ids(tokenizer, texts)] == texts


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_comes_back_as_it_was(tiny: tuple[Any, Any], text: str) -> None:
    _, tokenizer = tiny
    assert decode_response(tokenizer, response_ids(tokenizer, [text])[0]) == text


@pytest.mark.parametrize("text", ["a <eos> b", "<pad>", "<bos><eos>", "the tag <pad>."])
def test_text_that_looks_like_a_special_token_is_text(tiny: tuple[Any, Any], text: str) -> None:
    _, tokenizer = tiny
    ids = response_ids(tokenizer, [text])[0]
    assert ids.count(tokenizer.eos_token_id) == 1 and tokenizer.pad_token_id not in ids
    assert decode_response(tokenizer, ids) == text
    assert prompt_ids(tokenizer, [text])[0].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("family", [name for name in families.FAMILIES if name != "mt5"])
def test_a_prompt_begins_as_the_tokenizer_begins_a_text(family: str, tmp_path: Path) -> None:
    """Its model has seen no other beginning: bos is what it puts, and not what it names."""
    made = families.tokenizer(family)
    (ids,) = prompt_ids(made, ["in the evening"])
    assert ids == made("in the evening")["input_ids"]
    assert (ids[0] == made.bos_token_id) == puts_bos(made) == (family not in ("qwen2", "qwen3", *families.IDLE))
    made.save_pretrained(tmp_path)
    assert names_idle_bos(tmp_path) == (family in families.IDLE)


def test_a_bos_that_is_eos_or_that_the_settings_switch_on_or_off(tmp_path: Path) -> None:
    named = families.tokenizer("smollm3")
    named.bos_token = named.eos_token  # as GPT-2's
    assert not puts_bos(named) and prompt_ids(named, ["one"]) == [named("one")["input_ids"]]
    named.save_pretrained(tmp_path)
    assert names_idle_bos(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"add_bos_token": False}))
    assert not names_idle_bos(tmp_path)  # prompts had none before either


def test_our_own_bases_texts_begin_with_bos_though_its_tokenizer_puts_none(tiny_folder: Path) -> None:
    for folder in (tiny_folder, BASE_FOLDER):
        own = AutoTokenizer.from_pretrained(folder)
        assert own("one")["input_ids"][0] != own.bos_token_id and puts_bos(own) and not names_idle_bos(folder)


def test_a_response_ends_with_eos_and_an_empty_one_has_more_than_nothing(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    for ids in response_ids(tokenizer, ["", "one", "two words"]):
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in ids[:-1]


def test_a_long_prompt_keeps_its_cue_and_its_bos(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    text = "Nothing of this matters. " * 40 + "\nIn short:"
    (cut,) = prompt_ids(tokenizer, [text], limit=20)
    (whole,) = prompt_ids(tokenizer, [text])
    assert len(cut) == 20 and cut[0] == tokenizer.bos_token_id
    assert cut[1:] == whole[-19:]
    assert tokenizer.decode(cut).endswith("In short:")


def test_a_long_response_keeps_its_beginning_and_its_eos(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    (cut,) = response_ids(tokenizer, ["Ein Festival in Chile. " * 40], limit=10)
    assert len(cut) == 10 and cut[-1] == tokenizer.eos_token_id
    assert "Ein Festival in Chile.".startswith(decode_response(tokenizer, cut)[:8])


def test_prompt_and_response_meet_with_one_space(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    prompt, response = prompt_ids(tokenizer, ["Kurz:"])[0], response_ids(tokenizer, ["Ein Fest."])[0]
    assert tokenizer.decode(prompt + response, skip_special_tokens=True) == "Kurz: Ein Fest."


def test_meeting_ids_are_those_of_the_text_in_one_piece(tiny: tuple[Any, Any]) -> None:
    """So that what the base has read in pretraining is what the policy is asked to continue."""
    _, tokenizer = tiny
    for lang in LANGUAGES:
        shown = micro_summarization.demonstrations(WORLD, lang, "train")[0]
        whole = tokenizer(f"{shown.prompt.text} {shown.response}", add_special_tokens=False)["input_ids"]
        apart = prompt_ids(tokenizer, [shown.prompt.text])[0][1:] + response_ids(tokenizer, [shown.response])[0][:-1]
        assert apart == whole


def test_no_texts_give_no_ids(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    assert prompt_ids(tokenizer, []) == [] and response_ids(tokenizer, []) == []


def test_padding() -> None:
    assert [padded_length(n) for n in (1, 15, 16, 17, 32)] == [16, 16, 16, 32, 32]
    assert pad_right([[1, 2], [3]], 3, 9).tolist() == [[1, 2, 9], [3, 9, 9]]


def test_widths_are_exact_where_rows_are_short_and_few_beyond() -> None:
    widths = [row_width(length) for length in range(1, 2049)]
    assert widths[:64] == [padded_length(length, 4) for length in range(1, 65)]
    assert (
        all(length <= width < length * 1.13 + 8 for length, width in enumerate(widths, 1)) and sorted(widths) == widths
    )
    assert len(set(widths[64:])) < 30 and all(row_width(width) == width for width in widths)
    assert [widest(room) for room in (3, 4, 63, 64, 71, 72, 80, 88)] == [0, 4, 60, 64, 64, 72, 72, 88]


# --- prompts over the limit -----------------------------------------------------------------------------------

DOCUMENT = "First sentence of it. " + "Nothing of this matters. " * 30 + "Last sentence of it."
BEFORE, AFTER = "Summarize the following text in German: ", "\nSummary:"


def asked(document: str, content: str) -> Prompt:
    return Prompt("0", "de", "0", BEFORE + document + AFTER, content=content)


def test_prompts_within_the_limit_are_read_whole(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    prompt = asked("Ein Festival in Chile.", "Ein Festival in Chile.")
    ids, cut = policy_ids(tokenizer, [prompt])
    assert cut == 0 and ids == prompt_ids(tokenizer, [prompt.text])
    assert policy_ids(tokenizer, [prompt], len(ids[0])) == (ids, 0)
    assert policy_ids(tokenizer, [], 8) == ([], 0)


@pytest.mark.parametrize(
    ("side", "kept", "lost"),
    [("right", "First sentence", "Last sentence"), ("left", "Last sentence", "First sentence")],
)
@pytest.mark.parametrize("encoder", [False, True])
def test_too_long_a_prompt_loses_part_of_its_document_alone(
    tiny: tuple[Any, Any], side: str, kept: str, lost: str, encoder: bool
) -> None:
    _, tokenizer = tiny
    short = asked("Kurz.", "Kurz.")
    (whole, ids), cut = policy_ids(tokenizer, [short, asked(DOCUMENT, DOCUMENT)], 100, side, encoder)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert cut == 1 and len(ids) == 100 and whole == prompt_ids(tokenizer, [short.text], encoder=encoder)[0]
    assert text.startswith(BEFORE.strip()) and text.endswith(AFTER) and kept in text and lost not in text
    assert ids[0] == tokenizer.bos_token_id and (ids[-1] == tokenizer.eos_token_id) == encoder


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("content", ["", "what the reward model reads is another text"])
def test_without_a_document_to_tell_apart_the_whole_text_is_it(
    tiny: tuple[Any, Any], content: str, encoder: bool
) -> None:
    _, tokenizer = tiny
    prompt = Prompt("0", "de", "0", DOCUMENT, content=content)
    for side in ("right", "left"):
        (ids,), cut = policy_ids(tokenizer, [prompt], 20, side, encoder)
        assert cut == 1 and ids == prompt_ids(tokenizer, [DOCUMENT], 20, encoder, side)[0]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert text.startswith("First sentence") == (side == "right") and text.endswith("of it.") == (side == "left")


def test_a_frame_that_is_too_long_itself_loses_its_beginning(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    prompt = asked("Kurz.", "Kurz.")
    (ids,), cut = policy_ids(tokenizer, [prompt], 6, "right")
    assert cut == 1 and ids == prompt_ids(tokenizer, [prompt.text], 6)[0]


# --- two texts as a pair ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["xlm_roberta", "deberta_v2", "bert"])
def test_pairs_are_joined_as_the_tokenizer_joins_them_and_cut_apart(family: str) -> None:
    tokenizer, limits = families.tokenizer(family), Limits(40, 20, "left")
    for first, second in (("flood in Chile", "März 130"), ("a", "Cuba sel nhà")):
        joined = tokenizer(first, second, return_token_type_ids=True)
        assert pair_rows(tokenizer, [first], [second], limits) == [(joined["input_ids"], joined["token_type_ids"])]
    framed = len(separators(tokenizer))
    assert framed == (4 if family == "xlm_roberta" else 3)
    long = "flood Chile März 130 Häuser " * 20  # prompts lose their beginning, responses their end
    (row, _), (same, _), (other, _) = pair_rows(tokenizer, [long, f"a {long}", long], [long, f"{long} a", "a"], limits)
    assert len(row) == 60 + framed and row == same != other


def test_what_joins_without_separators_is_refused(tmp_path: Path) -> None:
    """In the base stage, before policies and others are trained for a reward model that could not be."""
    with pytest.raises(DataError, match="puts no separator between two texts"):
        separators(families.tokenizer("qwen3"))
    checkpoint("encoder", "xlm-roberta", tmp_path)
    with pytest.raises(DataError, match="puts no separator between two texts"):
        check_base(tmp_path, "encoder")
