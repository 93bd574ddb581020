"""Published reward models, scored as their own forward scores them, whoever shares the batch."""

import random
from pathlib import Path
from typing import Any

import encoders
import families
import pytest
import torch

from xling.errors import DataError
from xling.models.checkpoints import check_labels
from xling.models.load import load_classifier, load_tokenizer, save_policy
from xling.models.published import Classifier, load_log_ratio, load_published_classifier
from xling.models.text import Limits

DRAW = random.Random(0)
WORDS = ["flood", "Chile", "März", "130", "Häuser", "наводнение", "lễ", "hội", "Cuba", "sel", "ngôi", "nhà"]
LIMITS = Limits(160, 80, "left")


def text(words: int) -> str:
    return " ".join(DRAW.choices(WORDS, k=words))


PROMPTS = [text(words) for words in (3, 5, 8, 12, 9, 7, 1)] + ["x"]
RESPONSES = [[text(DRAW.choice((1, 2, 4, 9))) for _ in range(DRAW.randint(1, 4))] for _ in PROMPTS]
RESPONSES[2] = ["", "a", "a"]
RESPONSES[4] = []
CASES = [("llama", "chat"), ("llama", "plain"), ("qwen3", "pair"), ("deberta_v2", "pair"), ("xlm_roberta", "pair")]
CASES += [("xlm_roberta", "plain")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    family, render = request.param
    return encoders.saved_classifier(tmp_path_factory.mktemp(family), family), render


@pytest.fixture(scope="module")
def model(folder: tuple[Path, str]) -> Classifier:
    return load_published_classifier(folder[0], folder[1], None, LIMITS)


@pytest.fixture(scope="module")
def together(model: Classifier) -> list[list[float]]:
    return model.score(PROMPTS, RESPONSES)


def test_a_score_is_the_logit_of_the_models_own_forward(model: Classifier, together: list[list[float]]) -> None:
    for prompt, row, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        for response, score in zip(row, scores, strict=True):
            if model.render == "pair" and not response:
                continue  # tokenizers take an empty second text for none
            if model.render == "chat":
                turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
                inputs = model.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
            elif model.render == "pair":
                inputs = model.tokenizer(prompt, response, return_tensors="pt")
            else:
                inputs = model.tokenizer(f"{prompt}\n{response}", return_tensors="pt")
            with torch.inference_mode():
                assert score == pytest.approx(model.model(**inputs).logits[0, 0].item(), abs=2e-5)


def test_scores_have_the_shape_of_the_responses_and_differ(together: list[list[float]]) -> None:
    assert list(map(len, together)) == list(map(len, RESPONSES))
    assert len({score for row in together for score in row}) > 0.8 * sum(map(len, RESPONSES))
    assert together[2][1] == together[2][2]


def test_a_score_depends_on_its_text_alone(model: Classifier, together: list[list[float]]) -> None:
    for prompt, row, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        for response, score in zip(row, scores, strict=True):
            assert model.score([prompt], [[response]]) == [[score]]
    order = random.Random(1).sample(range(len(PROMPTS)), len(PROMPTS))
    turned = model.score([PROMPTS[i] for i in order], [RESPONSES[i][::-1] for i in order])
    assert turned == [together[i][::-1] for i in order]
    assert model.score(PROMPTS * 5, RESPONSES * 5) == together * 5


def test_a_reloaded_classifier_gives_the_same_bits(
    model: Classifier, together: list[list[float]], folder: tuple[Path, str], tmp_path: Path
) -> None:
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    assert load_published_classifier(tmp_path, folder[1], None, LIMITS).score(PROMPTS, RESPONSES) == together


def test_half_precision_is_close(model: Classifier, together: list[list[float]], folder: tuple[Path, str]) -> None:
    half = Classifier(load_classifier(folder[0]).to(torch.bfloat16), model.tokenizer, folder[1], None, LIMITS)
    spread = max(max(row, default=0.0) for row in together) - min(min(row, default=0.0) for row in together)
    for ours, theirs in zip(half.score(PROMPTS, RESPONSES), together, strict=True):
        assert ours == pytest.approx(theirs, abs=0.1 * spread)


def test_long_texts_are_cut_and_the_response_stays(model: Classifier) -> None:
    long = text(300)
    first, second = model.score([long], [["flood", "Chile März"]])[0]
    assert first != second
    assert model.score(["one more " + long], [["flood"]]) == [[first]]  # its beginning was cut away


def test_padding_with_eos_gives_no_equal_scores(tmp_path: Path) -> None:
    folder = encoders.saved_classifier(tmp_path, "qwen3")
    model = load_published_classifier(folder, "plain", None, LIMITS)
    scores = model.score(PROMPTS, RESPONSES)
    model.tokenizer.pad_token = model.tokenizer.eos_token
    assert model.tokenizer.pad_token_id == model.tokenizer.eos_token_id
    assert model.score(PROMPTS, RESPONSES) == scores


def test_two_classes_need_the_good_one(tmp_path: Path) -> None:
    folder = encoders.saved_classifier(tmp_path, "xlm_roberta", labels=2)
    with pytest.raises(DataError, match=r"2 labels. Say which is the good one: rm_backbone\.label=0"):
        load_published_classifier(folder, "auto", None, LIMITS)
    good, bad = (load_published_classifier(folder, "auto", k, LIMITS).score(["x y"], [["a", "b c"]]) for k in (1, 0))
    assert good[0] == [-score for score in bad[0]] and good[0][0] != good[0][1]


@pytest.mark.parametrize(("labels", "label"), [(3, None), (3, 1), (1, 1)])
def test_other_heads_are_refused(labels: int, label: int | None) -> None:
    with pytest.raises(DataError, match=f"has {labels} labels"):
        check_labels(labels, label)


def test_a_template_that_is_not_there_cannot_be_asked_for(tmp_path: Path) -> None:
    folder = encoders.saved_classifier(tmp_path, "qwen3")
    with pytest.raises(DataError, match=r"render=chat needs a tokenizer with a chat template"):
        load_published_classifier(folder, "chat", None, LIMITS)


# --- log-ratio ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen3", "llama", "mt5"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and one whose weights are a tenth smaller."""
    first = families.saved(tmp_path_factory.mktemp("policy"), request.param)
    model = families.build(request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    second = tmp_path_factory.mktemp("reference")
    save_policy(second, model, load_tokenizer(first))
    return first, second


def test_a_log_ratio_is_that_of_plain_forward_passes(pair: tuple[Path, Path]) -> None:
    model = load_log_ratio(*pair, "plain", 0.5, LIMITS)
    scores = model.score(PROMPTS, RESPONSES)
    asked, said = model._ids(PROMPTS, RESPONSES)
    for prompt, row, found in zip(asked, said, scores, strict=True):
        for ids, score in zip(row, found, strict=True):
            ours, theirs = (summed(m, prompt, ids) for m in (model.policy, model.reference))
            assert score == pytest.approx(0.5 * (ours - theirs), abs=1e-4)


def summed(model: Any, prompt: list[int], response: list[int]) -> float:
    """log p(response | prompt) by the model's own forward."""
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            logits = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([response])).logits[0]
        else:
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum())


def test_a_log_ratio_depends_on_its_text_alone(pair: tuple[Path, Path]) -> None:
    model = load_log_ratio(*pair, "auto", 0.5, LIMITS)
    together = model.score(PROMPTS, RESPONSES)
    for prompt, row, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        assert [model.score([prompt], [[response]])[0][0] for response in row] == scores
    assert load_log_ratio(*pair, "auto", 0.5, LIMITS).score(PROMPTS[::-1], RESPONSES[::-1]) == together[::-1]


@pytest.mark.parametrize("kind", ["classifier", "log_ratio"])
def test_a_dated_template_gives_the_same_scores_on_every_day(tmp_path: Path, kind: str) -> None:
    dated = "{% set day = strftime_now('%d %B %Y') %}{% for m in messages %}{{ day }}: {{ m.content }}</s>{% endfor %}"
    whole = families.tokenizer("llama")
    whole.chat_template = dated
    folders = [encoders.saved_classifier(tmp_path / "rm", "llama"), families.saved(tmp_path / "policy", "llama")]
    for folder in folders:
        whole.save_pretrained(folder)
    found = []
    for date, said in (("2024-07-26", "26 July 2024"), ("2026-03-01", "01 March 2026")):
        if kind == "classifier":
            model: Any = load_published_classifier(folders[0], "chat", None, LIMITS, date)
        else:
            model = load_log_ratio(folders[1], folders[1], "chat", 0.1, LIMITS, date)
        ids = model._rows(["flood"], ["Chile"])[0][0][0] if kind == "classifier" else model._ids(["flood"], [[]])[0][0]
        assert model.tokenizer.decode(ids).replace(" ", "").startswith(f"{said}: flood".replace(" ", ""))
        found.append(ids)
    assert found[0] != found[1]


def test_two_tokenizers_are_refused(tmp_path: Path) -> None:
    folders = [families.saved(tmp_path / family, family) for family in ("qwen3", "llama")]
    with pytest.raises(DataError, match=r"different tokenizers .* Name the model that the policy was trained from"):
        load_log_ratio(folders[0], folders[1], "plain", 0.1, LIMITS)


def test_a_chat_model_reads_its_template(tmp_path: Path) -> None:
    folders = []
    for name in ("policy", "reference"):
        folders.append(families.saved(tmp_path / name, "llama"))
        whole = families.tokenizer("llama")
        whole.chat_template = encoders.CHAT
        whole.save_pretrained(folders[-1])
    model = load_log_ratio(*folders, "auto", 0.1, LIMITS)
    assert model.render == "chat"
    asked, said = model._ids(["flood"], [["Chile"]])
    whole = model.tokenizer.decode(asked[0] + said[0][0])
    assert whole.replace(" ", "") == "<s>user\nflood</s><s>assistant\nChile</s>"
    assert model.score(["flood"], [["Chile"]]) == [[0.0]]  # twice the same model
