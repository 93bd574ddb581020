"""Functions that stages are made of: blocks of results, shuffled labels, batches and losses, picks and their curve."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_grid import TASK
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import LlamaConfig, MT5Config

from xling.grid.stage import Context, Interrupted
from xling.judges import win_shares
from xling.models.states import padded_batch
from xling.optimizers import best_of_n, picker, picker_in_spec, soft_best_of_n
from xling.planning.controls import SHUFFLES
from xling.rewards.alignment import Learnt, added, nearness
from xling.rewards.networks import distinct, reward_batch, reward_loss
from xling.rewards.untrained import hashed_score
from xling.stages.blocks import kept_arrays, kept_lines
from xling.stages.reward import shuffled_pairs, shuffled_ratings
from xling.stages.score import length_rule
from xling.stages.sft import labelled_batch
from xling.tasks import micro_summarization as world
from xling.tasks.records import Prompt, Rating

# --- blocks of results: bounded, resumable, in the order of their items whatever the order of the work --------

IN_ORDER = [[0, 1, 2], [3, 4, 5], [6]]
MIXED = [[6, 0], [5, 1, 3], [4], [2]]


def context(
    scratch: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Context:
    return Context({}, {}, scratch, scratch, progress, stopping)


def work(items: Sequence[int]) -> list[bytes]:
    return [f"item {item} {'x' * item}".encode() for item in items]


def expected(count: int = 7) -> bytes:
    return b"".join(line + b"\n" for line in work(range(count)))


@pytest.mark.parametrize(("blocks", "count"), [(IN_ORDER, 7), (MIXED, 7), ([], 0)])
def test_lines_come_in_the_order_of_the_items(tmp_path: Path, blocks: list[list[int]], count: int) -> None:
    assert b"".join(kept_lines(context(tmp_path), "x", blocks, work)) == expected(count)


@pytest.mark.parametrize("fails_at", range(4))
def test_finished_blocks_are_not_done_again(tmp_path: Path, fails_at: int) -> None:
    done: list[Sequence[int]] = []

    def failing(items: Sequence[int]) -> list[bytes]:
        if len(done) == fails_at:
            raise MemoryError
        done.append(items)
        return work(items)

    with pytest.raises(MemoryError):
        kept_lines(context(tmp_path), "x", MIXED, failing)
    assert done == MIXED[:fails_at]
    again: list[Sequence[int]] = []
    lines = kept_lines(context(tmp_path), "x", MIXED, lambda items: again.append(items) or work(items))  # type: ignore[func-returns-value]
    assert again == MIXED[fails_at:] and b"".join(lines) == expected()


def test_blocks_may_be_others_when_the_work_goes_on(tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="after 5 of 7"):
        kept_lines(context(tmp_path, stopping=lambda: next(asked)), "x", MIXED, work)
    kept, left = {*MIXED[0], *MIXED[1]}, list[int]()
    (tmp_path / "x" / "000009.jsonl").write_bytes(b"from elsewhere\n")
    for size in (1, 3):
        blocks = [list(range(start, min(start + size, 7))) for start in range(0, 7, size)]
        lines = kept_lines(context(tmp_path), "x", blocks, lambda items: left.extend(items) or work(items))  # type: ignore[func-returns-value]
        assert b"".join(lines) == expected() and sorted(left) == sorted({*range(7)} - kept)


def test_a_half_written_block_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "000001.partial").write_bytes(b"item 5")
    assert b"".join(kept_lines(context(tmp_path), "x", MIXED, work)) == expected()


def test_processes_with_other_numbers_of_blocks_ask_equally_often(tmp_path: Path) -> None:
    """So that none waits for an answer that another does not ask for; and a stop finds all of them."""
    for scratch, count, stop in ((tmp_path / "a", 3, None), (tmp_path / "b", 2, None), (tmp_path / "b", 2, 3)):
        asked = list[bool]()

        def stopping(asked: list[bool] = asked, stop: int | None = stop) -> bool:
            asked.append(True)
            return len(asked) == stop

        blocks = [[number] for number in range(count)]
        with pytest.raises(Interrupted) if stop else nullcontext():
            kept_arrays(context(scratch, stopping=stopping), "x", blocks, lambda block: [np.array(block)], count, 3)
        assert len(asked) == 3


def test_progress_and_a_stop_between_blocks(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def told(done: int, total: int) -> None:
        seen.append((done, total))

    with pytest.raises(Interrupted, match="after 5 of 7 items, which are kept"):
        kept_lines(context(tmp_path, told, lambda: len(seen) == 2), "x", MIXED, work)
    assert seen == [(2, 7), (5, 7)]
    kept_lines(context(tmp_path, told), "x", MIXED, work)
    assert seen[2:] == [(2, 7), (5, 7), (6, 7), (7, 7)]


def test_arrays_are_kept_the_same_way(tmp_path: Path) -> None:
    asked = iter([False, True])
    stopped = context(tmp_path, stopping=lambda: next(asked))
    with pytest.raises(Interrupted, match="after 1 of 3 items, which are kept"):
        kept_arrays(stopped, "x", [[1], [2], [3]], lambda block: [np.array(block)], 3)
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["000000.npz", "000000.npz.sha256"]


def test_a_block_that_rotted_is_made_again(tmp_path: Path) -> None:
    kept_lines(context(tmp_path), "x", IN_ORDER, work)
    path = tmp_path / "x" / "000000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"item 1", b"item 7"))
    made: list[int] = []

    def again(items: Sequence[int]) -> list[bytes]:
        made.extend(items)
        return work(items)

    assert b"".join(kept_lines(context(tmp_path), "x", IN_ORDER, again)) == expected() and made == IN_ORDER[0]


@pytest.mark.parametrize("lines", [[b"one"], [b"one", b"two\nthree"]])
def test_work_that_gives_something_else_than_a_line_an_item_is_an_error(tmp_path: Path, lines: list[bytes]) -> None:
    with pytest.raises(ValueError, match="lines for 2 items"):
        kept_lines(context(tmp_path), "x", [[0, 1]], lambda items: lines)
    assert not list(tmp_path.glob("x/*.jsonl"))


# --- feedback, batches and losses ---------------------------------------------------------------------------

DECODER, ENCODER_DECODER = LlamaConfig(), MT5Config(decoder_start_token_id=3)
RATINGS = world.ratings(TASK, "de", "train")
PAIRS = world.pairs(TASK, "de", "train")


@pytest.mark.parametrize("permutation", range(1, SHUFFLES + 1))
def test_a_permutation_keeps_texts_and_balance_and_moves_labels(permutation: int) -> None:
    shuffled = shuffled_ratings(RATINGS, 0, permutation)
    assert [(r.prompt, r.response) for r in shuffled] == [(r.prompt, r.response) for r in RATINGS]
    assert Counter(r.label for r in shuffled) == Counter(r.label for r in RATINGS)
    assert 5 < sum(a.label != b.label for a, b in zip(shuffled, RATINGS, strict=True)) < 35


def test_permutations_and_seeds_differ_and_zero_changes_nothing() -> None:
    found = {tuple(r.label for r in shuffled_ratings(RATINGS, s, k)) for s in (0, 1) for k in range(1, 6)}
    assert len(found) == 10
    assert shuffled_ratings(RATINGS, 0, 0) == RATINGS and shuffled_pairs(PAIRS, 0, 0) == PAIRS


@pytest.mark.parametrize("permutation", range(1, SHUFFLES + 1))
def test_a_coin_turns_pairs_round(permutation: int) -> None:
    shuffled = shuffled_pairs(PAIRS, 0, permutation)
    turned = [a.chosen == b.rejected for a, b in zip(shuffled, PAIRS, strict=True)]
    assert 10 < sum(turned) < 30
    for a, b in zip(shuffled, PAIRS, strict=True):
        assert a.prompt == b.prompt and {a.chosen, a.rejected} == {b.chosen, b.rejected}


def test_a_reward_batch_of_an_encoder_decoder_begins_with_the_start_token() -> None:
    rows = [(([5, 6, 1], [7, 1]), None, 1.0), (([5, 1], [8, 9, 1]), None, 0.0)]
    batch = reward_batch(rows, partial(padded_batch, ENCODER_DECODER, pad=0))
    assert batch["input_ids"].tolist() == [[5, 6, 1], [5, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["decoder_input_ids"].tolist() == [[3, 7, 1, 0], [3, 8, 9, 1]]
    assert batch["response_mask"].int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 1]]


def test_a_reward_batch_marks_prompt_response_and_padding() -> None:
    rows = [(([1, 5, 6], [7, 2]), None, 1.0), (([1, 5], [8, 9, 9, 2]), None, 0.0)]
    batch = reward_batch(rows, partial(padded_batch, DECODER, pad=2))
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 2, 2], [1, 5, 8, 9, 9, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]
    assert batch["response_mask"].int().tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [1.0, 0.0]
    assert not any(name.startswith("rejected") for name in batch)


def test_the_losses_are_those_of_the_paper() -> None:
    def model(input_ids: torch.Tensor, attention_mask: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
        return (input_ids * response_mask).sum(1).float()

    padded = partial(padded_batch, DECODER, pad=0)
    point = reward_batch([(([1], [3]), None, 1.0), (([1], [2]), None, 0.0)], padded)
    expected = binary_cross_entropy_with_logits(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert reward_loss(model, point) == pytest.approx(expected.item())
    pair = reward_batch([(([1], [3]), ([1], [1]), 1.0), (([1], [2]), ([1], [4, 1]), 1.0)], padded)
    expected_pair = np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(3.0))])
    assert float(reward_loss(model, pair)) == pytest.approx(expected_pair)


def test_parallel_texts_are_pulled_together_beside_the_loss() -> None:
    """By hand: the cosine of (3, 4) is 0.96 with (4, 3), -0.96 with (-8, -6), and 1 with itself."""
    states = {5: (3.0, 4.0), 6: (4.0, 3.0), 7: (-8.0, -6.0)}

    class Net:
        def rows(self, prompts: list[str], responses: list[str]) -> list[Any]:
            return [([int(prompt)], [len(response)]) for prompt, response in zip(prompts, responses, strict=True)]

        def collate(self, rows: list[Any]) -> Any:
            return padded_batch(DECODER, rows, pad=0)

        def state(self, input_ids: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
            return torch.tensor([states[int(ids[0])] for ids in input_ids])

        def __call__(self, input_ids: torch.Tensor, **_: torch.Tensor) -> torch.Tensor:
            return input_ids[:, 0].float()

    net, texts = Net(), [(("5", ""), ("6", ""), ("7", "")), (("5", ""), ("6", ""), ("5", ""))]
    rows = [(([3], [1]), None, 1.0), (([2], [1]), None, 0.0), (([1], [1]), None, 1.0)]
    learnt: Learnt = (rows, lambda some: reward_batch(some, net.collate), reward_loss)
    both, collate, loss = added(net, learnt, texts, 0.5, seed=0)
    assert [row for row, _ in both] == rows and len({str(pair) for _, pair in both}) == 2  # each in its turn
    batch = collate(list(both[:2]))
    assert sorted(nearness(net, batch).tolist()) == pytest.approx([-0.04, 1.92])
    plain = reward_loss(net, reward_batch(rows[:2], net.collate))
    assert float(loss(net, batch)) == pytest.approx(
        float(plain) + 0.5 * (np.log1p(np.exp(0.4)) + np.log1p(np.exp(-19.2))) / 2
    )


def test_a_causal_batch_has_its_loss_on_the_responses() -> None:
    batch = labelled_batch(DECODER, [([1, 5, 6], [7, 2]), ([1, 5], [8, 9, 9, 2])], pad=2)
    assert batch["labels"].tolist() == [[-100, -100, -100, 7, 2, -100], [-100, -100, 8, 9, 9, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]


@pytest.mark.parametrize(
    ("lengths", "labels", "threshold", "longer"),
    [
        ([1, 2, 8, 9], [0, 0, 1, 1], 2.0, True),
        ([1, 2, 8, 9], [1, 1, 0, 0], 2.0, False),
        ([1, 2, 3, 9], [0, 1, 1, 1], 1.0, True),
        ([1, 4], [0.2, 0.5], 1.0, True),  # a half is good
    ],
)
def test_the_length_rule_is_the_best_threshold(
    lengths: list[int], labels: list[float], threshold: float, longer: bool
) -> None:
    rows = zip(lengths, labels, strict=True)
    ratings = [Rating(Prompt(f"{n}", "de", f"{n}", ""), "x" * n, label) for n, label in rows]
    assert length_rule(ratings) == {"threshold": threshold, "longer_is_better": longer}


def test_the_random_control_is_uniform_and_named_by_seed_prompt_and_index() -> None:
    drawn = np.array([[hashed_score(0, str(p), j) for j in range(10)] for p in range(300)])
    assert abs(drawn.mean() - 0.5) < 0.02 and abs((drawn < 0.1).mean() - 0.1) < 0.02
    assert len(np.unique(drawn)) == drawn.size
    assert hashed_score(1, "12", 3) != hashed_score(1, "1", 23) != hashed_score(11, "2", 3)
    assert hashed_score(0, "de/test-0000", 0) != hashed_score(0, "tr/test-0000", 0)  # nor by the language


def test_pairs_that_read_the_same_are_dropped_and_counted() -> None:
    rows = [(([1], [5, 2]), ([1], [6, 2]), 1.0), (([1], [5, 2]), ([1], [5, 2]), 1.0), (([1], [7, 2]), None, 0.0)]
    kept, dropped = distinct(rows)
    assert kept == [rows[0], rows[2]] and dropped == 1


# --- picks and wins -----------------------------------------------------------------------------------------

BEST = best_of_n.Settings()
NAN = float("nan")
Array = np.ndarray[Any, np.dtype[np.float64]]


def brute_force(rewards: Array, wins: Array) -> list[float]:
    """Expected win of best-of-k over all k-subsets; ties go to the lower index."""
    there = [i for i in range(len(rewards)) if not np.isnan(rewards[i])]
    out = []
    for k in range(1, len(rewards) + 1):
        subsets = list(itertools.combinations(there, min(k, len(there))))
        picks = [max(subset, key=lambda i: (rewards[i], -i)) for subset in subsets]
        out.append(float(np.mean([wins[i] for i in picks])))
    return out


def drawn(rewards: int | None) -> tuple[Array, Array]:
    """Pools of five: rewards from few values (many ties) or continuous, wins in quarters."""
    rng = np.random.default_rng(0)
    shape = (200, 5)
    points = rng.random(shape) if rewards is None else rng.integers(0, rewards, shape).astype(float)
    return points, rng.integers(0, 5, shape) / 4


@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.parametrize("values", [None, 3, 2, 1], ids=["no ties", "ties", "many ties", "all tied"])
def test_the_curve_is_the_mean_over_all_subsets(values: int | None, fewer: bool) -> None:
    """Of prompts with fewer samples it keeps its last value."""
    rewards, wins = drawn(values)
    rng = np.random.default_rng(1)
    for row in range(len(rewards) if fewer else 0):
        gone = rng.permutation(5)[: row % 5]
        rewards[row, gone] = wins[row, gone] = NAN
    expected = np.array([brute_force(r, w) for r, w in zip(rewards, wins, strict=True)])
    np.testing.assert_allclose(best_of_n.curve(BEST, rewards, wins), expected, atol=1e-12)


def test_the_curve_begins_with_the_mean_and_ends_with_the_pick() -> None:
    rewards, wins = drawn(3)
    curve = best_of_n.curve(BEST, rewards, wins)
    np.testing.assert_allclose(curve[:, 0], wins.mean(axis=1))
    np.testing.assert_allclose(curve[:, -1], wins[np.arange(len(wins)), best_of_n.pick(BEST, rewards, ())])


@pytest.mark.parametrize("n", [1, 2, 16, 64, 500])
def test_weights_of_each_k_sum_to_one(n: int) -> None:
    weights = best_of_n.subset_weights(n)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(weights[0], 1 / n)
    assert weights[-1].tolist() == pytest.approx([0.0] * (n - 1) + [1.0])


def test_the_best_is_the_first_of_the_highest_and_never_a_missing_one() -> None:
    rewards = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [NAN, -5.0, -6.0], [NAN, NAN, 0.0]])
    assert best_of_n.pick(BEST, rewards, ()).tolist() == [1, 0, 1, 2]


def test_win_shares_by_hand() -> None:
    quality = np.array([[0.5, 0.9, 0.1], [0.5, NAN, 0.5]])
    opponents = np.array([[0.5, 0.2, 0.9, 0.9], [0.5, 0.4, NAN, NAN]])
    shares = win_shares(quality, opponents)
    np.testing.assert_allclose(shares, [[1.5 / 4, (2 + 0.5 * 2) / 4, 0.0], [0.75, NAN, 0.75]])


def test_shares_against_oneself_are_a_half_on_average() -> None:
    """Recorded systems: the opponent is a uniformly random response of the same pool."""
    quality = np.random.default_rng(2).integers(0, 3, (50, 6)).astype(float)
    np.testing.assert_allclose(win_shares(quality, quality).mean(axis=1), 0.5)
    assert win_shares(*[np.array([[0.2, 0.8]])] * 2).tolist() == [[0.25, 0.75]]  # the floor and the ceiling of two


def test_kl_bound() -> None:
    assert best_of_n.kl_bound(BEST, 1) == 0.0
    assert best_of_n.kl_bound(BEST, 64) == pytest.approx(3.1745, abs=5e-5)
    assert best_of_n.kl_bound(BEST, 2) == pytest.approx(np.log(2) - 0.5)


# --- soft best-of-n -----------------------------------------------------------------------------------------


def test_a_sample_is_drawn_by_its_weight() -> None:
    """Deviations within the prompts are 1 and 3, so that tau counts in root 5."""
    rewards, two = np.array([[0.0, 2.0, NAN], [0.0, 6.0, NAN]]), soft_best_of_n.Settings(tau=2.0)
    unit = 2.0 * np.sqrt(5.0)
    expected = [[np.exp(-2.0 / unit), 1.0, NAN], [np.exp(-6.0 / unit), 1.0, NAN]]
    np.testing.assert_allclose(np.exp(soft_best_of_n.logits(two, rewards)), expected)
    many = np.repeat(rewards, 20_000, axis=0)
    names = [f"prompt {number}" for number in range(len(many))]
    drawn = soft_best_of_n.pick(two, many, names).reshape(2, -1)
    np.testing.assert_allclose(drawn.mean(axis=1), [1.0 / (1.0 + row[0]) for row in expected], atol=0.015)
    assert drawn.max() == 1 and (soft_best_of_n.pick(two, many * 7.0, names) == drawn.ravel()).all()
    half = slice(1, None, 2)  # the others are gone: what is left is drawn as before
    assert (soft_best_of_n.pick(two, many[half], names[half]) == drawn.ravel()[half]).all()


def test_the_version_of_a_picker_is_in_specs_alone() -> None:
    """Of one that comes to draw otherwise; specs of those that never did are as they were."""
    told = picker_in_spec(soft_best_of_n.Settings(tau=2.0))["optimizer"]
    assert told == {"name": "soft_best_of_n", "tau": 2.0, "n": None, "version": 2}
    assert picker(told) == (soft_best_of_n, soft_best_of_n.Settings(tau=2.0)) and picker_in_spec(BEST) == {}


def test_with_a_small_tau_it_is_best_of_n_and_with_a_large_one_chance() -> None:
    rng = np.random.default_rng(3)
    rewards, wins = rng.normal(size=(40, 6)), rng.random((40, 6))
    rewards[::4, 4:] = NAN
    best, chance = soft_best_of_n.Settings(tau=1e-4), soft_best_of_n.Settings(tau=1e6)
    assert (soft_best_of_n.pick(best, rewards, list(map(str, range(40)))) == best_of_n.pick(BEST, rewards, ())).all()
    found, expected = soft_best_of_n.curve(best, rewards, wins), best_of_n.curve(BEST, rewards, wins)
    np.testing.assert_allclose(found[:, [0, -1]], expected[:, [0, -1]])  # of one sample, and of all
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.02)
    mean = np.nanmean(np.where(np.isnan(rewards), NAN, wins), axis=1)
    np.testing.assert_allclose(soft_best_of_n.curve(chance, rewards, wins).mean(axis=0), mean.mean(), atol=0.02)


def test_the_expected_value_of_a_draw_from_two_of_three() -> None:
    """By enumeration: the mean over the three pairs of their weighted means."""
    rewards, wins = np.tile([[0.0, 1.0, 3.0]], (4, 1)), np.tile([[1.0, 0.0, 0.5]], (4, 1))
    tau = soft_best_of_n.Settings(tau=1.0)
    weight = np.exp(np.array([0.0, 1.0, 3.0]) / np.std([0.0, 1.0, 3.0]))
    pairs = [np.average(wins[0, pair], weights=weight[pair]) for pair in ([0, 1], [0, 2], [1, 2])]
    curve = soft_best_of_n.curve(tau, rewards, wins)[0]
    assert curve[1] == pytest.approx(np.mean(pairs), abs=0.05) and np.ptp(pairs) > 0.1
    assert curve[2] == pytest.approx(np.average(wins[0], weights=weight)) and curve[0] == pytest.approx(0.5)
