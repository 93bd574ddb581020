"""Translation models of the real families, tiny and random: framed as their own tokenizers do, alone or in a batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_grid import languages
from tiny_translators import saved, texts
from transformers.models.m2m_100 import tokenization_m2m_100
from transformers.models.nllb import tokenization_nllb

from xling.errors import ConfigError, DataError
from xling.translators import Spoken, halved, joined, readable, segments_of
from xling.translators.languages import candidates, family_of, own_code, token_of
from xling.translators.seq2seq import Documents, Memory, load_model
from xling.translators.seq2seq import Settings as Seq2Seq
from xling.translators.seq2seq import check as check_model

FAMILIES = ("nllb", "madlad", "m2m100", "marian")
EN, DE = Spoken("en", "Latn"), Spoken("de", "Latn")
SEGMENTS = [line for line in texts() if 10 < len(line) < 90][:9]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("translators")
    return {family: saved(root / family, family) for family in FAMILIES}


def settings(folder: Path, **changed: Any) -> Seq2Seq:
    return Seq2Seq(**({"checkpoint": str(folder), "beams": 2, "max_tokens": 24, "batch_size": 4} | changed))


def plainly(family: str, model: Any, text: str) -> tuple[list[int], str]:
    """(ids, translation) as the model's page on the hub does it: one text, no padding, its own tokenizer call."""
    tokenizer, forced = model.tokenizer, {}
    if family in ("nllb", "m2m100"):
        tokenizer.src_lang = "eng_Latn" if family == "nllb" else "en"
        forced = {"forced_bos_token_id": tokenizer.convert_tokens_to_ids("deu_Latn" if family == "nllb" else "__de__")}
    row = tokenizer(f"<2de> {text}" if family == "madlad" else text)["input_ids"]
    if family == "madlad":  # whose tokenizer adds the end itself
        row = [*row, tokenizer.eos_token_id]
    with torch.inference_mode():
        out = model.model.generate(input_ids=torch.tensor([row]), num_beams=2, max_new_tokens=24, **forced)[0].tolist()
    said = out[2:] if forced else out[1:]
    if len(out) > 24:  # Marian's config has an end forced on what does not come to one
        return row, ""
    return row, tokenizer.decode(said, skip_special_tokens=True).strip() if tokenizer.eos_token_id in said else ""


@pytest.mark.parametrize("family", FAMILIES)
def test_translations_are_those_of_the_models_own_pages(family: str, folders: dict[str, Path]) -> None:
    model = load_model(folders[family], settings(folders[family]), EN, DE)
    found = model.translate(SEGMENTS)
    ended = [text for text in SEGMENTS if found[text]]
    assert len({found[text] for text in ended}) > 2
    for text in SEGMENTS:
        row, said = plainly(family, model, text)
        assert [*model.before, *model.tokenizer(text, add_special_tokens=False)["input_ids"], *model.after] == row
        assert (found[text] or "") == said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_translation_does_not_depend_on_its_batch_mates(family: str, folders: dict[str, Path]) -> None:
    model = load_model(folders[family], settings(folders[family]), EN, DE)
    found = model.translate(SEGMENTS)
    assert model.translate(SEGMENTS[::-1]) == found
    assert {text: model.translate([text])[text] for text in SEGMENTS} == found


def test_a_translation_that_does_not_end_is_none(folders: dict[str, Path]) -> None:
    longer = load_model(folders["nllb"], settings(folders["nllb"]), EN, DE).translate(SEGMENTS)
    short = load_model(folders["nllb"], settings(folders["nllb"], max_tokens=8), EN, DE)
    found = short.translate(SEGMENTS)
    assert None in found.values() and any(longer[text] for text in SEGMENTS if found[text] is None)


def translator(folder: Path, memory: Path, **changed: Any) -> Documents:
    asked = settings(folder, **changed)
    return Documents(folder, asked, EN, DE, ("Human", "Assistant"), Memory(memory, {"beams": asked.beams}))


def test_documents_go_sentence_by_sentence_and_lines_stay(folders: dict[str, Path], tmp_path: Path) -> None:
    ask = translator(folders["madlad"], tmp_path)
    model = load_model(folders["madlad"], ask.settings, EN, DE)
    months = ("January", "July", "April", "May", "March", "August", "June", "October")
    found = model.translate([f"{month} had a vote." for month in months] + [f"In {month}." for month in months])
    first, second, *_ = [text for text, said in found.items() if said]
    [together, one, other, nothing] = ask([f"Human: {first} {second}\n\n  42!\n", first, second, "  \n"])
    assert together == f"Human: {one} {other}\n\n  42!\n" and nothing == "  \n"


def test_one_lost_sentence_loses_the_document(folders: dict[str, Path], tmp_path: Path) -> None:
    ask = translator(folders["madlad"], tmp_path, segments="lines")
    model = load_model(folders["madlad"], ask.settings, EN, DE)
    found = model.translate([text for text in texts() if len(text) > 4 and model.fits(text)][:12])
    lost, kept = (next(text for text, said in found.items() if (said is None) == gone) for gone in (True, False))
    assert ask([f"{kept}\n{lost}", kept]) == [None, found[kept]]


def test_nothing_is_translated_twice(folders: dict[str, Path], tmp_path: Path) -> None:
    first = translator(folders["marian"], tmp_path)
    found = first([*SEGMENTS[:6], *SEGMENTS[:3]])
    assert first.asked == 6 and found[6:] == found[:3]
    again = translator(folders["marian"], tmp_path)
    assert again(SEGMENTS[:8])[:6] == found[:6] and again.asked == 2
    last = translator(folders["marian"], tmp_path)
    assert last(SEGMENTS[:8])[:6] == found[:6] and last.asked == 0 and last.model is None
    other = translator(folders["marian"], tmp_path, beams=1)
    other(SEGMENTS[:2])
    assert other.asked == 2


def test_what_another_process_adds_is_seen_and_damage_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    one, other = (Memory(tmp_path, {"model": "m"}) for _ in range(2))
    one.add({"a": "A", "b": None})
    assert other.get("a") == (False, None)
    other.refresh()
    assert (other.get("a"), other.get("b"), other.get("c")) == ((True, "A"), (True, None), (False, None))
    [path] = one.folder.iterdir()
    path.write_bytes(b'{"not": "an entry"}\n' + path.read_bytes())
    fresh = Memory(tmp_path, {"model": "m"})
    fresh.refresh()
    assert fresh.get("a") == (True, "A") and Memory(tmp_path, {"model": "n"}).get("a") == (False, None)
    path.unlink()
    assert fresh.get("a") == (False, None)


def test_long_segments_are_halved_and_put_together(folders: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(folders["marian"], settings(folders["marian"]), EN, DE)
    long = " ".join(SEGMENTS[:6])
    parts = halved(long, model.fits)
    assert len(parts) > 2 and " ".join(parts) == long and all(map(model.fits, parts)) and not model.fits(long)
    found = translator(folders["marian"], tmp_path, segments="lines")([long])
    said = model.translate(parts)
    assert found == [" ".join(said.values()) if all(said.values()) else None]  # type: ignore[arg-type]  # none is None


# --- what planning refuses ----------------------------------------------------------------------------------


def test_models_that_are_here_are_looked_at_while_planning(
    folders: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    english, german, basque, hebrew = languages("en", "de", "eu", "he")
    for family in FAMILIES:
        check_model(settings(folders[family]), None, [(english, german)])
    check_model(settings(folders["nllb"]), None, [(english, basque)])
    check_model(settings(folders["madlad"]), None, [(english, hebrew)])  # as iw, its older code
    with pytest.raises(
        ConfigError, match=r"no language eu: its tokenizer has no <2eu>.*translator\.codes=\['eu:CODE'\]"
    ):
        check_model(settings(folders["madlad"]), None, [(english, basque)])
    check_model(settings(folders["madlad"], codes=("eu:es",)), None, [(english, basque)])
    with pytest.raises(ConfigError, match=r"the entry 'eu'; each one is our code"):
        check_model(settings(folders["madlad"], codes=("eu",)), None, [(english, basque)])
    with pytest.raises(ConfigError, match=r"is a llama, which is no encoder-decoder"):
        check_model(settings(tiny_folder), None, [(english, german)])
    with pytest.raises(ConfigError, match=r"translator\.checkpoint=.*nowhere is no folder of a model.*nllb_600m"):
        check_model(settings(tmp_path / "nowhere"), None, [(english, german)])
    with pytest.raises(ConfigError, match=r"opus-de is no folder"):
        check_model(settings(tmp_path / "opus-{target}"), None, [(english, german)])


def test_a_family_that_is_not_known_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"is a bart; known are NLLB.*translator\.family=NAME"):
        family_of(settings(folders["nllb"]).family, "bart", None)


# --- how models call languages: every language of conf/lang, by the models' own lists -----------------------

CONF = Path(__file__).parents[2] / "conf"
SPOKEN = [
    Spoken(facts["code"], facts["script"])
    for facts in (yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / "lang").glob("*.yaml")))
]
NLLB = set(tokenization_nllb.FAIRSEQ_LANGUAGE_CODES)
M2M100 = {f"__{code}__" for code in tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]}


@pytest.mark.parametrize("name", ["nllb_600m", "nllb_3_3b"])
def test_nllb_knows_every_language_of_ours(name: str) -> None:
    codes = yaml.safe_load((CONF / "translator" / f"{name}.yaml").read_text(encoding="utf-8"))["codes"]
    found = {one.code: token_of("nllb", one, codes, NLLB.__contains__, NLLB) for one in SPOKEN}
    assert len(set(found.values())) == len(SPOKEN)
    assert (found["de"], found["ru"], found["zh"], found["zh-Hant"], found["no"], found["ar"]) == (
        "deu_Latn", "rus_Cyrl", "zho_Hans", "zho_Hant", "nob_Latn", "arb_Arab",
    )  # fmt: skip
    needless = [code for code in codes if candidates("nllb", spoken(code.partition(":")[0]))[0] in NLLB]
    assert needless == []  # those that follow from the facts are not written down


def spoken(code: str) -> Spoken:
    return next(one for one in SPOKEN if one.code == code)


def test_m2m100_knows_what_it_was_trained_on() -> None:
    missing = []
    for one in SPOKEN:
        try:
            assert token_of("m2m100", one, (), M2M100.__contains__, M2M100) in M2M100
        except ConfigError:
            missing.append(one.code)
    assert missing == ["eo", "eu", "te"]


def test_marian_and_madlad_say_what_they_say() -> None:
    madlad, marian = {"<2de>", "<2iw>", "<2zh_Hant>"}, {">>deu<<", ">>es<<"}
    assert token_of("madlad", spoken("he"), (), madlad.__contains__, madlad) == "<2iw>"
    assert token_of("madlad", spoken("zh-Hant"), (), madlad.__contains__, madlad) == "<2zh_Hant>"
    assert token_of("marian", spoken("de"), (), marian.__contains__, marian) == ">>deu<<"
    assert token_of("marian", spoken("es"), (), marian.__contains__, marian) == ">>es<<"


def test_a_code_of_ones_own_wins_and_an_unknown_language_is_refused() -> None:
    assert own_code(("no:nob_Latn", "de:x"), "de") == "x" and own_code(("no:nob_Latn",), "de") is None
    assert token_of("nllb", spoken("de"), ("de:eng_Latn",), NLLB.__contains__, NLLB) == "eng_Latn"
    with pytest.raises(ConfigError, match=r"no language no: its tokenizer has no nor_Latn\..*codes=\['no:CODE'\]"):
        token_of("nllb", spoken("no"), (), NLLB.__contains__, NLLB)
    with pytest.raises(ConfigError, match=r"has no x\.?"):
        token_of("nllb", spoken("de"), ("de:x",), NLLB.__contains__, NLLB)


# --- documents are cut into segments and put together again -------------------------------------------------

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
