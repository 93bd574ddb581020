"""Records of judge stages: what may be missing from them and what may not."""

import json

import numpy as np
import pytest

from xling.errors import StoreError
from xling.results.items import read_array, read_items, read_judge_accuracy, read_learning, read_record

ITEMS = {"prompt": ["p", "q"], "group": ["g", "h"], "dataset": ["", ""], "in_language": [1.0, 0.5], "length": [3, 4]}


def items(folder, **columns):
    (folder / "items.json").write_text(json.dumps(ITEMS | columns))
    return read_items(folder)


def test_prompts_that_were_not_judged_and_columns_that_are_not_there(tmp_path):
    found = items(tmp_path, win=[None, 0.5], inconsistent=[None, True], reward=[1, None])
    np.testing.assert_array_equal(found.column("win"), [np.nan, 0.5])
    np.testing.assert_array_equal(found.column("inconsistent"), [np.nan, 1.0])
    np.testing.assert_array_equal(found.column("reward"), [1.0, np.nan])
    assert found.column("kl") is None


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"win": [None, None]}, "no prompt that was judged"),
        ({"win": [None, 1.5]}, "outside 0..1"),
        ({"win": [1.0, 0.0], "kl": [1.0]}, "unequal lengths"),
        ({"win": [1.0, 0.0], "eos": ["yes", "no"]}, "does not fit"),
    ],
)
def test_items_that_do_not_fit(tmp_path, columns, said):
    with pytest.raises(StoreError, match=said):
        items(tmp_path, **columns)


def test_a_trained_policy_has_no_curve_and_a_judge_of_picks_needs_none(tmp_path):
    items(tmp_path, win=[1.0, 0.0])
    for bound in (None, 0.64):
        (tmp_path / "summary.json").write_text(json.dumps({"n_samples": 4, "kl_bound": bound}))
        record = read_record(tmp_path)
        assert record.curve.shape == (2, 0) and record.trained == (bound is None)


@pytest.mark.parametrize(
    "values",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((2, 0)),
     np.arange(4, dtype=np.float32).reshape(2, 2), np.eye(2, dtype=np.int64), np.eye(2, dtype=">f8"), np.eye(2) > 0],
)  # fmt: skip
def test_arrays_are_read_as_numpy_reads_them(tmp_path, values):
    np.save(tmp_path / "pool.npy", values)
    found, plain = read_array(tmp_path / "pool.npy"), np.load(tmp_path / "pool.npy")
    assert found.dtype == np.float64 and np.array_equal(found, plain)
    content = (tmp_path / "pool.npy").read_bytes()
    for end in (0, 7, 9, 40, len(content) - 1):
        (tmp_path / "pool.npy").write_bytes(content[:end])
        if values.size or end < 100:
            with pytest.raises(StoreError, match=r"not a numpy array"):
                read_array(tmp_path / "pool.npy")
    np.save(tmp_path / "pool.npy", np.array([[{}]], dtype=object))
    with pytest.raises(StoreError, match="objects are not loaded"):
        read_array(tmp_path / "pool.npy")


def test_validation_rows_are_told_from_training_rows(tmp_path):
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "validation_reward": 0.5, "validation_kl": 1.0, "validation_quality": None},
    ]
    (tmp_path / "curve.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_learning(tmp_path) == [{"step": 2.0, "reward": 0.5, "kl": 1.0}]
    (tmp_path / "curve.jsonl").write_text("{]")
    with pytest.raises(StoreError, match=r"curve\.jsonl"):
        read_learning(tmp_path)


def test_accuracy_of_a_judge(tmp_path):
    (tmp_path / "accuracy.json").write_text(
        json.dumps({"group": ["a", "b"], "correct": [1, None], "inconsistent": [True, False]})
    )
    assert read_judge_accuracy(tmp_path).correct == [1.0, None]
    (tmp_path / "accuracy.json").write_text(json.dumps({"group": ["a", "b"], "correct": [1.0]}))
    with pytest.raises(StoreError, match="unequal lengths"):
        read_judge_accuracy(tmp_path)
