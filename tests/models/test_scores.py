"""All that scores texts: what a plain forward pass says, whoever shares the batch, and the same after a reload."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import pytest
import torch

from xling.errors import DataError
from xling.models import states
from xling.models.architecture import trunk_of
from xling.models.checkpoints import check_labels
from xling.models.load import load_classifier, load_policy, load_tokenizer, load_trunk, save_policy
from xling.models.published import Classifier, cut_turns, load_log_ratio, load_published_classifier
from xling.models.states import log_likelihood, padded_batch, response_states
from xling.models.text import Limits, count_cut, pieces, prompt_ids, response_ids
from xling.optimizers.dpo import dpo_loss
from xling.rewards import alignment
from xling.rewards.networks import ImplicitNet, PairNet, RewardNet, load_reward, reward_batch, reward_loss, save_reward
from xling.tasks.records import Conversation

Scores = list[list[float]]
DRAW = random.Random(0)
WORDS = ["flood", "Chile", "März", "130", "Häuser", "наводнение", "lễ", "hội", "ở", "Cuba", "sel", "ngôi", "nhà", "🙂"]
LIMITS, SHORT = Limits(240, 240, "left"), Limits(24, 12, "left")


def text(words: int) -> str:
    return " ".join(DRAW.choices(WORDS, k=words))


PROMPTS = [text(words) for words in (3, 5, 8, 20, 21, 30, 9, 7, 1)] + ["x"]
RESPONSES = [[text(DRAW.choice((1, 2, 4, 9))) for _ in range(DRAW.randint(1, 4))] for _ in PROMPTS]
RESPONSES[2] = ["", "a", text(40), ""]
RESPONSES[4] = []

NETS = [("micro", "last"), ("micro", "mean"), ("mt5", "last"), ("mt5", "mean"), ("qwen3", "last")]
NETS += [("mistral", "mean"), ("gemma3", "last")]  # with sliding windows
PAIRS = [(family, pooling) for family in ("xlm_roberta", "deberta_v2", "bert") for pooling in ("first", "mean")]
CLASSIFIERS = [
    ("llama", "chat"),
    ("llama", "plain"),
    ("qwen3", "pair"),
    ("deberta_v2", "pair"),
    ("xlm_roberta", "pair"),
]
CLASSIFIERS += [("xlm_roberta", "plain")]
RATIOS = [("qwen3", "plain"), ("llama", "plain"), ("mt5", "plain")]
IMPLICIT = [("qwen3", "sum"), ("mt5", "mean")]
KINDS = {"net": NETS, "pair": PAIRS, "classifier": CLASSIFIERS, "ratio": RATIOS, "implicit": IMPLICIT}


def of(*kinds: str) -> Any:
    """The cases of some kinds alone."""
    params = [(kind, *how) for kind in kinds for how in KINDS[kind]]
    return pytest.mark.parametrize("case", params, ids="-".join, indirect=True, scope="module")


@dataclass
class Case:
    kind: str
    make: Callable[..., Any]  # (limits) -> what scores; the same each time
    own: Callable[[Any, str, str], float | None]  # (that, prompt, response) -> by a plain forward pass, or not told
    stored: Callable[[Any, Path], Any]  # that, written and read again
    half: Callable[[], Any]  # in bfloat16
    close: float = 1e-4


def net_case(folder: Path, net: Any, pooling: str) -> Case:
    def make(limits: Limits = LIMITS, dtype: str | None = None) -> Any:
        trunk, tokenizer = load_trunk(folder, dtype, encoder=net.pair), load_tokenizer(folder, net.needed)
        made = net(trunk, tokenizer, pooling, limits).eval()
        torch.manual_seed(2)
        torch.nn.init.normal_(made.head.weight)
        torch.nn.init.normal_(made.head.bias)
        return made

    def stored(model: Any, at: Path) -> Any:
        save_reward(at, model)
        again = load_reward(at)
        assert type(again) is net and (again.pooling, again.limits, again.training) == (pooling, LIMITS, False)
        return again

    def own(model: Any, prompt: str, response: str) -> float:
        return float(model(**model.collate(model.rows([prompt], [response]))))

    return Case("pair" if net.pair else "net", make, own, stored, lambda: make(dtype="bfloat16"))


def classifier_case(folder: Path, render: str) -> Case:
    def make(limits: Limits = LIMITS, at: Path = folder) -> Classifier:
        return load_published_classifier(at, render, None, limits)

    def own(model: Classifier, prompt: str, response: str) -> float | None:
        if render == "pair" and not response:
            return None  # tokenizers take an empty second text for none
        if render == "chat":
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            inputs = model.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        else:
            texts = (prompt, response) if render == "pair" else (f"{prompt}\n{response}",)
            inputs = model.tokenizer(*texts, return_tensors="pt")
        return float(model.model(**inputs).logits[0, 0])

    def stored(model: Classifier, at: Path) -> Classifier:
        model.model.save_pretrained(at)
        model.tokenizer.save_pretrained(at)
        return make(at=at)

    def half() -> Classifier:
        return Classifier(load_classifier(folder).to(torch.bfloat16), load_tokenizer(folder, ()), render, None, LIMITS)

    return Case("classifier", make, own, stored, half, 2e-5)


def ratio_case(first: Path, second: Path, render: str) -> Case:
    def make(limits: Limits = LIMITS) -> Any:
        return load_log_ratio(first, second, render, 0.5, limits)

    def own(model: Any, prompt: str, response: str) -> float:
        (asked,), ((said,),) = model._ids([prompt], [[response]])
        return 0.5 * float(own_scores(model.policy, asked, said).sum() - own_scores(model.reference, asked, said).sum())

    return Case("ratio", make, own, lambda model, at: make(), lambda: None)


def implicit_case(first: Path, second: Path, pooling: str) -> Case:
    def make(limits: Limits = LIMITS) -> Any:
        made = ImplicitNet(load_policy(first)[0], load_tokenizer(first), pooling, limits, beta=0.5).eval()
        torch.nn.init.constant_(made.head.bias, -0.3)
        made.held_to(load_policy(second)[0])
        return made

    def stored(model: Any, at: Path) -> Any:
        save_reward(at, model)
        again = load_reward(at)
        assert type(again) is ImplicitNet and (again.pooling, again.limits, again.training) == (pooling, LIMITS, False)
        return again

    def own(model: Any, prompt: str, response: str) -> float:
        (asked,), ((said,),) = model._ids([prompt], [[response]])
        tokens = own_scores(model.trunk, asked, said) - own_scores(model.reference, asked, said)
        return 0.5 * float(tokens.sum() if pooling == "sum" else tokens.mean()) - 0.3

    return Case("implicit", make, own, stored, lambda: None)


def own_scores(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """(tokens,) log-probabilities of the response by the model's own forward pass."""
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            logits = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([response])).logits[0]
        else:
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=[(kind, *how) for kind in KINDS for how in KINDS[kind]], ids="-".join)
def case(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, family, how = request.param
    folder = tmp_path_factory.mktemp(family)
    if kind == "net":
        return net_case(tiny_folder if family == "micro" else families.saved(folder, family), RewardNet, how)
    if kind == "pair":
        return net_case(families.saved_encoder(folder, family), PairNet, how)
    if kind == "classifier":
        return classifier_case(families.saved_classifier(folder, family), how)
    smaller, reference = families.build(family), tmp_path_factory.mktemp("reference")
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.mul_(0.9)
    save_policy(reference, smaller, families.tokenizer(family))
    made = {"ratio": ratio_case, "implicit": implicit_case}[kind]
    return made(families.saved(folder, family), reference, how)


@pytest.fixture(scope="module")
def model(case: Case) -> Any:
    return case.make()


@pytest.fixture(scope="module")
def together(model: Any) -> Scores:
    scores: Scores = model.score(PROMPTS, RESPONSES)
    return scores


@torch.inference_mode()
def test_a_score_is_what_a_plain_forward_pass_says(case: Case, model: Any, together: Scores) -> None:
    largest = max(abs(score) for row in together for score in row)  # a random T5 is not scaled: its states are large
    for prompt, row, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        for response, score in zip(row, scores, strict=True):
            own = case.own(model, prompt, response)
            assert own is None or score == pytest.approx(own, abs=case.close * max(1.0, largest))


def test_scores_have_the_shape_of_the_responses_and_differ(model: Any, together: Scores) -> None:
    assert list(map(len, together)) == list(map(len, RESPONSES))
    assert len({score for row in together for score in row}) > 0.8 * sum(map(len, RESPONSES))
    assert together[2][0] == together[2][3]  # the same (empty) response twice
    assert model.score([], []) == [] and model.score(["x"], [[]]) == [[]]


def test_a_score_depends_on_its_text_alone(model: Any, together: Scores) -> None:
    """Not on what shares its batch, on the order, or on how many prompts and responses there are."""
    for prompt, row, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        assert [model.score([prompt], [[response]]) for response in row] == [[[score]] for score in scores]
    order = random.Random(1).sample(range(len(PROMPTS)), len(PROMPTS))
    turned = model.score([PROMPTS[i] for i in order], [RESPONSES[i][::-1] for i in order])
    assert turned == [together[i][::-1] for i in order]
    assert model.score(PROMPTS * 4, RESPONSES * 4) == together * 4
    assert model.score(PROMPTS, [row * 5 for row in RESPONSES]) == [row * 5 for row in together]


def test_a_reloaded_model_gives_the_same_bits(case: Case, model: Any, together: Scores, tmp_path: Path) -> None:
    assert case.stored(model, tmp_path).score(PROMPTS, RESPONSES) == together


@of("net", "pair", "classifier")
def test_half_precision_is_close(case: Case, together: Scores) -> None:
    half = case.half().score(PROMPTS, RESPONSES)
    flat, close = (torch.tensor([one for row in scores for one in row]) for scores in (together, half))
    apart = (flat - close).abs()
    assert (apart.mean() if case.kind == "net" else apart.max()) < 0.1 * (flat.max() - flat.min())


def test_long_texts_are_cut_and_the_response_stays(case: Case) -> None:
    """Prompts lose their beginning here, responses their end."""
    model, long = case.make(SHORT), text(60)
    [[first, second, *cut]] = model.score([long], [["flood", "Chile März", long, f"{long} more"]])
    assert first != second and cut[0] == cut[1]
    assert model.score([f"one more {long}"], [["flood"]]) == [[first]]
    assert count_cut(model.tokenizer, [long, "x", long], [long, "a"], model.rooms()) == {
        "cut_prompts": 1,
        "cut_responses": 1,
    }


@of("net", "classifier", "ratio", "implicit")
def test_padding_with_eos_never_matters(case: Case, together: Scores) -> None:
    model = case.make()
    model.tokenizer.pad_token = model.tokenizer.eos_token
    assert model.score(PROMPTS, RESPONSES) == together


@of("ratio", "net", "implicit")
def test_so_it_does_where_texts_are_longer_than_the_exact_widths(case: Case) -> None:
    model, lengths = case.make(), [3, 40, 66, 150]
    prompts, responses = [text(n) for n in lengths], [[text(n), f"x {text(n // 2)}"] for n in reversed(lengths)]
    together = model.score(prompts, responses)
    assert together == [model.score([prompt], [row])[0] for prompt, row in zip(prompts, responses, strict=True)]


# --- networks -----------------------------------------------------------------------------------------------


@of("implicit")
def test_what_it_learns_from_pairs_is_dpo(case: Case) -> None:
    """Loss and gradients are those of dpo_loss on log-probabilities of whole responses, read one by one."""
    net, prompts = case.make(), ["x", text(9), text(5)]
    chosen, rejected = ["a", text(3), text(12)], [text(4), "b c", text(2)]
    other, net.trunk = net.trunk, net.reference  # rows are read as long as it is its own reference
    rows = list(zip(net.rows(prompts, chosen), net.rows(prompts, rejected), [1.0] * 3, strict=True))
    net.trunk = other
    loss = reward_loss(net, reward_batch(rows, net.collate))

    def ratios(said: list[str]) -> torch.Tensor:
        found = []
        for (asked,), ((ids,),) in (net._ids([prompt], [[one]]) for prompt, one in zip(prompts, said, strict=True)):
            batch = padded_batch(net.trunk.config, [(asked, ids)], 0)
            mask = batch.pop("response_mask")
            read = batch.get("decoder_input_ids", batch["input_ids"])
            scores = net.trunk(**batch).logits.log_softmax(-1)[:, :-1].gather(-1, read[:, 1:, None])[..., 0]
            anchor = own_scores(net.reference, asked, ids)
            tokens = scores[mask[:, 1:]] - anchor
            found.append(tokens.sum() if net.pooling == "sum" else tokens.mean())
        return torch.stack(found)

    by_hand = dpo_loss(ratios(chosen), ratios(rejected), 0.5)[0] / 3
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5) and abs(loss.item() - 0.693) > 1e-3
    weights = [weight for weight in net.trunk.parameters() if weight.requires_grad]
    ours, theirs = (torch.autograd.grad(one, weights, allow_unused=True) for one in (loss, by_hand))
    apart = [float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True) if b is not None and b.any()]
    assert len(apart) > 5 and max(apart) < 1e-3


@pytest.mark.parametrize(
    "case", [("net", "mt5", "last"), ("pair", "xlm_roberta", "first")], indirect=True, scope="module"
)
def test_parallel_texts_come_closer_than_others(case: Case) -> None:
    net, pairs = case.make(), list(zip(WORDS[:6], WORDS[6:12], strict=True))
    texts = [((here, ""), (there, ""), (pairs[number - 1][1], "")) for number, (here, there) in enumerate(pairs)]
    nothing = [0] * len(texts), lambda some: {}, lambda model, batch: torch.zeros(())
    rows, collate, loss = alignment.added(net, nothing, texts, 1.0, 0)
    before, batch = alignment.nearer(net, texts), collate(list(rows))
    descent = torch.optim.Adam(net.trunk.parameters(), 1e-3)
    for _ in range(40):
        descent.zero_grad()
        loss(net, batch).backward()
        descent.step()
    assert before < alignment.nearer(net, texts) == 1.0


@of("net")
def test_padding_in_training_changes_no_reward(case: Case, model: Any) -> None:
    rows = model.rows(["x", text(9), "x"], ["a", text(3), text(12)])
    with torch.inference_mode():
        alone = [model(**model.collate([row])).item() for row in rows]
        for pad in (0, 2, 77):
            batch = padded_batch(model.trunk.config, rows, pad)
            assert model(**batch).tolist() == pytest.approx(alone, abs=1e-4)


@of("net")
def test_what_a_prompt_has_several_times_is_read_once(
    model: Any, together: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder_decoder, passes = model.trunk.config.is_encoder_decoder, dict.fromkeys(("encoder", "decoder"), 0)
    hooks = []
    for part in ("encoder", "decoder") if encoder_decoder else ("decoder",):
        inner = getattr(model.trunk, f"get_{part}")() if encoder_decoder else model.trunk

        def counted(*_: Any, part: str = part) -> None:
            passes[part] += 1

        hooks.append(inner.register_forward_hook(counted))
    [few] = model.score(["x"], [["a", "b c"]])
    once = passes["decoder"]
    [many] = model.score(["x"], [["a", "b c"] * 500])
    assert passes == {"encoder": 2 * encoder_decoder, "decoder": 2 * once} and many == few * 500
    model.score(["x"], [[f"a {i}" for i in range(100)]])
    assert passes["encoder"] == 3 * encoder_decoder
    for hook in hooks:
        hook.remove()
    for kept in (1, 400):  # however many prompts are read at once
        monkeypatch.setattr(states, "TOKENS_KEPT", kept)
        assert model.score(PROMPTS * 4, RESPONSES * 4) == together * 4


# --- likelihoods --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["micro", "mt5", "qwen3", "mistral", "gemma3"])
def lm(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(model, pad, ids of PROMPTS, ids of RESPONSES)."""
    family = request.param
    folder = tiny_folder if family == "micro" else families.saved(tmp_path_factory.mktemp(family), family)
    model, tokenizer = load_policy(folder)
    prompts = prompt_ids(tokenizer, PROMPTS, encoder=model.config.is_encoder_decoder)
    return model, tokenizer.pad_token_id, prompts, [response_ids(tokenizer, row) for row in RESPONSES]


def test_likelihood_is_that_of_a_plain_forward_pass(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever shares the batch; a large vocabulary is looked at in parts."""
    model, pad, prompts, responses = lm
    means, totals = (log_likelihood(model, prompts, responses, pad, total=total) for total in (False, True))
    for prompt, row, mean, total in zip(prompts, responses, means, totals, strict=True):
        for ids, value, whole in zip(row, mean, total, strict=True):
            each = own_scores(model, prompt, ids)
            assert value == pytest.approx(each.mean().item(), abs=1e-4)
            assert whole == pytest.approx(each.sum().item(), rel=1e-4)
            assert log_likelihood(model, [prompt], [[ids]], 1) == [[value]]
    monkeypatch.setattr(states, "VOCABULARY_AT_ONCE", 20_000)
    for ours, theirs in zip(log_likelihood(model, prompts, responses, 0), means, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("count", [1, 5, 33, 70])
def test_on_an_accelerator_few_rows_fill_a_batch(count: int) -> None:
    """Fewer than there are texts, and each batch has a power of two of rows; torch's meta device is taken for one."""
    model = trunk_of(families.build("qwen3")).to("meta")
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(given["input_ids"].shape), with_kwargs=True
    )
    read = list(response_states(model, [[3] * 70] * count, [[[5] * 9]] * count, 0))
    hook.remove()
    assert sum(len(state.owners) for state in read) == count
    for width, rows in ((72, count), (12, count)):
        found = [size for size, wide in shapes if wide == width]
        assert rows <= sum(found) < 2 * rows and all(size & (size - 1) == 0 for size in found)
        assert sum(found[:-1]) <= rows and max(found) * width <= 2048


def test_states_come_once_for_every_response(lm: Any) -> None:
    model, _, prompts, responses = lm
    owners = [owner for state in response_states(trunk_of(model), prompts, responses, 0) for owner in state.owners]
    assert sorted(owners) == [(i, j) for i, row in enumerate(responses) for j in range(len(row))]


# --- published models ---------------------------------------------------------------------------------------


def test_two_classes_need_the_good_one(tmp_path: Path) -> None:
    folder = families.saved_classifier(tmp_path, "xlm_roberta", labels=2)
    with pytest.raises(DataError, match=r"2 labels. Say which is the good one: rm_backbone\.label=0"):
        load_published_classifier(folder, "auto", None, LIMITS)
    good, bad = (load_published_classifier(folder, "auto", k, LIMITS).score(["x y"], [["a", "b c"]]) for k in (1, 0))
    assert good[0] == [-score for score in bad[0]] and good[0][0] != good[0][1]


@pytest.mark.parametrize(("labels", "label"), [(3, None), (3, 1), (1, 1)])
def test_other_heads_are_refused(labels: int, label: int | None) -> None:
    with pytest.raises(DataError, match=f"has {labels} labels"):
        check_labels(labels, label)


def test_a_template_that_is_not_there_cannot_be_asked_for(tmp_path: Path) -> None:
    folder = families.saved_classifier(tmp_path, "qwen3")
    with pytest.raises(DataError, match=r"render=chat needs a tokenizer with a chat template"):
        load_published_classifier(folder, "chat", None, LIMITS)


def test_two_tokenizers_are_refused(tmp_path: Path) -> None:
    folders = [families.saved(tmp_path / family, family) for family in ("qwen3", "llama")]
    with pytest.raises(DataError, match=r"different tokenizers .* Name the model that the policy was trained from"):
        load_log_ratio(folders[0], folders[1], "plain", 0.1, LIMITS)


@pytest.mark.parametrize("kind", ["classifier", "log_ratio"])
def test_a_dated_template_gives_the_same_scores_on_every_day(tmp_path: Path, kind: str) -> None:
    dated = "{% set day = strftime_now('%d %B %Y') %}{% for m in messages %}{{ day }}: {{ m.content }}</s>{% endfor %}"
    folder = (families.saved_classifier if kind == "classifier" else families.saved)(tmp_path, "llama")
    families.tokenizer("llama", dated).save_pretrained(folder)
    found = []
    for date, said in (("2024-07-26", "26 July 2024"), ("2026-03-01", "01 March 2026")):
        if kind == "classifier":
            model: Any = load_published_classifier(folder, "chat", None, LIMITS, date)
        else:
            model = load_log_ratio(folder, folder, "chat", 0.1, LIMITS, date)
        ids = model._rows(["flood"], ["Chile"])[0][0][0] if kind == "classifier" else model._ids(["flood"], [[]])[0][0]
        assert model.tokenizer.decode(ids).replace(" ", "").startswith(f"{said}: flood".replace(" ", ""))
        found.append(ids)
    assert found[0] != found[1]


def test_a_chat_model_reads_its_template(tmp_path: Path) -> None:
    folder = families.saved(tmp_path, "llama")
    families.tokenizer("llama", families.CHAT).save_pretrained(folder)
    model = load_log_ratio(folder, folder, "auto", 0.1, LIMITS)
    assert model.render == "chat"
    asked, said = model._ids(["flood"], [["Chile"]])
    whole = model.tokenizer.decode(asked[0] + said[0][0])
    assert whole.replace(" ", "") == "<s>user\nflood</s><s>assistant\nChile</s>"
    assert model.score(["flood"], [["Chile"]]) == [[0.0]]  # twice the same model


def test_a_classifier_reads_a_chat_as_turns_of_which_the_oldest_questions_go_first(tmp_path: Path) -> None:
    turns = [("system", "short"), ("user", "flood Chile"), ("assistant", "rain"), ("user", "storm Peru wind")]
    talk = Conversation("as text", turns)
    folder = families.saved_classifier(tmp_path, "llama")
    model = load_published_classifier(folder, "chat", None, LIMITS)
    own = [{"role": role, "content": text} for role, text in (*turns, ("assistant", "ja"))]
    [(ids, _)], [border] = model._rows([talk], ["ja"])
    assert ids == list(model.tokenizer.apply_chat_template(own, tokenize=True, return_dict=False))
    assert 0 < border < len(ids)
    other = Conversation("as text", turns[-1:])
    assert other == talk and model._rows([talk, other], ["ja"] * 2)[0] == [
        (ids, []),
        model._rows([other], ["ja"])[0][0],
    ]
    assert model._rows([other], ["ja"])[0][0] != (ids, [])
    length = {text: len(pieces(model.tokenizer, [text])[0]) for _, text in turns}
    most = sum(length.values())
    assert cut_turns(model.tokenizer, turns, most, "left") == tuple(turns)
    assert cut_turns(model.tokenizer, turns, most - 1, "left") == (turns[0], turns[3])
    left = cut_turns(model.tokenizer, turns, length["short"] + 1, "left")
    assert left[0] == turns[0] and left[1][1] and turns[3][1].endswith(left[1][1]) and left[1][1] != turns[3][1]
    assert [role for role, _ in cut_turns(model.tokenizer, turns, length["short"], "left")] == ["user"]
