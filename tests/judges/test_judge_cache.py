"""Answers by content: whole or not at all, shared by threads and processes, at the pace of all together."""

import threading
import time
from pathlib import Path

import pytest

from xling.errors import StoreError
from xling.grid.stage import Interrupted
from xling.judges.cache import READERS, Answer, Cache, Pace, request_key


def test_keys_are_of_the_model_and_all_of_the_request() -> None:
    one = request_key({"endpoint": "m"}, {"a": 1, "b": [2]})
    assert one == request_key({"endpoint": "m"}, {"b": [2], "a": 1})
    assert len({one, request_key({"local": "m"}, {"a": 1, "b": [2]}), request_key({"endpoint": "m"}, {"a": 1})}) == 3


@pytest.mark.parametrize("kind", ["endpoint", "local"])
def test_what_was_read_by_other_rules_is_asked_anew(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    before = request_key({kind: "m"}, "x")
    monkeypatch.setitem(READERS, kind, READERS[kind] + 1)
    assert request_key({kind: "m"}, "x") != before
    monkeypatch.undo()
    monkeypatch.setitem(READERS, {"endpoint": "local", "local": "endpoint"}[kind], 99)
    assert request_key({kind: "m"}, "x") == before


def test_what_is_put_is_got(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path / "new"), request_key({}, "x")
    assert cache.get(key) is None
    for answer in (Answer(0.123456789012345), Answer(None, "text", "weiß nicht")):
        cache.put(key, answer)
        assert cache.get(key) == Cache(tmp_path / "new").get(key) == answer
    assert [path.name for path in (tmp_path / "new").rglob("*.*")] == [f"{key}.json"]


def test_what_is_no_file_in_the_place_of_an_answer_is_named_before_anybody_is_asked(tmp_path: Path) -> None:
    cache, keys = Cache(tmp_path), [request_key({}, word) for word in "xyz"]
    for key in keys:
        (tmp_path / key[:2]).mkdir()
    places = [tmp_path / key[:2] / f"{key}{end}" for key, end in zip(keys, (".json", ".json", ".lock"), strict=True)]
    places[0].mkdir()
    places[1].symlink_to(places[1])
    places[2].mkdir()
    for key, place, what in zip(keys[:2], places, ("folder", "link"), strict=False):
        with pytest.raises(StoreError, match=f"{place}' is a {what}, where an answer"):
            cache.get(key)
    with pytest.raises(StoreError, match=f"{places[2]}' is a folder, where the lock"), cache.asking(keys[2]):
        pass


def test_a_damaged_file_is_asked_again(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), request_key({}, "x")
    cache.put(key, Answer(1.0))
    path = tmp_path / key[:2] / f"{key}.json"
    for content in (b"", path.read_bytes()[:-4], b'{"first": "1"}'):
        path.write_bytes(content)
        assert cache.get(key) is None


def test_a_changed_answer_is_asked_again(tmp_path: Path) -> None:
    """Each digit of the answer on disk, changed by hand; and a file that is another request's."""
    cache, key, other = Cache(tmp_path), request_key({}, "x"), request_key({}, "y")
    cache.put(key, Answer(0.734, mass=0.91))
    path = tmp_path / key[:2] / f"{key}.json"
    whole = path.read_text()
    for number in range(whole.index('"sha256"')):
        if whole[number].isdigit():
            changed = str((int(whole[number]) + 1) % 10)
            path.write_text(whole[:number] + changed + whole[number + 1 :])
            assert cache.get(key) is None
    for content in ('{"first":55.0}', whole.replace("0.734", "55.0"), whole.replace("0.734", "-0.1"), "[" * 100_000):
        path.write_text(content)
        assert cache.get(key) is None
    path.write_text(whole)
    assert cache.get(key) == Answer(0.734, mass=0.91)
    elsewhere = tmp_path / other[:2] / f"{other}.json"
    elsewhere.parent.mkdir(exist_ok=True)
    path.rename(elsewhere)
    assert cache.get(other) is None


def test_a_pace_from_another_century_is_none(tmp_path: Path) -> None:
    (tmp_path / "pace").write_text("9999999999.0")
    begin = time.time()
    Pace(tmp_path / "pace", 6000).wait()
    assert time.time() - begin < 1


def test_one_asks_while_the_others_wait(tmp_path: Path) -> None:
    key, asked = request_key({}, "x"), []

    def work() -> None:
        cache = Cache(tmp_path)
        with cache.asking(key):
            if cache.get(key) is None:
                time.sleep(0.02)
                asked.append(1)
                cache.put(key, Answer(1.0))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1


def test_other_requests_do_not_wait_and_the_same_one_can_be_stopped(tmp_path: Path) -> None:
    cache, over = Cache(tmp_path), threading.Event()
    with cache.asking("ab1"):
        with cache.asking("ab2", lambda: True):
            pass
        timer = threading.Timer(0.1, over.set)
        timer.start()
        with pytest.raises(Interrupted, match="answers are kept"), Cache(tmp_path).asking("ab1", over.is_set):
            raise AssertionError
        timer.join()
    with cache.asking("ab1", lambda: True):  # free again
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_pace_is_that_of_all_together(tmp_path: Path) -> None:
    """Two clients of one clock: ten turns are nine intervals, never less."""
    paces = [Pace(tmp_path / "pace", 1200), Pace(tmp_path / "pace", 1200)]
    begin = time.time()
    for turn in range(10):
        paces[turn % 2].wait()
    assert time.time() - begin >= 9 * 0.05 - 0.001


def test_without_a_limit_nobody_waits_but_for_what_the_server_said(tmp_path: Path) -> None:
    pace, other = Pace(tmp_path / "pace", None), Pace(tmp_path / "pace", None)
    begin = time.time()
    other.hold(0.2)
    other.hold(0.05)  # the longer one stays
    pace.wait()
    assert time.time() - begin >= 0.2 - 0.001
    for content in ("nonsense", "nan", "inf"):
        (tmp_path / "pace").write_text(content)
        pace.wait()
        other.hold(0.05)
        assert time.time() < float((tmp_path / "pace").read_text()) < time.time() + 0.06
