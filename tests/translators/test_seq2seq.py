"""Translation models of the real families, tiny and random: framed as their own tokenizers do, alone or in a batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_grid import languages
from tiny_translators import saved, texts

from xling.errors import ConfigError, DataError
from xling.translators import Spoken
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
    from xling.translators import halved

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
    from xling.translators.languages import family_of

    with pytest.raises(DataError, match=r"is a bart; known are NLLB.*translator\.family=NAME"):
        family_of(settings(folders["nllb"]).family, "bart", None)
