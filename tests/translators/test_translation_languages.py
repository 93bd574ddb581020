"""How models call languages: every language of conf/lang, by the models' own lists where those ship with a package."""

from pathlib import Path

import pytest
import yaml
from transformers.models.m2m_100 import tokenization_m2m_100
from transformers.models.nllb import tokenization_nllb

from xling.errors import ConfigError
from xling.translators import Spoken
from xling.translators.languages import candidates, own_code, token_of

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
