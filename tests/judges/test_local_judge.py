"""A local judge: the next token's probabilities, as a plain forward pass has them, whatever stands beside."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "models"))  # tiny models of other architectures
from families import saved

from xling.config.common import TEMPLATE_DATE
from xling.errors import DataError
from xling.judges.asker import asker
from xling.judges.asking import Compared, How, compare, judge_prompt
from xling.judges.cache import Cache
from xling.judges.local import LocalJudge, digit_ids, load_local_judge
from xling.models.chats import chat_text

LENGTHS = (1, 3, 20, 9, 2, 13, 30)
PROMPTS = [f"Which is better? 1: kurz 2: {'lang ' * n} Answer:" for n in LENGTHS]


def plain(judge: LocalJudge, prompt: str) -> tuple[float, float]:
    """From the model's own forward pass over the whole row, one request at a time: P("1") of both, and P of both."""
    model, (ids,) = judge.model, judge.ids([prompt])
    row = torch.tensor([ids])
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            start = torch.tensor([[model.config.decoder_start_token_id]])
            logits = model(input_ids=row, decoder_input_ids=start).logits[0, 0]
        else:
            logits = model(input_ids=row).logits[0, -1]
    p = logits.double().softmax(-1)
    ones, twos = (float(p[list(some)].sum()) for some in digit_ids(judge.tokenizer))
    return ones / (ones + twos), ones + twos


@pytest.mark.parametrize("family", ["tiny", "qwen3", "llama", "gemma3", "mt5"])
def test_probabilities_and_mass_are_those_of_a_plain_forward_pass(
    tmp_path: Path, tiny_folder: Path, family: str
) -> None:
    judge = load_local_judge(tiny_folder if family == "tiny" else saved(tmp_path, family))
    answers, own = judge.answers(PROMPTS), [plain(judge, prompt) for prompt in PROMPTS]
    assert [answer.first for answer in answers] == pytest.approx([first for first, _ in own], abs=1e-5)
    assert [answer.mass for answer in answers] == pytest.approx([mass for _, mass in own], abs=1e-6)
    found = judge.first(PROMPTS)
    assert all(0 < p < 1 for p in found) and len({round(p, 7) for p in found}) > 3


def test_an_answer_depends_on_its_request_alone(tiny_folder: Path) -> None:
    judge = load_local_judge(tiny_folder)
    found = judge.first(PROMPTS)
    assert judge.first(PROMPTS[::-1]) == found[::-1]
    assert [judge.first([prompt])[0] for prompt in PROMPTS] == found


def test_both_orders_are_other_requests(tiny_folder: Path) -> None:
    judge = load_local_judge(tiny_folder)
    judge.model.config.max_position_embeddings = 2048  # positions are rotary
    how = How("dialog", "German", None, "left")
    (verdict,) = compare(judge.answers, how, [Compared("Text.", "ja", "nein", True, True)])
    shown = [judge_prompt("dialog", "German", "Text.", *pair) for pair in (("ja", "nein"), ("nein", "ja"))]
    assert verdict.p_first == judge.first(shown)[0] and verdict.p_second == 1 - judge.first(shown)[1]


def test_digits_with_and_without_a_space(tiny: tuple[Any, Any]) -> None:
    tokenizer = tiny[1]
    ones, twos = digit_ids(tokenizer)
    assert {tokenizer.decode([i]).strip() for i in ones} == {"1"} and {tokenizer.decode([i]).strip() for i in twos} == {
        "2"
    }
    with pytest.raises(DataError, match="no token for the digits 1 and 2"):
        digit_ids(Vocabulary({"12": 0, "▁one": 1, "1": 2}))


@pytest.mark.parametrize("odd", ["1", "2"])
def test_a_variant_that_one_digit_lacks_counts_for_neither(odd: str) -> None:
    pieces = {"1": 3, "2": 5, f"\u2581{odd}": 7, "\u01201": 8, "\u01202": 9}
    assert digit_ids(Vocabulary(pieces)) == ([3, 8], [5, 9])
    with pytest.raises(DataError, match="no token for the digits 1 and 2"):
        digit_ids(Vocabulary({"1": 3, "\u01202": 5}))


class Vocabulary:
    """All that is asked of a tokenizer here: its pieces."""

    def __init__(self, pieces: dict[str, int]) -> None:
        self.pieces = pieces

    def get_vocab(self) -> dict[str, int]:
        return self.pieces


def test_a_chat_template_is_used_and_a_request_cannot_be_a_turn_of_its_own(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}A:"
    judge = LocalJudge(model, tokenizer)
    (ids,) = judge.ids([f"say {tokenizer.eos_token} now"])
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == f"user: say {tokenizer.eos_token} now{tokenizer.eos_token}A:"
    assert judge.first(PROMPTS[:2]) == pytest.approx([plain(judge, prompt)[0] for prompt in PROMPTS[:2]], abs=1e-5)


def test_too_long_a_request_has_no_answer_and_the_others_have(tiny: tuple[Any, Any]) -> None:
    judge = LocalJudge(*tiny)
    room = judge.model.config.max_position_embeddings
    short, long, other = judge.answers([PROMPTS[0], "a b " * room, PROMPTS[1]])
    assert [short.first, other.first] == judge.first(PROMPTS[:2])
    assert long.first is None and long.mass is None
    assert long.why == f"longer than the {room} tokens that judge.checkpoint can read (judge.max_characters)"


def test_digits_that_the_model_would_hardly_say_are_no_answer(tiny_folder: Path, tmp_path: Path) -> None:
    """A chat template that ends in the middle of a thought: hardly anything is left for the digits."""
    judge = load_local_judge(saved(tmp_path, "qwen3"))
    judge.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}A:<think>{% endif %}"
    )
    pair = [Compared("Text.", "ja", "nein", True, True)]
    (said,) = compare(judge.answers, How("dialog", "German", None, "left"), pair)
    assert said.mass is not None and 0 < said.mass < 0.1 and not said.unanswered
    (verdict,) = compare(judge.answers, How("dialog", "German", None, "left", min_mass=0.1), pair)
    assert verdict.preference is None and verdict.unanswered and verdict.mass == said.mass
    assert verdict.why_first == verdict.why_second == "less than 0.1 of the probability on 1 and 2"


# --- chat templates -----------------------------------------------------------------------------------------

DATED = (
    "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y %-m %H:%M:%S %s %%s' ~ '') %}{% endif %}"
    "Today: {{ d }}\n"
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


def test_a_template_is_told_the_same_day_every_day(tiny_folder: Path) -> None:
    judge = load_local_judge(tiny_folder)
    judge.tokenizer.chat_template = DATED
    (ids,) = judge.ids(["flood"])
    assert judge.tokenizer.decode(ids) == "Today: 26 Jul 2024 7 00:00:00 1721952000 %s\nfloodA:"
    other = LocalJudge(judge.model, judge.tokenizer, "2025-01-02")
    assert judge.tokenizer.decode(other.ids(["flood"])[0]).startswith("Today: 02 Jan 2025 1 00:00:00")


@pytest.mark.parametrize("start", ["", "\n", "  \n", "\n\n", "{% set x = 1 %}\n"])
def test_all_else_of_a_template_is_as_transformers_has_it(tiny: tuple[Any, Any], start: str) -> None:
    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.chat_template = start + DATED.replace("strftime_now is defined", "enable_thinking")
    turns = [{"role": "user", "content": "flood\n"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert chat_text(tokenizer, turns, TEMPLATE_DATE, True, enable_thinking=False) == expected


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}{{ [1, 2, 3] | random }}", "draws at random"),
        ("{{ [[1, 2, 3]] | map('random') | first }}{{ messages[0].content }}", "draws at random"),
        ('{{ [[1, 2, 3]]|map( "random")|list }}{{ messages[0].content }}', "draws at random"),
        ("{%- filter random %}abc{% endfilter %}{{ messages[0].content }}", "draws at random"),
        ("{{ lipsum() }}{% for m in messages %}{{ m.content }}{% endfor %}", "draws at random"),
        ("{{ raise_exception('no system turn') }}", r"chat template fails: no system turn \(TemplateError\)"),
        ("{% for m in messages %}{{ m.content", "chat template fails: .*TemplateSyntaxError"),
        ("{{ nothing.at_all }}", "chat template fails: .*UndefinedError"),
        ("Hello", "does not hand turns on as they are: of 1 it writes 0"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "of 1 it writes 2"),
    ],
)
def test_templates_that_no_judge_can_be_asked_by(tiny: tuple[Any, Any], template: str, sentence: str) -> None:
    model, tokenizer = tiny[0], copy.deepcopy(tiny[1])
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=sentence):
        LocalJudge(model, tokenizer).first(PROMPTS[:1])


def test_what_was_answered_is_not_computed_again(tiny_folder: Path, tmp_path: Path) -> None:
    cache, identity = Cache(tmp_path / "cache"), {"local": "a key"}
    with asker(identity, None, tiny_folder, cache, lambda: False) as ask:
        found = ask([*PROMPTS, PROMPTS[0]])
    assert found[-1] == found[0] and len(list((tmp_path / "cache").rglob("*.json"))) == len(PROMPTS)
    with asker(identity, None, tmp_path / "no model here", cache, lambda: False) as ask:
        assert ask(PROMPTS) == found[:-1]
        with pytest.raises(DataError):
            ask(["new"])
    with (
        asker({"local": "another"}, None, tmp_path / "no model here", cache, lambda: False) as ask,
        pytest.raises(DataError),
    ):
        ask(PROMPTS)
